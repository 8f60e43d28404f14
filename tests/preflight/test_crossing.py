"""Specialists with other tokenizers in a recipe: what they share, and where they can be fused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from token_makers import byte_level, sentence_piece, wrapped
from tokenizers import Tokenizer, models, pre_tokenizers

from ultrafuser.preflight import Report, check
from ultrafuser.recipe import Recipe

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}answer:"


@pytest.fixture
def make(make_recipe: Callable[..., Recipe], make_llama: Callable[..., Any], tmp_path: Path) -> Callable[..., Recipe]:
    """`make(tokenizer, **fields of the recipe)`: text with a byte-level tokenizer, code with `tokenizer`."""

    def recipe(tokenizer: Any, rule: str = "probabilities", **fields: Any) -> Recipe:
        for seed, (name, own) in enumerate({"text": byte_level(template=TEMPLATE), "code": tokenizer}.items()):
            folder = tmp_path / "models" / name
            for file in folder.iterdir():
                file.unlink()
            make_llama(seed, vocab=len(own)).save_pretrained(folder)
            own.save_pretrained(folder)
        return make_recipe(fusion={"rule": rule}, **fields)

    return recipe


def errors(report: Report) -> list[str]:
    return [str(finding) for finding in report.errors]


def test_the_overlap_and_the_shared_positions_are_told(make: Any) -> None:
    report = check(make(sentence_piece(template=TEMPLATE)))
    assert errors(report) == []
    found = report.specialists["code"]
    own, other = byte_level(), sentence_piece()
    texts = {own.decode([i]) for i in own.get_vocab().values()}
    common = {other.decode([i]) for i in other.get_vocab().values()} & texts
    assert 0 < found["overlap"] < 1
    assert found["overlap"] == pytest.approx(len(common) / len(texts), abs=0.15)  # tokens that are no whole character
    answer = "word word word"
    starts = [own(answer, return_offsets_mapping=True), other(answer, return_offsets_mapping=True)]
    first, second = ({begin for begin, end in one["offset_mapping"] if end > begin} for one in starts)
    expected = (len(first & second) + 1) / (len(first) + 1)
    assert found["fused_positions"]["text"] == pytest.approx(expected, abs=1e-3)
    assert any("can be fused at these shares of the answers' tokens: text " in f.message for f in report.findings)


def test_the_papers_rule_is_refused_with_the_fix(make: Any) -> None:
    (found,) = errors(check(make(sentence_piece(template=TEMPLATE), "logits")))
    assert found.startswith("specialists.code.source: vocabulary differs from text's: tokenizers (456 and 320 tokens)")
    assert found.endswith("or write `rule: probabilities` under fusion")


def test_a_gate_that_compares_predictions_is_refused(make: Any) -> None:
    (found,) = errors(check(make(sentence_piece(template=TEMPLATE), gate={"type": "evidence"})))
    assert found.startswith("gate.type: 'evidence' needs one tokenizer for all")


def test_a_tokenizer_whose_bytes_cannot_be_told_is_refused(make: Any) -> None:
    inner = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3, "word": 4}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    (found,) = errors(check(make(wrapped(inner, TEMPLATE))))
    assert found.startswith("specialists.code.source: its WordLevel vocabulary has neither a byte-level alphabet")


def test_prompts_are_judged_in_the_specialists_own_tokens(make: Any) -> None:
    marked = "{% for m in messages %}<|mark|>{{ m.role }}: {{ m.content }}\n{% endfor %}answer:"
    tokenizer = sentence_piece(template=marked)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|mark|>"]})
    report = check(make(tokenizer))
    assert not [f for f in report.findings if "does not know as one token" in f.message]
