"""Batched log-likelihoods against plain loops, one conversation at a time, over the specialists' own models."""

import math
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from ultrafuser.generation import ContextFull, likelihoods, score, token_likelihoods
from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.templates import encode_prompt

ASK = [{"role": "user", "content": "What is 12 plus 30?"}]
SHORT = [{"role": "user", "content": "fox"}]
LONG = [
    {"role": "user", "content": "the quick brown fox"},
    {"role": "assistant", "content": "jumps over"},
    {"role": "user", "content": "and then? " * 9},
]
QUERIES = [
    (ASK, " The answer is 42.", True),
    (LONG, " it sleeps", False),
    (SHORT, " Yes", False),
    (ASK, " roses are red and the lazy dog sleeps", True),
    (LONG, " x", True),
    (SHORT, " def add(a, b):\n    return a + b", False),
    (ASK, " The answer is 42.", False),
]


def slow(models, templates, tokenizer, query, gate=None, rule="logits"):
    """(nats, tokens, weights) by whole-sequence passes over plain models; the template rendered by Transformers."""
    messages, text, end = query
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + ([tokenizer.eos_token_id] if end else [])
    logits, scores = [], []
    for model, template in zip(models, templates, strict=True):
        prompt = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        # An earlier answer is encoded apart and stands where the prompt of its turn ended, as in training.
        parts = re.split("(jumps over|</s>)", prompt.replace(" jumps", "jumps"))
        before = [i for part in parts for i in tokenizer(part, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            output = model(torch.tensor([before + ids]), output_hidden_states=True)
        places = slice(len(before) - 1, len(before) + len(ids) - 1)
        logits.append(output.logits[0, places])
        if gate is not None:
            scores.append(gate([output.hidden_states[-1][0, places]])[..., 0])
    weights = torch.stack(scores, -1).softmax(-1) if scores else torch.ones(len(ids), 1, dtype=logits[0].dtype)
    if rule == "probabilities":
        logprobs = sum(weights[:, j : j + 1] * own.softmax(-1) for j, own in enumerate(logits)).log()
    else:
        logprobs = sum(weights[:, j : j + 1] * own for j, own in enumerate(logits)).log_softmax(-1)
    return logprobs[range(len(ids)), ids].sum().item(), len(ids), weights.mean(0).tolist()


def assert_equal(found, expected, tolerance):
    assert [one.tokens for one in found] == [tokens for _, tokens, _ in expected]
    assert [one.logprob for one in found] == pytest.approx([nats for nats, _, _ in expected], abs=tolerance)
    for one, (_, _, weights) in zip(found, expected, strict=True):
        assert one.weights == pytest.approx(weights, abs=tolerance)


def test_one_model_equals_a_plain_loop_over_it(specialist_folders, chat_templates, tiny_tokenizer):
    folder, template = specialist_folders["code"], chat_templates["code"]
    model = UltraFuserForCausalLM.from_specialists({"code": folder})
    plain = AutoModelForCausalLM.from_pretrained(folder)
    expected = [slow([plain], [template], tiny_tokenizer, query) for query in QUERIES]
    assert_equal(likelihoods(model, tiny_tokenizer, QUERIES, batch_size=3), expected, 1e-4)
    assert all(nats < -1 for nats, _, _ in expected)


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_three_specialists_equal_a_float64_loop(fused_model, specialist_folders, tiny_tokenizer, rule):
    fused_model.config.fusion["rule"] = rule
    models = [AutoModelForCausalLM.from_pretrained(f, dtype=torch.float64) for f in specialist_folders.values()]
    gate = type(fused_model.gate)([16], hidden_size=fused_model.config.gate["hidden_size"]).double()
    gate.load_state_dict(fused_model.gate.state_dict())
    templates = fused_model.config.templates
    expected = [slow(models, templates, tiny_tokenizer, query, gate, rule) for query in QUERIES]
    assert_equal(likelihoods(fused_model, tiny_tokenizer, QUERIES, batch_size=4), expected, 1e-4)
    assert max(weights[0] for _, _, weights in expected) - min(weights[0] for _, _, weights in expected) > 0.01


def test_batches_equal_one_at_a_time_in_any_order(fused_model, tiny_tokenizer):
    alone = likelihoods(fused_model, tiny_tokenizer, QUERIES, batch_size=1)
    order = [4, 0, 6, 2, 5, 1, 3]
    batched = likelihoods(fused_model, tiny_tokenizer, [QUERIES[i] for i in order], batch_size=5)
    for i, one in zip(order, batched, strict=True):
        assert one.tokens == alone[i].tokens
        assert one.logprob == pytest.approx(alone[i].logprob, abs=1e-5)
        assert one.weights == pytest.approx(alone[i].weights, abs=1e-6)
    assert len({round(one.logprob, 3) for one in alone}) == len(QUERIES)


def test_agrees_with_the_scores_that_explain_shows(fused_model, tiny_tokenizer):
    events = score(fused_model, tiny_tokenizer, [*ASK, {"role": "assistant", "content": " The answer is 42."}])
    (found,) = likelihoods(fused_model, tiny_tokenizer, QUERIES[:1])
    assert found.tokens == len(events)
    assert found.logprob == pytest.approx(sum(event.logprob for event in events), abs=1e-4)
    means = [sum(event.weights[j] for event in events) / len(events) for j in range(3)]
    assert found.weights == pytest.approx(means, abs=1e-5)


def test_batches_hold_like_with_like_and_report(fused_model, tiny_tokenizer, monkeypatch):
    shapes, done = [], []
    forward = fused_model.forward

    def watched(**inputs):
        shapes.append(tuple(inputs["sequence_ids"].shape))
        assert not inputs.get("return_logits")  # V logits for all positions are never asked for
        return forward(**inputs)

    monkeypatch.setattr(fused_model, "forward", watched)
    likelihoods(fused_model, tiny_tokenizer, QUERIES, batch_size=2, on_batch=done.append)
    widths = [shape[-1] for shape in shapes]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0]
    assert done == [2, 2, 2, 1]


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_choices_of_one_token_equal_the_slow_way(fused_model, tiny_tokenizer, rule):
    fused_model.config.fusion["rule"] = rule
    choices = [["a", "b", "the"], [" ", "?"], ["x"], ["9", "a"]]
    conversations = [ASK, LONG, SHORT, ASK]
    fast = token_likelihoods(fused_model, tiny_tokenizer, conversations, choices, batch_size=3)
    flat = [(messages, text, False) for messages, texts in zip(conversations, choices, strict=True) for text in texts]
    reference = iter(likelihoods(fused_model, tiny_tokenizer, flat))
    for texts, found in zip(choices, fast, strict=True):
        assert len(found) == len(texts)
        for one in found:
            expected = next(reference)
            assert (one.tokens, expected.tokens) == (1, 1)
            assert one.logprob == pytest.approx(expected.logprob, abs=1e-5)
            assert one.weights == pytest.approx(expected.weights, abs=1e-6)


def test_a_choice_of_several_tokens_is_refused_by_name(fused_model, tiny_tokenizer):
    with pytest.raises(ValueError, match=r"continuations: 'zebra' is \d tokens, not one; use `likelihoods`"):
        token_likelihoods(fused_model, tiny_tokenizer, [ASK], [["a", "zebra"]])


def test_a_spelt_out_special_token_is_ordinary_text(fused_model, tiny_tokenizer):
    spelt, ended = likelihoods(fused_model, tiny_tokenizer, [(ASK, "</s>", False), (ASK, "</s>", True)])
    letters = tiny_tokenizer("</s>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert spelt.tokens == len(letters) > 1
    assert ended.tokens == spelt.tokens + 1
    assert ended.logprob < spelt.logprob


def test_nothing_is_certain_and_no_query_no_answer(fused_model, tiny_tokenizer):
    (empty, end) = likelihoods(fused_model, tiny_tokenizer, [(ASK, "", False), (ASK, "", True)])
    assert (empty.logprob, empty.tokens) == (0.0, 0)
    assert end.tokens == 1
    assert math.isfinite(end.logprob)
    assert likelihoods(fused_model, tiny_tokenizer, []) == []
    assert token_likelihoods(fused_model, tiny_tokenizer, [], []) == []


def test_what_does_not_fit_is_named_before_any_work(fused_model, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(fused_model, "forward", None)
    too_long = [{"role": "user", "content": "zebra " * 300}]
    with pytest.raises(ContextFull, match=r"query 2 of 2: messages: the conversation takes \d+ tokens"):
        likelihoods(fused_model, tiny_tokenizer, [(ASK, "a", False), (too_long, "a", False)])
    with pytest.raises(ContextFull, match="conversation 1 of 2: "):
        token_likelihoods(fused_model, tiny_tokenizer, [too_long, ASK], [["a"], ["a"]])
    with pytest.raises(ValueError, match="batch_size: 0 is too small"):
        likelihoods(fused_model, tiny_tokenizer, QUERIES, batch_size=0)


def test_the_longest_sequence_that_fits_is_scored(fused_model, tiny_tokenizer):
    limit = fused_model.config.max_position_embeddings
    room = limit - max(map(len, encode_prompt(ASK, fused_model.config.templates, tiny_tokenizer)))
    (full,) = likelihoods(fused_model, tiny_tokenizer, [(ASK, "9" * room, False)])
    assert full.tokens == room
    with pytest.raises(ContextFull):
        likelihoods(fused_model, tiny_tokenizer, [(ASK, "9" * room, True)])
