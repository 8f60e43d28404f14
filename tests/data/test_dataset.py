"""Encoded examples and their batch: what each specialist reads, which tokens are learnt, what is refused."""

import numpy as np
import pytest
import torch

from ultrafuser.data import Conversation, ResponseCollator, ResponseDataset
from ultrafuser.templates import encode_conversation

ONE = [{"role": "user", "content": "add 2 and 3"}, {"role": "assistant", "content": "It is 5."}]
TWO = [
    {"role": "system", "content": "brief"},
    *ONE,
    {"role": "user", "content": "and 4"},
    {"role": "assistant", "content": "9"},
]
SYSTEM_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}<{{ m.role }}>{{ m.content }}\n{% endif %}{% endfor %}"
)


@pytest.fixture
def templates(chat_templates):
    return list(chat_templates.values())


def conversations(**by_category):
    return [
        Conversation(f"{category}{i}", category, messages)
        for category, found in by_category.items()
        for i, messages in enumerate(found)
    ]


@pytest.fixture
def dataset(templates, tiny_tokenizer):
    return ResponseDataset.from_conversations(
        conversations(text=[ONE, TWO], math=[ONE]), templates, tiny_tokenizer, max_length=200
    )


def test_examples_hold_the_encoding(dataset, templates, tiny_tokenizer):
    assert dataset.categories == ["text", "math"]
    assert dataset.counts() == {"text": 2, "math": 1}
    assert dataset.category_index.tolist() == [0, 0, 1]
    encoded = encode_conversation(TWO, templates, tiny_tokenizer)
    example = dataset[1]
    assert [[turn.tolist() for turn in turns] for turns in example.prompts] == encoded.prompt_ids
    assert [turn.tolist() for turn in example.responses] == encoded.response_ids
    assert (example.length, example.n_response_tokens) == (encoded.length, encoded.n_response_tokens)
    assert dataset.lengths.tolist() == [example.length for example in dataset.examples]
    assert dataset.response_tokens() == {
        "text": dataset[0].n_response_tokens + example.n_response_tokens,
        "math": dataset[2].n_response_tokens,
    }


def test_batch_says_for_each_answer_token_where_its_prediction_stands(dataset, tiny_tokenizer):
    batch = ResponseCollator(tiny_tokenizer.pad_token_id)(dataset.examples)
    assert batch["category"].tolist() == [0, 0, 1]
    B, N, T = batch["sequence_ids"].shape
    assert (B, N) == (3, 3)
    assert batch["labels"].shape == (B, batch["response_index"].shape[-1])
    for b, example in enumerate(dataset.examples):
        labels = batch["labels"][b][batch["labels"][b] != -100]
        assert labels.tolist() == np.concatenate(example.responses).tolist()
        assert (labels == tiny_tokenizer.eos_token_id).sum() == len(example.responses), "every answer ends in eos"
        for j in range(N):
            length = int(batch["sequence_mask"][b, j].sum())
            places = batch["response_index"][b, j, : len(labels)]
            ids = batch["sequence_ids"][b, j]
            assert torch.equal(ids[places + 1], labels), "the token after the place is the one to predict"
            assert (batch["sequence_mask"][b, j, :length] == 1).all()
            assert (ids[length:] == tiny_tokenizer.pad_token_id).all()
            prompt = set(range(length)) - set((places + 1).tolist())
            assert len(prompt) == sum(len(turn) for turn in example.prompts[j]), "no prompt token is a label"
    assert int(batch["sequence_mask"].sum(-1).max()) == T


def test_every_answer_of_a_conversation_is_learnt(dataset, tiny_tokenizer):
    batch = ResponseCollator()([dataset[1]])
    text = tiny_tokenizer.decode(batch["labels"][0])
    assert text == "It is 5.</s>9</s>"


def test_rounding_up_only_adds_padding(dataset):
    plain, rounded = ResponseCollator(2)(dataset.examples), ResponseCollator(2, multiple=8)(dataset.examples)
    assert rounded["sequence_ids"].shape[-1] % 8 == rounded["labels"].shape[-1] % 8 == 0
    for key, pad in {"sequence_ids": 2, "sequence_mask": 0, "response_index": 0, "labels": -100}.items():
        size = plain[key].shape[-1]
        assert torch.equal(rounded[key][..., :size], plain[key])
        assert (rounded[key][..., size:] == pad).all()


def test_too_long_is_dropped_and_counted_or_an_error(templates, tiny_tokenizer):
    long = [ONE[0], {"role": "assistant", "content": "word " * 300}]
    given = conversations(text=[ONE, long, long], math=[ONE])
    found = ResponseDataset.from_conversations(given, templates, tiny_tokenizer, max_length=120)
    assert found.dropped == {"text": 2, "math": 0}
    assert found.counts() == {"text": 1, "math": 1}
    with pytest.raises(ValueError, match=r"data\.text: conversation text1: max_length: .* tokens"):
        ResponseDataset.from_conversations(given, templates, tiny_tokenizer, max_length=120, on_too_long="error")
    with pytest.raises(ValueError, match=r"data\.math: all 1 conversations are longer than max_length 120"):
        ResponseDataset.from_conversations(
            conversations(text=[ONE], math=[long]), templates, tiny_tokenizer, max_length=120
        )


def test_nothing_is_refused(templates, tiny_tokenizer):
    with pytest.raises(ValueError, match="no category"):
        ResponseDataset.from_conversations([], templates, tiny_tokenizer)
    with pytest.raises(ValueError, match=r"data\.math: no conversation"):
        ResponseDataset.from_conversations(
            conversations(text=[ONE]), templates, tiny_tokenizer, categories=["text", "math"]
        )
    with pytest.raises(ValueError, match=r"data\.text: not one of the categories"):
        ResponseDataset.from_conversations(conversations(text=[ONE]), templates, tiny_tokenizer, categories=["math"])
    with pytest.raises(ValueError, match="on_too_long"):
        ResponseDataset.from_conversations(conversations(text=[ONE]), templates, tiny_tokenizer, on_too_long="cut")
    empty = "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    with pytest.raises(ValueError, match=r"data\.text: conversation text0: "):
        ResponseDataset.from_conversations(conversations(text=[ONE]), [empty], tiny_tokenizer)


def test_content_hash_sees_every_id(dataset, templates, tiny_tokenizer):
    same = ResponseDataset.from_conversations(
        conversations(text=[ONE, TWO], math=[ONE]), templates, tiny_tokenizer, max_length=200
    )
    assert same.content_hash() == dataset.content_hash()
    assert dataset.subset([0, 1, 2]).content_hash() == dataset.content_hash()
    assert dataset.subset([1, 0, 2]).content_hash() != dataset.content_hash()
    other = ResponseDataset.from_conversations(
        conversations(text=[ONE, TWO], math=[[ONE[0], {"role": "assistant", "content": "It is 6."}]]),
        templates,
        tiny_tokenizer,
    )
    assert other.content_hash() != dataset.content_hash()


def test_specialists_with_one_template_share_arrays(tiny_tokenizer):
    found = ResponseDataset.from_conversations(conversations(text=[TWO]), [SYSTEM_TEMPLATE] * 3, tiny_tokenizer)
    assert found[0].prompts[0][0] is found[0].prompts[2][0]
