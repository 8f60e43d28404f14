"""Adapters on one base, run as one stacked batch, against PEFT models run one by one."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))
from adapter_zoo import BASES, OneByOne, make_pair

from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.modeling.adapted_linear import AdaptedLinear

PROMPTS = [[[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15], [16, 17]], [[20, 21, 22, 23], [24], [25, 26, 27, 28, 29]]]


@pytest.fixture(scope="module", params=list(BASES))
def trio(request, tmp_path_factory):
    """Adapter, base alone, adapter; and what they are made of."""
    base, adapters = make_pair(request.param, tmp_path_factory.mktemp(request.param))
    sources = {"math": adapters["math"], "code": base, "text": adapters["text"]}
    model = UltraFuserForCausalLM.from_specialists(sources, seed=3)
    with torch.no_grad():
        model.gate.outer.weight.mul_(20)
    model.generation_config.eos_token_id = None
    return model, OneByOne(base, [adapters["math"], None, adapters["text"]], model), sources


def test_one_copy_of_the_base(trio):
    model, one_by_one, _ = trio
    assert [group.name for group in model.config.groups] == ["shared0"]
    assert model.config.groups[0].members == (0, 2, 1)
    base = sum(p.numel() for p in one_by_one.models[1].parameters())
    stacked = sum(p.numel() for name, p in model.shared0.named_parameters() if ".lora_" in name)
    assert sum(p.numel() for p in model.shared0.parameters()) == base + stacked
    own = sum(p.numel() for p in model.specialist("math").parameters())
    assert own == sum(p.numel() for p in one_by_one.models[0].parameters())
    assert sum(p.numel() for p in model.specialist("code").parameters()) == base


def test_logits_and_greedy_tokens_are_those_of_peft(trio):
    model, one_by_one, _ = trio
    inputs = model.prepare_prompts(PROMPTS)
    P = inputs["input_ids"].shape[1]
    with torch.no_grad():
        found = model(**inputs).logits[:, -1]
        for row, prompts in zip(found, PROMPTS, strict=True):
            expected = one_by_one.logits(prompts, [[len(prompt) - 1] for prompt in prompts])[0]
            assert (row - expected).abs().max() < 1e-4
    answers = model.generate(**inputs, max_new_tokens=8, do_sample=False)[:, P:].tolist()
    assert answers == [one_by_one.greedy(prompts, 8) for prompts in PROMPTS]
    uncached = model.generate(**inputs, max_new_tokens=8, do_sample=False, use_cache=False)[:, P:].tolist()
    assert answers == uncached


def test_beams_in_a_batch_are_those_of_each_example_alone(trio):
    model, _, _ = trio
    options = {"num_beams": 3, "max_new_tokens": 6, "do_sample": False}
    inputs = model.prepare_prompts(PROMPTS)
    P = inputs["input_ids"].shape[1]
    together = model.generate(**inputs, **options)[:, P:].tolist()
    assert together == model.generate(**inputs, **options, use_cache=False)[:, P:].tolist()
    for example, found in zip(PROMPTS, together, strict=True):
        alone = model.prepare_prompts([example])
        assert model.generate(**alone, **options)[0, alone["input_ids"].shape[1] :].tolist() == found


def _batch():
    generator = torch.Generator().manual_seed(4)
    sequences = torch.randint(3, 97, (2, 3, 9), generator=generator)
    mask = torch.ones_like(sequences)
    mask[0, 1, 6:] = 0
    index = torch.tensor([[[3, 4, 5], [2, 3, 4], [5, 6, 7]], [[1, 2, 3], [4, 5, 6], [0, 1, 2]]])
    labels = torch.tensor([[7, 8, 9], [10, 11, -100]])
    return {"sequence_ids": sequences, "sequence_mask": mask, "response_index": index, "labels": labels}


def test_gradients_of_every_adapter_are_those_of_peft(trio):
    model, one_by_one, _ = trio
    batch = _batch()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        parameter.grad = None
    model(**batch).loss.backward()
    losses = []
    for b, row in enumerate(batch["labels"]):
        keep = row != -100
        places = batch["response_index"][b][:, keep].tolist()
        ids = [
            ids[mask.bool()].tolist()
            for ids, mask in zip(*(batch[f"sequence_{n}"][b] for n in ("ids", "mask")), strict=True)
        ]
        losses.append(torch.nn.functional.cross_entropy(one_by_one.logits(ids, places), row[keep], reduction="none"))
    torch.cat(losses).mean().backward()
    compared = 0
    for j, name in ((0, "math"), (2, "text")):
        place, peft = model.specialist(name).place, dict(one_by_one.models[j].named_parameters())
        for layer, (rank, _) in model.specialist(name).row.layers.items():
            adapted = model.shared0.get_submodule(layer)
            pairs = ((adapted.lora_A.grad[place, :rank], "A"), (adapted.lora_B.grad[place, :, :rank], "B"))
            for gradient, side in pairs:
                expected = peft[f"base_model.model.{layer}.lora_{side}.default.weight"].grad
                assert expected.abs().max() > 0
                assert (gradient - expected).abs().max() < 1e-4
                compared += 1
    assert compared == 2 * sum(len(model.specialist(name).row.layers) for name in ("math", "text"))
    one_by_one.models[0].zero_grad(), one_by_one.models[2].zero_grad()


def test_the_stacked_layer_is_the_plain_rule(trio):
    model, _, _ = trio
    for layer in (m for m in model.modules() if isinstance(m, AdaptedLinear)):
        rows = torch.randn(6, 4, layer.lora_A.shape[-1])
        with torch.no_grad():
            assert torch.allclose(layer(rows), layer.forward_reference(rows), atol=1e-5)


def test_zero_padding_stays_zero_in_training(tmp_path):
    base, adapters = make_pair("Llama", tmp_path)
    model = UltraFuserForCausalLM.from_specialists({"math": adapters["math"], "code": base, "text": adapters["text"]})
    learning = [p for name, p in model.named_parameters() if ".lora_" in name]
    assert not any(p.requires_grad for name, p in model.shared0.named_parameters() if ".lora_" not in name)
    optimiser = torch.optim.AdamW(learning, lr=1e-2, weight_decay=0.1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for _ in range(3):
        model(**_batch()).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    for name, layer in model.shared0.named_modules():
        if isinstance(layer, AdaptedLinear):
            for place, (rank, _) in enumerate(layer.shapes):
                assert not layer.lora_A[place, rank:].any(), name
                assert not layer.lora_B[place, :, rank:].any(), name
    changed = {name.rpartition(".")[2] for name, p in model.named_parameters() if not p.equal(before[name])}
    assert changed == {"lora_A", "lora_B"}
