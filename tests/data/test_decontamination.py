"""13-gram overlap: what counts as shared, against a plain reference."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ultrafuser.data import Conversation, OverlapIndex, decontaminate
from ultrafuser.data.decontamination import words

TWELVE = "one two three four five six seven eight nine ten eleven twelve"


def talk(prompt, answer, identity="a", system=None):
    head = [{"role": "system", "content": system}] if system else []
    return Conversation(
        identity, "text", [*head, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    )


def reference(text, others, length):
    def grams(value):
        found = words(value)
        return {tuple(found[i : i + length]) for i in range(len(found) - length + 1)}

    return bool(grams(text) & set().union(*map(grams, others)))


@given(
    st.lists(st.text(alphabet="ab ", max_size=30), max_size=4), st.text(alphabet="ab ", max_size=30), st.integers(1, 4)
)
@settings(max_examples=150, deadline=None)
def test_index_equals_a_plain_loop(others, text, length):
    index = OverlapIndex(others, length)
    assert index.hits(text) == (reference(text, others, length) if others else False)
    assert (index.first_hit(text) is not None) == index.hits(text)


def test_twelve_words_pass_and_thirteen_do_not():
    index = OverlapIndex([f"start {TWELVE} thirteen end"])
    assert not index.hits(f"other {TWELVE} other")
    assert index.hits(f"OTHER, {TWELVE.upper()}... thirteen!")
    assert index.first_hit(f"x {TWELVE} thirteen") == f"{TWELVE} thirteen"


def test_decontaminate_looks_at_prompts_and_answers_and_says_what_was_shared():
    test = [talk("Count.", f"{TWELVE} thirteen", system=f"{TWELVE} system")]
    train = [
        talk(f"please continue {TWELVE} thirteen", "ok", "prompt"),
        talk("Say it.", f"{TWELVE} thirteen.", "answer"),
        talk("count", "something else", "same short prompt"),
        talk("Count it", "ok", "other short prompt"),
        talk("Hi", "Count.", "short answers are not compared"),
        talk("Hello there", "ok", "system", system=f"{TWELVE} system"),
    ]
    found = decontaminate(train, test)
    assert [c.id for c in found.kept] == ["other short prompt", "short answers are not compared", "system"]
    assert [(c.id, hit) for c, hit in found.removed] == [
        ("prompt", f"{TWELVE} thirteen"),
        ("answer", f"{TWELVE} thirteen"),
        ("same short prompt", "count"),
    ]


def test_nothing_to_compare_with_keeps_everything():
    assert len(decontaminate([talk("a", "b")], []).kept) == 1
