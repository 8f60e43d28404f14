"""Adding a specialist to a fused model and taking one away."""

import pytest
import torch

from ultrafuser.modeling import UltraFuserForCausalLM, add_specialist, remove_specialist


def _logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits


@pytest.mark.parametrize("gate", ["token", "evidence", "constant"])
def test_adding_then_removing_gives_back_the_same(specialist_folders, chat_templates, gate):
    two = {name: specialist_folders[name] for name in ("text", "code")}
    model = UltraFuserForCausalLM.from_specialists(two, templates=list(chat_templates.values())[:2], gate=gate, seed=5)
    model.config.gate_training = {"trained": True, "stages": []}
    three = add_specialist(model, "math", specialist_folders["math"], chat_templates["math"])
    assert three.config.specialist_names == ["text", "code", "math"]
    assert three.config.templates == list(chat_templates.values())
    assert three.specialist("text") is model.specialist("text")
    assert model.n_specialists == 2
    assert three.gate_is_trained
    assert three.config.gate_training["changes"] == ["math added"]
    if gate != "constant":
        whole = UltraFuserForCausalLM.from_specialists(specialist_folders, gate=gate, seed=5)
        assert torch.equal(_logits(three), _logits(whole))
    back = remove_specialist(three, "math")
    assert torch.equal(_logits(back), _logits(model))
    assert back.config.gate_training["changes"] == ["math added", "math removed"]
    assert not _logits(three).equal(_logits(model))


def test_joint_gate_is_drawn_anew_and_says_so(specialist_folders):
    model = UltraFuserForCausalLM.from_specialists(specialist_folders, gate="joint")
    model.config.gate_training = {"trained": True, "stages": []}
    fewer = remove_specialist(model, "text")
    assert not fewer.gate_is_trained
    assert fewer.gate.inner.in_features == 32
    again = remove_specialist(model, "text")
    assert torch.equal(fewer.gate.inner.weight, again.gate.inner.weight)


def test_result_saves_and_loads_in_both_forms(fused_model, specialist_folders, tmp_path):
    fewer = remove_specialist(fused_model, "text")
    for gate_only in (False, True):
        folder = tmp_path / str(gate_only)
        fewer.save_pretrained(folder, gate_only=gate_only)
        again, report = UltraFuserForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"]
        assert again.config.specialist_names == ["code", "math"]
        assert torch.equal(_logits(again), _logits(fewer))
    more = add_specialist(again, "again", specialist_folders["text"])
    more.save_pretrained(tmp_path / "more")
    card = (tmp_path / "more" / "README.md").read_text()
    assert "Fused model of code, math, again" in card
    assert torch.equal(_logits(UltraFuserForCausalLM.from_pretrained(tmp_path / "more")), _logits(more))


def test_card_says_that_the_set_changed_after_training(fused_model, tmp_path):
    fused_model.config.gate_training = {"trained": True, "stages": []}
    remove_specialist(fused_model, "math").save_pretrained(tmp_path / "a")
    assert "After training: math removed." in (tmp_path / "a" / "README.md").read_text()


def test_top_k_larger_than_the_rest_is_dropped(fused_model):
    fused_model.config.fusion["top_k"] = 3
    assert remove_specialist(fused_model, "math").config.fusion["top_k"] is None


def test_what_cannot_be_added_or_removed_is_named(fused_model, specialist_folders, make_llama):
    with pytest.raises(ValueError, match=r"specialists\.code: there is a specialist of this name already"):
        add_specialist(fused_model, "code", specialist_folders["text"])
    with pytest.raises(ValueError, match=r"specialists\.big: its vocabulary has 310 entries, the fused model's 300"):
        add_specialist(fused_model, "big", make_llama(4, vocab=310))
    with pytest.raises(ValueError, match=r"specialists\.gone: folder '/no/where' does not exist"):
        add_specialist(fused_model, "gone", "/no/where")
    with pytest.raises(ValueError, match=r"specialist: 'cod' is not one of text, code, math; did you mean 'code'"):
        remove_specialist(fused_model, "cod")
    last = remove_specialist(remove_specialist(fused_model, "math"), "code")
    with pytest.raises(ValueError, match=r"specialists\.text: the only specialist left cannot be removed"):
        remove_specialist(last, "text")
