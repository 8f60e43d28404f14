"""Every tokenizer family as bytes: what is encoded comes back, whatever it is, and the cutting is the tokenizer's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_makers import MAKERS, SPECIALS, byte_level, sentence_piece, wrapped
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from ultrafuser.tokens import TokenTable

FAMILIES = list(MAKERS)
TOKENIZERS = {name: make() for name, make in MAKERS.items()}
TABLES = {name: TokenTable(tokenizer) for name, tokenizer in TOKENIZERS.items()}

TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text(st.sampled_from(" \t\r\n\u2581a1.é"), max_size=30),
    st.sampled_from(
        [
            "",
            " ",
            "  leading and trailing  ",
            "def f(x):\r\n\treturn x  \n\n\n    # four\n",
            "\U0001f468\u200d\U0001f469\u200d\U0001f467 family, \U0001f3f4\U000e0067\U000e0062\U000e007f flag",
            "1234567890 3.14159 ½ ٣",
            "e\u0301 and é, ﬁ ligature, \ufb01",
            "<s>literal</s> marks <unk> <0x41> \u2581",
            "\x00\x7f\u0085\u2028\ufeff",
        ]
    ),
)


@pytest.mark.parametrize("family", FAMILIES)
@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_every_text_comes_back(family: str, text: str) -> None:
    table, data = TABLES[family], text.encode()
    ids = table.encode(data)
    assert table.bytes_of(ids) == data
    assert not {0, 1, 2, 3} & set(ids)
    ends = table.boundaries(ids)
    assert len(ends) == len(ids)
    assert all(data[:end] == table.bytes_of(ids[: i + 1]) for i, end in enumerate(ends))


@pytest.mark.parametrize("family", FAMILIES)
@given(text=TEXT, cut=st.integers(0, 200))
@settings(max_examples=30, deadline=None)
def test_half_a_character_becomes_bytes_and_the_whole_before_it_is_cut_as_ever(
    family: str, text: str, cut: int
) -> None:
    table, data = TABLES[family], text.encode()[:cut]
    ids = table.encode(data)
    assert table.bytes_of(ids) == data
    whole = data.decode(errors="ignore").encode()
    assert ids[: len(table.encode(whole))] == table.encode(whole)
    assert len(ids) == len(table.encode(whole)) + len(data) - len(whole)


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.binary(max_size=24))
@settings(max_examples=30, deadline=None)
def test_any_bytes_come_back(family: str, data: bytes) -> None:
    assert TABLES[family].bytes_of(TABLES[family].encode(data)) == data


@pytest.mark.parametrize("family", [name for name in FAMILIES if "prefix" not in name and name != "llama-2-like"])
@pytest.mark.parametrize("text", ["the quick brown fox", " return a + b\n\n", "数学 42?"])
def test_without_prefix_space_the_cutting_is_the_tokenizers_own(family: str, text: str) -> None:
    assert TABLES[family].encode(text.encode()) == TOKENIZERS[family](text, add_special_tokens=False)["input_ids"]


def test_a_prefix_space_is_left_out_and_the_rest_is_the_cutting_inside_a_text() -> None:
    tokenizer, table = sentence_piece(prefix=True), TokenTable(sentence_piece(prefix=True))
    plain = TokenTable(sentence_piece())
    assert table.text[tokenizer("dog", add_special_tokens=False)["input_ids"][0]].startswith(b" ")
    for text in (b"dog", b" dog", b"  dog\n dog", b"the quick"):
        assert table.encode(text) == plain.encode(text)
    assert tokenizer("dog", add_special_tokens=False)["input_ids"] == table.encode(b" dog")  # itself unchanged


def test_pieces_spell_what_a_hand_made_vocabulary_says() -> None:
    table = TokenTable(sentence_piece())
    assert table.text[:4] == [None] * 4
    assert table.text[4 + 0x41] == b"A"
    assert table.ids[b"\xff"] == 4 + 0xFF
    assert table.ids[b"a"] > 4 + 0xFF, "an ordinary piece stands before the byte piece"
    assert (b"a", 1, 4 + ord("a")) in table.copies
    assert table.end == 1
    assert table.eos == {1}
    assert any(text == b" the" for text in table.text)


def test_further_ends_and_padded_rows() -> None:
    table = TokenTable(byte_level(), rows=400, eos=[0, 1])
    assert len(table) == 400
    assert table.text[399] is None
    assert table.eos == {0, 1}
    assert table.bytes_of([1, 0, 399]) == b""


def test_what_a_tokenizer_rewrites_is_spelt_from_the_table() -> None:
    inner = byte_level().backend_tokenizer
    inner.normalizer = normalizers.NFC()
    table = TokenTable(wrapped(inner))
    decomposed = "the cafe\u0301 in the sun".encode()
    assert table.bytes_of(table.encode(decomposed)) == decomposed
    assert table.encode("the café".encode()) == TABLES["byte-level"].encode("the café".encode())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: wrapped(_whole_words()), "WordPiece vocabulary has neither"),
        (lambda: wrapped(_without_bytes()), "neither a byte-level alphabet nor byte pieces"),
        (lambda: wrapped(_lower_case()), "do not spell the text"),
        (lambda: wrapped(_few_letters()), "bytes have no token of their own"),
        (object, "has no fast form"),
    ],
)
def test_a_tokenizer_whose_bytes_are_lost_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        TokenTable(make(), field="specialists.b.source")
    assert str(error.value).startswith("specialists.b.source: ")
    assert "\n" not in str(error.value)


def test_too_few_rows_and_ends_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="has no row in a head of 100 rows"):
        TokenTable(byte_level(), rows=100)
    with pytest.raises(ValueError, match="end of sequence is token 5000"):
        TokenTable(byte_level(), eos=[5000])


def _whole_words() -> Tokenizer:
    return Tokenizer(models.WordPiece({s: i for i, s in enumerate(SPECIALS)}, unk_token="<unk>"))


def _without_bytes() -> Tokenizer:
    inner = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    inner.add_special_tokens(SPECIALS)
    return inner


def _lower_case() -> Tokenizer:
    inner = byte_level().backend_tokenizer
    inner.normalizer = normalizers.Lowercase()
    return inner


def _few_letters() -> Tokenizer:
    inner = Tokenizer(models.BPE({"a": 4, "b": 5}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.add_special_tokens(SPECIALS)
    return inner


def test_unigram_keeps_its_own_cutting() -> None:
    tokenizer = TOKENIZERS["unigram"]
    text = "the quick brown fox jumps"
    assert TABLES["unigram"].encode(text.encode()) == tokenizer(text, add_special_tokens=False)["input_ids"]
