"""A fused model whose specialists' tokenizers differ, through everything that talks to a fused model."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from ultrafuser import UltraFuserForCausalLM
from ultrafuser.analysis.page import Explanation, Turn, render_page
from ultrafuser.generation import (
    ContextFull,
    generate_batch,
    likelihoods,
    score,
    score_text,
    score_turns,
    stream,
    token_likelihoods,
)
from ultrafuser.templates import encode_conversation, encode_prompt

ASK = [{"role": "user", "content": "what is x?"}]
TALK = [
    {"role": "user", "content": "the quick brown fox"},
    {"role": "assistant", "content": "jumps over 数学 \U0001f98a"},
    {"role": "user", "content": "and then?"},
]
ONLY = {"code": (1.0, 0.0), "text": (0.0, 1.0)}


def fused(folders, names):
    model = UltraFuserForCausalLM.from_specialists(
        {name: folders[name] for name in names},
        fusion="probabilities",
        gate={"type": "token", "hidden_size": 16},
        seed=3,
    )
    with torch.no_grad():
        model.gate.outer.weight.mul_(8)
    return model, AutoTokenizer.from_pretrained(folders[names[0]])


@pytest.fixture(scope="module", params=["code first", "text first"])
def tongues(request, tongue_folders):
    return fused(tongue_folders, ("code", "text") if request.param == "code first" else ("text", "code"))


@pytest.fixture(scope="module")
def code_first(tongue_folders):
    return fused(tongue_folders, ("code", "text"))


def own_greedy(model, name, messages, steps, folders):
    """The plain model's own tokens, without those that no answer may hold."""
    j = model.config.specialist_names.index(name)
    alone = AutoModelForCausalLM.from_pretrained(folders[name])
    prompt = encode_prompt(messages, model.config.templates, model.alignment.tables)[j]
    ids = torch.tensor([prompt])
    banned = [i for i, u in enumerate(model.alignment.to_union[j].tolist()) if u < 0]
    out = alone.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=steps, suppress_tokens=banned
    )
    return model.alignment.tables[j].bytes_of(out[0, len(prompt) :].tolist()), out.shape[1] - len(prompt)


# ---- decoding ----


@pytest.mark.parametrize("name", list(ONLY))
def test_one_specialist_alone_is_its_own_greedy_output(tongues, tongue_folders, name):
    model, tokenizer = tongues
    weights = [float(one == name) for one in model.config.specialist_names]
    conversations = [ASK, TALK, [{"role": "user", "content": "def f(é):"}]]
    answers = generate_batch(model, tokenizer, conversations, max_new_tokens=24, gate_weights=weights)
    for messages, answer in zip(conversations, answers, strict=True):
        own, steps = own_greedy(model, name, messages, 24, tongue_folders)
        assert model.alignment.tables[0].bytes_of(event.token_id for event in answer.events) == own
        assert answer.text == own.decode(errors="replace")
        assert answer.crossings.steps == steps
        assert answer.crossings.retokenised[weights.index(1.0)] == 0


def test_stream_and_batch_agree_and_tell_how_tokenizers_met(tongues):
    model, tokenizer = tongues
    conversations = [ASK, TALK]
    for messages, answer in zip(
        conversations, generate_batch(model, tokenizer, conversations, max_new_tokens=20), strict=True
    ):
        events = list(stream(model, tokenizer, messages, max_new_tokens=20))
        assert [event.token_id for event in events] == [event.token_id for event in answer.events]
        assert "".join(event.text for event in events) == answer.text
        steps = [event for event in events if event.took_part]
        assert len(steps) == answer.crossings.steps <= 20
        for event in events:
            assert sum(event.weights) == pytest.approx(1, abs=1e-5)
            assert event.took_part or event.logprob == 0.0  # the rest of a string that is no canonical token
        shares = answer.crossings.as_dict(model.config.specialist_names)
        for j, row in enumerate(shares.values()):
            assert row["took_part"] == pytest.approx(sum(event.took_part[j] for event in steps) / len(steps))
            assert row["retokenised"] == pytest.approx(sum(event.retokenised[j] for event in steps) / len(steps))
        assert all(0 < row["took_part"] <= 1 for row in shares.values())


def test_an_answer_goes_on_as_history_in_each_ones_own_tokens(code_first):
    model, _ = code_first
    prompts = encode_prompt(TALK, model.config.templates, model.alignment.tables)
    for table, ids in zip(model.alignment.tables, prompts, strict=True):
        data = TALK[1]["content"].encode()
        own = [*table.encode(data), table.end]
        assert any(ids[k : k + len(own)] == own for k in range(len(ids)))


def test_settings_are_checked_before_the_first_token(code_first):
    model, tokenizer = code_first
    with pytest.raises(ValueError, match=r"gate_weights: shape \(3,\)"):
        stream(model, tokenizer, ASK, gate_weights=(0.2, 0.3, 0.5))
    with pytest.raises(ContextFull, match="specialists read 256 at most"):
        stream(model, tokenizer, [{"role": "user", "content": "数学 " * 200}])
    model.generation_config.repetition_penalty = 2.0
    try:
        with pytest.raises(ValueError, match=r"generation_config\.repetition_penalty"):
            stream(model, tokenizer, ASK)
    finally:
        model.generation_config.repetition_penalty = None


# ---- scoring ----


def by_hand(model, messages):
    """Weights, fused and own log-probabilities of each canonical token of the last answer, one pass per position."""
    tables, alignment = model.alignment.tables, model.alignment
    prompts = encode_prompt(messages[:-1], model.config.templates, tables)
    data = messages[-1]["content"].encode()
    labels, at, rows = [*tables[0].encode(data), alignment.end], 0, []
    for label in labels:
        chances, states, there = [], [], []
        for j, table in enumerate(tables):
            head = table.encode(data)
            cut = next((k for k in range(len(head) + 1) if len(table.bytes_of(head[:k])) == at), None)
            there.append(cut is not None)
            ids = torch.tensor([prompts[j] + head[: cut or 0]])
            with torch.no_grad():
                output = model.specialist(j)(ids, output_hidden_states=True)
            states.append(output.hidden_states[-1][0, -1])
            own = output.logits[0, -1].double().softmax(-1)
            entry = alignment.from_union[j][label]
            chance = own[alignment.eos[j]].sum() if label == alignment.end else own[entry] if entry >= 0 else 0.0
            chances.append(float(chance) if there[-1] else 0.0)
        with torch.no_grad():
            logits = model.gate([s[None] for s in states])[0].double()
        weights = logits.masked_fill(~torch.tensor(there), -math.inf).softmax(-1).tolist()
        rows.append((weights, sum(w * c for w, c in zip(weights, chances, strict=True)), chances))
        at += len(tables[0].text[label] or b"")
    return labels, rows


def test_scores_are_training_s_definition(tongues):
    model, tokenizer = tongues
    messages = [*ASK, {"role": "assistant", "content": "return a + b, said the naïve fox 数学 \U0001f98a"}]
    events = score(model, tokenizer, messages)
    labels, rows = by_hand(model, messages)
    assert [event.token_id for event in events] == labels
    assert "".join(event.text for event in events) == messages[-1]["content"]
    for event, (weights, chance, chances) in zip(events, rows, strict=True):
        assert event.weights == pytest.approx(weights, abs=1e-4)
        assert event.logprob == pytest.approx(math.log(chance), abs=1e-3)
        for found, expected in zip(event.specialist_logprobs, chances, strict=True):
            assert math.exp(found) == pytest.approx(expected, abs=1e-6)
    assert any(0.0 in event.weights for event in events)
    assert sum(event.logprob for event in events) == pytest.approx(
        likelihoods(model, tokenizer, [(ASK, messages[-1]["content"], True)])[0].logprob, abs=1e-3
    )


def test_a_streamed_answer_is_scored_in_the_tokens_that_it_has(code_first):
    model, tokenizer = code_first
    events = list(stream(model, tokenizer, ASK, max_new_tokens=12))
    ids = [event.token_id for event in events]
    (scored,) = score_turns(model, tokenizer, ASK, answer_ids=ids)
    assert [event.token_id for event in scored] == ids
    assert "".join(event.text for event in scored) == "".join(event.text for event in events)
    if events[0].token_id == model.alignment.tables[0].encode(events[0].text.encode())[0] and events[1].took_part:
        assert scored[0].logprob == pytest.approx(events[0].logprob, abs=1e-3)


def test_every_turn_is_scored(tongues):
    model, tokenizer = tongues
    turns = score_turns(model, tokenizer, [*TALK, {"role": "assistant", "content": "it sleeps"}])
    assert ["".join(event.text for event in turn) for turn in turns] == [TALK[1]["content"], "it sleeps"]
    encoded = encode_conversation(
        [*TALK, {"role": "assistant", "content": "it sleeps"}], model.config.templates, model.alignment.tables
    )
    assert [[event.token_id for event in turn] for turn in turns] == encoded.response_ids


@pytest.fixture
def without_begin(tongues):
    """`without_begin(j)`: specialist j's tokenizer has no begin-of-sequence token until the test is over."""
    tokenizers = tongues[0].tokenizers
    yield lambda j: setattr(tokenizers[j], "bos_token", None)
    for own in tokenizers:
        own.bos_token = "<s>"


def test_a_text_without_template_is_read_after_each_ones_own_begin(tongues, without_begin):
    model, tokenizer = tongues
    text = "def add(a, b): the fox"
    events = score_text(model, tokenizer, text)
    assert "".join(event.text for event in events) == text
    assert all(event.weights for event in events)
    without_begin(0)
    one = score_text(model, tokenizer, text)
    assert one[0].weights == (0.0, 1.0)
    assert one[-1].logprob != events[-1].logprob
    without_begin(1)
    none = score_text(model, tokenizer, text)
    assert none[0].weights == ()
    assert [event.token_id for event in none] == [event.token_id for event in events]
    with pytest.raises(ValueError, match="text: it is empty"):
        score_text(model, tokenizer, "")


def test_one_token_choices_are_read_off_one_pass(tongues):
    model, tokenizer = tongues
    texts = [t.decode() for t in list(model.alignment.tables[0].ids)[60:] if t.isalpha() and t.isascii()][:4]
    texts = [text for text in texts if len(model.alignment.tables[0].encode(text.encode())) == 1]
    assert len(texts) > 1
    (found,) = token_likelihoods(model, tokenizer, [ASK], [texts])
    expected = likelihoods(model, tokenizer, [(ASK, text, False) for text in texts])
    for a, b in zip(found, expected, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
        assert a.weights == pytest.approx(b.weights, abs=1e-5)


def test_a_page_of_an_answer_shows_every_token(code_first):
    model, tokenizer = code_first
    events = score(model, tokenizer, [*ASK, {"role": "assistant", "content": "the naïve fox 数学"}])
    names = model.config.specialist_names
    page = Explanation("t", "m", names, [Turn("assistant", "the naïve fox 数学", events)])
    assert page.specialist_nats() == {}  # one of them cannot say some of these tokens
    assert all(character in render_page(page) for character in "ïfox数学")
    assert "Infinity" not in json.dumps(page.as_dict())


# ---- the command line and evaluation ----


@pytest.fixture(scope="module")
def saved(code_first, tmp_path_factory):
    from ultrafuser.modeling.checkpoint import save_fused

    model, tokenizer = code_first
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_fused(model, tokenizer, folder)
    return folder


def test_generate_writes_how_tokenizers_met(saved, code_first, tmp_path):
    from ultrafuser.cli import build_app

    model, tokenizer = code_first
    file = tmp_path / "out.json"
    arguments = ["generate", str(saved), "what is x?", "--max-new-tokens", "10", "--device", "cpu", "--json", str(file)]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 0, result.output
    (answer,) = json.loads(file.read_text())["answers"]
    expected = next(generate_batch(model, tokenizer, [ASK], max_new_tokens=10))
    assert answer["answer"] == expected.text
    assert answer["tokenizers"] == expected.crossings.as_dict(["code", "text"])


def test_explain_writes_a_page(saved, tmp_path):
    from ultrafuser.cli import build_app

    page, file = tmp_path / "page.html", tmp_path / "out.json"
    arguments = ["explain", str(saved), "--prompt", "what is x?", "--max-new-tokens", "8", "--device", "cpu"]
    result = CliRunner().invoke(build_app(), [*arguments, "-o", str(page), "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert len(json.loads(file.read_text())["turns"][-1]["tokens"]) >= 8
    assert page.is_file()


def test_local_subject_answers_judges_and_records(code_first):
    from ultrafuser.evaluation.benchmark import Item, Query, Verdict
    from ultrafuser.evaluation.record import Entry, answer_from_dict, answer_to_dict
    from ultrafuser.evaluation.subject import Asking
    from ultrafuser.evaluation.subjects.local import LocalSubject

    model, tokenizer = code_first
    subject = LocalSubject(model, tokenizer, name="m")
    spoken = Item("a", {}, turns=("what is x?", "and then?"))
    asked = Item("b", {}, queries=(Query(tuple(ASK), ("the fox", "return 数学"), True),))
    answers = dict(subject.answer([spoken, asked], Asking(max_new_tokens=8)))
    assert set(answers[0].tokenizers) == {"code", "text"}
    assert answers[1].tokenizers is None
    expected = likelihoods(model, tokenizer, [(ASK, text, True) for text in ("the fox", "return 数学")])
    assert [one.logprob for one in answers[1].likelihoods[0]] == pytest.approx([e.logprob for e in expected], abs=1e-3)
    assert answers[0].prompts["code"].startswith("<s>[INST]")
    assert answers[0].prompts["text"].startswith("<s>User:")
    assert answer_from_dict(json.loads(json.dumps(answer_to_dict(answers[0])))) == answers[0]
    entry = Entry.of(spoken, 0, answers[0], Verdict({"x": 1.0}))
    assert Entry.from_dict(entry.as_dict(), "here").tokenizers == answers[0].tokenizers
    prompts = encode_prompt([{"role": "user", "content": "a\nb"}], model.config.templates, model.alignment.tables)
    assert subject.length(Item("c", {}, turns=("a", "b"))) == max(map(len, prompts))


@pytest.mark.parametrize("name", ["code", "text"])
def test_only_specialist_answers_as_all_weight_on_it_does(code_first, name):
    from ultrafuser.evaluation.subjects.alone import only_specialist, only_tokenizer

    model, tokenizer = code_first
    alone, own = only_specialist(model, name), only_tokenizer(model, tokenizer, name)
    assert alone.alignment is None
    j = model.config.specialist_names.index(name)
    alone.generation_config.suppress_tokens = [i for i, u in enumerate(model.alignment.to_union[j].tolist()) if u < 0]
    single = next(generate_batch(alone, own, [ASK], max_new_tokens=16))
    forced = next(generate_batch(model, tokenizer, [ASK], max_new_tokens=16, gate_weights=ONLY[name]))
    table = model.alignment.tables[j]
    own_bytes = table.bytes_of(event.token_id for event in single.events)
    assert own_bytes == model.alignment.tables[0].bytes_of(event.token_id for event in forced.events)


def test_lm_eval_says_what_it_cannot_do(code_first, saved):
    pytest.importorskip("lm_eval")
    from ultrafuser.evaluation.harness.model import UltraFuserLM

    model, tokenizer = code_first
    for arguments in ({"pretrained": model, "tokenizer": tokenizer}, {"pretrained": str(saved)}):
        with pytest.raises(ValueError, match="pretrained: the specialists' tokenizers differ, and lm-eval works on"):
            UltraFuserLM(**arguments)
