"""The journal: what it keeps, what it refuses, readers beside a writer."""

import sqlite3
import time

import pytest

from ultrafuser.endpoint import Reply
from ultrafuser.synthesis import Journal, Spec
from ultrafuser.synthesis.records import Ask
from ultrafuser.synthesis.rows import Settled, Spent
from ultrafuser.synthesis.steps.step import list_request

SPEC = Spec(name="x", domains=["text"], endpoints=[{"base_url": "http://localhost:1"}])


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path) as opened:
        yield opened


def asks(*texts, about=()):
    return [("text", Ask(about, list_request(SPEC, text), {"n": text})) for text in texts]


def answer(journal, step="instructions", **fields):
    """Settles everything that waits."""
    for _, planned in journal.waiting(step, -1, 100):
        made = [{"text": planned.note["n"]}]
        journal.settle(planned, Reply("x"), Settled(**({"made": made, "spent": Spent(1, 2, 3, 0.5)} | fields)))


def texts(journal, **options):
    return [record.data["text"] for record in journal.records("instructions", **options)]


def test_answers_come_back_in_the_order_of_the_plan(journal):
    assert journal.plan("instructions", 0, asks("c", "a", "b"), 0, "p") == 3
    for _, planned in reversed(journal.waiting("instructions", -1, 10)):
        journal.settle(planned, Reply("x"), Settled(made=[{"text": planned.note["n"]}], spent=Spent(1, 2, 3, 0.5)))
    assert texts(journal) == ["c", "a", "b"]
    assert journal.spent() == Spent(3, 6, 9, 1.5)
    assert journal.spent().tokens == 15


def test_a_plan_is_written_whole_or_not_at_all(journal):
    def broken():
        yield from asks("a", "b")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        journal.plan("instructions", 0, broken(), 0, "p")
    assert journal.waiting("instructions", -1, 10) == []
    assert journal.stage("instructions:0") is None


def test_an_answered_request_that_comes_back_into_the_plan_is_not_asked_again(journal):
    journal.plan("instructions", 0, asks("a", "b"), 0, "p")
    answer(journal)
    journal.retire("instructions")
    assert texts(journal) == []
    journal.plan("instructions", 0, asks("b", "c"), 0, "q")
    assert [planned.note["n"] for _, planned in journal.waiting("instructions", -1, 10)] == ["c"]
    answer(journal)
    assert texts(journal) == ["b", "c"]
    assert journal.spent().requests == 3


def test_nothing_that_is_left_out_is_lost(journal):
    journal.plan("instructions", 0, asks("a", "b"), 0, "p")
    answer(journal)
    first = next(journal.records("instructions"))
    journal.judge([(first.id, "too short")])
    assert texts(journal) == ["b"]
    assert texts(journal, rejected=True) == ["a", "b"]
    assert journal.record(first.id).reason == "too short"
    assert journal.counts("instructions") == {"text": {"answered": 2, "kept": 1, "rejected": 1}}
    journal.judge([(first.id, None)])
    assert texts(journal) == ["a", "b"]
    assert journal.prompt(first.request) == ({"role": "user", "content": "a"},)


def test_half_of_a_surrogate_pair_can_be_stored(journal):
    journal.plan("instructions", 0, asks("a"), 0, "p")
    answer(journal, made=[{"text": "x\ud83d"}])
    assert texts(journal) == ["x?"]


def test_a_reader_need_not_wait_for_a_writer(journal, tmp_path):
    journal.plan("instructions", 0, asks("a"), 0, "p")
    answer(journal)
    with journal._transaction():
        began = time.monotonic()
        with Journal(tmp_path, create=False) as other:
            assert texts(other) == ["a"]
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("content", [b"no database" * 100, None])
def test_what_is_no_journal_is_named(tmp_path, content):
    file = tmp_path / "journal.sqlite"
    if content is not None:
        file.write_bytes(content)
    else:
        with sqlite3.connect(file) as connection:
            connection.execute("PRAGMA user_version=99")
        connection.close()
    with pytest.raises(ValueError, match=r"output: .*journal\.sqlite is no journal of this version .*name another"):
        Journal(tmp_path)
