"""Post-generation selection as a rule over the specialists: each answers, and the likeliest answer is taken.

It has a loss only in a roundabout way: of the specialist whose own answer was taken, on the reference answer. What
picked answers score in benchmarks, and what a judge picks, is Table 5's (`ultrafuser reproduce`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ultrafuser.baselines.setting import Made, Setting

if TYPE_CHECKING:
    from ultrafuser.baselines.scores import Scores
    from ultrafuser.evaluation.benchmark import Item
    from ultrafuser.evaluation.selection import Selected
    from ultrafuser.evaluation.subject import Subject

__all__ = ["answer_all", "selected_answers", "selection", "selection_scores"]

MAX_NEW_TOKENS = 96
BATCH = 16


def selection(setting: Setting) -> Made:
    """Nothing is trained and no model is made: see `selection_scores`."""
    from ultrafuser.baselines.counting import parameters

    note = (
        f"Each specialist writes an answer of at most {MAX_NEW_TOKENS} tokens to the prompt; taken is the one with the "
        "highest mean log-likelihood under the uniform mixture of all, and measured the loss of its specialist."
    )
    used = parameters(*(setting.open(name) for name in setting.names))
    return Made(None, 0, used, 0, 0, note)


def selection_scores(setting: Setting, part: str) -> Scores:
    """Each conversation as the specialist whose answer was taken reads it, see `selected_answers`."""
    from ultrafuser.baselines.choosing import specialist_losses
    from ultrafuser.baselines.scores import Scores

    readings = {name: Scores.of(loss).rows for name, loss in specialist_losses(setting, part).items()}
    taken = selected_answers(setting, part)
    rows = [dict(zip(readings, same, strict=True)) for same in zip(*readings.values(), strict=True)]
    return Scores([row[chosen.name] for row, chosen in zip(rows, taken, strict=True)])


def selected_answers(setting: Setting, part: str) -> list[Selected]:
    """Whose answer is taken, for every conversation of a part in its order. System messages are left out."""
    from ultrafuser.baselines.encoding import fitting
    from ultrafuser.baselines.scores import part_of
    from ultrafuser.evaluation.benchmark import Item
    from ultrafuser.evaluation.selection import LikelihoodPicker, select
    from ultrafuser.evaluation.subjects.alone import only_specialist
    from ultrafuser.evaluation.subjects.local import LocalSubject

    kept = fitting(setting.conversations.parts[part], part_of(setting.material, part))
    turns = [tuple(m["content"] for m in one.messages if m["role"] == "user") for one in kept]
    items = [Item(str(number), {}, turns=own) for number, own in enumerate(turns)]
    opened = {name: setting.open(name) for name in setting.names}
    fused = setting.fuse(opened, setting.templates, gate="constant")
    answers = {}
    for name in setting.names:
        setting.say(f"the specialist {name} answers")
        answers[name] = answer_all(LocalSubject(only_specialist(fused, name), setting.tokenizer, name=name), items)
    picker = LikelihoodPicker(LocalSubject(fused, setting.tokenizer, name="uniform"), batch_size=BATCH)
    found = select({item.id: item.turns for item in items}, answers, picker, seed=setting.seed)
    return [found[item.id] for item in items]


def answer_all(
    subject: Subject, items: Sequence[Item], *, max_new_tokens: int = MAX_NEW_TOKENS, on_batch: Any = None
) -> dict[str, tuple[str, ...]]:
    """Greedy answers of a model by item, one text per turn. `on_batch(done, all)` hears how far it is."""
    from ultrafuser.evaluation.subject import Asking

    order = sorted(range(len(items)), key=lambda place: -subject.length(items[place]))
    found: dict[str, tuple[str, ...]] = {}
    for start in range(0, len(order), BATCH):
        batch = [items[place] for place in order[start : start + BATCH]]
        found |= {batch[index].id: answer.texts for index, answer in subject.answer(batch, Asking(max_new_tokens))}
        if on_batch is not None:
            on_batch(len(found), len(items))
    return found
