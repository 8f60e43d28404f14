"""Which tokens end a specialist's answer: those of its configuration, its tokenizer, and its chat template."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ultrafuser.templates.encode import special_token_texts
from ultrafuser.templates.render import render

__all__ = ["answer_ends"]

TRIAL = [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": "Saytrial"}]


def answer_ends(tokenizer: Any, template: str, configured: Iterable[int] = ()) -> list[int]:
    """All ids that end an answer; `configured`: those that the model's configuration names, kept where they exist.

    A chat template names one by writing a special token right after the last answer (Gemma's <end_of_turn>).
    """
    found = {i for i in configured if 0 <= i < len(tokenizer)}
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    try:
        text = render(template, TRIAL, special_tokens=special_token_texts(tokenizer)) if template else ""
    except ValueError:  # a template that wants other roles; it will say so itself
        text = ""
    after = text.partition("Saytrial")[2].lstrip()
    special = {str(token): i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    written = max((token for token in special if after.startswith(token)), key=len, default=None)
    return sorted(found if written is None else {*found, special[written]})
