"""Specialists whose tokenizers differ: one distribution over byte strings, held against plain models one by one."""

import json
import math
import shutil

import pytest
import torch
from token_makers import byte_level
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultrafuser.data import Conversation, ResponseCollator, ResponseDataset
from ultrafuser.modeling import UltraFuserForCausalLM, add_specialist, remove_specialist, save_fused
from ultrafuser.modeling.mixture import mixture_loss, mixture_loss_reference
from ultrafuser.tokens import TokenTable
from ultrafuser.tokens.alignment import TRIAL

ANSWERS = ["the quick brown fox", "def add(a):\n\treturn 42  ", "naïve 数学 \U0001f468\u200d\U0001f469", ""]


def fuse(folders, **options):
    model = UltraFuserForCausalLM.from_specialists(folders, fusion=options.pop("fusion", "probabilities"), **options)
    if hasattr(model.gate, "outer"):
        with torch.no_grad():
            model.gate.outer.weight.mul_(20)
    return model


def batch_of(model, answers=ANSWERS):
    turns = [[{"role": "user", "content": "say it"}, {"role": "assistant", "content": text}] for text in answers]
    turns[0] = [*turns[0], {"role": "user", "content": "again"}, {"role": "assistant", "content": "roses are red"}]
    found = ResponseDataset.from_conversations(
        [Conversation(str(i), "x", messages) for i, messages in enumerate(turns)],
        model.config.templates,
        model.alignment.tables,
    )
    batch = ResponseCollator(2)([found[i] for i in range(len(found))])
    del batch["category"]
    return found, batch


def pieces(model, batch):
    """Hidden states, labels, availability and gate weights at response positions."""
    output = model(**batch, output_hidden_states=True)
    keep = batch["labels"] != -100
    available = (batch["response_index"] >= 0).transpose(1, 2)[keep]
    return [h[keep] for h in output.hidden_states], batch["labels"][keep], available, output.gate_weights[keep], output


def plain_loss(folders, found, weights_BRN, b):
    """-log sum_j w_j p_j(string) of one example, from plain models that read one sequence each."""
    example, total = found[b], []
    tables, logs = [], []
    for j, folder in enumerate(folders.values()):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        tables.append(TokenTable(AutoTokenizer.from_pretrained(folder)))
        ids, _ = example.sequence(j)
        with torch.no_grad():
            logs.append(model(torch.tensor([ids.tolist()])).logits[0, :, : len(tables[j])].log_softmax(-1))
    position = 0
    for turn, labels in enumerate(example.responses):
        for r, label in enumerate(labels.tolist()):
            before = tables[0].bytes_of(labels[:r].tolist())
            p = 0.0
            for j, table in enumerate(tables):
                own = example.own[j][turn].tolist()
                at = sum(len(example.prompts[j][t]) for t in range(turn + 1)) + sum(
                    len(example.own[j][t]) for t in range(turn)
                )
                prefixes = [table.bytes_of(own[:k]) for k in range(len(own))]
                if before not in prefixes:
                    continue
                token = table.end if label == tables[0].end else table.ids.get(tables[0].text[label])
                if token is not None:
                    p += float(weights_BRN[b, position, j].detach()) * math.exp(
                        logs[j][at + prefixes.index(before) - 1, token]
                    )
            total.append(-math.log(p))
            position += 1
    return total


def test_the_loss_is_that_of_plain_models_mixed_by_hand(crossing_folders):
    model = fuse(crossing_folders, seed=3)
    found, batch = batch_of(model)
    output = model(**batch)
    for b in range(len(found)):
        expected = plain_loss(crossing_folders, found, output.gate_weights, b)
        assert output.token_loss[b, : len(expected)].tolist() == pytest.approx(expected, abs=1e-4)
    shares = found.participation()["x"]
    assert shares[0] == 1.0
    assert 0.3 < shares[1] < 1.0


def test_the_fast_loss_is_the_reference_also_in_its_gradients_and_in_pieces(crossing_folders):
    model = fuse(crossing_folders, seed=4)
    _, batch = batch_of(model)
    hidden, labels, available, _, _ = pieces(model, batch)
    hidden = [states.detach() for states in hidden]
    losses, gradients = [], []
    for chunk in (None, 1 << 20, 1):
        weights = model.respond(hidden, None, available)[0]
        arguments = (weights, hidden, model.heads, labels, model.alignment, available)
        loss = mixture_loss_reference(*arguments) if chunk is None else mixture_loss(*arguments, chunk)
        model.zero_grad()
        loss.double().pow(2).sum().backward()
        losses.append(loss.detach().double())
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(loss, losses[0], atol=1e-5, rtol=1e-5)
        assert gradient.keys() == gradients[0].keys()
        for name, value in gradient.items():
            torch.testing.assert_close(value, gradients[0][name], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("gate", ["token", "joint", "constant"])
def test_who_takes_no_part_has_no_weight_and_the_others_share_it(crossing_folders, gate):
    model = fuse(crossing_folders, seed=3, gate=gate)
    _, batch = batch_of(model)
    hidden, labels, available, weights, output = pieces(model, batch)
    assert not available[:, 1].all()
    assert available[:, 0].all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(labels)))
    assert (weights[~available] == 0).all()
    assert (hidden[1][~available[:, 1]] == 0).all()
    assert (weights[available] > 0).all()
    assert torch.isfinite(output.token_loss).all()
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_top_k_and_forced_weights_are_made_whole_again(crossing_folders):
    model = fuse(crossing_folders, seed=3, fusion={"rule": "probabilities", "top_k": 1})
    _, batch = batch_of(model)
    _, _, available, weights, _ = pieces(model, batch)
    assert set(weights.flatten().tolist()) == {0.0, 1.0}
    assert (weights[~available[:, 1]] == torch.tensor([1.0, 0.0])).all()
    keep = batch["labels"] != -100
    forced = model(**batch, gate_weights=[0.25, 0.75]).gate_weights[keep]
    assert (forced[available[:, 1]] == torch.tensor([0.25, 0.75])).all()
    assert (forced[~available[:, 1]] == torch.tensor([1.0, 0.0])).all()
    alone = model(**batch, gate_weights=[0.0, 1.0])
    assert (alone.gate_weights[keep][~available[:, 1]] == 0).all()
    assert (alone.token_loss[keep][~available[:, 1]] > 80).all()


def test_logits_over_canonical_tokens_are_the_loss(crossing_folders):
    model = fuse(crossing_folders, seed=3)
    _, batch = batch_of(model)
    output = model(**batch, return_logits=True)
    keep = batch["labels"] != -100
    logs = output.logits[keep]
    assert logs.shape[-1] == model.config.vocab_size == len(model.alignment.tables[0])
    torch.testing.assert_close(-logs.gather(-1, batch["labels"][keep][:, None])[:, 0], output.token_loss[keep])
    assert (logs.exp().sum(-1) <= 1 + 1e-5).all()
    special = [i for i, text in enumerate(model.alignment.tables[0].text) if text is None and i != 1]
    assert (logs[:, special] == float("-inf")).all()


def test_all_ends_of_a_specialist_are_one_event(crossing_folders, tmp_path):
    folders = {name: shutil.copytree(folder, tmp_path / name) for name, folder in crossing_folders.items()}
    settings = tmp_path / "b" / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"eos_token_id": [1, 0]}))
    one, two = fuse(crossing_folders, seed=3), fuse(folders, seed=3)
    assert two.config.vocabularies[1]["eos"] == [0, 1]
    _, batch = batch_of(one)
    keep, ends = batch["labels"] != -100, batch["labels"] == 1
    a, b = (model(**batch, gate_weights=[0.5, 0.5]).token_loss for model in (one, two))
    assert (b[ends] < a[ends]).all()
    torch.testing.assert_close(a[keep & ~ends], b[keep & ~ends])


def test_both_forms_of_checkpoint_carry_the_tokenizers(crossing_folders, tmp_path):
    model = fuse(crossing_folders, seed=3)
    _, batch = batch_of(model)
    expected = model(**batch).token_loss
    save_fused(model, model.tokenizers[0], tmp_path / "whole")
    model.save_pretrained(tmp_path / "gate", gate_only=True)
    save_fused(model, model.tokenizers[0], tmp_path / "whole", overwrite=True)
    for form in ("whole", "gate"):
        assert (tmp_path / form / "tokenizers" / "b" / "tokenizer.json").is_file()
        again = UltraFuserForCausalLM.from_pretrained(tmp_path / form)
        assert again.alignment.strings == model.alignment.strings
        torch.testing.assert_close(again(**batch).token_loss, expected)
    assert "tokenizers differ" in (tmp_path / "whole" / "README.md").read_text()
    shutil.rmtree(tmp_path / "whole" / "tokenizers")
    with pytest.raises(ValueError, match=r"specialists\.a: its tokenizer is neither in"):
        _ = UltraFuserForCausalLM.from_pretrained(tmp_path / "whole").alignment


def test_a_newcomer_with_another_tokenizer_comes_and_goes(crossing_folders):
    shared = UltraFuserForCausalLM.from_specialists({"a": crossing_folders["a"]}, fusion="probabilities")
    assert shared.alignment is None
    both = add_specialist(shared, "b", crossing_folders["b"])
    assert both.alignment.strings == fuse(crossing_folders).alignment.strings
    assert [head.vocab_size for head in both.heads] == [len(table) for table in both.alignment.tables]
    again = remove_specialist(both, "b")
    assert again.alignment is None
    assert again.config.vocabularies == []
    other = remove_specialist(both, "a")
    assert other.config.vocab_size == len(both.alignment.tables[1])
    three = add_specialist(both, "c", crossing_folders["a"])
    assert three.alignment.overlap[2] == 1.0
    with pytest.raises(ValueError, match=r"specialists\.b: its tokenizer is not that of a"):
        add_specialist(UltraFuserForCausalLM.from_specialists({"a": crossing_folders["a"]}), "b", crossing_folders["b"])


def test_what_cannot_be_fused_is_refused_with_the_figures(crossing_folders, crossing_specialist, tmp_path):
    with pytest.raises(ValueError, match=r"specialists\.b: its tokenizer is not that of a .*rule: probabilities"):
        fuse(crossing_folders, fusion="logits")
    with pytest.raises(ValueError, match="sequence_ids"):
        fuse(crossing_folders)(input_ids=torch.tensor([[5, 6]]))
    with pytest.raises(ValueError, match="vocab_size: 100 given"):
        fuse(crossing_folders, vocab_size=100)
    crossing_specialist(tmp_path / "few", byte_level(1000, [TRIAL, TRIAL]), 16)
    crossing_specialist(tmp_path / "bytes", byte_level(262), 16)
    with pytest.raises(ValueError, match=r"specialists\.bytes: its tokenizer has \d+\.\d% of the tokens of few's"):
        fuse({"few": tmp_path / "few", "bytes": tmp_path / "bytes"}, templates=["plain", "plain"])
    for file in (tmp_path / "bytes").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"specialists\.bytes: has no tokenizer of its own"):
        fuse(crossing_folders | {"bytes": tmp_path / "bytes"}, templates=["plain"] * 3)


def test_positions_that_nobody_predicts_and_minus_one_in_a_shared_tokenizer_are_refused(crossing_folders, fused_model):
    model = fuse(crossing_folders)
    _, batch = batch_of(model)
    batch["response_index"] = torch.full_like(batch["response_index"], -1)
    with pytest.raises(ValueError, match="-1 for every specialist"):
        model(**batch)
    ids = torch.tensor([[[5, 6, 7]] * 3])
    with pytest.raises(ValueError, match="points outside"):
        fused_model(sequence_ids=ids, response_index=torch.tensor([[[-1]] * 3]), labels=torch.tensor([[5]]))


def test_ends_of_specialists_that_share_a_tokenizer_are_united(specialist_folders, tmp_path):
    folders = {name: shutil.copytree(folder, tmp_path / name) for name, folder in specialist_folders.items()}
    settings = folders["math"] / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"eos_token_id": [2, 1, 100000]}))
    model = UltraFuserForCausalLM.from_specialists(folders)
    assert model.generation_config.eos_token_id == [1, 2]
    assert UltraFuserForCausalLM.from_specialists(specialist_folders).generation_config.eos_token_id == 1
