"""BTX: forced to one expert it is that specialist; what is averaged, saved, counted and refused."""

import json
from contextlib import contextmanager

import pytest
import torch
from transformers import AutoModelForCausalLM

from ultrafuser.baselines import BASELINES
from ultrafuser.baselines.branching import at_every_linear_layer, at_feed_forward_blocks, differing_settings
from ultrafuser.baselines.counting import model_parts, parameters, used_parameters
from ultrafuser.baselines.expert_use import expert_use
from ultrafuser.baselines.making import make_baseline
from ultrafuser.baselines.scores import measure
from ultrafuser.modeling.experts import Router

IDS = torch.arange(40).view(2, 20) * 13 % 290
FORMS = {"every": at_every_linear_layer, "feed-forward": at_feed_forward_blocks}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300, "pad_token_id": 2}
WIDE = {**SMALL, "intermediate_size": 32, "num_key_value_heads": 2, "initializer_range": 0.3}


@contextmanager
def forced(model, expert):
    """Every router gives all the weight to one expert."""
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

    def only(module, inputs, output):
        logits, weights, chosen = output
        weights, chosen = torch.zeros_like(weights), torch.full_like(chosen, expert)
        weights[:, 0], chosen[:, 1:] = 1, (expert + 1) % model.config.num_local_experts
        return logits, weights, chosen

    hooks = [m.register_forward_hook(only) for m in model.modules() if isinstance(m, Router | MixtralTopKRouter)]
    assert hooks
    yield
    for hook in hooks:
        hook.remove()


def take_the_rest_from(mixed, one):
    """Copy every tensor of `one` that the mixture has by the same name: all that is no expert's."""
    inner = getattr(mixed, "language_model", mixed)
    own = dict(one.named_parameters())
    with torch.no_grad():
        names = [name for name, p in inner.named_parameters() if name in own and p.copy_(own[name]) is not None]
    return names


def logits(model, **inputs):
    with torch.no_grad():
        return model(**({"input_ids": IDS} | inputs)).logits


def others(kind):
    """Two tiny random models of another family."""
    from transformers import (
        Gemma2Config,
        GPT2Config,
        GPTNeoXConfig,
        MistralConfig,
        OPTConfig,
        Phi3Config,
        Qwen2Config,
        Qwen3Config,
    )

    config = {
        "qwen2": lambda: Qwen2Config(**WIDE),
        "qwen3": lambda: Qwen3Config(**WIDE, head_dim=4),
        "gemma2": lambda: Gemma2Config(**WIDE, head_dim=4),
        "mistral": lambda: MistralConfig(**WIDE, sliding_window=8),
        "phi3": lambda: Phi3Config(**WIDE),
        "gpt_neox": lambda: GPTNeoXConfig(**SMALL, intermediate_size=32, initializer_range=0.3),
        "opt": lambda: OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=8, init_std=0.3),
        "gpt2": lambda: GPT2Config(n_embd=16, n_layer=2, n_head=4, vocab_size=300, initializer_range=0.3),
    }[kind]()
    torch.manual_seed(3)
    return [AutoModelForCausalLM.from_config(config).eval() for _ in range(2)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tie", [False, True])
def test_forced_to_an_expert_it_is_that_specialist(make_llama, form, tie):
    models = {name: make_llama(seed, tie=tie) for seed, name in enumerate(("a", "b", "c"))}
    mixed = FORMS[form](models)
    for expert, one in enumerate(models.values()):
        names = take_the_rest_from(mixed, one)
        assert ("model.layers.0.self_attn.q_proj.weight" in names) == (form == "feed-forward")
        with forced(mixed, expert):
            assert (logits(mixed) - logits(one)).abs().max() < 1e-4
            assert torch.equal(mixed.generate(IDS, max_new_tokens=4), one.generate(IDS, max_new_tokens=4))
        assert (logits(mixed) - logits(one)).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma2", "mistral", "phi3", "gpt_neox", "opt", "gpt2"])
def test_any_architecture_at_every_linear_layer(kind):
    first, second = others(kind)
    mixed = at_every_linear_layer({"first": first, "second": second})
    take_the_rest_from(mixed, second)
    with forced(mixed, 1):
        assert (logits(mixed) - logits(second)).abs().max() < 1e-4
    cached = mixed.generate(IDS, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert torch.equal(
        cached, mixed.generate(IDS, max_new_tokens=12, do_sample=False, use_cache=False, eos_token_id=None)
    )


def test_experts_of_one_model_are_that_model_whatever_the_router_says(make_llama):
    one = make_llama(4)
    mistral, _ = others("mistral")
    for form, model in (("every", one), ("feed-forward", one), ("feed-forward", mistral)):
        mixed = FORMS[form]({"a": model, "b": model, "c": model}, seed=5)
        assert (logits(mixed) - logits(model)).abs().max() < 1e-4


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_experts_is_the_mean_and_routers_are_small(make_llama, form):
    models = [make_llama(seed) for seed in range(3)]
    mixed = FORMS[form](dict(zip("abc", models, strict=True)), seed=1)
    inner = dict(getattr(mixed, "language_model", mixed).named_parameters())
    names = [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.1.input_layernorm.weight",
    ]
    names += ["model.layers.0.self_attn.o_proj.weight"] if form == "feed-forward" else []
    for name in names:
        wanted = sum(dict(model.named_parameters())[name].double() for model in models) / 3
        assert torch.allclose(inner[name].double(), wanted, atol=1e-7)
    routers = {name: p for name, p in inner.items() if name.endswith(("router.weight", "mlp.gate.weight"))}
    assert len(routers) == (14 if form == "every" else 2)
    drawn = torch.cat([p.flatten() for p in routers.values()])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.3)
    again = FORMS[form](dict(zip("abc", models, strict=True)), seed=2)
    assert not torch.equal(logits(mixed), logits(again))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tie", [False, True])
def test_saved_and_opened_as_an_ordinary_folder(make_llama, tmp_path, form, tie):
    mixed = FORMS[form]({name: make_llama(seed, tie=tie) for seed, name in enumerate("abc")})
    mixed.save_pretrained(tmp_path)
    opened, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(logits(opened), logits(mixed))
    assert parameters(opened) == parameters(mixed)
    assert (opened.get_output_embeddings().weight is opened.get_input_embeddings().weight) == tie
    settings = json.loads((tmp_path / "config.json").read_text())
    assert "auto_map" not in settings
    if form == "feed-forward":
        assert settings["architectures"] == ["MixtralForCausalLM"]


@pytest.mark.parametrize("form", FORMS)
def test_padding_changes_nothing_with_beams_and_cache(make_llama, form):
    mixed = FORMS[form]({name: make_llama(seed) for seed, name in enumerate("abc")})
    options = {"num_beams": 3, "max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    mask = torch.ones_like(IDS)
    mask[1, :7] = 0
    together = mixed.generate(IDS, attention_mask=mask, **options)
    alone = mixed.generate(IDS[1:, 7:], **options)
    assert together[1, 7:].tolist() == alone[0].tolist()


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_the_answers_alone(make_llama, form):
    """No balancing of experts, by the model or by Transformers behind its back."""
    mixed = FORMS[form]({name: make_llama(seed) for seed, name in enumerate("abc")}).train()
    output = mixed(input_ids=IDS, labels=IDS)
    wanted = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    assert output.loss.item() == pytest.approx(wanted.item(), abs=1e-6)


def test_parameters_used_worked_by_hand(make_llama):
    """Hidden 16, inner 32, key/value width 8, 2 layers, 300 tokens or so."""
    models = {name: make_llama(seed) for seed, name in enumerate("abc")}
    rows = models["a"].config.vocab_size
    attention, inner, norms = 16 * 16 + 16 * 8 + 16 * 8 + 16 * 16, 3 * 16 * 32, 2 * 16
    every, feed = at_every_linear_layer(models), at_feed_forward_blocks(models)
    routers = 3 * (6 * 16 + 32)  # six layers read 16 numbers, down_proj reads 32
    body = {"every": 2 * (2 * (attention + inner) + routers + norms) + 16}
    body["feed"] = 2 * (attention + 2 * inner + 3 * 16 + norms) + 16
    for model, wanted in ((every, body["every"]), (feed, body["feed"])):
        assert model_parts(model) == (wanted, 16 * rows)
        assert used_parameters(model) == wanted + 2 * 16 * rows
    assert parameters(every) == used_parameters(every) + 2 * (attention + inner)
    assert parameters(feed) == used_parameters(feed) + 2 * inner
    assert used_parameters(models["a"]) == parameters(models["a"])


def test_what_differs_is_refused_by_name(make_llama):
    a, b = make_llama(0), make_llama(1)
    qwen, _ = others("qwen2")
    cases = [
        ({"a": a}, "specialists: 1 given; .* at least two"),
        ({"a": a, "b": qwen}, r"specialists.b: is a Qwen2ForCausalLM, a a LlamaForCausalLM"),
        ({"a": a, "b": make_llama(1, tie=True)}, "specialists.b: has no tensor lm_head.weight, which a has"),
        ({"a": a, "b": make_llama(1, layers=3)}, r"specialists.a: has no tensor model.layers.2\S*, which b has"),
        ({"a": a, "b": b, "c": make_llama(1, vocab=310)}, r"specialists.c: .* has the shape \(310, 16\), in a"),
    ]
    for models, message in cases:
        for make in FORMS.values():
            with pytest.raises(ValueError, match=message):
                make(models)
    with pytest.raises(ValueError, match=r"Qwen2ForCausalLM is none whose block is Mixtral's; .* take btx"):
        at_feed_forward_blocks({"a": qwen, "b": qwen})
    biased = make_llama(0, attention_bias=True)
    with pytest.raises(ValueError, match="LlamaForCausalLM has attention_bias, which Mixtral has not"):
        at_feed_forward_blocks({"a": biased, "b": biased})
    at_every_linear_layer({"a": biased, "b": biased})


def test_settings_that_differ_are_named(make_llama):
    a, b = make_llama(0), make_llama(1, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    assert differing_settings({"a": a, "b": b}) == ["rope_parameters"]
    assert differing_settings({"a": a, "b": make_llama(1)}) == []


@pytest.mark.parametrize("variant", ["", "feed-forward"])
def test_everything_learns_and_the_losses_are_kept(make_setting, variant):
    from ultrafuser.training.work import HISTORY_FILE

    setting = make_setting(variant, steps=3)
    made = make_baseline(BASELINES["btx"], setting)
    start = FORMS[variant or "every"]({name: setting.open(name) for name in setting.names}, seed=setting.seed)
    trained = dict(AutoModelForCausalLM.from_pretrained(made.folder).named_parameters())
    for name, before in start.named_parameters():
        assert not torch.equal(before, trained[name]), name
    assert made.parameters_trained == parameters(start)
    assert made.parameters_used == used_parameters(start)
    [history] = setting.folder.rglob(HISTORY_FILE)
    entries = [json.loads(line) for line in history.read_text().splitlines()]
    assert any("loss" in entry for entry in entries)
    assert measure(setting, made.folder).mean() > 0
    use = made.chosen["expert_use"]
    assert len(use) == 1 + (14 if not variant else 2)
    assert all(sum(shares.values()) == pytest.approx(1) for by_domain in use.values() for shares in by_domain.values())


def test_use_of_experts_is_counted_over_the_answers(make_setting):
    """Against weights recomputed from the block's input, token by token; forced, all of it is one expert's."""
    setting = make_setting()
    mixed = at_feed_forward_blocks({name: setting.open(name) for name in setting.names})
    data = setting.encoded([setting.template]).validation
    found = expert_use(mixed, data, setting.names)
    gate = mixed.model.layers[1].mlp.gate
    seen = []
    hook = gate.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    total, count = torch.zeros(3), 0
    for example in data.examples:
        if data.categories[example.category] == "code":
            ids, positions = example.sequence(0)
            logits(mixed, input_ids=torch.as_tensor(ids).long()[None])
            for position in positions:
                shares = (gate.weight @ seen[-1].view(-1, 16)[position]).softmax(0)
                shares[shares.argmin()] = 0
                total, count = total + shares / shares.sum(), count + 1
    hook.remove()
    assert list(found["layers.1.mlp"]["code"].values()) == pytest.approx((total / count).tolist(), abs=1e-5)
    mean = [(found["layers.0.mlp"]["code"][name] + found["layers.1.mlp"]["code"][name]) / 2 for name in setting.names]
    assert list(found["all"]["code"].values()) == pytest.approx(mean, abs=1e-6)
    with forced(mixed, 2):
        assert expert_use(mixed, data, setting.names)["all"]["math"] == {"text": 0, "code": 0, "math": 1}


def test_specialists_that_differ_in_settings_are_told(make_setting, monkeypatch):
    said = []
    setting = make_setting(steps=1, say=said.append)
    original = type(setting).open

    def opened(self, name):
        model = original(self, name)
        model.config.rms_norm_eps = 1e-6 if name == "text" else 1e-5
        return model

    monkeypatch.setattr(type(setting), "open", opened)
    make_baseline(BASELINES["btx"], setting)
    assert "the specialists differ in rms_norm_eps; text's are taken" in said


def test_an_unknown_form_is_refused(make_setting):
    with pytest.raises(ValueError, match=r"variant: 'feed-froward' is not one of .*feed-forward"):
        make_baseline(BASELINES["btx"], make_setting("feed-froward"))


def test_other_tokenizers_are_refused_before_anything_is_opened(make_setting, make_recipe, kin_folders, copy_folder):
    folder = copy_folder(kin_folders["code"], "other")
    file = folder / "tokenizer.json"
    settings = json.loads(file.read_text())
    vocabulary = settings["model"]["vocab"]
    one, two = list(vocabulary)[10:12]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    file.write_text(json.dumps(settings))
    specialists = {name: {"source": str(kin_folders[name])} for name in kin_folders} | {"code": {"source": str(folder)}}
    with pytest.raises(ValueError, match=r"code.*token"):
        make_setting(recipe=make_recipe(specialists=specialists))
