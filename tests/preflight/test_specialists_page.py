"""The recipes of docs/specialists.md, each checked as it stands there."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from token_makers import sentence_piece

from ultrafuser.preflight import check
from ultrafuser.recipe import Recipe

PAGE = Path(__file__).parents[2] / "docs" / "specialists.md"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}answer:"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def models(
    tmp_path: Path,
    make_specialist_folder: Callable[..., Path],
    make_adapter: Callable[..., Path],
    make_gguf: Callable[..., Path],
    chat_templates: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Everything that the page names, as tiny models."""
    for seed, (name, options) in enumerate({"text": {}, "code": {}, "base": {}, "wide": {"hidden": 32}}.items()):
        make_specialist_folder(tmp_path / "models" / name, seed, template=chat_templates["text"], **options)
    for seed, name in enumerate(("code", "math")):
        make_adapter(tmp_path / "adapters" / name, tmp_path / "models" / "base", seed)
    make_gguf(tmp_path / "code.gguf", seed=4, template=chat_templates["code"])
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "models" / "code"))
    return tmp_path


def resolve(models: Path) -> Callable[[str], str]:
    return lambda source: str(models / "models" / source.partition(":")[2]) if source.startswith("zoo:") else source


@pytest.mark.parametrize("block", BLOCKS)
def test_a_recipe_of_the_page_passes(
    block: str, models: Path, make_recipe: Callable[..., Recipe], make_llama: Callable[..., Any]
) -> None:
    pytest.importorskip("gguf")
    if "models/other" in block:
        tokenizer = sentence_piece(template=TEMPLATE)
        tokenizer.save_pretrained(models / "models" / "other")
        make_llama(7, vocab=len(tokenizer)).save_pretrained(models / "models" / "other")
    (models / "models" / "math").symlink_to(models / "models" / "code")
    fields: dict[str, Any] = yaml.safe_load(block)
    recipe = make_recipe(**fields)
    recipe = recipe.model_copy(update={"stages": recipe.stages[:1]})
    report = check(recipe, resolve=resolve(models))
    assert [str(finding) for finding in report.errors] == []


def test_the_page_shows_what_check_says(models: Path, make_recipe: Callable[..., Recipe]) -> None:
    (block,) = [one for one in BLOCKS if "adapters/code" in one]
    report = check(make_recipe(**yaml.safe_load(block)))
    (line,) = [str(finding) for finding in report.findings if "adapters on" in finding.message]
    shown = re.search(r"^✓ (specialists: code, math: .*once: )", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert shown is not None
    assert line.startswith(shown[1])
