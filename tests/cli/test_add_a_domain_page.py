"""Every command of docs/add-a-domain.md in its order, with fewer steps and conversations than it says."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-domain.md").read_text(encoding="utf-8")
SMALLER = {"--train": "60", "--heldout": "4", "--steps": "2"}


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return found


def commands() -> list[list[str]]:
    bodies = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for body in bodies for line in body.splitlines() if line.strip()]


def smaller(text: str) -> str:
    """A recipe with two steps in each stage, a dozen conversations of each domain, nothing held out."""
    fields = yaml.safe_load(text)
    for data in fields["data"].values():
        data["limit"], data["heldout"] = 12, []
    for stage in fields["stages"]:
        stage |= {"steps": 2, "warmup_steps": 0, "eval_every": 1, "save_every": 1, "examples_per_category": 2}
    return yaml.safe_dump(fields, sort_keys=False)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a reader works in: template and recipe as the page has them."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.yaml").write_text(smaller((ROOT / "configs" / "tiny.yaml").read_text()))
    (tmp_path / "dna.jinja").write_text(block("jinja"))
    (tmp_path / "four.yaml").write_text(smaller(block("yaml")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_from_beginning_to_end(run, desk: Path) -> None:
    for command in commands():
        words = list(command)
        for place, word in enumerate(words):
            if word in SMALLER:
                words[place + 1] = SMALLER[word]
        if words[0] == "eval" and words[1] != "compare":
            words += ["--limit", "2"]
        done = run(*words)
        assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}"
    names = json.loads((desk / "runs" / "four-trained" / "config.json").read_text())["specialist_names"]
    assert names == ["text", "code", "math", "dna"]


def test_the_recipe_of_the_page_is_the_shipped_one_with_a_specialist_of_ones_own() -> None:
    from ultrafuser.recipe import parse_recipe

    page, shipped = parse_recipe(block("yaml")), parse_recipe((ROOT / "configs" / "four.yaml").read_text())
    assert list(page.specialists) == list(shipped.specialists)
    stages = [stage.model_dump(exclude={"save_every"}) for stage in page.stages]
    assert stages == [stage.model_dump(exclude={"save_every"}) for stage in shipped.stages]
    assert {name: data for name, data in page.data.items() if name != "dna"} == {
        name: data for name, data in shipped.data.items() if name != "dna"
    }
