"""A further specialist, built end to end at micro scale from the shipped base, killed and gone on with."""

import dataclasses
import json

import pytest

from ultrafuser import zoo
from ultrafuser.zoo import extra
from ultrafuser.zoo.settings import ExtraSettings, TrainSettings

MICRO = ExtraSettings(
    counts={"heldout": 15, "validation": 6, "train": 48},
    training=TrainSettings(batch=8, learning_rate=1e-3, check_every=3, warmup=1),
)


@pytest.fixture
def little_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two held-out records of each domain, and answers of a few tokens: measuring is not what is tested."""
    from ultrafuser.zoo import evaluate, sample

    whole, answers = sample.load, evaluate.greedy_answers
    monkeypatch.setattr(sample, "load", lambda category, split: whole(category, split)[:2])
    monkeypatch.setattr(evaluate, "greedy_answers", lambda folder, asked: answers(folder, asked, max_new_tokens=4))


def test_a_further_specialist_is_built_beside_the_others(tmp_path, little_sample) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said: list[str] = []
    summary = extra.build_extra("dna", tmp_path / "work", tmp_path / "out", settings=MICRO, say=said.append)
    assert list(summary["loss"]) == ["base", "text", "code", "math", "dna"]
    assert set(summary["solved"]) == set(zoo.dna.TASKS)
    assert json.loads((tmp_path / "out/zoo.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["loss"]["dna"]["dna"] < summary["loss"]["base"]["dna"]  # six steps are enough for that
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(zoo.path("base")).get_vocab()
    assert ">ask" in tokenizer.chat_template
    again: list[str] = []
    assert extra.build_extra("dna", tmp_path / "work", tmp_path / "out", settings=MICRO, say=again.append) == summary
    assert "dna: already done" in again
    with pytest.raises(ValueError, match="made with other settings"):
        extra.build_extra("dna", tmp_path / "work", settings=dataclasses.replace(MICRO, seed=5), say=said.append)


def test_an_unknown_domain_is_refused_before_anything_is_drawn(tmp_path) -> None:
    with pytest.raises(ValueError, match="NAME: 'rna' is not one of dna"):
        extra.build_extra("rna", tmp_path / "work")
    assert not (tmp_path / "work").exists()
