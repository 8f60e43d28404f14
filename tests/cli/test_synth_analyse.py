"""`synth analyse` on the shipped sample, on exports and on files of one's own."""

import json

import pytest

from ultrafuser.cli import analysing


def test_the_shipped_sample(run, tmp_path):
    names = [f"zoo-sample:{domain}/heldout" for domain in ("text", "code")]
    result = run("synth", "analyse", *names, "--model", "zoo:base", "-o", tmp_path / "a", "--per-domain", 40)
    assert result.exit_code == 0, result.output
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"analysis.html", "map.png", "analysis.json"}
    found = json.loads((tmp_path / "a/analysis.json").read_text(encoding="utf-8"))
    assert [(one["domain"], one["items"]) for one in found["domains"]] == [("text", 40), ("code", 40)]
    assert len(found["points"]) == 80


def test_sources_of_ones_own(tmp_path):
    rows = [{"instruction": f"Do {i}", "output": "yes", "category": "ab"[i % 2]} for i in range(60)]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = analysing.read_items([str(file)], 10, 0)
    assert [item.domain for item in found] == ["a"] * 10 + ["b"] * 10
    assert found == analysing.read_items([str(file)], 10, 0) != analysing.read_items([str(file)], 10, 1)
    named = analysing.read_items([f"law={file}"], 100, 0)
    assert {item.domain for item in named} == {"law"}
    assert [item.text for item in named] == [row["instruction"] for row in rows]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere.jsonl", "--model", "zoo:base"], "nowhere.jsonl does not exist"),
        (["zoo-sample:text/heldout", "--model", "zoo:base", "--method", "umap"], "--method"),
        (["zoo-sample:text/heldout", "--model", "nowhere"], "--model"),
    ],
)
def test_mistakes_are_one_line(run, args, message, tmp_path):
    result = run("synth", "analyse", *args, "-o", tmp_path / "a")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
