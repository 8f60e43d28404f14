"""Answers coloured by the gate: held-out composite answers that the fused model reads, and answers that it writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ultrafuser.data import Conversation
from ultrafuser.demo.material import Material
from ultrafuser.demo.plan import DemoPlan
from ultrafuser.demo.results import COLUMNS, COMPOSITE, Example, Token

N_READ = 4


def coloured_examples(model: Any, material: Material, plan: DemoPlan) -> list[Example]:
    """Some composite answers read by the model, then one answer per domain written by it.

    Written at temperature 0.7 and top-p 0.9: greedy answers run in circles at this size.
    """
    from ultrafuser.generation import score, stream

    composite = [c for c in material.heldout if c.category == COMPOSITE]
    found = [_example(c, False, score(model, material.tokenizer, c.messages)) for c in middle(composite, N_READ)]
    for domain in COLUMNS:
        for c in middle([c for c in material.heldout if c.category == domain], 1):
            prompt = c.messages[:-1]
            written = stream(
                model,
                material.tokenizer,
                prompt,
                max_new_tokens=plan.written_tokens,
                temperature=0.7,
                top_p=0.9,
                seed=plan.seed,
            )
            found.append(_example(c, True, written))
    return found


def middle(conversations: Sequence[Conversation], count: int) -> list[Conversation]:
    """The `count` conversations of middling answer length: chosen before anything is known of how they turn out."""
    ordered = sorted(conversations, key=lambda c: (len(c.messages[-1]["content"]), c.id))
    start = max(0, (len(ordered) - count) // 2)
    return ordered[start : start + count]


def _example(conversation: Conversation, written: bool, events: Iterable[Any]) -> Example:
    tokens = [Token(text=event.text, weights=[float(w) for w in event.weights]) for event in events]
    return Example(
        id=conversation.id,
        domain=conversation.category,
        prompt=conversation.messages[-2]["content"],
        written=written,
        tokens=[token for token in tokens if token.text],
    )
