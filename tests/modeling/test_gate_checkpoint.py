"""Gate-only checkpoints: what `from_pretrained` takes, and that nothing is held in memory twice."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from ultrafuser.modeling import UltraFuserForCausalLM, gate_checkpoint, gate_places, unchanged
from ultrafuser.modeling.placement import Placement, check_device, read_device_map

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def gate_folder(fused_model, tmp_path):
    fused_model.save_pretrained(tmp_path / "gate", gate_only=True)
    return tmp_path / "gate"


def _logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_options_of_transformers(fused_model, gate_folder):
    whole = _logits(fused_model)
    narrow = AutoModelForCausalLM.from_pretrained(gate_folder, dtype=torch.bfloat16)
    assert {p.dtype for s in narrow.specialists for p in s.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in narrow.gate.parameters()} == {torch.float32}
    assert narrow.config.dtype == narrow.dtype == torch.bfloat16
    eager = AutoModelForCausalLM.from_pretrained(gate_folder, attn_implementation="eager", low_cpu_mem_usage=True)
    assert {s.config._attn_implementation for s in eager.specialists} == {"eager"}
    assert (_logits(eager) - whole).abs().max() < 1e-5
    for device_map in ("auto", "cpu", torch.device("cpu"), {"": "cpu"}, {"specialist0": "cpu", "gate": "cpu"}):
        model = AutoModelForCausalLM.from_pretrained(gate_folder, device_map=device_map)
        assert torch.equal(_logits(model), whole), device_map


def test_specialists_spilled_to_disk_by_accelerate(fused_model, gate_folder, tmp_path):
    layers = {f"specialist{j}": "cpu" for j in (0, 1)} | {"specialist2": "disk", "gate": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(gate_folder, device_map=layers, offload_folder=tmp_path / "spill")
    assert next(model.specialist(2).parameters()).is_meta
    assert (_logits(model) - _logits(fused_model)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float99"}, r"dtype: 'float99' is no number format for weights; choose float32"),
        ({"device_map": "cuda:93"}, r"device_map\[''\]: 'cuda:93' is not on this machine; there is .*cpu"),
        ({"device_map": {"specialist7": "cpu"}}, r"device_map: no part 'specialist7'; there are specialist0"),
    ],
)
def test_bad_options_are_named_before_a_specialist_is_opened(gate_folder, monkeypatch, options, message):
    monkeypatch.setattr(gate_places, "open_specialist", lambda *a, **k: pytest.fail("opened"))
    with pytest.raises(ValueError, match=message):
        UltraFuserForCausalLM.from_pretrained(gate_folder, **options)


def test_unknown_options_are_refused(gate_folder):
    with pytest.raises(TypeError, match=r"from_pretrained: colour cannot be used with a gate-only checkpoint"):
        UltraFuserForCausalLM.from_pretrained(gate_folder, colour="red")


def test_a_gate_of_another_shape_is_refused(gate_folder):
    config = gate_checkpoint.UltraFuserConfig.from_pretrained(gate_folder)
    config.gate["hidden_size"] = 7
    with pytest.raises(ValueError, match=r"gate: the weights in model\.safetensors are not those"):
        UltraFuserForCausalLM.from_pretrained(gate_folder, config=config)


def test_specialists_are_the_opened_ones_themselves(gate_folder, monkeypatch):
    opened, plain = [], gate_places.open_specialist

    def counted(*arguments, **options):
        opened.append(plain(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(gate_places, "open_specialist", counted)
    model = UltraFuserForCausalLM.from_pretrained(gate_folder)
    assert [id(one) for one in model.specialists] == [id(one) for one in opened]


# ---- whether a specialist changed ----


def test_saving_the_gate_opens_no_specialist_again(fused_model, tmp_path, monkeypatch):
    monkeypatch.setattr(unchanged, "open_specialist", lambda *a, **k: pytest.fail("opened"))
    fused_model.save_pretrained(tmp_path / "a", gate_only=True)
    fused_model.to(torch.bfloat16)  # narrower than the files, as opened with dtype
    fused_model.save_pretrained(tmp_path / "b", gate_only=True)


def test_first_change_agrees_with_opening_it_again(fused_model):
    for name, specialist in zip(fused_model.config.specialist_names, fused_model.specialists, strict=True):
        origin = specialist.ultrafuser_origin
        assert unchanged.first_change(specialist, origin) is None
        assert unchanged.first_change_reference(specialist, origin, name) is None
        for key, value in specialist.named_parameters():
            before = copy.deepcopy(value.data)
            value.data.view(-1)[-1] += 1
            found = unchanged.first_change(specialist, origin)
            assert found == unchanged.first_change_reference(specialist, origin, name) is not None, key
            value.data.copy_(before)


# ---- devices ----


def test_device_maps_are_read(fused_model):
    names = [group.name for group in fused_model.config.groups]
    cpu = torch.device("cpu")
    assert read_device_map({}, names) == Placement()
    assert read_device_map({"device_map": "cpu"}, names) == Placement({0: cpu, 1: cpu, 2: cpu}, cpu)
    assert read_device_map({"device_map": {"specialist1": "cpu"}}, names) == Placement({1: cpu})
    fine = {"specialist0.model": "cpu", "": "cpu"}
    assert read_device_map({"device_map": fine, "max_memory": {"cpu": 1}}, names) == Placement(
        spread=fine, limits={"max_memory": {"cpu": 1}}
    )


def test_devices_that_do_not_exist():
    with pytest.raises(ValueError, match=r"device: 'gpu' is no device; write cpu"):
        check_device("gpu", "device")
    with pytest.raises(ValueError, match=r"device: 'cuda:93' is not on this machine; there is .*cpu"):
        check_device("cuda:93", "device")
