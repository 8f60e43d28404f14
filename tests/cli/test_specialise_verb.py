"""`ultrafuser specialise`: mistakes are told in the verb's own options."""

import json

import pytest


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "sums.jsonl"
    talks = [{"instruction": f"What is {i} plus {i}?", "output": str(2 * i)} for i in range(8)]
    file.write_text("\n".join(map(json.dumps, talks)) + "\n")
    return file


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps: 0 is out of range; it must be at least 1"),
        (["--steps", "4", "--warmup-steps", "4"], "--warmup-steps: 4 leaves nothing of the stage's 4 steps; lower it"),
        (["--examples", "0"], "--examples: 0 is out of range; it must be at least 1"),
        (["--learning-rate", "-1"], "--learning-rate: -1.0 is out of range; it must be greater than 0.0"),
        (["--name", "my name"], "--name: 'my name' is not a name; use letters"),
        (["--data", "none.jsonl"], "--data: none.jsonl does not exist"),
        (["--limit", "0"], "--limit: 0 is below 1"),
        (["--validation-fraction", "1"], "--validation-fraction: 1.0 is not between 0 and 1"),
        (["--dtype", "int8"], "--dtype: 'int8' is not one of bfloat16, float32"),
        (["--template", "alpca"], "--template: 'alpca' is not one of"),
    ],
)
def test_a_mistake_names_the_option(run, specialist_folders, data, tmp_path, options, message):
    found = run("specialise", specialist_folders["text"], "--data", data, "-o", tmp_path / "out", *options)
    assert found.exit_code == 2
    assert f"error: {message}" in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_short_run_needs_no_other_option(run, specialist_folders, data, tmp_path):
    found = run(
        "specialise", specialist_folders["text"], "--data", data, "-o", tmp_path / "out", "--steps", 2, "--examples", 2
    )
    assert found.exit_code == 0, found.output
