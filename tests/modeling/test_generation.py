"""`generate` with n prompts: every way of decoding that is offered, against plain references."""

import threading

import pytest
import torch
from transformers import DynamicCache, TextIteratorStreamer

from ultrafuser.modeling import SpecialistCache, UltraFuserForCausalLM


def _log_probabilities(model, inputs, answer: list[int]) -> torch.Tensor:
    """log p of each next token after `answer`, for one example, everything computed again."""
    tokens = torch.tensor([answer], dtype=torch.long).reshape(1, -1)
    whole = inputs | {"input_ids": torch.cat([inputs["input_ids"], tokens], 1), "attention_mask": None}
    with torch.no_grad():
        return model(**whole, use_cache=False).logits[0, -1].log_softmax(-1)


def _beams(model, inputs, n: int, steps: int) -> tuple[list[int], float]:
    """Beam search by hand: the best of n beams of exactly `steps` tokens."""
    beams = [([], 0.0)]
    for _ in range(steps):
        grown = []
        for answer, score in beams:
            logp = _log_probabilities(model, inputs, answer)
            for value, token in zip(*logp.topk(n), strict=True):
                grown.append(([*answer, int(token)], score + float(value)))
        beams = sorted(grown, key=lambda beam: -beam[1])[:n]
    return beams[0]


@pytest.fixture
def endless(fused_model):
    """The fused model without an end-of-sequence token."""
    fused_model.generation_config.eos_token_id = None
    return fused_model


def test_beams_equal_beams_by_hand(endless, unequal_prompts):
    for example in unequal_prompts[:2]:
        inputs = endless.prepare_prompts([example])
        P = inputs["input_ids"].shape[1]
        found = endless.generate(**inputs, num_beams=3, max_new_tokens=6, do_sample=False)[0, P:].tolist()
        answer, score = _beams(endless, inputs, 3, 6)
        greedy = endless.generate(**inputs, max_new_tokens=6, do_sample=False)[0, P:].tolist()
        assert found == answer
        assert score > sum(float(_log_probabilities(endless, inputs, greedy[:t])[greedy[t]]) for t in range(6)) - 1e-4


def test_beams_in_a_batch_equal_beams_alone_and_without_cache(endless, unequal_prompts):
    options = {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 8, "do_sample": False}
    together = endless.prepare_prompts(unequal_prompts)
    P = together["input_ids"].shape[1]
    batch = endless.generate(**together, **options)[:, P:]
    assert batch.shape == (6, 8)
    assert batch.tolist() == endless.generate(**together, **options, use_cache=False)[:, P:].tolist()
    for i, example in enumerate(unequal_prompts):
        alone = endless.prepare_prompts([example])
        found = endless.generate(**alone, **options)[:, alone["input_ids"].shape[1] :]
        assert found.tolist() == batch[2 * i : 2 * i + 2].tolist()


def test_sampling_is_reproducible_and_follows_the_distribution(endless, unequal_prompts):
    inputs = endless.prepare_prompts(unequal_prompts[:1])
    P = inputs["input_ids"].shape[1]
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": 1, "num_return_sequences": 2000}
    torch.manual_seed(11)
    first = endless.generate(**inputs, **options)[:, P]
    torch.manual_seed(11)
    assert torch.equal(first, endless.generate(**inputs, **options)[:, P])
    expected = _log_probabilities(endless, inputs, []).exp()
    seen = torch.bincount(first, minlength=len(expected)) / len(first)
    # Total variation of 2,000 draws from this distribution against itself is about 0.1.
    assert 0.5 * (seen - expected).abs().sum() < 0.18
    torch.manual_seed(12)
    assert not torch.equal(first, endless.generate(**inputs, **options)[:, P])


def test_end_of_sequence_stops_each_row_by_itself(fused_model, unequal_prompts):
    inputs = fused_model.prepare_prompts(unequal_prompts)
    P = inputs["input_ids"].shape[1]
    fused_model.generation_config.eos_token_id = None
    free = fused_model.generate(**inputs, max_new_tokens=10, do_sample=False)[:, P:]
    stop = int(free[1, 3])
    stopped = fused_model.generate(**inputs, max_new_tokens=10, do_sample=False, eos_token_id=stop)[:, P:]
    for ours, theirs in zip(stopped.tolist(), free.tolist(), strict=True):
        end = theirs.index(stop) + 1 if stop in theirs else len(theirs)
        assert ours[:end] == theirs[:end][: len(ours)]
        assert set(ours[end:]) <= {fused_model.config.pad_token_id}


def test_prompt_lookup_equals_greedy(endless, unequal_prompts):
    """The prompt repeats itself, so that look-up finds candidates, some right and some wrong (cropped again)."""
    example = [prompt * 3 for prompt in unequal_prompts[0]]
    inputs = endless.prepare_prompts([example])
    greedy = endless.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert endless.generate(**inputs, max_new_tokens=20, do_sample=False, prompt_lookup_num_tokens=3).tolist() == (
        greedy.tolist()
    )


def test_prefill_in_chunks_equals_one_prefill(endless, unequal_prompts):
    inputs = endless.prepare_prompts(unequal_prompts)
    greedy = endless.generate(**inputs, max_new_tokens=8, do_sample=False)
    for size in (1, 4, 5, 100):
        chunked = endless.generate(**inputs, max_new_tokens=8, do_sample=False, prefill_chunk_size=size)
        assert chunked.tolist() == greedy.tolist()


def test_streaming_gives_the_text_that_generate_gives(endless, tiny_tokenizer, unequal_prompts):
    inputs = endless.prepare_prompts(unequal_prompts[:1])
    P = inputs["input_ids"].shape[1]
    streamer = TextIteratorStreamer(tiny_tokenizer, skip_prompt=True, timeout=30)
    options = inputs | {"max_new_tokens": 12, "do_sample": False}
    worker = threading.Thread(target=endless.generate, kwargs=options | {"streamer": streamer})
    worker.start()
    pieces = list(streamer)
    worker.join()
    assert "".join(pieces) == tiny_tokenizer.decode(endless.generate(**options)[0, P:])
    assert len(pieces) > 3


def test_forced_weights_reach_every_beam(endless, specialist_folders, unequal_prompts):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(specialist_folders["code"])
    plain.generation_config.eos_token_id = None
    inputs = endless.prepare_prompts(unequal_prompts)
    P = inputs["input_ids"].shape[1]
    options = {"num_beams": 3, "max_new_tokens": 7, "do_sample": False}
    per_example = torch.tensor([[0.0, 1.0, 0.0]] * 3)
    for weights in ([0.0, 1.0, 0.0], torch.tensor([0.0, 1.0, 0.0]), per_example):
        found = endless.generate(**inputs, **options, gate_weights=weights)[:, P:]
        for i, example in enumerate(unequal_prompts):
            own = plain.generate(torch.tensor([example[1]]), **options, pad_token_id=2)[0, len(example[1]) :]
            assert found[i].tolist() == own.tolist()


def test_visible_prompt_is_the_first_specialists(endless, unequal_prompts):
    inputs = endless.prepare_prompts(unequal_prompts)
    prompts = {name: inputs[name] for name in ("prompt_ids", "prompt_mask")}
    whole = endless.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert endless.generate(**prompts, max_new_tokens=4, do_sample=False).tolist() == whole.tolist()
    for i, example in enumerate(unequal_prompts):
        P = inputs["input_ids"].shape[1]
        assert whole[i, P - len(example[0]) : P].tolist() == example[0]


def test_a_cache_given_by_the_caller_is_filled(endless, unequal_prompts):
    inputs = endless.prepare_prompts(unequal_prompts)
    P = inputs["input_ids"].shape[1]
    cache = SpecialistCache.for_configs([s.config for s in endless.specialists])
    first = endless.generate(**inputs, max_new_tokens=5, do_sample=False, past_key_values=cache)
    assert cache.get_seq_length() == P + 4
    prompts = {name: inputs[name] for name in ("prompt_ids", "prompt_mask")}
    mask = torch.cat([inputs["attention_mask"], torch.ones(3, 5, dtype=torch.long)], 1)
    more = endless.generate(
        first, attention_mask=mask, **prompts, max_new_tokens=5, do_sample=False, past_key_values=cache
    )
    assert more.tolist() == endless.generate(**inputs, max_new_tokens=10, do_sample=False).tolist()


def test_cache_moves_as_one(endless, unequal_prompts):
    """Crop, select and repeat act on all specialists: decoding goes on as if the cache had been made that way."""
    inputs = endless.prepare_prompts(unequal_prompts)
    P = inputs["input_ids"].shape[1]
    tail = torch.tensor([[20, 31], [64, 75], [97, 98]])
    with torch.no_grad():
        cache = endless(**inputs, use_cache=True).past_key_values
        prompts = {name: inputs[name] for name in ("prompt_ids", "prompt_mask")}
        endless(input_ids=tail, past_key_values=cache, **prompts)
        cache.crop(-2)
        assert cache.get_seq_length() == P
        order = torch.tensor([2, 0])
        cache.batch_select_indices(order)
        cache.batch_repeat_interleave(2)
        rows = order.repeat_interleave(2)
        prompts = {name: tensor[rows] for name, tensor in prompts.items()}
        step = endless(input_ids=tail[rows, :1], past_key_values=cache, **prompts).logits
        whole = {k: v[rows] for k, v in inputs.items()} | {"attention_mask": None}
        whole["input_ids"] = torch.cat([whole["input_ids"], tail[rows, :1]], 1)
        assert (endless(**whole).logits[:, -1:] - step).abs().max() < 1e-5
        cache.reset()
    assert cache.get_seq_length() == 0
    with pytest.raises(RuntimeError, match="each specialist updates its own"):
        cache.update(None, None, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_implementation": "static"}, "cache_implementation: 'static' is not supported"),
        ({"cache_implementation": "quantized"}, "cache_implementation: 'quantized' is not supported"),
        ({"past_key_values": DynamicCache()}, "past_key_values: DynamicCache given"),
        ({"gate_weight": [1.0, 0.0, 0.0]}, "gate_weight"),
    ],
)
def test_what_cannot_work_is_refused(endless, unequal_prompts, options, message):
    inputs = endless.prepare_prompts(unequal_prompts[:1])
    with pytest.raises(ValueError, match=message):
        endless.generate(**inputs, max_new_tokens=2, **options)


def test_assisted_by_one_of_its_specialists_equals_greedy(endless):
    """Plain prompts: a single specialist drafts, the fused model decides."""
    prompt = torch.tensor([[5, 6, 7, 8]])
    greedy = endless.generate(prompt, max_new_tokens=12, do_sample=False)
    drafted = endless.generate(prompt, max_new_tokens=12, do_sample=False, assistant_model=endless.specialist("text"))
    assert drafted.tolist() == greedy.tolist()


def test_chat_pipeline_of_transformers(specialist_folders, tiny_tokenizer):
    from transformers import pipeline

    fused = UltraFuserForCausalLM.from_specialists(specialist_folders)
    talk = pipeline("text-generation", model=fused, tokenizer=tiny_tokenizer)
    result = talk("the quick", max_new_tokens=5, do_sample=False)
    assert result[0]["generated_text"].startswith("the quick")
