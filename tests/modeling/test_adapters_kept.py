"""Fused models with adapters: both forms of a checkpoint, adapters written back, specialists added and removed."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))
from adapter_zoo import make_adapter, make_base, make_pair
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ultrafuser.modeling import UltraFuserForCausalLM, add_specialist, content_hash, remove_specialist

IDS = torch.arange(3, 14)[None]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A base, two adapters on it, and another base with one adapter. Read only."""
    root = tmp_path_factory.mktemp("parts")
    base, adapters = make_pair("Qwen2", root / "a")
    other = make_base("Llama", root / "b" / "base", seed=5)
    found = {"base": base, **adapters, "other": other, "law": make_adapter(other, root / "b" / "law", 6)}
    for name, on in (("math", base), ("text", base), ("law", other)):
        (found[name] / "ultrafuser.json").write_text(json.dumps({"base_sha256": content_hash(on)}))
    return found


@pytest.fixture
def copies(parts, tmp_path):
    """The same, free to be changed; the adapters still name the first places as their bases."""
    return {name: Path(shutil.copytree(folder, tmp_path / "copies" / name)) for name, folder in parts.items()}


def fuse(parts, *names, **options):
    """The parts of these names, "code" being the base alone."""
    sources = {name: parts["base" if name == "code" else name] for name in names}
    return UltraFuserForCausalLM.from_specialists(sources, seed=1, **options)


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def weights(model):
    return {name: parameter for name, parameter in model.named_parameters() if not name.startswith("gate.")}


def test_two_groups_and_a_plain_one(parts, tmp_path):
    model = fuse(parts, "law", "code", "math", "text")
    model = add_specialist(model, "plain", make_base("Llama", tmp_path / "plain", seed=9))
    assert [(group.name, group.members) for group in model.config.groups] == [
        ("shared0", (0,)),
        ("shared1", (2, 3, 1)),
        ("specialist4", (4,)),
    ]
    with torch.no_grad():
        hidden = model(IDS, output_hidden_states=True).hidden_states
        for j, (base, adapter) in enumerate([("other", "law"), ("base", None), ("base", "math"), ("base", "text")]):
            alone = AutoModelForCausalLM.from_pretrained(parts[base])
            alone = alone if adapter is None else PeftModel.from_pretrained(alone, parts[adapter])
            expected = alone(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
            assert torch.allclose(hidden[j], expected, atol=1e-4)
    model.generation_config.eos_token_id = None
    answer = model.generate(IDS, max_new_tokens=4, do_sample=False, num_beams=2)
    assert torch.equal(answer, model.generate(IDS, max_new_tokens=4, do_sample=False, num_beams=2, use_cache=False))


def test_self_contained(parts, tmp_path):
    model = fuse(parts, "math", "code", "text")
    model.save_pretrained(tmp_path / "model")
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(logits(again), logits(model))
    assert again.shared0.lm_head.weight is again.shared0.model.embed_tokens.weight
    stored = (tmp_path / "model" / "model.safetensors").stat().st_size
    sizes = [f.stat().st_size for name in ("base", "math", "text") for f in parts[name].glob("*.safetensors")]
    gate = 4 * sum(parameter.numel() for parameter in model.gate.parameters())
    assert stored - gate < 1.2 * sum(sizes)
    entry = json.loads((tmp_path / "model" / "config.json").read_text())["sources"][0]
    assert entry["sha256"] == content_hash(parts["math"])
    assert entry["base"]["sha256"] == content_hash(parts["base"])
    assert str(parts["base"].parent) not in (tmp_path / "model" / "config.json").read_text()
    card = (tmp_path / "model" / "README.md").read_text()
    digest = content_hash(parts["base"])[:16]
    assert f"| code | Qwen2ForCausalLM, also the base of math, text | a local model | not stated | {digest} |" in card
    assert "| math | an adapter on Qwen2ForCausalLM | a local model, on a local model " in card
    with pytest.raises(ValueError, match=r"specialists.math: fused from memory or from a self-contained"):
        again.save_pretrained(tmp_path / "gate", gate_only=True)


def test_gate_only_points_at_base_and_adapters(copies, tmp_path):
    model = fuse(copies, "math", "code", "text", bases=dict.fromkeys(("math", "text"), copies["base"]))
    model.save_pretrained(tmp_path / "gate", gate_only=True)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "gate", output_loading_info=True)
    assert not report["missing_keys"]
    assert torch.equal(logits(again), logits(model))
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())
    again.save_pretrained(tmp_path / "gate2", gate_only=True)

    moved = copies["base"].rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"specialists.math.base: its weights .*looked at .*-path math.base=PLACE"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "gate")
    for key in ("code", "math.base"):
        found = UltraFuserForCausalLM.from_pretrained(tmp_path / "gate", specialist_paths={key: moved})
        assert torch.equal(logits(found), logits(model))
    with pytest.raises(ValueError, match=r"specialist_paths.code.base: no such specialist.*math.base, text.base"):
        UltraFuserForCausalLM.from_pretrained(tmp_path / "gate", specialist_paths={"code.base": moved})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("base", r"specialists.math.base: the weights in .*/base' have SHA-256"),
        ("text", r"specialists.text: the weights in .*/text' have SHA-256"),
        ("alpha", r"specialists.math: rank, alpha or layers of the adapter in .*/math' are not those"),
    ],
)
def test_a_changed_part_is_refused(copies, tmp_path, change, message):
    model = fuse(copies, "math", "code", "text", bases=dict.fromkeys(("math", "text"), copies["base"]))
    model.save_pretrained(tmp_path / "gate", gate_only=True)
    if change == "alpha":
        file = copies["math"] / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 9}))
    else:
        (file,) = copies[change].glob("*.safetensors")
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        AutoModelForCausalLM.from_pretrained(tmp_path / "gate")


@pytest.mark.parametrize("what", ["adapter", "base"])
def test_gate_only_refuses_what_has_learned(parts, tmp_path, what):
    model = fuse(parts, "math", "text")
    name = next(n for n, _ in weights(model).items() if ("lora_B" in n) == (what == "adapter"))
    with torch.no_grad():
        weights(model)[name].add_(1)
    with pytest.raises(ValueError, match=r"specialists.math: its (adapter differs|weights differ) from"):
        model.save_pretrained(tmp_path / "gate", gate_only=True)


def test_an_adapter_that_has_learned_is_written_for_peft(parts, tmp_path):
    model = fuse(parts, "math", "code", "text")
    with torch.no_grad():
        for name, parameter in weights(model).items():
            if ".lora_" in name:
                parameter.mul_(1.5)
    hidden = model(IDS, output_hidden_states=True).hidden_states
    for j, name in ((0, "math"), (2, "text")):
        model.save_adapter(name, tmp_path / name)
        base = AutoModelForCausalLM.from_pretrained(parts["base"])
        alone = PeftModel.from_pretrained(base, tmp_path / name)
        expected = alone(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
        assert torch.allclose(hidden[j], expected, atol=1e-4)
    again = UltraFuserForCausalLM.from_specialists(
        {"math": tmp_path / "math", "code": parts["base"], "text": tmp_path / "text"}, seed=1
    )
    assert torch.allclose(logits(again), logits(model), atol=1e-5)
    with pytest.raises(ValueError, match=r"specialists.code: is no adapter on a base but a complete model"):
        model.save_adapter("code", tmp_path / "code")
    with pytest.raises(ValueError, match="already holds an adapter"):
        model.save_adapter("math", tmp_path / "text")


def test_an_adapter_joins_the_base_that_is_there(parts, tmp_path):
    whole = fuse(parts, "math", "code", "text")
    two = fuse(parts, "math", "code")
    three = add_specialist(two, "text", parts["text"])
    assert [group.members for group in three.config.groups] == [(0, 2, 1)]
    assert three.shared0.model.embed_tokens.weight is two.shared0.model.embed_tokens.weight
    assert torch.equal(logits(three), logits(whole))
    assert two.config.n_specialists == 2
    assert torch.equal(logits(remove_specialist(three, "text")), logits(two))

    plain = fuse(parts, "code", "law")
    joined = add_specialist(plain, "math", parts["math"])
    assert [(group.name, group.members) for group in joined.config.groups] == [("shared0", (2, 0)), ("shared1", (1,))]
    assert [group.name for group in plain.config.groups] == ["specialist0", "shared0"]
    assert "math" not in plain.config.adapters

    whole.save_pretrained(tmp_path / "model")
    for copy in (AutoModelForCausalLM.from_pretrained(tmp_path / "model"), whole):
        less = remove_specialist(copy, "math")
        assert [group.members for group in less.config.groups] == [(1, 0)]
        assert torch.equal(
            logits(add_specialist(less, "math", parts["math"])), logits(fuse(parts, "code", "text", "math"))
        )


def test_removing_all_adapters_leaves_an_ordinary_base(parts):
    model = remove_specialist(remove_specialist(fuse(parts, "math", "code", "law"), "math"), "law")
    assert [group.name for group in model.config.groups] == ["specialist0"]
    assert model.config.adapters == {}
    expected = AutoModelForCausalLM.from_pretrained(parts["base"])(IDS).logits
    assert torch.allclose(logits(model), expected, atol=1e-5)


def test_one_specialist_as_an_ordinary_model(parts):
    model = fuse(parts, "math", "code", "text")
    alone = model.specialist("text").alone()
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(parts["base"]), parts["text"])
    with torch.no_grad():
        assert torch.allclose(alone(IDS).logits, expected(input_ids=IDS).logits, atol=1e-4)
    assert alone.get_input_embeddings().weight is model.shared0.get_input_embeddings().weight


def test_a_base_in_memory(parts):
    base = AutoModelForCausalLM.from_pretrained(parts["base"])
    sources = {"math": parts["math"], "code": base, "text": parts["text"]}
    model = UltraFuserForCausalLM.from_specialists(sources, bases={"math": base, "text": base}, seed=1)
    assert model.shared0 is base
    assert torch.equal(logits(model), logits(fuse(parts, "math", "code", "text")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "specialists.math: .*use_dora"),
        ({"modules_to_save": ["lm_head"]}, "specialists.math: .*modules_to_save"),
        ({"target_modules": ["lm_head", "q_proj"]}, "specialists.math: .*lm_head"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "specialists.math: .*embedding"),
    ],
)
def test_adapters_that_cannot_be_stacked(parts, tmp_path, settings, message):
    adapter = make_adapter(parts["other"], tmp_path / "adapter", 3, **settings)
    with pytest.raises(ValueError, match=message):
        UltraFuserForCausalLM.from_specialists({"math": adapter})


def _nothing_opens(*_, **__):
    raise AssertionError("weights of the base were opened")


def test_wrong_bases_are_refused_before_weights_are_read(copies, tmp_path, monkeypatch):
    monkeypatch.setattr("ultrafuser.modeling.assemble.open_specialist", _nothing_opens)

    def refused(message, sources, **options):
        with pytest.raises(ValueError, match=message):
            UltraFuserForCausalLM.from_specialists(sources, **options)

    refused(
        r"specialists.math.base: the weights in .* trained on",
        {"math": copies["math"]},
        bases={"math": copies["other"]},
    )
    (copies["math"] / "ultrafuser.json").unlink()
    only = {"math": copies["math"]}
    refused(
        r"math.base: the adapter is made for 'model.*' of 48x32, in the base it is 96x32",
        only,
        bases={"math": _wide(tmp_path)},
    )
    gpt2 = make_base("GPT2", tmp_path / "gpt2")
    refused(r"math.base: the adapter changes '.*', which does not exist in the base \(GPT2", only, bases={"math": gpt2})
    whole = {"code": copies["base"]}
    refused(r"code.base: .* given, but its source is a complete model", whole, bases={"code": copies["other"]})
    refused(r"bases.maths: no such specialist", only, bases={"maths": copies["base"]})
    refused(r"specialists.math.base: folder '.*' does not exist", only, bases={"math": tmp_path / "nowhere"})
    (copies["math"] / "adapter_model.safetensors").unlink()
    refused(r"specialists.math: .* no weights", only)


def _wide(tmp_path):
    """A base like the first but wider."""
    folder = make_base("Qwen2", tmp_path / "wide")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"intermediate_size": 96}))
    return folder


def test_a_quantised_base_is_one_for_all_its_adapters(parts, tmp_path):
    pytest.importorskip("torchao")
    plain = fuse(parts, "math", "code", "text")
    model = fuse(parts, "math", "code", "text", quantisation={"code": "int8"})
    assert [entry["quantisation"] for entry in model.config.sources] == ["int8"] * 3
    difference = (logits(model) - logits(plain)).abs().max()
    assert 0 < difference < 0.1 * logits(plain).abs().max()
    model.save_pretrained(tmp_path / "gate", gate_only=True)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "gate")), logits(model))
    with pytest.raises(
        ValueError, match=r"specialists.math.quantisation: math int8, code int4, but they share one base"
    ):
        fuse(parts, "math", "code", quantisation={"code": "int4", "math": "int8"}, dtype="bfloat16")
