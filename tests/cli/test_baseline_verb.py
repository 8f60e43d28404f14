"""`ultrafuser baseline`: makes an ordinary model folder from a recipe, lists what there is, refuses in one line."""

import json

import pytest
import yaml


@pytest.fixture
def recipe_file(specialist_folders, tmp_path):
    data = {}
    for domain in specialist_folders:
        lines = [{"question": f"{domain} word{i} {i * 7}?", "answer": f"{domain} is {i}"} for i in range(8)]
        for part, rows in (("train", lines[:6]), ("heldout", lines[6:])):
            (tmp_path / f"{domain}-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data[domain] = {
            "train": [f"{domain}-train.jsonl"],
            "heldout": [f"{domain}-heldout.jsonl"],
            "validation_fraction": 0.34,
        }
    stage = {"name": "all", "train": "all", "steps": 2, "examples_per_category": 2, "learning_rate": 0.003}
    file = tmp_path / "recipe.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "specialists": {name: {"source": str(folder)} for name, folder in specialist_folders.items()},
                "data": data,
                "stages": [stage],
            }
        )
    )
    return file


def test_it_makes_a_model_that_generate_opens(run, recipe_file, tmp_path):
    out, report = tmp_path / "made", tmp_path / "made.json"
    result = run("baseline", "further-tuned:code", recipe_file, "-o", out, "--json", report)
    assert result.exit_code == 0, result.output
    assert "held-out loss" in result.output
    assert f"model: {out}" in result.output
    found = json.loads(report.read_text())
    assert found["baseline"] == "further-tuned"
    assert found["variant"] == "code"
    assert set(found["heldout"]) == {"text", "code", "math"}
    assert json.loads((out / "baseline.json").read_text())["made"]["steps"] == 2
    assert run("generate", out, "hello", "--max-new-tokens", "3").exit_code == 0
    again = run("baseline", "further-tuned:code", recipe_file, "-o", out, "--json", tmp_path / "again.json")
    assert again.exit_code == 0
    assert json.loads((tmp_path / "again.json").read_text()) == found


def test_list_names_every_row(run, tmp_path):
    from ultrafuser.baselines import BASELINES

    result = run("baseline", "list", "--json", tmp_path / "rows.json")
    assert result.exit_code == 0
    assert all(name in result.output for name in BASELINES)
    assert set(json.loads((tmp_path / "rows.json").read_text())) == set(BASELINES)


def test_mistakes_are_one_line(run, recipe_file, tmp_path):
    cases = [
        (("baseline", "furthertuned", recipe_file), "NAME: 'furthertuned' is not one of"),
        (("baseline", "further-tuned"), "RECIPE: further-tuned needs one"),
        (("baseline", "further-tuned:x", recipe_file, "-o", tmp_path / "m"), "variant: 'x' is not one of"),
        (("baseline", "further-tuned", recipe_file, "--steps", "0"), "--steps: 0 is below 1"),
        (("baseline", "further-tuned", recipe_file, "--steps", "2", "--operations", "1e9"), "keep one of them"),
        (("baseline", "further-tuned", recipe_file, "--operations", "0"), "--operations: 0 is no budget"),
        (("baseline", "further-tuned", recipe_file, "--base", tmp_path / "no"), "--base: folder"),
    ]
    for arguments, message in cases:
        result = run(*arguments)
        assert result.exit_code == 2
        assert message in result.output
        assert result.output.strip().splitlines()[-1].startswith("error: ")
