"""An endpoint as the model under test, against a scripted server."""

import math
import threading
from contextlib import contextmanager

import pytest
from scripted_judge import client_of, completion, failure, said

from ultrafuser.endpoint import EndpointError
from ultrafuser.evaluation.benchmark import Item, Needs, Query
from ultrafuser.evaluation.subject import Asking
from ultrafuser.evaluation.subjects.endpoint import EndpointSubject

ASKING = Asking(max_new_tokens=20)
TOP = [{"Yes": -0.2, " Yes": -2.0, "No": -3.0, "Maybe": -4.0}]


@contextmanager
def subject_of(script, **options):
    """A subject whose probe finds log-probabilities where the script gives any."""
    with client_of(script, **options) as (client, server):
        yield EndpointSubject(client), server


def item(name: str, *turns: str) -> Item:
    return Item(id=name, record={}, turns=turns or (name,))


def echo(body, number):
    return f"to {said(body)}"


# ---- what it offers ----


@pytest.mark.parametrize(
    ("answer", "offers"),
    [
        (completion("Yes", top=TOP), {Needs.ANSWERS, Needs.CHOICES}),
        (completion("Yes"), {Needs.ANSWERS}),
        (completion("Yes", top=[]), {Needs.ANSWERS}),
    ],
)
def test_one_request_tells_what_it_offers(answer, offers):
    with subject_of(lambda body, number: answer) as (subject, server):
        assert subject.offers == offers
    assert len(server.bodies) == 1


def test_fewer_alternatives_are_asked_for_where_twenty_are_refused():
    def script(body, number):
        return failure(400, "top_logprobs must be at most 5") if body["top_logprobs"] > 5 else completion("Y", top=TOP)

    with subject_of(script) as (subject, server):
        list(subject.answer([Item("q", {}, queries=(query("Is it?"),))], ASKING))
    assert subject.offers == {Needs.ANSWERS, Needs.CHOICES}
    assert [body["top_logprobs"] for body in server.bodies] == [20, 5, 5]


def test_an_endpoint_that_refuses_log_probabilities_still_gives_answers():
    def script(body, number):
        return failure(400, "logprobs are not available") if "logprobs" in body else "ok"

    with subject_of(script) as (subject, _):
        assert subject.offers == {Needs.ANSWERS}


def test_what_is_wrong_comes_to_light_at_the_start():
    with pytest.raises(EndpointError, match="status 401"), subject_of(lambda body, number: failure(401)):
        pass


def test_the_description_names_address_and_model():
    with subject_of(echo, models=("big",)) as (subject, server):
        about = subject.describe()
    assert (subject.name, subject.specialists) == ("big", ["big"])
    assert about == {
        "kind": "endpoint", "specialists": ["big"], "gate": None, "address": server.url, "model": "big",
    }  # fmt: skip


# ---- written answers ----


def test_answers_come_with_their_item_s_index():
    with subject_of(echo, concurrency=3) as (subject, _):
        answers = dict(subject.answer([item(str(number)) for number in range(7)], ASKING))
    assert {index: answer.texts for index, answer in answers.items()} == {n: (f"to {n}",) for n in range(7)}
    assert answers[3].prompts == {"m": "user: 3"}
    assert (answers[3].gate_weights, answers[3].tokens, answers[3].finished) == (None, 3, True)


def test_the_second_turn_sees_the_first_answer():
    with subject_of(echo) as (subject, server):
        ((_, answer),) = subject.answer([item("x", "one", "two")], ASKING)
    assert answer.texts == ("to one", "to two")
    assert [(m["role"], m["content"]) for m in server.bodies[-1]["messages"]] == [
        ("user", "one"), ("assistant", "to one"), ("user", "two"),
    ]  # fmt: skip
    assert answer.prompts["m"] == "user: one\n\nassistant: to one\n\nuser: two"
    assert answer.tokens == 6


def test_a_short_conversation_does_not_wait_for_a_long_one():
    short_done = threading.Event()

    def script(body, number):
        if said(body) == "second":
            short_done.wait(30)
        return "ok"

    with subject_of(script, concurrency=2) as (subject, _):
        seen = []
        for index, _ in subject.answer([item("long", "first", "second"), item("short", "only")], ASKING):
            seen.append(index)
            short_done.set()
    assert seen == [1, 0]


def test_greedy_sends_no_seed_and_sampling_does():
    with subject_of(echo) as (subject, server):
        list(subject.answer([item("x")], ASKING))
        list(subject.answer([item("x")], Asking(20, temperature=0.8, top_p=0.9, seed=5)))
    greedy, sampled = server.bodies[-2:]
    assert (greedy["temperature"], greedy["max_tokens"], "seed" in greedy) == (0, 20, False)
    assert (sampled["temperature"], sampled["top_p"], sampled["seed"]) == (0.8, 0.9, 5)


@pytest.mark.parametrize(
    ("answer", "text"),
    [(completion("half", finish="length"), "half"), (completion(None, refusal="no"), "")],
)
def test_a_cut_or_refused_answer_is_not_finished(answer, text):
    with subject_of(lambda body, number: answer) as (subject, _):
        ((_, found),) = subject.answer([item("x")], ASKING)
    assert (found.texts, found.finished) == ((text,), False)


def test_a_prompt_that_is_too_long_is_an_empty_answer_and_the_run_goes_on():
    def script(body, number):
        return failure(400, "maximum context length exceeded") if said(body) == "huge" else echo(body, number)

    with subject_of(script) as (subject, _):
        answers = dict(
            subject.answer([item("a", "huge"), item("b", "fine", "huge"), item("c", "fine", "fine")], ASKING)
        )
    assert (answers[0].texts, answers[0].finished) == (("",), False)
    assert (answers[1].texts, answers[1].finished) == (("to fine", ""), False)
    assert (answers[2].texts, answers[2].finished) == (("to fine", "to fine"), True)


def test_an_endpoint_that_breaks_ends_the_run():
    def script(body, number):
        return failure(401) if said(body) == "x" else "ok"

    with subject_of(script) as (subject, _), pytest.raises(EndpointError, match="401"):
        list(subject.answer([item("x")], ASKING))


# ---- one-word answers ----


def query(text: str) -> Query:
    return Query(({"role": "user", "content": text},), ("Yes", " No"))


def test_one_word_log_probabilities():
    with subject_of(lambda body, number: completion("Yes", top=TOP)) as (subject, server):
        ((_, answer),) = subject.answer([Item("q", {}, queries=(query("Is it?"), query("Was it?")))], ASKING)
    first, second = answer.likelihoods
    assert first == second
    assert first[0].logprob == pytest.approx(math.log(math.exp(-0.2) + math.exp(-2.0)))
    assert (first[1].logprob, first[1].tokens) == (pytest.approx(-3.0), 1)
    assert answer.prompts == {"m": "user: Is it?"}
    assert server.bodies[-1]["max_tokens"] == 1


def test_a_word_that_is_not_among_the_alternatives():
    with subject_of(lambda body, number: completion("Maybe", top=[{"Maybe": -0.1, "YES": -3.0}])) as (subject, _):
        ((_, answer),) = subject.answer([Item("q", {}, queries=(query("Is it?"),))], ASKING)
    assert [(one.logprob, one.tokens) for one in answer.likelihoods[0]] == [(-math.inf, 1), (-math.inf, 1)]


def test_queries_keep_their_order():
    top = {"one": [{"Yes": -1.0}], "two": [{"Yes": -2.0}]}

    def script(body, number):
        return completion("Yes", top=top.get(said(body), TOP))

    items = [Item(name, {}, queries=(query("one"), query("two"))) for name in "ab"]
    with subject_of(script, concurrency=4) as (subject, _):
        answers = dict(subject.answer(items, ASKING))
    assert all([row[0].logprob for row in answers[n].likelihoods] == pytest.approx([-1, -2]) for n in range(2))


def test_a_refused_query_leaves_no_likelihoods():
    def script(body, number):
        return failure(400, "context length") if said(body) == "huge" else completion("Yes", top=TOP)

    with subject_of(script) as (subject, _):
        ((_, answer),) = subject.answer([Item("q", {}, queries=(query("Is it?"), query("huge")))], ASKING)
    assert (answer.likelihoods, answer.finished) == ((), False)


def test_length_is_about_the_characters():
    with subject_of(echo) as (subject, _):
        assert subject.length(item("x", "abc", "de")) == 5
        assert subject.length(Item("q", {}, queries=(query("four"),))) == 4
