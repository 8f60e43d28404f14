"""Post-generation selection: what is shuffled and what is picked, against pickers whose choice is known."""

import math

import pytest

from ultrafuser.evaluation.benchmark import Answer, Likelihood
from ultrafuser.evaluation.selection import LikelihoodPicker, Pick, best_of, select

QUESTIONS = {f"q{i}": (f"question {i}?", "and then?") for i in range(12)}
NAMES = ("text", "code", "math")
ANSWERS = {name: {q: (f"{name} answers {q}", f"{name} again") for q in QUESTIONS} for name in NAMES}


class First:
    """Takes what is shown first, whatever it is."""

    name = "first"

    def pick(self, cases):
        self.cases = cases
        return [Pick((0,)) for _ in cases]


class Longest:
    name = "longest"

    def pick(self, cases):
        return [best_of([len("".join(texts)) for texts in case.candidates]) for case in cases]


def test_candidates_are_shuffled_by_seed_and_item():
    picker = First()
    found = select(QUESTIONS, ANSWERS, picker, seed=1)
    for case, (item, chosen) in zip(picker.cases, found.items(), strict=True):
        assert sorted(chosen.order) == sorted(NAMES)
        assert case.questions == QUESTIONS[item]
        assert case.candidates == tuple(ANSWERS[name][item] for name in chosen.order)
        assert chosen.name == chosen.order[0]
    assert {chosen.name for chosen in found.values()} == set(NAMES)  # nobody is always first
    assert select(QUESTIONS, ANSWERS, First(), seed=1) == found
    assert select(QUESTIONS, ANSWERS, First(), seed=2) != found
    few = {item: QUESTIONS[item] for item in list(QUESTIONS)[3:5]}
    assert select(few, ANSWERS, First(), seed=1) == {item: found[item] for item in few}


def test_shuffling_does_not_change_what_a_deterministic_picker_takes():
    """Ties included: "text", "code" and "math" are equally long, and the one named first is taken."""
    answers = {
        **ANSWERS,
        "code": {q: (("a longer answer " * 2, "x") if q == "q3" else t) for q, t in ANSWERS["code"].items()},
    }
    for seed in range(6):
        found = select(QUESTIONS, answers, Longest(), seed=seed)
        assert {q: one.name for q, one in found.items()} == {q: "code" if q == "q3" else "text" for q in QUESTIONS}


def test_an_answer_that_is_missing_is_named():
    with pytest.raises(ValueError, match="answers: code has none to 'q1'"):
        select(QUESTIONS, {"text": ANSWERS["text"], "code": {"q0": ("a", "b")}}, First())


def test_best_of_leaves_out_what_has_no_score():
    assert best_of([1.0, None, 3.0]).best == (2,)
    assert best_of([2.0, 1.0, 2.0]).best == (0, 2)
    assert best_of([None, None]) == Pick((0, 1), {"scores": [None, None], "flagged": True})


class Counting:
    """A subject that finds each character `nats` likely; it cannot read what is longer than 30."""

    name = "counting"

    def length(self, item):
        return sum(len(text) for query in item.queries for text in query.continuations)

    def answer(self, items, asking):
        self.asked = getattr(self, "asked", []) + list(items)
        for index, item in reversed(list(enumerate(items))):
            rows = []
            for query in item.queries:
                (text,) = query.continuations
                assert query.end
                assert query.messages[-1]["role"] == "user"
                rows.append((Likelihood(-2.0 * text.count("x") - text.count("y"), len(text) + 1),))
            yield index, Answer(likelihoods=tuple(rows) if self.length(item) <= 30 else ())


def test_likelihood_is_the_mean_over_the_tokens_of_all_turns():
    subject = Counting()
    answers = {"a": {"q": ("xx", "y")}, "b": {"q": ("yyyy", "y")}, "c": {"q": ("z" * 31, "")}}
    found = select({"q": ("one?", "two?")}, answers, LikelihoodPicker(subject, batch_size=2))["q"]
    scores = dict(zip(found.order, found.detail["scores"], strict=True))
    assert scores == {"a": pytest.approx(-5 / 5), "b": pytest.approx(-5 / 7), "c": None}
    assert found.name == "b"
    second = next(item for item in subject.asked if item.queries[0].continuations == ("xx",)).queries[1]
    assert [m["content"] for m in second.messages] == ["one?", "xx", "two?"]


def test_likelihood_under_a_model_is_that_of_plain_transformers(fused_model, tiny_tokenizer):
    """One specialist's own mean log-probability, its end of sequence included."""
    import torch

    from ultrafuser.evaluation.subjects.alone import only_specialist
    from ultrafuser.evaluation.subjects.local import LocalSubject
    from ultrafuser.templates import encode_prompt

    alone = only_specialist(fused_model, "code")
    answers = {"a": {"q": ("add",)}, "b": {"q": ("return a",)}}
    found = select({"q": ("hi",)}, answers, LikelihoodPicker(LocalSubject(alone, tiny_tokenizer, name="code")))["q"]
    prompt = encode_prompt([{"role": "user", "content": "hi"}], alone.config.templates, tiny_tokenizer)[0]
    expected = {}
    for name, texts in answers.items():
        ids = [*tiny_tokenizer(texts["q"][0], add_special_tokens=False)["input_ids"], tiny_tokenizer.eos_token_id]
        with torch.no_grad():
            logits = fused_model.specialist("code")(torch.tensor([[*prompt, *ids]])).logits[0, -len(ids) - 1 : -1]
        logs = logits.double().log_softmax(-1)
        expected[name] = logs.gather(1, torch.tensor(ids)[:, None]).mean().item()
    assert dict(zip(found.order, found.detail["scores"], strict=True)) == pytest.approx(expected, rel=1e-4)
    assert found.name == max(expected, key=lambda name: expected[name])
    assert all(math.isfinite(score) for score in expected.values())
