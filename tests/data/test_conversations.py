"""Records of every format, and what is said about bad ones."""

import pytest

from ultrafuser.data import FORMATS, conversation_from_record

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
RECORDS = {
    "messages": {"messages": [USER, ANSWER]},
    "conversations (ShareGPT)": {
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    },
    "instruction": {"instruction": "Hi", "input": "", "output": "Hello"},
    "prompt": {"prompt": "Hi", "completion": "Hello"},
    "question": {"question": "Hi", "answer": "Hello"},
    "problem": {"problem": "Hi", "solution": "Hello"},
    "query": {"query": "Hi", "response": "Hello"},
    "data (UltraChat)": {"data": ["Hi", "Hello"]},
}


def read(record):
    return conversation_from_record(record, "text", "file:1")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_conversation(name):
    assert name in RECORDS, "a new format needs a record here"
    found = read(RECORDS[name])
    assert found.messages == [USER, ANSWER]
    assert (found.id, found.category, found.n_answers) == ("file:1", "text", 1)


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"instruction": "Sum up", "input": "A text", "output": "T"}, ["Sum up\n\nA text", "T"]),
        ({"instruction": "Sum up", "context": "A text", "response": "T"}, ["Sum up\n\nA text", "T"]),
        ({"question": "1+1?", "solution": "It is 2.", "answer": "2"}, ["1+1?", "It is 2."]),
        ({"prompt": [USER], "completion": [ANSWER]}, ["Hi", "Hello"]),
        ({"conversations": [USER, ANSWER]}, ["Hi", "Hello"]),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}]}, ["Hi", "Hello"]),
        ({"messages": [USER, ANSWER, {"role": "user", "content": "unanswered"}]}, ["Hi", "Hello"]),
        ({"system": "Be brief.", "question": "Q", "answer": "A"}, ["Be brief.", "Q", "A"]),
    ],
)
def test_variants(record, messages):
    assert [message["content"] for message in read(record).messages] == messages


def test_id_family_and_meta_are_kept():
    found = read({"id": 7, "family": "sums", "meta": {"source": "us"}, "messages": [USER, ANSWER]})
    assert (found.id, found.family, found.meta) == ("7", "sums", {"source": "us"})


def test_several_answers_are_all_kept():
    found = read({"messages": [{"role": "system", "content": "S"}, USER, ANSWER, USER, ANSWER]})
    assert found.n_answers == 2
    assert len(found.messages) == 5


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("text", "a record must be an object"),
        ({"prompt": "Hi", "label": 1}, "unknown format: the record has the fields prompt, label"),
        ({"messages": [USER]}, "no assistant answer"),
        ({"messages": []}, "no assistant answer"),
        ({"question": "Hi", "answer": "  "}, "the assistant answer (message 1) is empty"),
        ({"question": "Hi", "answer": 3}, "answer: 3 is a int; write text"),
        ({"messages": [{"role": "tool", "content": "x"}, ANSWER]}, "messages[0].role: 'tool'"),
        ({"messages": [{"role": "user"}, ANSWER]}, "messages[0]: no field 'content'"),
        ({"messages": "Hi"}, "messages: must be a list"),
        ({"messages": [ANSWER]}, "no user message before it"),
        ({"messages": [USER, USER, ANSWER]}, "messages 0 and 1 both have the role user"),
        ({"messages": [USER, ANSWER, {"role": "system", "content": "S"}, USER, ANSWER]}, "only the first message may"),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "image", "url": "x"}]}]},
            "content of type image",
        ),
    ],
)
def test_bad_records(record, said):
    with pytest.raises(ValueError) as error:
        read(record)
    assert said in str(error.value)
