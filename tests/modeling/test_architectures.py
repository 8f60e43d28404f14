"""Other architectures than Llama: heads with biases, scales, soft caps; sliding windows; what cannot be fused."""

import copy

import pytest
import torch
import transformers

from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.modeling.head import build_head, check_head
from ultrafuser.templates import encode_prompt

SIZES = {
    "vocab_size": 97,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}
# name, options beyond SIZES, names of SIZES it does not know
KINDS = {
    "Llama": {},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {},
    "Mistral": {"sliding_window": 6},
    "Gemma2": {"final_logit_softcapping": 5.0, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "Gemma3": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "Gemma3Capped": {"sliding_window": 6, "final_logit_softcapping": 5.0},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0, "embedding_multiplier": 2.0},
    "Phi": {},
    "Phi3": {"sliding_window": 6},
    "Olmo2": {},
    "GPTNeoX": {},
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "OPT": {"ffn_dim": 32, "word_embed_proj_dim": 8},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Bamba": {
        "attn_layer_indices": [1],
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
    },
    "RecurrentGemma": {"num_hidden_layers": 3, "logits_soft_cap": 0.5, "attention_window_size": 6, "lru_width": 16},
}
CLASS = {"Gemma3Capped": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}
CONFIG = {"Gemma3": "Gemma3TextConfig", "Gemma3Capped": "Gemma3TextConfig"}
NAMED = (
    "Llama",
    "Qwen2",
    "Qwen3",
    "Gemma3",
    "Gemma3Capped",
    "Mistral",
    "Phi",
    "Phi3",
    "GPT2",
    "OPT",
    "Bamba",
    "RecurrentGemma",
)


def _make(kind: str, seed: int, **options):
    torch.manual_seed(seed)
    config_class = getattr(transformers, CONFIG.get(kind, f"{kind}Config"))
    model_class = getattr(transformers, CLASS.get(kind, f"{kind}ForCausalLM"))
    unknown = {"GPT2": ("hidden", "num_", "max_"), "Bamba": ("head_dim",)}.get(kind, ())
    sizes = {key: value for key, value in SIZES.items() if not key.startswith(unknown)}
    return model_class(config_class(**(sizes | KINDS[kind] | options))).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_fused_with_a_llama_equals_the_loop_and_decodes_from_its_cache(kind):
    specialists = {"odd": _make(kind, 1), "llama": _make("Llama", 2)}
    model = UltraFuserForCausalLM.from_specialists(specialists, gate="constant")
    with torch.no_grad():
        model.gate.logits.copy_(torch.tensor([0.7, -0.2]))
    weights = torch.tensor([0.7, -0.2]).softmax(0)
    prompts = [[[5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21]], [[30, 31], [40, 41, 42, 43]]]
    inputs = model.prepare_prompts(prompts)
    model.generation_config.eos_token_id = None
    P = inputs["input_ids"].shape[1]
    found = model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, P:].tolist()
    for example, answer in zip(prompts, found, strict=True):
        with torch.no_grad():
            own = [
                specialist(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
                for specialist, prompt in zip(specialists.values(), example, strict=True)
            ]
        expected = sum(w * o for w, o in zip(weights, own, strict=True))
        assert expected.argmax(-1).tolist() == answer
    with torch.no_grad():
        output = model(**inputs, logits_to_keep=1)
        for i, example in enumerate(prompts):
            own = [s(torch.tensor([p])).logits[0, -1] for s, p in zip(specialists.values(), example, strict=True)]
            expected = sum(w * o.double() for w, o in zip(weights, own, strict=True))
            assert (output.logits[i, 0] - expected).abs().max() < 1e-4


def _greedy(model, prompt, steps=14):
    """The model's own greedy tokens, the whole text read again at every step."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", NAMED)
def test_one_alone_equals_itself_in_a_batch_and_one_by_one(kind):
    alone = _make(kind, 1)
    model = UltraFuserForCausalLM.from_specialists({"one": alone})
    model.generation_config.eos_token_id = None
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]])
    with torch.no_grad():
        assert (model(input_ids=ids).logits - alone(ids).logits).abs().max() < 1e-4
    prompts = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [20], [30, 31, 32]]
    options = {"max_new_tokens": 14, "do_sample": False}
    inputs = model.prepare_prompts([[prompt] for prompt in prompts])
    found = model.generate(**inputs, **options)
    assert torch.equal(found, model.generate(**inputs, **options, use_cache=False))
    for prompt, answer in zip(prompts, found[:, 9:].tolist(), strict=True):
        assert answer == _greedy(alone, prompt)
        single = model.prepare_prompts([[prompt]])
        assert model.generate(**single, **options)[0, len(prompt) :].tolist() == answer


@pytest.fixture(scope="module")
def mixed_folders(tmp_path_factory, tiny_tokenizer):
    """One folder for each of NAMED, widths 16 and 24, one tokenizer, each with its own template."""
    root, folders = tmp_path_factory.mktemp("mixed"), {}
    ids = {"vocab_size": len(tiny_tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    wider = {"GPT2": {"n_embd": 24}, "Qwen3": {"hidden_size": 24}, "Phi": {"hidden_size": 24}}
    for seed, kind in enumerate(NAMED, start=1):
        _make(kind, seed, **ids, **wider.get(kind, {})).save_pretrained(root / kind)
        tokenizer = copy.deepcopy(tiny_tokenizer)
        said = "{% for m in messages %}" + kind * (1 + seed % 3) + ": {{ m.content }}\n{% endfor %}"
        tokenizer.chat_template = said
        tokenizer.save_pretrained(root / kind)
        folders[kind] = root / kind
    return folders


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_all_together_equal_the_loop_over_plain_models(mixed_folders, reference, tiny_tokenizer, tmp_path, rule):
    model = UltraFuserForCausalLM.from_specialists(mixed_folders, fusion=rule, seed=2)
    model.generation_config.eos_token_id = None
    truth = reference(mixed_folders.values(), model)
    asked = ("a fox?", "What is 12 plus 30? Say it.")
    prompts = [
        encode_prompt([{"role": "user", "content": text}], model.config.templates, tiny_tokenizer) for text in asked
    ]
    inputs = model.prepare_prompts(prompts)
    P = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": 12, "do_sample": False}
    found = model.generate(**inputs, **options)
    assert torch.equal(found, model.generate(**inputs, **options, use_cache=False))
    with torch.no_grad():
        output = model(**{**inputs, "input_ids": found, "attention_mask": None})
    for i, example in enumerate(prompts):
        answer = found[i, P:].tolist()
        positions = [range(len(prompt) - 1, len(prompt) + 11) for prompt in example]
        logits, weights = truth.logits([prompt + answer for prompt in example], positions, rule)
        assert logits.argmax(-1).tolist() == answer
        ours = output.logits[i, P - 1 : -1]
        assert (ours - logits).abs().max() < 1e-4
        assert (output.gate_weights[i, P - 1 : -1] - weights).abs().max() < 1e-5
    model.save_pretrained(tmp_path)
    again, report = UltraFuserForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    again.generation_config.eos_token_id = None
    assert torch.equal(again.generate(**inputs, **options), found)


def test_heads_are_what_they_should_be():
    heads = {kind: build_head(_make(kind, 1), 97) for kind in ("Llama", "Gemma2", "Cohere", "Granite", "Phi")}
    assert heads["Llama"].is_linear
    assert heads["Llama"].scale == 1.0
    assert not heads["Gemma2"].is_linear
    assert heads["Gemma2"].softcap == 5.0
    assert build_head(_make("RecurrentGemma", 1), 97).softcap == 0.5
    assert heads["Cohere"].scale == 0.25
    assert heads["Granite"].scale == 0.25
    assert heads["Phi"].bias() is not None


@pytest.mark.parametrize("rule", ["logits", "probabilities"])
def test_soft_cap_learns_by_the_plain_rule(rule):
    model = UltraFuserForCausalLM.from_specialists({"a": _make("Gemma2", 1), "b": _make("Phi", 2)}, fusion=rule)
    ids = torch.tensor([[5, 6, 7, 8]])
    lean = model(input_ids=ids, labels=ids, return_logits=False).loss
    lean.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    full = model(input_ids=ids, labels=ids).loss
    full.backward()
    assert torch.allclose(lean, full, atol=1e-5)
    assert len(gradients) == len(dict(model.named_parameters()))
    for name, parameter in model.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-4), name


def test_three_architectures_round_trip(tmp_path):
    kinds = ("Mixtral", "Gemma2", "GPTNeoX")
    model = UltraFuserForCausalLM.from_specialists({kind: _make(kind, k) for k, kind in enumerate(kinds)})
    model.save_pretrained(tmp_path / "a")
    again, report = UltraFuserForCausalLM.from_pretrained(tmp_path / "a", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for (name, ours), theirs in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_unknown_treatment_of_logits_is_refused():
    model = _make("Llama", 1)
    check_head(model, "specialists.a")

    class Twisted(type(model)):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits.abs()
            return output

    model.__class__ = Twisted
    with pytest.raises(ValueError, match=r"specialists\.a: Twisted computes its logits in a way that is not supported"):
        check_head(model, "specialists.a")
    with pytest.raises(ValueError, match=r"specialists\.odd: Twisted computes"):
        UltraFuserForCausalLM.from_specialists({"odd": model})


def test_model_without_a_standard_cache_is_refused():
    config = transformers.MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(ValueError, match=r"specialists\.m: MambaForCausalLM keeps no standard key/value cache"):
        UltraFuserForCausalLM.from_specialists({"m": transformers.MambaForCausalLM(config)})
