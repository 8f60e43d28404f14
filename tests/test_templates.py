from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ultrafuser.templates import (
    TooLong,
    encode_conversation,
    encode_prompt,
    load_template,
    prefixes,
    render,
    special_token_texts,
    template_names,
    template_traits,
)

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
NAMES = template_names()
SHARED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# what people write: any Unicode, code with its white space, marks that templates use, placeholder-like words
WORDS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.sampled_from(
        [
            "",
            " ",
            "\n",
            "def f(x):\n\treturn x  \n\n",
            "    indented\r\n",
            "{{ bos_token }}{% if %}",
            "[INST] x [/INST]",
            "### Response:\n",
            "User: a\nAssistant:",
            "AnswerPlaceN0End",
            "AnswerPlaceXN1End",
            "数学 é \U0001f600 \u202e",
            "<|im_start|>user\n",
        ]
    ),
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    """A system message or none, then one to four exchanges."""
    messages = [{"role": "system", "content": draw(WORDS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        messages.append({"role": "user", "content": draw(WORDS)})
        messages.append({"role": "assistant", "content": draw(WORDS)})
    return messages


def sources(names: Sequence[str] = NAMES) -> list[str]:
    return [load_template(name) for name in names]


@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations())
@SHARED
def test_prefixes_and_answers_reassemble_the_rendered_conversation(name: str, messages: list[dict[str, str]]) -> None:
    source = load_template(name)
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    pieces = prefixes(source, messages, special_tokens=SPECIAL)
    assert len(pieces) == len(answers)
    whole = render(source, messages, special_tokens=SPECIAL)
    ends_in_eos = "</s>" if whole.replace("\n", "").endswith("</s>") else ""
    joined = "".join(piece + answer + ends_in_eos for piece, answer in zip(pieces, answers, strict=True))
    assert whole.startswith(joined)
    assert whole[len(joined) :] in ("", "\n", "\n\n", "<|im_end|>\n", "<|eot_id|>")


@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations())
@SHARED
def test_the_generation_prompt_continues_what_training_saw(name: str, messages: list[dict[str, str]]) -> None:
    source = load_template(name)
    trained = prefixes(source, messages, special_tokens=SPECIAL)
    turn = 0
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            assert prefixes(source, messages[:i], special_tokens=SPECIAL) == trained[: turn + 1]
            turn += 1


@pytest.mark.parametrize("name", NAMES)
@given(messages=conversations())
@SHARED
def test_rendering_equals_apply_chat_template(name: str, messages: list[dict[str, str]], tiny_tokenizer: Any) -> None:
    source = load_template(name)
    special = special_token_texts(tiny_tokenizer)
    for turns, prompt in ((messages, False), (messages[:-1], True)):
        expected = tiny_tokenizer.apply_chat_template(
            turns, chat_template=source, tokenize=False, add_generation_prompt=prompt
        )
        assert render(source, turns, special_tokens=special, add_generation_prompt=prompt) == expected


@given(messages=conversations())
@SHARED
def test_the_first_prompt_has_the_ids_of_apply_chat_template(
    messages: list[dict[str, str]], tiny_tokenizer: Any
) -> None:
    turns = messages[: 1 + (messages[0]["role"] == "system")]
    for source, ids in zip(sources(), encode_prompt(turns, sources(), tiny_tokenizer), strict=True):
        expected = tiny_tokenizer.apply_chat_template(
            turns, chat_template=source, add_generation_prompt=True, return_dict=False
        )
        assert ids == expected


@given(messages=conversations())
@SHARED
def test_answers_have_the_same_ids_whatever_stands_before_them(
    messages: list[dict[str, str]], tiny_tokenizer: Any
) -> None:
    every = encode_conversation(messages, sources(), tiny_tokenizer)
    for name in NAMES:
        alone = encode_conversation(messages, sources([name]), tiny_tokenizer)
        assert alone.response_ids == every.response_ids
        assert alone.prompt_ids[0] == every.prompt_ids[NAMES.index(name)]
    for message, ids in zip((m for m in messages if m["role"] == "assistant"), every.response_ids, strict=True):
        assert ids[-1] == tiny_tokenizer.eos_token_id
        assert tiny_tokenizer.decode(ids[:-1]) == message["content"]


@given(messages=conversations())
@SHARED
def test_a_prompt_is_the_concatenation_that_training_used(messages: list[dict[str, str]], tiny_tokenizer: Any) -> None:
    encoded = encode_conversation(messages, sources(), tiny_tokenizer)
    prompts = encode_prompt(messages[:-1], sources(), tiny_tokenizer)
    for j, prompt in enumerate(prompts):
        assert prompt + encoded.response_ids[-1] == encoded.sequence(j)


def test_an_answer_that_writes_the_end_token_out_does_not_end_there(tiny_tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "How does Llama end?"},
        {"role": "assistant", "content": "With </s>, always."},
    ]
    ids = encode_conversation(messages, sources(), tiny_tokenizer).response_ids[0]
    assert ids.index(tiny_tokenizer.eos_token_id) == len(ids) - 1
    assert tiny_tokenizer.decode(ids[:-1]) == "With </s>, always."


def test_length_counts_the_longest_specialist(tiny_tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "2 + 2"}, {"role": "assistant", "content": "4"}]
    encoded = encode_conversation(messages, sources(), tiny_tokenizer)
    assert encoded.length == max(len(encoded.sequence(j)) for j in range(len(NAMES)))
    assert encoded.n_response_tokens == len(encoded.response_ids[0]) == 2
    assert encode_conversation(messages, sources(), tiny_tokenizer, max_length=encoded.length) == encoded
    with pytest.raises(TooLong) as caught:
        encode_conversation(messages, sources(), tiny_tokenizer, max_length=encoded.length - 1)
    assert caught.value.length == encoded.length
    assert f"takes {encoded.length} tokens and max_length is {encoded.length - 1}" in str(caught.value)


HISTORY = [
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": " one\n"},
    {"role": "user", "content": "second"},
]


def test_a_template_without_generation_prompt_gets_the_header_of_its_answers() -> None:
    source = "{% for m in messages %}{{ m.role + '> ' + m.content + '\n' }}{% endfor %}"
    assert template_traits(source, SPECIAL).header == "answer"
    assert prefixes(source, HISTORY, special_tokens=SPECIAL) == [
        "user> first\nassistant> ",
        "\nuser> second\nassistant> ",
    ]


@pytest.mark.parametrize("space", [" ", "\\n"])
def test_white_space_around_an_answer_is_left_to_the_answer(space: str) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + 'SPACE' + eos_token }}{% endif %}{% endfor %}"
    ).replace("SPACE", space)
    assert prefixes(source, HISTORY, special_tokens=SPECIAL) == ["[INST] first [/INST]", "[INST] second [/INST]"]


def test_a_template_that_treats_its_last_turn_otherwise_is_followed_turn_by_turn() -> None:
    source = (  # as Qwen 3 does: an empty thought opens the answer, and is left out of the history
        "{% for m in messages %}{{ '<' + m.role + '>' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<assistant><think></think>' }}{% endif %}"
    )
    pieces = prefixes(source, HISTORY, special_tokens=SPECIAL)
    assert pieces == ["<user>first</s><assistant><think></think>", "<user>second</s><assistant><think></think>"]


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
        "{{ m.role + ':' + m.content + ';' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
        "{% for m in messages if m.role != 'system' %}{{ m.role + ':' + m.content + ';' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
    ],
)
def test_a_system_text_without_a_place_goes_before_the_first_question(source: str) -> None:
    system = {"role": "system", "content": "Be brief."}
    assert template_traits(source, SPECIAL).system == "merged"
    pieces = prefixes(source, [system, *HISTORY], special_tokens=SPECIAL)
    assert pieces == ["user:Be brief.\n\nfirst;assistant:", ";user:second;assistant:"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "drops the assistant's earlier answer 1",
        ),
        (
            "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
            "repeats the assistant's earlier answer 1",
        ),
        ("{{ raise_exception('roles must alternate') }}", "refuses the conversation: roles must alternate"),
        ("{{ 1 + messages }}", "fails on the conversation"),
    ],
)
def test_a_template_that_loses_answers_is_refused(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prefixes(source, HISTORY, special_tokens=SPECIAL)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "no user message"),
        ([{"role": "system", "content": "x"}], "no user message"),
        ([{"role": "human", "content": "x"}], r"messages\[0\].role: 'human' is not one of"),
        ([{"role": "user", "content": None}], r"messages\[0\].content: NoneType given, text needed"),
        ([{"role": "user"}], r"messages\[0\].content"),
        ([{"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}], "stands before the first user"),
    ],
)
def test_conversations_that_cannot_be_rendered_are_refused(messages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prefixes(load_template("plain"), messages, special_tokens=SPECIAL)


def test_encoding_wants_an_answer_and_a_prompt_wants_none(tiny_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="last message must be the assistant's"):
        encode_conversation(HISTORY, sources(), tiny_tokenizer)
    with pytest.raises(ValueError, match="already an answer"):
        encode_prompt(HISTORY[:2], sources(), tiny_tokenizer)
    with pytest.raises(ValueError, match="none given"):
        encode_prompt(HISTORY, [], tiny_tokenizer)
    with pytest.raises(ValueError, match="renders an empty prompt"):
        encode_prompt([{"role": "user", "content": ""}], ["{{ messages[0].content }}"], tiny_tokenizer)


def test_dates_do_not_change_from_day_to_day() -> None:
    source = "{{ strftime_now('%d %b %Y') }}"
    assert render(source, HISTORY, special_tokens=SPECIAL) == "26 Jul 2024"


def test_generation_marks_are_transparent() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}"
    assert render(source, HISTORY, special_tokens=SPECIAL) == "first| one\n|second|"


def test_templates_cannot_reach_out_of_the_sandbox() -> None:
    with pytest.raises(ValueError, match="template: refuses"):
        render("{{ messages.__class__.__mro__ }}", HISTORY, special_tokens=SPECIAL)
    with pytest.raises(ValueError, match="template: refuses"):
        render("{{ messages.append(1) }}", HISTORY, special_tokens=SPECIAL)


def test_a_template_is_found_by_name_path_source_or_in_the_tokenizer(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}")

    class WithOwn:
        chat_template = "{{ 'own' }}"

    assert load_template(str(file)) == "{{ messages[0].content }}"
    assert load_template("{% for m in messages %}{% endfor %}").startswith("{% for")
    assert load_template(None, WithOwn()) == load_template("own", WithOwn()) == "{{ 'own' }}"
    WithOwn.chat_template = {"default": "{{ 'default' }}", "tool_use": "x"}  # type: ignore[assignment]
    assert load_template(None, WithOwn()) == "{{ 'default' }}"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("chatlm", r"specialists.a.template: 'chatlm' is not one of alpaca, chatml.*did you mean 'chatml'\?"),
        ("no/such.jinja", r"specialists.a.template: no file 'no/such.jinja'"),
        ("{% if %}", r"specialists.a.template: .*line 1 is not valid Jinja"),
        (None, "specialists.a.template: the tokenizer has no chat template of its own; name the one"),
    ],
)
def test_a_template_that_cannot_be_found_says_what_can(spec: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_template(spec, None, field="specialists.a.template")


def test_the_papers_templates_are_as_the_paper_prints_them() -> None:
    question = [{"role": "user", "content": "{instruction}"}]

    def opening(name: str) -> str:
        return prefixes(load_template(name), question, special_tokens=SPECIAL)[0]

    assert opening("ultralm") == "<s>User: {instruction}\nAssistant:"
    assert opening("codellama") == "<s>[INST] {instruction} [/INST]"
    assert opening("wizardmath") == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{instruction}\n\n### Response:"
    )
