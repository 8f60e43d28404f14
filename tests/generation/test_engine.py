"""The streaming loop against Transformers' own generate, and the scores against plain forward passes."""

import math

import pytest
import torch

from ultrafuser.generation import (
    ContextFull,
    TokenEvent,
    generate_batch,
    only_weights,
    score,
    score_text,
    score_turns,
    stream,
)
from ultrafuser.templates import encode_conversation, encode_prompt

ASK = [{"role": "user", "content": "What is 12 plus 30?"}]
LONG = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "the quick brown fox"},
    {"role": "assistant", "content": "jumps over"},
    {"role": "user", "content": "and then?"},
]


@pytest.fixture(autouse=True)
def never_stops(fused_model):
    """Random models stop at random places; these tests want a fixed number of tokens."""
    fused_model.generation_config.eos_token_id = None
    fused_model.generation_config.suppress_tokens = [1]


def transformers_ids(model, tokenizer, messages, **options):
    inputs = model.prepare_prompts([encode_prompt(messages, model.config.templates, tokenizer)])
    out = model.generate(**inputs, pad_token_id=2, **options)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("messages", [ASK, LONG], ids=["one turn", "system and history"])
def test_greedy_stream_equals_generate(fused_model, tiny_tokenizer, messages):
    expected = transformers_ids(fused_model, tiny_tokenizer, messages, do_sample=False, max_new_tokens=24)
    events = list(stream(fused_model, tiny_tokenizer, messages, max_new_tokens=24))
    assert [event.token_id for event in events] == expected
    assert len(set(expected)) > 3
    assert "".join(event.text for event in events) == tiny_tokenizer.decode(expected, skip_special_tokens=True)


def test_sampled_stream_equals_generate_with_the_same_seed(fused_model, tiny_tokenizer):
    torch.manual_seed(11)
    options = {"temperature": 1.7, "top_p": 0.9, "top_k": 40}
    expected = transformers_ids(fused_model, tiny_tokenizer, ASK, do_sample=True, max_new_tokens=24, **options)
    ids = [e.token_id for e in stream(fused_model, tiny_tokenizer, ASK, max_new_tokens=24, seed=11, **options)]
    assert ids == expected
    other = [e.token_id for e in stream(fused_model, tiny_tokenizer, ASK, max_new_tokens=24, seed=12, **options)]
    assert other != ids


def test_processors_of_the_generation_config_apply_after_fusion(fused_model, tiny_tokenizer):
    plain = [e.token_id for e in stream(fused_model, tiny_tokenizer, ASK, max_new_tokens=24)]
    fused_model.generation_config.repetition_penalty = 3.0
    expected = transformers_ids(fused_model, tiny_tokenizer, ASK, do_sample=False, max_new_tokens=24)
    assert [e.token_id for e in stream(fused_model, tiny_tokenizer, ASK, max_new_tokens=24)] == expected != plain


def test_stream_leaves_the_global_random_state_and_grad_mode_alone(fused_model, tiny_tokenizer):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for _ in stream(fused_model, tiny_tokenizer, ASK, max_new_tokens=4, temperature=1.0, seed=1):
        assert torch.is_grad_enabled()
    assert torch.equal(before, torch.get_rng_state())


def test_stops_at_any_end_token_and_says_so(fused_model, tiny_tokenizer):
    ids = [e.token_id for e in stream(fused_model, tiny_tokenizer, ASK, max_new_tokens=24)]
    end = next(i for i in ids[3:] if i != 1 and i not in ids[:3])
    fused_model.generation_config.eos_token_id = [1, end]
    answer = next(generate_batch(fused_model, tiny_tokenizer, [ASK], max_new_tokens=24))
    assert [e.token_id for e in answer.events] == ids[: ids.index(end) + 1]
    assert answer.finished
    assert not next(generate_batch(fused_model, tiny_tokenizer, [ASK], max_new_tokens=2)).finished


def test_batch_of_unequal_prompts_equals_one_by_one(fused_model, tiny_tokenizer):
    conversations = [ASK, LONG, [{"role": "user", "content": "def add(a, b):"}]]
    answers = list(generate_batch(fused_model, tiny_tokenizer, conversations, batch_size=2, max_new_tokens=12))
    for messages, answer in zip(conversations, answers, strict=True):
        single = list(stream(fused_model, tiny_tokenizer, messages, max_new_tokens=12))
        assert [e.token_id for e in answer.events] == [e.token_id for e in single]
        assert answer.text == "".join(e.text for e in single)
        for a, b in zip(answer.events, single, strict=True):
            assert a.weights == pytest.approx(b.weights, abs=1e-4)


def test_rows_of_a_batch_stop_by_themselves(fused_model, tiny_tokenizer):
    conversations = [ASK, LONG]
    free = list(generate_batch(fused_model, tiny_tokenizer, conversations, max_new_tokens=12))
    end = free[0].events[4].token_id
    assert end not in [e.token_id for e in free[0].events[:4]]
    fused_model.generation_config.eos_token_id = [end]
    fused_model.generation_config.suppress_tokens = None
    cut = list(generate_batch(fused_model, tiny_tokenizer, conversations, max_new_tokens=12))
    assert len(cut[0].events) == 5
    assert len(cut[1].events) > 5


@pytest.mark.parametrize("weights", [None, (0.2, 0.5, 0.3)])
def test_finished_rows_leave_the_batch_and_change_nothing(fused_model, tiny_tokenizer, weights):
    conversations = [ASK, LONG, *([{"role": "user", "content": text}] for text in ("def add(a, b):", "7 + 5", "x y z"))]
    options = {"max_new_tokens": 30, "gate_weights": weights}
    free = [
        [e.token_id for e in stream(fused_model, tiny_tokenizer, messages, **options)] for messages in conversations
    ]
    ends = [free[0][2], free[2][5], free[3][9]]
    fused_model.generation_config.eos_token_id = ends
    alone = [[e.token_id for e in stream(fused_model, tiny_tokenizer, m, **options)] for m in conversations]
    assert len({len(ids) for ids in alone}) > 2
    rows = []
    fused_model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    answers = list(generate_batch(fused_model, tiny_tokenizer, conversations, batch_size=5, **options))
    assert [[e.token_id for e in answer.events] for answer in answers] == alone
    assert rows[0] == 5
    assert rows[-1] <= 2


def test_every_row_of_a_batch_may_fill_its_own_context(fused_model, tiny_tokenizer):
    conversations = [[{"role": "user", "content": "x y z " * count}] for count in (2, 40, 70)]
    fused_model.generation_config.eos_token_id = None
    alone = [[e.token_id for e in stream(fused_model, tiny_tokenizer, m, max_new_tokens=999)] for m in conversations]
    assert len({len(ids) for ids in alone}) == 3
    answers = list(generate_batch(fused_model, tiny_tokenizer, conversations, batch_size=3, max_new_tokens=999))
    assert [[e.token_id for e in answer.events] for answer in answers] == alone


def test_score_of_a_streamed_answer_gives_its_weights_and_probabilities(fused_model, tiny_tokenizer):
    prompt_ids = encode_prompt(ASK, fused_model.config.templates, tiny_tokenizer)
    answer = "roses are red 🦊 and then it sleeps"
    scored = score(fused_model, tiny_tokenizer, [*ASK, {"role": "assistant", "content": answer}])
    assert "".join(e.text for e in scored) == answer
    assert scored[-1].token_id == tiny_tokenizer.eos_token_id
    ids = [e.token_id for e in scored]
    for k in (0, 1, len(ids) - 1):
        inputs = fused_model.prepare_prompts([[prompt + ids[:k] for prompt in prompt_ids]])
        with torch.no_grad():
            output = fused_model(**inputs)
        assert scored[k].weights == pytest.approx(output.gate_weights[0, -1].tolist(), abs=1e-5)
        assert scored[k].logprob == pytest.approx(float(output.logits[0, -1].log_softmax(-1)[ids[k]]), abs=1e-4)
        for j, prompt in enumerate(prompt_ids):
            with torch.no_grad():
                logits = fused_model.specialist(j)(torch.tensor([prompt + ids[:k]])).logits[0, -1]
            assert scored[k].specialist_logprobs[j] == pytest.approx(float(logits.log_softmax(-1)[ids[k]]), abs=1e-4)


def test_stream_and_score_agree_on_weights(fused_model, tiny_tokenizer):
    events = list(stream(fused_model, tiny_tokenizer, ASK, max_new_tokens=10))
    fused_model.eval()
    ids = [e.token_id for e in events]
    inputs = fused_model.prepare_prompts(
        [[prompt + ids for prompt in encode_prompt(ASK, fused_model.config.templates, tiny_tokenizer)]]
    )
    with torch.no_grad():
        full = fused_model(**inputs)
    for k, event in enumerate(events):
        place = k - len(ids) - 1
        assert event.weights == pytest.approx(full.gate_weights[0, place].tolist(), abs=1e-4)
        assert event.logprob == pytest.approx(float(full.logits[0, place].log_softmax(-1)[event.token_id]), abs=1e-3)


@pytest.mark.parametrize("gate", ["evidence", {"type": "joint", "temperature": 0.2}])
def test_other_gates_stream_and_score_alike(specialist_folders, chat_templates, tiny_tokenizer, gate):
    from ultrafuser.modeling import UltraFuserForCausalLM

    model = UltraFuserForCausalLM.from_specialists(specialist_folders, templates=chat_templates, gate=gate, seed=3)
    model.generation_config.eos_token_id, model.generation_config.suppress_tokens = None, [1]
    expected = transformers_ids(model, tiny_tokenizer, ASK, do_sample=False, max_new_tokens=8, use_cache=False)
    events = list(stream(model, tiny_tokenizer, ASK, max_new_tokens=8))
    assert [event.token_id for event in events] == expected
    scored = score(model, tiny_tokenizer, [*ASK, {"role": "assistant", "content": "roses are red"}])
    ids = [event.token_id for event in scored]
    prompts = encode_prompt(ASK, model.config.templates, tiny_tokenizer)
    with torch.no_grad():
        output = model(**model.prepare_prompts([[prompt + ids[:2] for prompt in prompts]]))
    assert scored[2].weights == pytest.approx(output.gate_weights[0, -1].tolist(), abs=1e-5)


def test_every_turn_is_scored(fused_model, tiny_tokenizer):
    messages = [*LONG, {"role": "assistant", "content": "it sleeps"}]
    turns = score_turns(fused_model, tiny_tokenizer, messages)
    assert ["".join(e.text for e in turn) for turn in turns] == ["jumps over", "it sleeps"]
    encoded = encode_conversation(messages, fused_model.config.templates, tiny_tokenizer)
    assert [[e.token_id for e in turn] for turn in turns] == encoded.response_ids
    assert score(fused_model, tiny_tokenizer, messages) == turns[-1]


def test_text_without_template_is_read_alike_by_all(fused_model, tiny_tokenizer):
    events = score_text(fused_model, tiny_tokenizer, "def add(a, b):")
    ids = tiny_tokenizer("def add(a, b):", add_special_tokens=False)["input_ids"]
    assert [e.token_id for e in events] == ids
    with torch.no_grad():
        output = fused_model(torch.tensor([[0, *ids]]))
    logprobs = output.logits[0].log_softmax(-1)
    for k, event in enumerate(events):
        assert event.weights == pytest.approx(output.gate_weights[0, k].tolist(), abs=1e-5)
        assert event.logprob == pytest.approx(float(logprobs[k, event.token_id]), abs=1e-4)


def test_first_token_without_a_begin_token_has_no_weights(fused_model, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(type(tiny_tokenizer), "bos_token_id", None, raising=False)
    events = score_text(fused_model, tiny_tokenizer, "def add")
    assert events[0].weights == ()
    assert all(len(e.weights) == 3 for e in events[1:])
    assert "".join(e.text for e in events) == "def add"


def test_forced_weights_let_one_specialist_speak(fused_model, tiny_tokenizer, specialist_folders):
    from transformers import AutoModelForCausalLM

    weights = only_weights(fused_model.config.specialist_names, "math")
    assert weights == (0.0, 0.0, 1.0)
    events = list(stream(fused_model, tiny_tokenizer, ASK, max_new_tokens=10, gate_weights=weights))
    prompt = encode_prompt(ASK, fused_model.config.templates, tiny_tokenizer)[2]
    alone = AutoModelForCausalLM.from_pretrained(specialist_folders["math"])
    alone.generation_config.eos_token_id = None
    out = alone.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=10, suppress_tokens=[1], pad_token_id=2,
        attention_mask=torch.ones(1, len(prompt)),
    )  # fmt: skip
    assert [e.token_id for e in events] == out[0, len(prompt) :].tolist()
    assert all(e.weights == weights for e in events)


def test_unknown_specialist_lists_names_and_nearest():
    with pytest.raises(ValueError, match=r"only: 'cod' is not one of code, math, text; did you mean 'code'\?"):
        only_weights(["text", "code", "math"], "cod")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature: -1.0"),
        ({"top_p": 0.0}, "top_p: 0.0"),
        ({"top_k": -1}, "top_k: -1"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0"),
        ({"temperature": math.nan}, "temperature: nan"),
    ],
)
def test_bad_settings_are_refused_before_the_first_token(fused_model, tiny_tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        stream(fused_model, tiny_tokenizer, ASK, **options)


def test_conversation_longer_than_the_context_is_refused(fused_model, tiny_tokenizer):
    long = [{"role": "user", "content": "x y z " * 400}]
    with pytest.raises(ValueError, match="specialists read 512 at most"):
        stream(fused_model, tiny_tokenizer, long)
    with pytest.raises(ValueError, match="specialists read 512 at most"):
        score(fused_model, tiny_tokenizer, [*ASK, {"role": "assistant", "content": "x y z " * 400}])


def test_batch_says_which_conversation_is_too_long_before_any_is_answered(fused_model, tiny_tokenizer):
    long = [{"role": "user", "content": "x y z " * 400}]
    with pytest.raises(ContextFull, match=r"conversation 3 of 3: .* specialists read 512"):
        next(generate_batch(fused_model, tiny_tokenizer, [ASK, LONG, long], batch_size=1, max_new_tokens=2))


def test_answer_ends_where_the_context_ends(fused_model, tiny_tokenizer):
    nearly = [{"role": "user", "content": "x " * 215}]
    longest = max(map(len, encode_prompt(nearly, fused_model.config.templates, tiny_tokenizer)))
    assert 440 < longest < 512
    assert len(list(stream(fused_model, tiny_tokenizer, nearly, max_new_tokens=100))) == 512 - longest


def test_missing_template_names_the_specialist(fused_model, tiny_tokenizer):
    fused_model.config.templates[1] = ""
    with pytest.raises(ValueError, match=r"templates\.code: specialist 'code' has no chat template"):
        stream(fused_model, tiny_tokenizer, ASK)


def test_one_specialist_alone_always_has_weight_one(make_llama, tiny_tokenizer, chat_templates):
    from ultrafuser import UltraFuserForCausalLM

    model = UltraFuserForCausalLM.from_specialists({"only": make_llama(1)}, templates={"only": chat_templates["text"]})
    events = list(stream(model, tiny_tokenizer, ASK, max_new_tokens=3))
    assert all(isinstance(e, TokenEvent) and e.weights == (1.0,) for e in events)
