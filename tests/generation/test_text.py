"""Pieces of text from ids: joined they are the whole, and no character is shown before it is complete."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultrafuser.generation import IncrementalText
from ultrafuser.generation.text import WINDOW, IncrementalBytes

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def pieces(tokenizer, ids):
    decoder = IncrementalText(tokenizer)
    return [decoder.push(i, last=k == len(ids) - 1) for k, i in enumerate(ids)]


@pytest.fixture(scope="module")
def byte_fallback_tokenizer():
    """A tokenizer of the SentencePiece kind: one token per byte, and words that start with a space mark."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁hello", "▁world", "s"]
    inner = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>"))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


@settings(deadline=None, max_examples=150)
@given(text=st.text(max_size=60))
def test_any_text_comes_out_whole_and_never_in_half_characters(tiny_tokenizer, text):
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    parts = pieces(tiny_tokenizer, ids)
    assert "".join(parts) == text
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in part for part in parts)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_ids_give_what_decoding_all_at_once_gives(tiny_tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, len(tiny_tokenizer) - 1), max_size=3 * WINDOW))
    whole = tiny_tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join(pieces(tiny_tokenizer, ids)) == whole


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=40))
def test_byte_fallback_text_is_never_shown_in_half_characters(byte_fallback_tokenizer, text):
    ids = [2 + byte for byte in text.encode()]
    parts = pieces(byte_fallback_tokenizer, ids)
    assert "".join(parts) == text.removeprefix(" ")
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in part for part in parts)


def test_words_keep_the_space_before_them(byte_fallback_tokenizer):
    assert pieces(byte_fallback_tokenizer, [258, 260, 259, 1]) == ["hello", "s", " world", ""]


def test_character_of_four_tokens_comes_with_the_last(tiny_tokenizer):
    ids = tiny_tokenizer("🦊!", add_special_tokens=False)["input_ids"]
    assert len(ids) == 5
    assert pieces(tiny_tokenizer, ids) == ["", "", "", "🦊", "!"]


def test_unfinished_character_is_given_out_at_the_end(tiny_tokenizer):
    ids = tiny_tokenizer("🦊", add_special_tokens=False)["input_ids"]
    assert pieces(tiny_tokenizer, ids[:2]) == ["", REPLACEMENT]


def test_invalid_bytes_do_not_hold_back_the_stream(tiny_tokenizer):
    broken = tiny_tokenizer.convert_tokens_to_ids("ÿ")  # the byte 0xFF, valid nowhere
    parts = pieces(tiny_tokenizer, [broken] * 10)
    assert sum(map(len, parts[:-1])) >= 6


# ---- by bytes ----


@settings(deadline=None, max_examples=150)
@given(tokens=st.lists(st.one_of(st.binary(max_size=3), st.text(max_size=3).map(str.encode), st.none()), max_size=20))
def test_bytes_come_out_whole_whatever_they_are(tokens):
    decoder = IncrementalBytes(SimpleNamespace(text=tokens))
    parts = [decoder.push(i, last=i == len(tokens) - 1) for i in range(len(tokens))]
    assert "".join(parts) == b"".join(text or b"" for text in tokens).decode(errors="replace")


def test_the_last_byte_of_a_character_brings_it():
    decoder = IncrementalBytes(SimpleNamespace(text=[b"\xf0\x9f", b"\xa6", b"\x8a!", b"\xe6"]))
    assert [decoder.push(i) for i in range(3)] == ["", "", "\U0001f98a!"]
    assert decoder.push(3, last=True) == REPLACEMENT
