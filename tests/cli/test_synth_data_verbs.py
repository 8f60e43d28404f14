"""`synth import` and `synth export` from the command line; the making of data is tested beside the pipeline."""

import json

import pytest
import yaml

from ultrafuser.cli import analysing
from ultrafuser.synthesis import Journal


@pytest.fixture
def spec(tmp_path):
    """A spec whose endpoint nobody asks."""
    file = tmp_path / "synth.yaml"
    endpoint = {"base_url": "http://localhost:1/v1"}
    given = {"name": "mine", "domains": ["text", "code"], "endpoints": [endpoint], "output": str(tmp_path / "out")}
    file.write_text(yaml.safe_dump(given), encoding="utf-8")
    rows = [{"instruction": f"Say {i} in words.", "context": "", "response": "..."} for i in range(4)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def answer(folder):
    """Answers to what was imported, as a run would have them."""
    with Journal(folder) as journal:
        records = list(journal.records("instructions", "code"))
        for record in records:
            journal.add("responses", "code", (record.id,), {"text": f"Said: {record.data['text']}", "sample": 0})
    return len(records)


def test_import_then_export(run, spec, tmp_path):
    result = run("synth", "import", spec, "dolly", tmp_path / "own.jsonl", "--domain", "code", "--json", "-")
    assert json.loads(result.stdout) == {"added": 4, "known": 0, "faulty": 0, "faults": []}
    assert answer(tmp_path / "out") == 4
    done = run("synth", "export", spec, "--heldout", 0.25, "--licence", "cc0-1.0", "--tokenizer", "zoo:base")
    assert done.exit_code == 0, done.output
    assert len((tmp_path / "out/data/code/heldout/00000.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert not (tmp_path / "out/data/text").exists(), "nothing was made for text"
    card = (tmp_path / "out/data/README.md").read_text(encoding="utf-8")
    assert "license: cc0-1.0" in card
    assert "tokens are those of `base`" in card
    for source in (spec, tmp_path / "out", tmp_path / "out/data"):
        items = analysing.read_items([str(source)], 100, 0)
        assert sorted((item.domain, item.text) for item in items) == [("code", f"Say {i} in words.") for i in range(4)]
    assert run("synth", "export", spec, "-o", tmp_path / "one.jsonl").exit_code == 0
    assert len((tmp_path / "one.jsonl").read_text(encoding="utf-8").splitlines()) == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["import", "SPEC", "dolly", "own.jsonl"], "--domain: the spec has text, code"),
        (["import", "SPEC", "sharegpt", "own.jsonl", "--domain", "code"], "that is dolly, not sharegpt"),
        (["import", "SPEC", "dollly", "own.jsonl", "--domain", "code"], "did you mean"),
        (["import", "SPEC", "dolly", "none.jsonl", "--domain", "code"], "none.jsonl does not exist"),
        (["export", "SPEC", "--format", "csv"], "'csv'"),
        (["export", "SPEC", "--heldout", "1.5"], "heldout: 1.5"),
        (["export", "SPEC", "--apart", "topics"], "'topics'"),
    ],
)
def test_mistakes_are_one_line(run, spec, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    result = run("synth", *[str(spec) if one == "SPEC" else one for one in args])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
