"""Export: what datasets and a recipe read, splits without overlap, a card that tells the truth, whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from author import author

from ultrafuser.data import load_conversations
from ultrafuser.synthesis import Journal, open_domains
from ultrafuser.synthesis import export as exporting
from ultrafuser.synthesis.export import Options, export_dataset, finished
from ultrafuser.synthesis.pipeline import Pipeline
from ultrafuser.synthesis.splits import Shares, Splitter


@pytest.fixture
def run(serve, make_spec):
    """A finished run: spec, journal, domains."""
    counts = {"meta_topics": 3, "sub_topics": 4, "instructions": 3, "batch": 3}
    spec = make_spec(serve(author).url, domains=["text", "code"], counts=counts)
    with Journal(spec.output_folder) as journal:
        assert Pipeline(spec, journal).run(review=False) is None
        yield spec, journal, open_domains(spec)


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_datasets_reads_it(run, tmp_path, form):
    import datasets

    spec, journal, domains = run
    folder = tmp_path / "data"
    options = Options(form, shard_rows=20, shares=Shares(heldout=0.2))
    made = export_dataset(journal, spec, domains, folder, options)
    assert [file.name for file in sorted((folder / "text/train").iterdir())] == [f"0000{i}.{form}" for i in range(3)]
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {
        name: sum(one.splits[name] for one in made) for name in ("train", "heldout")
    }
    assert len(loaded["train"]) + len(loaded["heldout"]) == 2 * 54
    code = datasets.load_dataset(str(folder), "code", split="train", cache_dir=str(tmp_path / "cache"))
    assert set(code["category"]) == {"code"}
    assert {message["role"] for message in code[0]["messages"]} == {"user", "assistant"}
    assert set(code[0]["meta"]) == {"made_by", "sub_topic", "lineage"}
    read = load_conversations(folder / "code/train", "code")
    assert [one.id for one in read] == code["id"]


def test_the_same_bytes_every_time_and_over_what_was_there(run, tmp_path):
    spec, journal, domains = run
    for form in ("parquet", "jsonl"):
        export_dataset(journal, spec, domains, tmp_path / "one", Options(form, shares=Shares(0.1, 0.1)))
        export_dataset(journal, spec, domains, tmp_path / "two", Options(form, shares=Shares(0.1, 0.1)))
        assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not [name for name in contents(tmp_path / "one") if name.endswith("parquet")]
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "out"}


@pytest.mark.parametrize("apart", ["sub_topics", "meta_topics"])
def test_no_topic_on_two_sides(run, tmp_path, apart):
    spec, journal, domains = run
    shares = Shares(validation=0.2, heldout=0.2, apart=apart, seed=3)
    made = export_dataset(journal, spec, domains, tmp_path / "data", Options(shares=shares))
    lineage = {one.response.id: one for domain in domains for one in finished(journal, domain.name)}
    sides = {}
    for one in made:
        assert all(one.splits[name] for name in ("train", "validation", "heldout"))
        assert one.conversations + one.straddling == 54
        for split in shares.wanted:
            for row in load_conversations(tmp_path / "data" / one.domain / split, one.domain):
                for topic in lineage[row.id].ids(apart):
                    sides.setdefault(topic, set()).add(split)
    assert sides
    assert all(len(found) == 1 for found in sides.values())


def test_shares_are_met():
    keys = [f"instruction {i}" for i in range(2000)]
    splitter = Splitter(Shares(validation=0.05, heldout=0.1), "text", keys)
    found = [splitter.split([key]) for key in keys]
    assert (found.count("heldout"), found.count("validation")) == (200, 100)
    assert found == [Splitter(Shares(0.05, 0.1), "text", reversed(keys)).split([key]) for key in keys]
    with pytest.raises(ValueError, match=r"heldout: 0.5 of the 3 conversations of text cannot be set aside"):
        Splitter(Shares(heldout=0.5), "text", ["one"] * 3)
    with pytest.raises(ValueError, match=r"leave nothing to train on"):
        Shares(0.5, 0.5)


def test_the_card_counts(run, tmp_path, tiny_tokenizer):
    spec, journal, domains = run
    dropped = [record.id for record in journal.records("responses", "text")][:2]
    journal.judge((identity, f"length: {i} words") for i, identity in enumerate(dropped))
    tiny_tokenizer.save_pretrained(tmp_path / "some-model")
    options = Options(licence="cc-by-4.0", tokenizer=tmp_path / "some-model", shares=Shares(heldout=0.1))
    made = export_dataset(journal, spec, domains, tmp_path / "data", options)
    card = (tmp_path / "data/README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert (head["license"], head["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    assert [one["config_name"] for one in head["configs"]] == ["all", "text", "code"]
    rows = [json.loads(line) for file in (tmp_path / "data/text").rglob("*.jsonl") for line in file.open()]
    words = sum(len(row["messages"][1]["content"].split()) for row in rows) / len(rows)
    tokens = sum(len(tiny_tokenizer(row["messages"][0]["content"]).input_ids) for row in rows) / len(rows)
    line = next(line for line in card.splitlines() if line.startswith("| text | 3 | 12 | 52 | "))
    assert f"| {words:.1f} |" in line
    assert f"| {tokens:.1f} |" in line
    assert "| responses | text | 54 | 0 | 54 | 2 | 0 | 52 |" in card
    assert "| responses | length | 2 |" in card
    assert "tokens are those of `some-model`" in card
    assert str(tmp_path) not in card
    assert made[0].mean("response words") == words


def test_a_recipe_trains_on_it(run, tmp_path, specialist_folders):
    from ultrafuser.recipe import load_recipe
    from ultrafuser.training import train_recipe

    spec, journal, domains = run
    export_dataset(journal, spec, domains, tmp_path / "data", Options("parquet", shares=Shares(validation=0.1)))
    card = (tmp_path / "data/README.md").read_text(encoding="utf-8")
    data = yaml.safe_load(card.split("```yaml")[1].split("```")[0].replace("FOLDER", str(tmp_path / "data")))
    recipe = {"name": "made", "specialists": {name: {"source": str(specialist_folders[name])} for name in data["data"]}}
    stage = {"name": "gate", "train": "gate", "steps": 2, "examples_per_category": 2}
    recipe |= data | {"max_length": 400, "stages": [stage], "output": str(tmp_path / "trained")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    result = train_recipe(load_recipe(tmp_path / "recipe.yaml"))
    assert result.data["text"]["train"] + result.data["text"]["validation"] == 54
    assert (tmp_path / "trained/config.json").is_file()


def test_what_is_there_stays_when_it_fails(run, tmp_path, monkeypatch):
    spec, journal, domains = run
    folder = tmp_path / "data"
    export_dataset(journal, spec, domains, folder)
    before = contents(folder)
    monkeypatch.setattr(exporting, "render_card", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_dataset(journal, spec, domains, folder, Options("parquet"))
    assert contents(folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(ValueError, match="holds something that is no export"):
        export_dataset(journal, spec, domains, tmp_path / "mine")


KILLED = """
import sys
from pathlib import Path
from ultrafuser.synthesis import Journal, load_spec, open_domains
from ultrafuser.synthesis.export import export_dataset
spec = load_spec(sys.argv[1])
with Journal(spec.output_folder) as journal:
    while True:
        export_dataset(journal, spec, open_domains(spec), Path(sys.argv[2]))
        print("done", flush=True)
"""


def test_killed_at_any_moment_there_is_a_whole_one(run, tmp_path):
    spec, journal, domains = run
    folder = tmp_path / "data"
    export_dataset(journal, spec, domains, folder)
    before = contents(folder)
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json")), encoding="utf-8")
    for moment in range(4):
        child = subprocess.Popen([sys.executable, "-c", KILLED, file, folder], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"done\n"
        time.sleep(0.011 * (moment + 1))
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert contents(folder) == before


def test_an_empty_run_is_told(serve, make_spec, tmp_path):
    spec = make_spec("http://localhost:1/v1")
    with Journal(spec.output_folder) as journal, pytest.raises(ValueError, match="no finished conversation"):
        export_dataset(journal, spec, open_domains(spec), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_wrong_options_are_told(tmp_path):
    with pytest.raises(ValueError, match="'csv'"):
        Options("csv")
    with pytest.raises(ValueError, match="shard_rows: 0"):
        Options(shard_rows=0)
