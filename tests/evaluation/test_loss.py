"""Held-out response loss equals that of training, per domain, for a fused model and for one of its specialists."""

from math import inf

import pytest

from ultrafuser.data import ResponseDataset, conversation_from_record
from ultrafuser.evaluation.benchmark import Answer, Likelihood
from ultrafuser.evaluation.benchmarks import BENCHMARKS
from ultrafuser.evaluation.record import Entry
from ultrafuser.evaluation.statistics import summarise
from ultrafuser.evaluation.subject import Asking
from ultrafuser.evaluation.tools import Tools

LOSS = BENCHMARKS["loss"]
RECORDS = [
    {"id": "t1", "domain": "text", "instruction": "Name a colour.", "output": "Blue."},
    {"id": "t2", "domain": "text", "instruction": "Say it in French.", "input": "Good day", "output": "Bonjour."},
    {"id": "m1", "domain": "math", "question": "What is 3 + 4?", "solution": "It is 7."},
    {
        "id": "m2",
        "domain": "math",
        "messages": [
            {"role": "user", "content": "What is 2 times 6?"},
            {"role": "assistant", "content": "12"},
            {"role": "user", "content": "And half of that?"},
            {"role": "assistant", "content": "It is 6 again."},
        ],
    },
    {
        "id": "c1",
        "category": "code",
        "messages": [{"role": "user", "content": "add"}, {"role": "assistant", "content": "a + b"}],
    },
]


def test_one_query_per_answer():
    items = LOSS.items(RECORDS)
    assert [item.group for item in items] == ["text", "text", "math", "math", "code"]
    first, second = items[3].queries
    assert first.end
    assert second.end
    assert [message["content"] for message in first.messages] == ["What is 2 times 6?"]
    assert first.continuations == ("12",)
    assert [message["role"] for message in second.messages] == ["user", "assistant", "user"]
    assert second.continuations == ("It is 6 again.",)
    assert items[1].queries[0].messages[0]["content"] == "Say it in French.\n\nGood day"


def test_by_hand():
    """12 nats over 4 tokens and 3 nats over 2: 15 / 6, and the item weighs six."""
    item = LOSS.items(RECORDS)[3]
    answer = Answer(likelihoods=((Likelihood(-12.0, 4),), (Likelihood(-3.0, 2),)))
    (verdict,) = LOSS.grade([(item, answer)], Tools())
    assert verdict.scores == {"nats_per_token": 2.5}
    assert verdict.weight == 6.0


@pytest.mark.parametrize("given", [(), ((Likelihood(-1.0, 2),),), ((), ()), ((Likelihood(0.0, 0),),) * 2])
def test_an_item_that_was_not_scored_has_no_weight(given):
    (verdict,) = LOSS.grade([(LOSS.items(RECORDS)[3], Answer(likelihoods=given))], Tools())
    assert verdict.weight == 0.0
    assert verdict.scores["nats_per_token"] == inf
    assert verdict.note.startswith("left out")


def test_an_impossible_answer_is_an_infinite_loss():
    item = LOSS.items(RECORDS)[0]
    (verdict,) = LOSS.grade([(item, Answer(likelihoods=((Likelihood(-inf, 3),),)))], Tools())
    assert verdict.scores["nats_per_token"] == inf
    assert verdict.weight == 3.0
    assert verdict.note


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "x", "instruction": "a", "output": "b"}, "record x: domain: None is not a name; give each record"),
        ({"id": "x", "domain": "d", "text": "a"}, "record x: unknown format: the record has the fields id, domain"),
        ({"id": "x", "domain": "d", "instruction": "a", "output": " "}, "record x: the assistant answer .* is empty"),
    ],
)
def test_a_broken_record_is_named(record, message):
    with pytest.raises(ValueError, match=message):
        LOSS.items([record])


@pytest.mark.parametrize("only", [None, "code"])
def test_equals_the_loss_of_training(fused_model, tiny_tokenizer, only):
    from ultrafuser.evaluation.subjects.alone import only_specialist
    from ultrafuser.evaluation.subjects.local import LocalSubject
    from ultrafuser.training import evaluate_response_loss

    model = fused_model if only is None else only_specialist(fused_model, only)
    items = LOSS.items(RECORDS)
    subject = LocalSubject(model, tiny_tokenizer, name="tiny", batch_size=3)
    answers = dict(subject.answer(items, Asking(max_new_tokens=1)))
    verdicts = LOSS.grade([(item, answers[place]) for place, item in enumerate(items)], Tools())
    entries = [
        Entry(id=item.id, group=item.group, scores=verdict.scores, weight=verdict.weight)
        for item, verdict in zip(items, verdicts, strict=True)
    ]
    ours = summarise(entries, "nats_per_token")
    conversations = [
        conversation_from_record(record, record.get("domain") or record["category"], record["id"]) for record in RECORDS
    ]
    templates = model.config.templates
    theirs = evaluate_response_loss(
        model, ResponseDataset.from_conversations(conversations, templates, tiny_tokenizer)
    ).by_category()
    assert {name: group["score"] for name, group in ours["groups"].items()} == pytest.approx(theirs, abs=1e-4)
