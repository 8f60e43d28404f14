"""Specialists of different width, depth and number of heads in one fused model, tied and untied mixed."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from ultrafuser.data import Conversation, ResponseDataset
from ultrafuser.modeling import UltraFuserForCausalLM, add_specialist, remove_specialist
from ultrafuser.modeling.gate import GATES, build_gate, gate_settings
from ultrafuser.recipe import StageConfig
from ultrafuser.training import run_stages

SHAPES = {
    "small": {"hidden": 16, "layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "tie": True},
    "middle": {"hidden": 24, "layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1},
    "large": {"hidden": 32, "layers": 3, "num_attention_heads": 8, "num_key_value_heads": 8, "tie": True},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_specialist_folder):
    root = tmp_path_factory.mktemp("unequal")
    return {
        name: make_specialist_folder(root / name, seed, **shape)
        for seed, (name, shape) in enumerate(SHAPES.items(), start=40)
    }


@pytest.fixture
def unequal(folders):
    return UltraFuserForCausalLM.from_specialists(folders, gate={"type": "token", "hidden_size": 20}, seed=3)


def _logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits


def _batch(n=3):
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([[20, 31, 42, 1], [64, 75, 1, -100]])
    return {
        "sequence_ids": torch.randint(3, 290, (2, n, 12), generator=generator),
        "response_index": torch.arange(6, 10).expand(2, n, 4) + torch.arange(n)[:, None] % 2,
        "labels": labels,
    }


# ---- the gate ----


def test_equal_widths_have_todays_gate_and_no_projection():
    gate = build_gate(gate_settings("token", 1), [16, 16])
    assert list(gate.state_dict()) == ["inner.weight", "inner.bias", "outer.weight"]
    assert gate.projection_size is None
    gate.reset_parameters(1)
    wider = build_gate(gate_settings("token", 1), [16, 24])
    wider.reset_parameters(1)
    for name, value in gate.state_dict().items():
        assert torch.equal(wider.state_dict()[name], value), name


@pytest.mark.parametrize(("option", "width", "projected"), [({}, 16, ["1", "2"]), ({"projection_size": 40}, 40, "012")])
def test_other_widths_are_projected_from_the_seed_and_keep_their_scale(option, width, projected):
    gate = build_gate({"type": "token", "seed": 1, **option}, [16, 24, 320])
    gate.reset_parameters(1)
    assert gate.inner.in_features == gate.projection_size == width
    assert list(gate.projections) == list(projected)
    again = build_gate({"type": "token", "seed": 1, **option}, [16, 24, 320])
    again.reset_parameters(1)
    for name, value in gate.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    torch.manual_seed(0)
    for projection in gate.projections.values():
        assert projection.bias is None
        read = projection(torch.randn(4000, projection.in_features))
        assert 0.8 < read.std() < 1.25


def test_state_of_another_width_is_named():
    gate = build_gate(gate_settings("token", 1), [16, 24])
    with pytest.raises(ValueError, match="hidden states of specialist 1 are 16 wide, but this gate was built for 24"):
        gate([torch.zeros(2, 16), torch.zeros(2, 16)])
    with pytest.raises(ValueError, match=r"gate\.projection_size: 0 is not a positive whole number"):
        build_gate({"projection_size": 0}, [16, 24])
    with pytest.raises(ValueError, match=r"gate\.projection_size: gate 'joint' takes hidden_size"):
        build_gate({"type": "joint", "projection_size": 8}, [16, 24])


# ---- the whole model ----


def test_fused_equals_the_loop_and_decodes_from_its_cache(unequal, folders, reference, unequal_prompts):
    truth = reference(folders.values(), unequal)
    unequal.generation_config.eos_token_id = None
    inputs = unequal.prepare_prompts(unequal_prompts)
    P = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": 10, "do_sample": False}
    found = unequal.generate(**inputs, **options)
    assert torch.equal(found, unequal.generate(**inputs, **options, use_cache=False))
    output = unequal(**{**inputs, "input_ids": found, "attention_mask": None})
    for i, example in enumerate(unequal_prompts):
        answer = found[i, P:].tolist()
        assert answer == truth.greedy(example, 10)
        positions = [range(len(prompt) - 1, len(prompt) + 9) for prompt in example]
        logits, weights = truth.logits([prompt + answer for prompt in example], positions)
        assert (output.logits[i, P - 1 : -1] - logits).abs().max() < 1e-4
        assert (output.gate_weights[i, P - 1 : -1] - weights).abs().max() < 1e-5


def test_cache_holds_each_specialists_own_depth_and_heads(unequal, unequal_prompts):
    with torch.no_grad():
        cache = unequal(**unequal.prepare_prompts(unequal_prompts), use_cache=True).past_key_values
    assert [len(own.layers) for own in cache.caches] == [1, 2, 3]
    assert [own.layers[0].keys.shape[1] for own in cache.caches] == [2, 1, 8]
    assert cache.get_seq_length() == 12


@pytest.mark.parametrize("gate", list(GATES))
@pytest.mark.parametrize("j", range(3))
def test_all_weight_on_one_is_that_specialists_own_greedy_output(folders, unequal_prompts, gate, j):
    model = UltraFuserForCausalLM.from_specialists(folders, gate=gate)
    alone = AutoModelForCausalLM.from_pretrained(list(folders.values())[j])
    inputs = model.prepare_prompts(unequal_prompts)
    P = inputs["input_ids"].shape[1]
    model.generation_config.eos_token_id = alone.generation_config.eos_token_id = None
    options = {"max_new_tokens": 16, "do_sample": False}
    forced = torch.nn.functional.one_hot(torch.tensor(j), 3).float()
    found = model.generate(**inputs, **options, gate_weights=forced)[:, P:]
    for i, example in enumerate(unequal_prompts):
        prompt = torch.tensor([example[j]])
        own = alone.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0, prompt.shape[1] :]
        assert found[i].tolist() == own.tolist()


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
@pytest.mark.parametrize("gate", list(GATES))
def test_lean_loss_and_its_gradients_equal_those_of_full_logits(folders, gate, rule):
    model = UltraFuserForCausalLM.from_specialists(folders, gate=gate, fusion=rule)
    batch = _batch()
    lean = model(**batch).loss
    lean.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    logits = model(**{**batch, "labels": None}, return_logits=True).logits
    full = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    full.backward()
    assert torch.allclose(lean, full, atol=1e-5)
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-4), name
        assert not name.startswith("gate.") or found[name].abs().sum() > 0, name


def test_gate_alone_learns_with_its_projections(unequal):
    unequal.requires_grad_(False)
    unequal.gate.requires_grad_(True)
    optimiser = torch.optim.Adam(unequal.gate.parameters(), lr=0.02)
    before = {name: value.clone() for name, value in unequal.gate.state_dict().items()}
    losses = []
    for _ in range(15):
        loss = unequal(**_batch()).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert "projections.1.weight" in before
    assert "projections.2.weight" in before
    assert all(not torch.equal(before[name], value) for name, value in unequal.gate.state_dict().items())
    assert all(parameter.grad is None for parameter in unequal.specialist("large").parameters())


def test_both_stages_run_and_the_gate_alone_learns_in_the_first(unequal, chat_templates, tiny_tokenizer, tmp_path):
    said = {"text": "the old fox sleeps", "code": "return a plus b", "math": "two and two is four"}
    talks = [
        Conversation(f"{name}-{i}", name, [{"role": r, "content": text[i:]} for r in ("user", "assistant")])
        for name, text in said.items()
        for i in range(4)
    ]
    data = ResponseDataset.from_conversations(talks, list(chat_templates.values()), tiny_tokenizer)
    given = {"steps": 2, "examples_per_category": 1, "learning_rate": 1e-2, "eval_every": 2}
    stages = [StageConfig(name=what, train=what, **given) for what in ("gate", "all")]
    before = {name: parameter.detach().clone() for name, parameter in unequal.named_parameters()}
    changed = []

    def look(stage, model):
        changed.append({name for name, p in model.named_parameters() if not torch.equal(p, before[name])})

    run_stages(unequal, tiny_tokenizer, stages, data, data, tmp_path, seed=0, after_stage=look, tensorboard=False)
    assert changed[0] == {name for name in before if name.startswith("gate.")}
    assert "gate.projections.2.weight" in changed[0]
    assert changed[1] == set(before)
    assert unequal.gate_is_trained


# ---- keeping ----


@pytest.mark.parametrize("gate_only", [False, True])
def test_round_trip_bit_for_bit_and_a_card_that_says_so(unequal, tmp_path, gate_only):
    unequal.save_pretrained(tmp_path, gate_only=gate_only)
    again, report = UltraFuserForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert again.config.gate["projection_size"] == 16
    for (name, ours), theirs in zip(unequal.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert torch.equal(_logits(again), _logits(unequal))
    card = (tmp_path / "README.md").read_text()
    assert "The gate reads hidden states 16 wide; those of middle (24), large (32) through a learned projection" in card
    recipe = card.split("```yaml")[1]
    assert "projection_size" not in recipe


# ---- adding and removing ----


def test_newcomer_of_another_width_gets_an_untrained_projection_and_it_is_said(folders, make_llama, tmp_path):
    model = UltraFuserForCausalLM.from_specialists({name: folders[name] for name in ("small", "middle")}, seed=5)
    whole = UltraFuserForCausalLM.from_specialists(folders, seed=5)
    model.config.gate_training = {"trained": True, "stages": []}
    with pytest.warns(UserWarning, match=r"specialists\.large: hidden size 32, .* untrained projection to 16; train"):
        three = add_specialist(model, "large", folders["large"])
    assert torch.equal(_logits(three), _logits(whole))
    three.save_pretrained(tmp_path)
    assert "large added (its projection for the gate, 32 to 16, is untrained)" in (tmp_path / "README.md").read_text()
    back = remove_specialist(three, "large")
    assert torch.equal(_logits(back), _logits(model))
    tiny = make_llama(9, hidden=8)
    with pytest.warns(UserWarning, match="hidden size 8, so the gate reads it through a new, untrained projection"):
        narrower = add_specialist(model, "tiny", tiny)
    assert narrower.gate.inner.in_features == 16
    assert torch.equal(narrower.gate.inner.weight, model.gate.inner.weight)
    narrower.save_pretrained(tmp_path / "narrower")
    assert torch.equal(_logits(UltraFuserForCausalLM.from_pretrained(tmp_path / "narrower")), _logits(narrower))


def test_projections_follow_their_specialists(unequal, tmp_path):
    with torch.no_grad():
        for parameter in unequal.gate.parameters():
            parameter.add_(0.1)  # a gate that no seed draws
    fewer = remove_specialist(unequal, "small")
    assert list(fewer.gate.projections) == ["0", "1"]
    assert fewer.gate.inner.in_features == 16
    for new, old in (("0", "1"), ("1", "2")):
        assert torch.equal(fewer.gate.projections[new].weight, unequal.gate.projections[old].weight)
    fewer.save_pretrained(tmp_path)
    assert torch.equal(_logits(UltraFuserForCausalLM.from_pretrained(tmp_path)), _logits(fewer))
    alone = remove_specialist(remove_specialist(unequal, "middle"), "large")
    assert alone.gate.projection_size is None
    assert "projection_size" not in alone.config.gate


@pytest.mark.parametrize("gate", ["joint", "constant"])
def test_other_gates_take_a_newcomer_of_another_width(folders, gate):
    model = UltraFuserForCausalLM.from_specialists({name: folders[name] for name in ("small", "large")}, gate=gate)
    three = add_specialist(model, "middle", folders["middle"])
    assert _logits(three).shape == _logits(model).shape
    assert three.config.projected == {}
