"""The gate that decides once for an answer: at the end of the prompts, in both forms, with and without a cache."""

import pytest
import torch

from ultrafuser.data import ResponseCollator
from ultrafuser.data.dataset import Example
from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.training import evaluate_many

N = 3


@pytest.fixture(params=[None, 1])
def router(request, specialist_folders, chat_templates):
    """Soft weights, and one specialist for each answer; logits far apart, so that answers go to several."""
    model = UltraFuserForCausalLM.from_specialists(
        specialist_folders, templates=chat_templates, gate="answer", fusion={"rule": "logits", "top_k": request.param}
    )
    with torch.no_grad():
        model.gate.outer.weight.mul_(20)
    model.generation_config.eos_token_id = None
    return model


@torch.no_grad()
def decided(model, prompts) -> torch.Tensor:
    """The gate's weights for one example, each specialist reading its own prompt by itself."""
    last = []
    for specialist, ids in zip(model.specialists, prompts, strict=True):
        output = specialist(torch.tensor([ids]), output_hidden_states=True)
        last.append(output.hidden_states[-1][0, -1])
    logits = model.gate.outer.weight @ torch.cat(last) + model.gate.outer.bias
    weights = logits.softmax(-1)
    return weights if model.config.fusion["top_k"] is None else (logits == logits.max()).float()


def test_weights_of_an_answer_are_those_at_the_end_of_its_prompts(router, unequal_prompts):
    inputs = router.prepare_prompts(unequal_prompts)
    P = inputs["input_ids"].shape[1]
    answers = router.generate(**inputs, max_new_tokens=5, do_sample=False)
    whole = {**inputs, "input_ids": answers, "attention_mask": None}
    found = router(**whole, use_cache=False).gate_weights
    for b, prompts in enumerate(unequal_prompts):
        expected = decided(router, prompts).expand(P + 5, N)
        assert torch.allclose(found[b], expected, atol=1e-5)
        alone = router.prepare_prompts([prompts])
        own = router.generate(**alone, max_new_tokens=5, do_sample=False)[0, -5:]
        assert own.tolist() == answers[b, P:].tolist()
        forced = router.generate(**alone, max_new_tokens=5, do_sample=False, gate_weights=expected[:1])[0, -5:]
        assert own.tolist() == forced.tolist()


def test_every_way_of_decoding_keeps_the_decision(router, unequal_prompts):
    inputs = router.prepare_prompts(unequal_prompts)
    greedy = router.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert router.generate(**inputs, max_new_tokens=6, do_sample=False, use_cache=False).tolist() == greedy.tolist()
    for size in (1, 4, 100):
        chunked = router.generate(**inputs, max_new_tokens=6, do_sample=False, prefill_chunk_size=size)
        assert chunked.tolist() == greedy.tolist()
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5, "do_sample": False}
    together = router.generate(**inputs, **beams)
    assert together.tolist() == router.generate(**inputs, **beams, use_cache=False).tolist()


def test_the_cache_moves_the_decision_with_the_examples(router, unequal_prompts):
    inputs = router.prepare_prompts(unequal_prompts)
    with torch.no_grad():
        cache = router(**inputs, use_cache=True).past_key_values
    before = cache.answer_weights.clone()
    cache.batch_select_indices(torch.tensor([2, 0]))
    assert torch.equal(cache.answer_weights, before[[2, 0]])
    cache.batch_repeat_interleave(2)
    assert torch.equal(cache.answer_weights, before[[2, 2, 0, 0]])
    cache.reorder_cache(torch.tensor([3, 0, 1, 2]))
    assert torch.equal(cache.answer_weights, before[[0, 2, 2, 0]])


def test_the_training_form_decides_for_each_answer(router, unequal_prompts):
    """Two turns: the second answer's prompt is all that comes before it."""
    import numpy as np

    prompts = [[np.array(own), np.array(own[:2])] for own in unequal_prompts[0]]
    responses = [np.array([7, 8, 9, 2]), np.array([11, 12, 2])]
    batch = ResponseCollator(0)([Example("a", 0, prompts, responses)])
    batch.pop("category")
    found = router(**batch).gate_weights[0]
    first = decided(router, [own[0].tolist() for own in prompts])
    second = decided(router, [[*own[0], 7, 8, 9, 2, *own[1]] for own in prompts])
    assert torch.allclose(found[:4], first.expand(4, N), atol=1e-5)
    assert torch.allclose(found[4:], second.expand(3, N), atol=1e-5)


def test_several_weightings_at_once_ask_the_gate_as_alone(router, unequal_prompts):
    import numpy as np

    from ultrafuser.data import ResponseDataset

    examples = [
        Example(str(b), 0, [[np.array(ids)] for ids in prompts], [np.array([5, 6, 2])])
        for b, prompts in enumerate(unequal_prompts)
    ]
    data = ResponseDataset(examples, ["a"], n_specialists=N)
    both = evaluate_many(router, data, {"first": (1.0, 0.0, 0.0), "gate": None})
    assert list(both) == ["first", "gate"]
    assert both["gate"].per_example == evaluate_many(router, data, {"gate": None})["gate"].per_example
    for row, prompts in zip(both["gate"].per_example, unequal_prompts, strict=True):
        assert row.weights == pytest.approx(decided(router, prompts).tolist(), abs=1e-5)


def test_what_it_cannot_do_is_refused(router, crossing_folders):
    from ultrafuser.recipe import StageConfig
    from ultrafuser.training.stages import _check

    with pytest.raises(ValueError, match="decides once for an answer"):
        UltraFuserForCausalLM.from_specialists(crossing_folders, gate="answer", fusion="probabilities")
    stage = StageConfig(name="gate", train="gate", steps=1, examples_per_category=1, stored_states="exact")

    class Data:
        categories = ("a", "b")
        n_specialists = N

        def __len__(self):
            return 1

    with pytest.raises(ValueError, match=r"stages\.gate\.stored_states: the gate 'answer' decides once for an answer"):
        _check(router, [stage], Data(), None, None, "last")
