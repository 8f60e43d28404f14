"""The union vocabulary of unlike tokenizers: ids answer each other where, and only where, their bytes are equal."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_makers import CORPUS, MAKERS, byte_level, sentence_piece, wrapped
from tokenizers import Tokenizer

from ultrafuser.tokens import Alignment, TokenTable

TABLES = {name: TokenTable(make()) for name, make in MAKERS.items()}
PAIRS = list(itertools.permutations(["byte-level", "gemma-like", "unigram"], 2))


@pytest.mark.parametrize("pair", PAIRS)
def test_an_entry_and_its_ids_spell_the_same(pair: tuple[str, str]) -> None:
    tables = [TABLES[name] for name in pair]
    aligned = Alignment(tables)
    texts = [aligned.text(entry) for entry in range(aligned.size)]
    for table, own, back in zip(tables, aligned.to_union, aligned.from_union, strict=True):
        assert own.shape == (len(table),)
        assert back.shape == (aligned.size,)
        for i, entry in enumerate(own.tolist()):
            if i in table.eos:
                assert entry == aligned.end
            elif table.text[i] is None:
                assert entry == -1
            else:
                assert texts[entry] == table.text[i]
                assert back[entry] == i
        held = {table.text[i] for i in range(len(table))} - {None}
        lacking = [texts[entry] for entry in np.flatnonzero(back == -1).tolist()]
        assert all(text is None or text not in held or table.ids[text] >= 0 for text in lacking)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_union_is_what_a_plain_count_gives(pair: tuple[str, str]) -> None:
    first, other = (TABLES[name] for name in pair)
    aligned = Alignment([first, other])
    own = [text for text in first.text if text is not None]
    theirs = [text for text in other.text if text is not None]
    assert aligned.overlap[0] == 1.0
    shared = sum(1 for text in set(own) if text in set(theirs)) + sum(
        min(own.count(text), theirs.count(text)) - 1 for text in {t for t, _, _ in first.copies} & set(theirs)
    )
    assert aligned.overlap[1] == pytest.approx(shared / len(own))
    assert set(aligned.strings) >= set(theirs) - set(own)
    assert aligned.size == len(first) + len(aligned.strings)
    np.testing.assert_array_equal(
        aligned.to_union[0][[i for i, text in enumerate(first.text) if text]],
        [i for i, text in enumerate(first.text) if text],
    )


def test_a_tokenizer_aligned_with_itself_adds_nothing() -> None:
    for table in TABLES.values():
        aligned = Alignment([table, table])
        assert aligned.strings == []
        assert aligned.overlap == [1.0, 1.0]
        np.testing.assert_array_equal(aligned.to_union[0], aligned.to_union[1])


def test_all_ends_are_one_event_and_written_by_the_first() -> None:
    first, other = TokenTable(byte_level(), eos=[0]), TokenTable(sentence_piece(), eos=[2, 0])
    aligned = Alignment([first, other])
    assert aligned.end == 1
    assert aligned.eos[0].tolist() == [1, 0]
    assert aligned.eos[1].tolist() == [1, 0, 2]
    assert aligned.to_union[1][[0, 1, 2]].tolist() == [1, 1, 1]
    assert aligned.from_union[1][1] == 1
    assert aligned.from_union[0][0] == -1


def test_strings_of_a_third_tokenizer_follow_those_of_the_second() -> None:
    tables = [TABLES["byte-level"], TABLES["gemma-like"], TABLES["unigram"]]
    aligned, two = Alignment(tables), Alignment(tables[:2])
    assert aligned.strings[: len(two.strings)] == two.strings
    for j, table in enumerate(tables):
        ids = table.encode(CORPUS[1].encode())
        assert b"".join(aligned.text(int(entry)) for entry in aligned.to_union[j][ids]) == CORPUS[1].encode()


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_text_goes_through_the_union_and_back_in_both_directions(text: str) -> None:
    data = text.encode()
    for pair in PAIRS[:4]:
        aligned = Alignment_of(pair)
        for j in range(2):
            ids = aligned.tables[j].encode(data)
            entries = aligned.to_union[j][ids]
            assert (entries >= 0).all()
            assert aligned.from_union[j][entries].tolist() == ids
            assert b"".join(aligned.text(int(entry)) for entry in entries) == data


_made: dict[tuple[str, str], Alignment] = {}


def Alignment_of(pair: tuple[str, str]) -> Alignment:  # noqa: N802 - made once per pair
    return _made.setdefault(pair, Alignment([TABLES[name] for name in pair]))


def test_a_tokenizer_without_end_is_refused() -> None:
    tokenizer = wrapped(Tokenizer.from_str(byte_level().backend_tokenizer.to_str()))
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"specialists\.b: its tokenizer has no end-of-sequence token"):
        Alignment([TABLES["gemma-like"], TokenTable(tokenizer)], ["a", "b"])
