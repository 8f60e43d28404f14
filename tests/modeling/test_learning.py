"""What learning needs: gradients where they belong, none kept where nothing learns, checkpointing, number formats."""

import pytest
import torch

from ultrafuser.modeling import UltraFuserForCausalLM


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return {
        "sequence_ids": torch.randint(3, 290, (4, 3, 20)),
        "sequence_mask": torch.ones(4, 3, 20, dtype=torch.long),
        "response_index": torch.randint(0, 20, (4, 3, 6)),
        "labels": torch.randint(3, 290, (4, 6)).masked_fill(torch.rand(4, 6) < 0.2, -100),
    }


def _gradients(model, batch, **options):
    model.zero_grad()
    model(**batch, **options).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_gives_the_same_gradients(fused_model, batch):
    fused_model.train()
    plain = _gradients(fused_model, batch)
    assert len(plain) == len(dict(fused_model.named_parameters()))
    fused_model.activation_checkpointing_enable()
    assert all(layer.gradient_checkpointing for s in fused_model.specialists for layer in s.model.layers)
    runs = []
    for specialist in fused_model.specialists:
        specialist.model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    checkpointed = _gradients(fused_model, batch)
    assert len(runs) == 6  # inside each first layer twice: really checkpointed
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        assert torch.allclose(gradient, checkpointed[name], atol=1e-7), name
    fused_model.activation_checkpointing_disable()
    assert not fused_model.is_activation_checkpointing


@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_specialists_keep_no_graph_and_get_no_gradient(fused_model, batch, checkpointing):
    for specialist in fused_model.specialists:
        specialist.requires_grad_(False)
    fused_model.train()
    if checkpointing:
        fused_model.activation_checkpointing_enable()
    saved = []

    def pack(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = fused_model(**batch, output_hidden_states=True)
    assert not any(states.requires_grad for states in output.hidden_states)
    M, N, V = int((batch["labels"] != -100).sum()), 3, fused_model.config.vocab_size
    assert max(saved) <= M * N * 512  # the gate's own layer is the largest; nothing of size V
    assert sum(saved) < M * N * V * 8
    output.loss.backward()
    with_gradient = {name for name, p in fused_model.named_parameters() if p.grad is not None}
    assert with_gradient == {"gate.inner.weight", "gate.inner.bias", "gate.outer.weight"}


def test_no_graph_is_built_where_gradients_are_off(fused_model, batch):
    with torch.no_grad():
        output = fused_model(**batch, return_logits=True, output_hidden_states=True)
    for tensor in (output.loss, output.logits, output.gate_weights, *output.hidden_states):
        assert not tensor.requires_grad


def test_gate_gradient_is_the_same_whether_or_not_specialists_learn_too(fused_model, batch):
    """The fast path for frozen specialists against the general one, on the whole model."""
    everything = _gradients(fused_model, batch)
    for specialist in fused_model.specialists:
        specialist.requires_grad_(False)
    gate_alone = _gradients(fused_model, batch)
    for name, gradient in gate_alone.items():
        assert torch.allclose(gradient, everything[name], atol=1e-6), name


def test_some_frozen_some_learning(fused_model, batch):
    fused_model.specialist("code").requires_grad_(False)
    full = _gradients(fused_model, batch)
    assert not any(name.startswith("specialist1.") for name in full)
    assert any(name.startswith("specialist0.model.layers.0") for name in full)
    assert any(name.startswith("specialist2.lm_head") for name in full)


def test_forced_weights_teach_the_specialists_and_leave_the_gate(fused_model, batch):
    gradients = _gradients(fused_model, batch, gate_weights=[0.0, 0.5, 0.5])
    assert not any(name.startswith("gate.") for name in gradients)
    assert gradients["specialist1.model.layers.0.mlp.up_proj.weight"].abs().sum() > 0
    assert gradients["specialist0.model.layers.0.mlp.up_proj.weight"].abs().sum() == 0


def test_sum_over_items(fused_model, batch):
    output = fused_model(**batch)
    items = fused_model(**batch, num_items_in_batch=torch.tensor(4))
    assert torch.allclose(items.loss * 4, output.token_loss.sum(), atol=1e-4)
    count = (batch["labels"] != -100).sum()
    assert torch.allclose(output.loss * count, output.token_loss.sum(), atol=1e-4)
    aligned = {key: value for key, value in batch.items() if key != "labels"} | {"shift_labels": batch["labels"]}
    assert torch.equal(fused_model(**aligned).loss, output.loss)


def test_padding_changes_nothing(fused_model, batch):
    wide = {
        "sequence_ids": torch.nn.functional.pad(batch["sequence_ids"], (0, 7), value=2),
        "sequence_mask": torch.nn.functional.pad(batch["sequence_mask"], (0, 7)),
        "response_index": torch.nn.functional.pad(batch["response_index"], (0, 3)),
        "labels": torch.nn.functional.pad(batch["labels"], (0, 3), value=-100),
    }
    narrow, padded = fused_model(**batch), fused_model(**wide, return_logits=True)
    assert torch.allclose(narrow.loss, padded.loss, atol=1e-6)
    assert padded.logits.shape[1] == padded.token_loss.shape[1] == padded.gate_weights.shape[1] == 9


def test_a_batch_without_responses_gives_no_loss(fused_model, batch):
    empty = batch | {"labels": torch.full((4, 6), -100)}
    output = fused_model(**empty)
    assert output.loss.item() == 0
    output.loss.backward()


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_sixteen_bit_and_autocast_losses_are_near_the_full_one(specialist_folders, batch, rule):
    full = UltraFuserForCausalLM.from_specialists(specialist_folders, fusion=rule)
    half = UltraFuserForCausalLM.from_specialists(specialist_folders, fusion=rule, dtype=torch.bfloat16)
    expected = full(**batch)
    got = half(**batch)
    got.loss.backward()
    assert got.loss.dtype == torch.float32
    assert got.gate_weights.dtype == torch.float32
    assert got.loss.item() == pytest.approx(expected.loss.item(), rel=0.03)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = full(**batch)
    mixed.loss.backward()
    assert mixed.loss.item() == pytest.approx(expected.loss.item(), rel=0.03)
    assert mixed.gate_weights.dtype == torch.float32


def test_specialists_learn_apart_and_the_gate_learns_to_choose(make_llama):
    """A few steps of Adam on the gate alone find the specialist that can predict the data."""
    first, second = make_llama(1), make_llama(2)
    torch.manual_seed(0)
    ids = torch.randint(3, 290, (8, 12))
    with torch.no_grad():
        labels = second(ids).logits.argmax(-1)
    model = UltraFuserForCausalLM.from_specialists({"a": first, "b": second})
    for specialist in model.specialists:
        specialist.requires_grad_(False)
    batch = {
        "sequence_ids": ids[:, None].expand(-1, 2, -1),
        "response_index": torch.arange(12).expand(8, 2, 12),
        "labels": labels,
    }
    optimiser = torch.optim.AdamW(model.gate.parameters(), lr=3e-3)
    before = model(**batch)
    for _ in range(60):
        optimiser.zero_grad()
        model(**batch).loss.backward()
        optimiser.step()
    after = model(**batch)
    assert after.loss < before.loss
    assert after.gate_weights[..., 1].mean() > 0.8


def test_training_form_without_labels_gives_logits_everywhere(fused_model, batch):
    unlabelled = {key: value for key, value in batch.items() if key != "labels"}
    output = fused_model(**unlabelled, return_logits=True, output_hidden_states=True)
    assert output.loss is None
    assert output.logits.shape == (4, 6, fused_model.config.vocab_size)
    assert [states.shape for states in output.hidden_states] == [(4, 6, 16)] * 3
    labelled = fused_model(**batch, return_logits=True)
    keep = batch["labels"] != -100
    assert torch.allclose(labelled.logits[keep], output.logits[keep], atol=1e-6)
