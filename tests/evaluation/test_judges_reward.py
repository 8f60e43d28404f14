"""The reward model as a judge: a tiny random classifier made here."""

import json
import shutil
from pathlib import Path

import pytest

from ultrafuser.evaluation.judges import Rated, RewardJudge, open_judge

TEMPLATE = "{% for m in messages %}{{ '<s>' + m['role'] + ': ' + m['content'] + '</s>' }}{% endfor %}"
CASES = [
    ("add", "The answer is 42.", "42"),
    ("write a poem", "roses are red", "the quick brown fox jumps over the lazy dog and then it sleeps"),
    ("same", "same text", "same text"),
    ("x", "def add(a, b):\n    return a + b\n", "no"),
]


@pytest.fixture(scope="session")
def reward_folder(tiny_tokenizer, tmp_path_factory) -> Path:
    """A random Llama with one output, and a chat template."""
    import copy

    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, num_labels=1,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, initializer_range=0.35,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("reward") / "tiny-reward"
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def edited(folder: Path, to: Path, **config) -> Path:
    """A copy of a folder with other entries in its config.json."""
    shutil.copytree(folder, to)
    file = to / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return to


def reward_by_hand(folder: Path, question: str, answer: str) -> float:
    """One conversation by itself, without padding, through the library alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return float(model(ids).logits[0, 0])


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_rewards_are_those_of_the_model_alone_whatever_the_batch(reward_folder, batch_size):
    judge = RewardJudge(reward_folder, device="cpu", batch_size=batch_size)
    comparisons = judge.compare(CASES)
    for (question, answer, reference), comparison in zip(CASES, comparisons, strict=True):
        wanted, other = (reward_by_hand(reward_folder, question, text) for text in (answer, reference))
        assert comparison.detail["reward"] == pytest.approx(wanted, abs=1e-5)
        assert comparison.detail["reference_reward"] == pytest.approx(other, abs=1e-5)
        assert comparison.win == (0.5 if answer == reference else float(wanted > other))


def test_a_model_without_a_padding_token_reads_each_row_alone(reward_folder, tmp_path):
    folder = edited(reward_folder, tmp_path / "no-pad", pad_token_id=None)
    found = RewardJudge(folder, device="cpu").compare(CASES)
    alone = RewardJudge(reward_folder, device="cpu").compare(CASES)
    for one, other in zip(found, alone, strict=True):
        assert one.detail["reward"] == pytest.approx(other.detail["reward"], abs=1e-5)


def test_a_text_that_is_too_long_keeps_its_end_and_says_so(reward_folder):
    judge = RewardJudge(reward_folder, device="cpu")
    (comparison,) = judge.compare([("q", "word " * 300, "short")])
    assert comparison.detail["cut"] == {"answer": True, "reference": False}
    assert "cut" not in judge.compare([("q", "short", "short")])[0].detail


def test_without_a_chat_template_question_and_answer_are_a_pair(reward_folder, tiny_tokenizer, tmp_path):
    folder = edited(reward_folder, tmp_path / "pair")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tiny_tokenizer.save_pretrained(folder)
    judge = RewardJudge(folder, device="cpu")
    assert judge.describe()["format"] == "text pair"
    assert judge.compare([("q", "a", "a")])[0].win == 0.5


def test_it_does_not_rate(reward_folder):
    judge = RewardJudge(reward_folder, device="cpu")
    assert judge.rates is False
    with pytest.raises(ValueError, match=r"tiny-reward compares answers and cannot rate.*--judge URL"):
        judge.rate([Rated(("q",), ("a",))])


def test_the_description(reward_folder):
    judge = open_judge(reward_model=str(reward_folder), device="cpu")
    about = judge.describe()
    assert (about["kind"], about["architecture"], about["dtype"], about["format"]) == (
        "reward model", "LlamaForSequenceClassification", "float32", "chat template",
    )  # fmt: skip
    assert judge.name == "tiny-reward"
    judge.close()


def test_what_is_no_reward_model_is_refused(reward_folder, tmp_path, specialist_folders):
    with pytest.raises(ValueError, match="does not exist"):
        RewardJudge(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        RewardJudge(tmp_path)
    labels = {"0": "no", "1": "yes"}
    with pytest.raises(ValueError, match="has 2 outputs; a reward model has one"):
        RewardJudge(edited(reward_folder, tmp_path / "two", id2label=labels, label2id={"no": 0, "yes": 1}))
    causal = edited(
        specialist_folders["text"], tmp_path / "causal", num_labels=1, id2label={"0": "r"}, label2id={"r": 0}
    )
    with pytest.raises(ValueError, match=r"no weights for score\.weight"):
        RewardJudge(causal, device="cpu")
