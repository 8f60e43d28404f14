"""One plain model of the fused size: growth that changes nothing, widths, compute that is counted."""

import pytest
import torch

from ultrafuser.baselines import BASELINES
from ultrafuser.baselines.budget import earlier_operations
from ultrafuser.baselines.counting import parameters
from ultrafuser.baselines.growing import deepen, layers_to_add, widened_config
from ultrafuser.baselines.making import make_baseline
from ultrafuser.baselines.scores import measure, measure_model

IDS = torch.arange(20)[None] * 13 % 290


def make(name, setting):
    return make_baseline(BASELINES[name], setting)


def other(kind, tiny_tokenizer):
    """A tiny random model of another family."""
    from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig, Qwen2Config, Qwen3Config

    torch.manual_seed(3)
    configs = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "mistral": MistralConfig, "gemma2": Gemma2Config}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "head_dim": 4, "vocab_size": len(tiny_tokenizer), "initializer_range": 0.3}
    return AutoModelForCausalLM.from_config(configs[kind](**sizes, **more, pad_token_id=2)).eval()


@pytest.mark.parametrize("added", [1, 2, 3, 7])
@pytest.mark.parametrize("tie", [False, True])
def test_a_deepened_llama_gives_the_same_logits(make_llama, added, tie):
    model = make_llama(4, layers=3, tie=tie)
    grown = deepen(model, added)
    assert grown.config.num_hidden_layers == 3 + added
    with torch.no_grad():
        assert torch.equal(grown(IDS).logits, model(IDS).logits)
        cached = grown.generate(IDS, max_new_tokens=5, do_sample=False)
        assert torch.equal(cached, model.generate(IDS, max_new_tokens=5, do_sample=False))
    each = parameters(model.model.layers[0])
    assert parameters(grown) == parameters(model) + added * each


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "mistral", "gemma2"])
def test_so_do_its_kin(kind, tiny_tokenizer):
    model = other(kind, tiny_tokenizer)
    grown = deepen(model, 4)
    with torch.no_grad():
        assert torch.allclose(grown(IDS).logits, model(IDS).logits, atol=1e-6)
    if getattr(model.config, "layer_types", None):
        assert len(grown.config.layer_types) == 7


def test_the_new_layers_learn(make_llama):
    """After a step on the zeroed projections the layers before them get gradients too."""
    grown = deepen(make_llama(4, layers=2), 2)
    optimiser = torch.optim.SGD(grown.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        grown(IDS, labels=IDS).loss.backward()
        optimiser.step()
    new = grown.model.layers[1]
    assert new.mlp.down_proj.weight.abs().max() > 0
    assert new.mlp.up_proj.weight.grad.abs().max() > 0
    assert new.self_attn.q_proj.weight.grad.abs().max() > 0


def test_the_size_wanted_is_met_as_nearly_as_whole_layers_allow(make_llama):
    model = make_llama(4, layers=2)
    each = parameters(model.model.layers[0])
    assert layers_to_add(model, parameters(model) + round(3.4 * each)) == 3
    with pytest.raises(ValueError, match=r"has .* already; nothing to grow"):
        layers_to_add(model, parameters(model))


def test_models_of_another_kind_are_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20))
    with pytest.raises(ValueError, match="keeps its layers elsewhere"):
        deepen(model, 1)
    with pytest.raises(ValueError, match="no intermediate_size"):
        widened_config(model.config.__class__(n_embd=8), 1000, GPT2LMHeadModel)


def test_widths_keep_proportions(make_llama):
    model = make_llama(4, layers=2)
    config = widened_config(model.config, 3 * parameters(model), type(model))
    wide = type(model)(config)
    assert abs(parameters(wide) / parameters(model) - 3) < 0.9
    assert config.hidden_size / config.num_attention_heads == 4
    assert config.num_attention_heads == 2 * config.num_key_value_heads
    assert config.intermediate_size == 2 * config.hidden_size
    assert config.num_hidden_layers == 2
    step = 2 * 4
    for hidden in (config.hidden_size - step, config.hidden_size + step):
        near = make_llama(0, hidden=hidden, num_attention_heads=hidden // 4, num_key_value_heads=hidden // 8)
        size = 3 * parameters(model)
        assert abs(parameters(near) - size) >= abs(parameters(wide) - size)


def test_single_starts_as_the_base(make_setting, monkeypatch, base_folder):
    """With learning all but off, the trained single model reads as the base does in the same template."""
    setting = make_setting(steps=1)
    original = type(setting).stage
    monkeypatch.setattr(
        type(setting), "stage", lambda self, *a, **k: original(self, *a, **{"learning_rate": 1e-30} | k)
    )
    made = make("single", setting)
    base = setting.fuse({"base": setting.open_base()}, {"base": setting.template})
    wanted = measure_model(setting, base).by_domain()
    assert measure(setting, made.folder).by_domain() == pytest.approx(wanted, rel=1e-5)
    fused = sum(parameters(setting.open(name)) for name in setting.names)
    each = parameters(setting.open_base().model.layers[0])
    assert abs(made.parameters_trained - fused) <= each / 2
    assert "layers added" in made.note


def test_scratch_at_equal_steps_and_at_a_budget(make_setting, tmp_path):
    equal = make("scratch", make_setting("equal-steps", steps=2))
    assert equal.steps == 2
    budget = 5 * equal.training_operations // 2
    made = make("scratch", make_setting(f"{budget}", folder=tmp_path / "budget"))
    assert made.steps == pytest.approx(5, abs=1)
    assert made.training_operations == pytest.approx(budget, rel=0.25)
    assert made.parameters_trained == equal.parameters_trained


def test_scratch_depends_on_its_seed(make_setting, tmp_path, weights_in):
    name = "model.layers.0.mlp.up_proj.weight"
    found = [
        weights_in(make("scratch", make_setting("equal-steps", steps=1, seed=seed, folder=tmp_path / str(i))).folder)
        for i, seed in enumerate((0, 0, 1))
    ]
    assert torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[0][name], found[2][name])


def test_unknown_pasts_and_bad_budgets_are_refused(make_setting):
    with pytest.raises(ValueError, match=r"nobody knows how much training text has had; .*scratch:2e14"):
        make("scratch", make_setting())
    for variant in ("much", "-1", "inf"):
        with pytest.raises(ValueError, match=f"variant: '{variant}' is neither equal-steps nor a number"):
            make("scratch", make_setting(variant, overwrite=True))


def test_the_zoos_training_is_read_from_its_cards(make_recipe, tmp_path):
    """Worked by hand: tied models of 865,152 parameters, of which every one but the norms' is in a product."""
    from ultrafuser import zoo
    from ultrafuser.baselines import Setting

    recipe = make_recipe(specialists={name: {"source": f"zoo:{name}"} for name in zoo.SPECIALISTS})
    setting = Setting.from_recipe(recipe, tmp_path, resolve=lambda s: str(zoo.path(s.removeprefix("zoo:"))), steps=4)
    tokens = 14_999_040 + 8_818_542 + 7_301_994 + 9_228_496
    found = earlier_operations(setting)
    assert found == pytest.approx(6 * 865_152 * tokens, rel=2e-3)
    assert found > 6 * 864_000 * tokens
