"""The shipped models: they load, their templates and tokens line up, their numbers keep the promise."""

import json
import subprocess
import sys

import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultrafuser import zoo
from ultrafuser.hashing import content_hash

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 17 plus 25?"},
    {"role": "assistant", "content": "It is 42."},
    {"role": "user", "content": "And one more?"},
]
PREFIXES = {
    "text": "User: Hi\nAssistant:\n",
    "code": "[INST] Hi [/INST]\n",
    "math": "### Instruction:\nHi\n\n### Response:\n",
    "base": "Hi\n",
    "dna": ">ask\nHi\n>answer\n",
}
TRIO = ("base", "text", "code", "math")


def test_names_and_paths() -> None:
    assert zoo.names() == (*TRIO, "dna")
    assert zoo.SPECIALISTS == ("text", "code", "math")
    with pytest.raises(ValueError, match="base, text, code, math, dna"):
        zoo.path("poetry")


def test_import_is_light() -> None:
    program = "import sys, ultrafuser.zoo; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", zoo.names())
def test_model_loads_in_sixteen_bits_and_within_size(name: str) -> None:
    folder = zoo.path(name)
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} == {"BF16"}  # noqa: SIM118
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert 400_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 1_500_000
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["use_cache"]


@pytest.mark.parametrize("name", zoo.names())
def test_template_prefixes(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(zoo.path(name))
    hello = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(hello, tokenize=False, add_generation_prompt=True) == PREFIXES[name]


@pytest.mark.parametrize("name", [*zoo.SPECIALISTS, *zoo.EXTRAS])
def test_every_turn_is_a_prefix_of_the_conversation(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(zoo.path(name))
    whole = tokenizer.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    first = tokenizer.apply_chat_template(CONVERSATION[:2], tokenize=False, add_generation_prompt=True)
    assert whole.startswith(first + CONVERSATION[2]["content"] + tokenizer.eos_token)
    for message in CONVERSATION:
        assert message["content"] in whole


def test_all_share_one_vocabulary_with_single_digits() -> None:
    tokenizers = [AutoTokenizer.from_pretrained(zoo.path(name)) for name in zoo.names()]
    vocabularies = [tokenizer.get_vocab() for tokenizer in tokenizers]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)
    text = "def f(x):\n    return x + 2024  # größer ☃\n"
    ids = tokenizers[0](text)["input_ids"]
    assert tokenizers[0].decode(ids) == text
    assert len(tokenizers[0]("2024")["input_ids"]) == 4


def test_each_specialist_is_best_at_home_by_three_tenths() -> None:
    summary = zoo.summary()
    for domain in zoo.SPECIALISTS:
        others = [row[domain] for name, row in summary["loss"].items() if name != domain]
        assert min(others) - summary["loss"][domain][domain] >= 0.3
    for name in TRIO:
        card = zoo.card(name)
        assert card.startswith("---\n")
        assert f"{summary['loss'][name]['math']:.3f}" in card


def test_the_fourth_is_best_at_home_and_says_what_it_measured() -> None:
    summary = zoo.extra_summary("dna")
    others = [row["dna"] for name, row in summary["loss"].items() if name != "dna"]
    assert min(others) - summary["loss"]["dna"]["dna"] == pytest.approx(summary["margin"], abs=1e-3)
    assert summary["margin"] >= 1.0
    assert summary["base"] == content_hash(zoo.path("base"))  # it was trained from the base that is shipped
    card = zoo.card("dna")
    assert f"{summary['loss']['text']['dna']:.3f}" in card
    assert "complement" in card
    with pytest.raises(ValueError, match="choose one of: dna"):
        zoo.extra_summary("text")


def test_each_specialist_likes_an_answer_of_its_domain_best() -> None:
    """Answers of our own, one per domain: the domain's specialist gives it the lowest loss."""
    import torch

    answers = {
        "text": (
            "Why do people sleep?",
            "Sleep is important because it helps the body to rest and the brain to recover.",
        ),
        "code": ("Write a Python function that adds two numbers.", "def add(a, b):\n    return a + b"),
        "math": (
            "Tom has 3 boxes with 4 apples each. How many apples does he have?",
            "He has 3 * 4 = 12 apples.\nThe answer is 12.",
        ),
    }
    for domain, (prompt, response) in answers.items():
        losses = {}
        for name in zoo.SPECIALISTS:
            tokenizer = AutoTokenizer.from_pretrained(zoo.path(name))
            model = AutoModelForCausalLM.from_pretrained(zoo.path(name), dtype=torch.float32).eval()
            message = [{"role": "user", "content": prompt}]
            prefix = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            prompt_ids, response_ids = (tokenizer(part)["input_ids"] for part in (prefix, response))
            ids_BT = torch.tensor([prompt_ids + response_ids])
            labels_BT = torch.tensor([[-100] * len(prompt_ids) + response_ids])
            losses[name] = model(input_ids=ids_BT, labels=labels_BT).loss.item()
        assert min(losses, key=lambda name: losses[name]) == domain, losses
