"""Training specialists that are adapters on one base: the adapters alone learn, as PEFT's would one by one."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from ultrafuser.data import Conversation, ResponseDataset
from ultrafuser.modeling import UltraFuserForCausalLM, content_hash
from ultrafuser.recipe import StageConfig
from ultrafuser.training import run_stages, specialise
from ultrafuser.training.parameters import select_trainable, set_formats, thaw

peft = pytest.importorskip("peft")


@pytest.fixture
def base(specialist_folders):
    """The folder of the base."""
    return specialist_folders["text"]


@pytest.fixture
def trio(base, tmp_path):
    """Two adapters and their base."""
    for seed, name in enumerate(("math", "code")):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=3 + seed, target_modules="all-linear", init_lora_weights=False)
        wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        wrapped.save_pretrained(tmp_path / name)
    sources = {"math": tmp_path / "math", "text": base, "code": tmp_path / "code"}
    return UltraFuserForCausalLM.from_specialists(sources, templates=["plain"] * 3, seed=2)


def dataset(model, tokenizer):
    rows = []
    for kind in ("code", "math"):
        for i in range(8):
            answer = {"role": "assistant", "content": f"is {i + 1}"}
            rows.append(Conversation(f"{kind}/{i}", kind, [{"role": "user", "content": f"{kind} {i}"}, answer]))
    return ResponseDataset.from_conversations(rows, model.config.templates, tokenizer, max_length=64)


def test_what_learns(trio):
    select_trainable(trio, "all")
    learning = {name for name, parameter in trio.named_parameters() if parameter.requires_grad}
    assert {name for name in learning if ".lora_" not in name} == {n for n in learning if n.startswith("gate.")}
    assert len([name for name in learning if ".lora_" in name]) == 2 * 7 * 2
    select_trainable(trio, "gate")
    assert not any(parameter.requires_grad for parameter in trio.shared0.parameters())
    thaw(trio)
    assert {name for name, parameter in trio.named_parameters() if parameter.requires_grad} == learning


def test_adapters_in_sixteen_bits_learn_in_float32(trio):
    trio.to(torch.bfloat16)
    set_formats(trio, {0: torch.bfloat16, 2: torch.bfloat16}, learning=True)
    formats = {(".lora_" in name, parameter.dtype) for name, parameter in trio.shared0.named_parameters()}
    assert formats == {(True, torch.float32), (False, torch.bfloat16)}
    set_formats(trio, {0: torch.bfloat16, 2: torch.bfloat16}, learning=False)
    assert {parameter.dtype for parameter in trio.shared0.parameters()} == {torch.bfloat16}


def test_both_stages(trio, tiny_tokenizer, tmp_path):
    data = dataset(trio, tiny_tokenizer)
    before = {name: parameter.detach().clone() for name, parameter in trio.named_parameters()}
    common = {"steps": 3, "examples_per_category": 4, "learning_rate": 1e-2, "save_every": 3}
    stages = [
        StageConfig(name="gate", train="gate", stored_states="exact", **common),
        StageConfig(name="all", train="all", **common),
    ]
    result = run_stages(trio, tiny_tokenizer, stages, data, data, tmp_path / "run", seed=1)
    assert result.stages[1].after["math"] < result.stages[0].before["math"]
    changed = {name for name, parameter in trio.named_parameters() if not parameter.equal(before[name])}
    assert changed == {name for name in before if ".lora_" in name or name.startswith("gate.")}
    trio.save_adapter("math", tmp_path / "trained")
    again = UltraFuserForCausalLM.from_specialists({"math": tmp_path / "trained"}, templates=["plain"])
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        own = trio(ids, output_hidden_states=True).hidden_states[0]
        assert torch.allclose(again(ids, output_hidden_states=True).hidden_states[0], own, atol=1e-5)


def test_stored_states_are_those_of_the_online_path(trio, tiny_tokenizer, tmp_path):
    data = dataset(trio, tiny_tokenizer)
    common = {"steps": 4, "examples_per_category": 4, "learning_rate": 1e-2, "save_every": 4, "train": "gate"}
    found = []
    for place, form in enumerate((None, "exact")):
        trio.gate.reset_parameters(7)
        stage = StageConfig(name="gate", stored_states=form, **common)
        run_stages(trio, tiny_tokenizer, [stage], data, data, tmp_path / str(place), seed=1)
        found.append(trio.gate.inner.weight.detach().clone())
    assert torch.allclose(*found, atol=1e-5)


def test_specialise_records_its_base_and_what_it_made_is_stacked(base, tmp_path):
    rows = [{"instruction": f"add {a} and 1", "output": f"{a + 1}"} for a in range(40)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = StageConfig(name="sums", train="specialists", steps=2, examples_per_category=4, learning_rate=1e-2)
    specialise(base, [tmp_path / "sums.jsonl"], tmp_path / "sums", stage, dtype="float32", template="plain")
    note = json.loads((tmp_path / "sums" / "ultrafuser.json").read_text())
    assert note == {"base_sha256": content_hash(base)}
    model = UltraFuserForCausalLM.from_specialists({"base": base, "sums": tmp_path / "sums"})
    assert [group.members for group in model.config.groups] == [(1, 0)]
    ids = torch.tensor([[5, 6, 7, 8]])
    alone = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "sums")
    with torch.no_grad():
        own = model(ids, output_hidden_states=True).hidden_states[1]
        expected = alone(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(own, expected, atol=1e-4)
