"""`ultrafuser zoo`: names, folders, copies; build hands its options on."""

import json

import pytest

from ultrafuser import zoo


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    """A zoo of empty folders with a made-up summary."""
    models = tmp_path / "models"
    names = (zoo.BASE, *zoo.SPECIALISTS)
    for name in names:
        (models / name).mkdir(parents=True)
        (models / name / "config.json").write_text("{}")
    loss = {name: {"text": 3.0 + i, "code": 3.0 - i / 2, "math": 2.0} for i, name in enumerate(names)}
    summary = {"loss_unit": "nats per token", "parameters": 865152, "loss": loss}
    (models / "zoo.json").write_text(json.dumps(summary))
    monkeypatch.setattr(zoo, "MODELS", models)
    extras = tmp_path / "extras"
    (extras / "dna").mkdir(parents=True)
    (extras / "dna" / "config.json").write_text("{}")
    lost = {name: {"text": 4.0, "dna": 5.0} for name in names} | {"dna": {"text": 7.125, "dna": 0.5}}
    (extras / "dna" / "zoo.json").write_text(json.dumps(summary | {"loss": lost}))
    monkeypatch.setattr(zoo, "EXTRA_MODELS", extras)
    return models


def test_list_shows_every_model_with_its_losses(run, shelf, tmp_path):
    result = run("zoo", "list", "--json", tmp_path / "x.json")
    assert result.exit_code == 0
    for name in zoo.names():
        assert f"zoo:{name}" in result.stdout
    assert "865,152" in result.stdout
    data = json.loads((tmp_path / "x.json").read_text())
    assert [row["name"] for row in data["models"]] == ["base", "text", "code", "math"]
    assert [extra["source"] for extra in data["extras"]] == ["zoo:dna"]
    assert data["extras"][0]["losses"][-1]["loss"] == {"text": 7.125, "dna": 0.5}
    assert "7.125" in result.stdout
    assert data["models"][0]["loss"]["text"] == 3.0


def test_path_is_one_line_for_other_programs(run, shelf):
    assert run("zoo", "path", "text").stdout == f"{shelf / 'text'}\n"
    wrong = run("zoo", "path", "txt")
    assert wrong.exit_code == 2
    assert "txt" in wrong.stderr
    assert "text" in wrong.stderr


def test_copy_makes_a_folder_of_ones_own(run, shelf, tmp_path):
    target = tmp_path / "deep" / "mine"
    assert run("zoo", "copy", "code", target).exit_code == 0
    assert (target / "config.json").read_text() == "{}"
    again = run("zoo", "copy", "code", target)
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert [path.name for path in target.parent.iterdir()] == ["mine"]


def test_installation_without_zoo_says_how_to_build_it(run, monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "MODELS", tmp_path)
    result = run("zoo", "list")
    assert result.exit_code == 2
    assert "zoo build" in result.stderr


def test_build_hands_its_options_on(run, monkeypatch, tmp_path):
    from ultrafuser.zoo import build as module

    seen = {}

    def fake(data, work, out, *, jobs, threads, say):
        seen.update(data=data, work=work, out=out, jobs=jobs, threads=threads)
        say("[base] step 1")
        return {"loss": {}}

    monkeypatch.setattr(module, "build", fake)
    args = ["--work", tmp_path / "w", "--output", tmp_path / "o", "--jobs", "3", "--json", "-"]
    result = run("zoo", "build", tmp_path, *args)
    assert result.exit_code == 0, result.output
    assert seen == {"data": tmp_path, "work": tmp_path / "w", "out": tmp_path / "o", "jobs": 3, "threads": 1}
    assert "[base] step 1" in result.stderr
    assert json.loads(result.stdout) == {"loss": {}}


def test_draw_writes_conversations_that_a_recipe_reads(run, tmp_path):
    args = ["zoo", "draw", "dna", tmp_path / "dna", "--train", 30, "--validation", 0, "--heldout", 15, "--seed", 4]
    result = run(*args, "--json", "-")
    assert result.exit_code == 0, result.output
    files = json.loads(result.stdout)["files"]
    assert list(files) == ["heldout", "train"]
    records = [json.loads(line) for line in (tmp_path / "dna" / "train.jsonl").read_text().splitlines()]
    assert len(records) == 30
    assert [message["role"] for message in records[0]["messages"]] == ["user", "assistant"]
    again = run(*args)
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert "is not one of dna" in run("zoo", "draw", "rna", tmp_path / "rna").stderr


def test_extend_hands_its_options_on(run, monkeypatch, tmp_path):
    from ultrafuser.zoo import extra

    seen = {}

    def fake(name, work, out, *, threads, say):
        seen.update(name=name, work=work, out=out, threads=threads)
        return {"loss": {}}

    monkeypatch.setattr(extra, "build_extra", fake)
    result = run("zoo", "extend", "dna", "--work", tmp_path / "w", "-o", tmp_path / "o", "--json", "-")
    assert result.exit_code == 0, result.output
    assert seen == {"name": "dna", "work": tmp_path / "w", "out": tmp_path / "o", "threads": 1}
    assert json.loads(result.stdout) == {"loss": {}}
