"""Training and measuring across tokenizers: positions by bytes, each specialist over its own tokens, a recipe's run."""

import json

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from token_makers import byte_level, sentence_piece
from transformers import AutoModelForCausalLM

from ultrafuser.data import Conversation, ResponseCollator, ResponseDataset
from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.recipe import Recipe
from ultrafuser.templates import NO_PLACE, encode_conversation, encode_prompt
from ultrafuser.tokens import TokenTable
from ultrafuser.training import train_recipe
from ultrafuser.training.evaluation import evaluate_many

TABLES = [TokenTable(byte_level()), TokenTable(sentence_piece())]
PLAIN = ["{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}<assistant>"] * 2
LINES = ["the quick brown fox", "roses are red\n", "def add(a, b):\n    return a + b", "12 plus 30 is 42", "数学 naïve"]


def talk(*answers: str) -> list[dict[str, str]]:
    return [m for text in answers for m in ({"role": "user", "content": "q"}, {"role": "assistant", "content": text})]


@given(answers=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_places_are_where_both_cuttings_have_a_boundary(answers: list[str]) -> None:
    encoded = encode_conversation(talk(*answers), PLAIN, TABLES)
    assert encoded.n_bytes == sum(len(text.encode()) for text in answers)
    assert encoded.n_places(0) == encoded.n_response_tokens
    for j, table in enumerate(TABLES):
        for turn, text in enumerate(answers):
            own, labels = encoded.own[j][turn], encoded.response_ids[turn]
            assert table.bytes_of(own) == text.encode()
            assert own[-1] == table.end
            spelt = [table.bytes_of(own[:k]) for k in range(len(own))]
            for r, place in enumerate(encoded.places[j][turn]):
                before = TABLES[0].bytes_of(labels[:r])
                assert (place == NO_PLACE) == (before not in spelt)
                assert place == NO_PLACE or spelt[place] == before


def test_a_history_is_what_training_saw_in_each_tokenizer() -> None:
    messages = talk("the fox", "数学 <s>")
    encoded = encode_conversation(messages, PLAIN, TABLES)
    for j, prompt in enumerate(encode_prompt(messages[:-1], PLAIN, TABLES)):
        assert prompt == encoded.sequence(j)[: len(prompt)]
        assert len(prompt) == len(encoded.sequence(j)) - len(encoded.own[j][1])
    with pytest.raises(ValueError, match="2 tables for 1 templates"):
        encode_prompt(messages[:-1], PLAIN[:1], TABLES)


def test_the_hash_tells_other_tokenizers_apart_and_the_batch_says_who_takes_part() -> None:
    talks = [Conversation("a", "x", talk("the quick", "naïve 数学"))]
    both, same = (
        ResponseDataset.from_conversations(talks, PLAIN, tables) for tables in (TABLES, [TABLES[0], TABLES[0]])
    )
    assert both.content_hash() != same.content_hash()
    assert same.participation() == {"x": [1.0, 1.0]}
    batch = ResponseCollator(2)([both[0]])
    taken = (batch["response_index"][0] >= 0).float().mean(-1).tolist()
    assert both.participation()["x"] == pytest.approx(taken)
    ids, places = both[0].sequence(1)
    assert batch["sequence_ids"][0, 1, : len(ids)].tolist() == ids.tolist()
    assert batch["response_index"][0, 1].tolist() == places.tolist()


def test_each_specialist_alone_is_measured_over_its_own_tokens(crossing_folders) -> None:
    model = UltraFuserForCausalLM.from_specialists(crossing_folders, fusion="probabilities", seed=2)
    talks = [Conversation(str(i), "x", talk(line)) for i, line in enumerate(LINES)]
    found = ResponseDataset.from_conversations(talks, model.config.templates, model.alignment.tables)
    result = evaluate_many(
        model, found, {"fused": None, "a": [1.0, 0.0], "b": [0, 1], "half": [0.5, 0.5]}, batch_size=2
    )
    for j, name in enumerate("ab"):
        plain = AutoModelForCausalLM.from_pretrained(crossing_folders[name])
        rows = model.heads[j].vocab_size
        for example, loss in zip(found.examples, result[name].per_example, strict=True):
            ids = torch.as_tensor(example.sequence(j)[0], dtype=torch.long)
            first = len(example.prompts[j][0])
            with torch.no_grad():
                logits = plain(ids[None]).logits[0, first - 1 : -1, :rows]
            own = torch.nn.functional.cross_entropy(logits, ids[first:], reduction="sum")
            assert loss.loss_sum == pytest.approx(own.item(), rel=1e-4)
            assert loss.n_tokens == example.n_response_tokens
    batch = ResponseCollator(2)([found[0]])
    batch.pop("category")
    for name, forced in (("fused", None), ("half", [0.5, 0.5])):
        with torch.no_grad():
            output = model(**batch, gate_weights=forced)
        assert result[name].per_example[0].loss_sum == pytest.approx(output.token_loss.sum().item(), rel=1e-4)
    losses = {"a": result["a"].by_category()}
    n_bytes = sum(len(line.encode()) for line in LINES)
    total = sum(example.loss_sum for example in result["a"].per_example)
    assert found.per_byte(losses)["a"]["x"] == pytest.approx(total / n_bytes)


def test_a_recipe_trains_a_gate_across_tokenizers(crossing_folders, tmp_path) -> None:
    data = {}
    for category, word in (("text", "roses are red "), ("code", "return a + b ")):
        for part, count in (("train", 12), ("heldout", 3)):
            file = tmp_path / f"{category}-{part}.jsonl"
            turns = [talk(f"{word}{i} {part}") for i in range(count)]
            for i, turn in enumerate(turns):
                turn[0]["content"] = f"{category} {part} question {i}"
            file.write_text("\n".join(json.dumps({"messages": turn}) for turn in turns))
            data.setdefault(category, {})[part] = [str(file)]
    said: list[str] = []
    recipe = {
        "name": "crossing",
        "specialists": {name: {"source": str(folder)} for name, folder in crossing_folders.items()},
        "tokenizer": "b",
        "fusion": {"rule": "probabilities"},
        "gate": {"type": "token", "hidden_size": 8},
        "data": data,
        "stages": [{"name": "gate", "train": "gate", "steps": 12, "examples_per_category": 3, "learning_rate": 0.01}],
        "output": str(tmp_path / "out"),
        "device": "cpu",
    }
    result = train_recipe(Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe))), say=said.append)
    assert result.specialists == ["b", "a"], "the canonical tokenizer's specialist comes first"
    assert result.data["text"]["participation"]["b"] == 1.0
    assert 0 < result.data["code"]["participation"]["a"] <= 1
    assert any("takes part in predicting b 100.0%" in line for line in said)
    assert set(result.heldout) == {"a", "b", "uniform", "fused"} == set(result.heldout_per_byte)
    mean = {name: sum(row.values()) for name, row in result.heldout.items()}
    assert mean["fused"] < mean["uniform"] + 0.05
    again = UltraFuserForCausalLM.from_pretrained(tmp_path / "out")
    assert again.gate_is_trained
    assert again.alignment is not None
    assert "taking part at b 100.0%" in (tmp_path / "out" / "README.md").read_text()
