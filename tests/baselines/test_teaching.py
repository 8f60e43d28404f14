"""FuseChat's loss: loops in float64 as the oracle for values and gradients, the choice of a teacher, what learns."""

import math

import numpy as np
import pytest
import torch

from ultrafuser.baselines.counting import model_parts, stage_operations, tokens_read
from ultrafuser.baselines.teaching import DATA_SHARE, TaughtModel, best_teacher, taught_loss
from ultrafuser.data import ResponseCollator, ResponseDataset
from ultrafuser.data.dataset import Example
from ultrafuser.modeling.head import Head
from ultrafuser.recipe import StageConfig
from ultrafuser.training.arguments import half_precision_specialists
from ultrafuser.training.parameters import select_trainable, trainable_state

VOCABULARY, NAMES = 11, ("target", "pivot", "source")


@pytest.fixture
def taught(make_llama):
    """Three models that differ, in float64, the source wider than the others."""
    models = {
        name: make_llama(seed, hidden=16 if name == "source" else 8, layers=1, vocab=VOCABULARY).double()
        for seed, name in enumerate(NAMES)
    }
    return TaughtModel.from_specialists(models, templates=["plain"] * 3, gate="constant")


def talks():
    """Three conversations; the source's prompts are longer than the others', responses of 2, 3 and 1 tokens."""
    draw = np.random.default_rng(0)
    ids = lambda n: draw.integers(1, VOCABULARY, n).astype(np.int32)  # noqa: E731
    examples = []
    for i, n in enumerate((2, 3, 1)):
        prompt = ids(3 + i)
        examples.append(Example(str(i), i % 2, [[prompt], [prompt], [ids(6)]], [ids(n)]))
    return ResponseDataset(examples, ["a", "b"], n_specialists=3)


def batch():
    return {k: v for k, v in ResponseCollator(0)(talks().examples).items() if k != "category"}


def lists_of_logits(model, example, j):
    """Plain Transformers on the j-th sequence: logits (tokens, V) that predict each response token."""
    prompt, response = example.prompts[j][0], example.responses[0]
    ids = torch.tensor(np.concatenate([prompt, response]), dtype=torch.long)[None]
    logits = model.specialist(j)(input_ids=ids, use_cache=False).logits[0]
    return logits[len(prompt) - 1 : len(prompt) + len(response) - 1]


def by_loops(model):
    """The loss of every token, one after the other, from probabilities."""
    losses = []
    for example in talks().examples:
        p = [[row.exp() / row.exp().sum() for row in lists_of_logits(model, example, j)] for j in range(3)]
        labels = example.responses[0].tolist()
        mean = [sum(-math.log(p[j][t][y].item()) for t, y in enumerate(labels)) / len(labels) for j in (1, 2)]
        teacher = 1 if mean[0] <= mean[1] else 2
        for t, y in enumerate(labels):
            q = p[teacher][t].detach()
            apart = sum(q[v] * (q[v].log() - p[0][t][v].log()) for v in range(VOCABULARY))
            losses.append(-0.9 * p[0][t][y].log() + 0.1 * apart)
    return torch.stack(losses)


def test_the_loss_and_its_gradient_are_those_of_loops_in_float64(taught):
    select_trainable(taught, "specialists")
    parameters = dict(taught.specialist(0).named_parameters())
    wanted = by_loops(taught)
    gradients = torch.autograd.grad(wanted.sum(), list(parameters.values()))
    taught.train()
    output = taught(**batch(), gate_weights=[1.0, 0.0, 0.0])
    assert torch.allclose(output.token_loss[batch()["labels"] != -100], wanted, atol=1e-12)
    output.token_loss.sum().backward()
    assert all(
        torch.allclose(parameter.grad, gradient, atol=1e-12)
        for parameter, gradient in zip(parameters.values(), gradients, strict=True)
    )
    assert all(parameter.grad is None for j in (1, 2) for parameter in taught.specialist(j).parameters())
    assert output.gate_weights[0, 0].tolist() == [1, 0, 0]
    assert output.loss.item() == pytest.approx(wanted.mean().item())


def test_the_slope_is_p_minus_the_mixture_of_label_and_teacher():
    """d loss / d logits = p - share y - (1 - share) q, by hand, through a head that hands on what it gets."""
    torch.manual_seed(0)
    heads = [Head(torch.nn.Identity(), 1.0, None, 5) for _ in range(2)]
    own, other = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), torch.randn(3, 5, dtype=torch.float64)
    labels, rows = torch.tensor([4, 0, 2]), torch.tensor([0, 0, 1])
    taught_loss([own, other], heads, labels, rows, 0.7).sum().backward()
    label = torch.nn.functional.one_hot(labels, 5)
    assert torch.allclose(own.grad, own.detach().softmax(-1) - 0.7 * label - 0.3 * other.softmax(-1), atol=1e-12)


def test_in_pieces_it_is_the_same(taught):
    torch.manual_seed(0)
    hidden = [torch.randn(7, width, dtype=torch.float64, requires_grad=True) for width in (8, 8, 16)]
    labels, rows = torch.arange(7), torch.tensor([0, 0, 1, 1, 1, 2, 2])
    whole = taught_loss(hidden, taught.heads, labels, rows, 0.9)
    pieces = taught_loss(hidden, taught.heads, labels, rows, 0.9, chunk_bytes=2 * 3 * 4 * VOCABULARY)
    assert torch.allclose(whole, pieces, atol=1e-14)
    slopes = [torch.autograd.grad(loss.sum(), hidden[0])[0] for loss in (whole, pieces)]
    assert torch.allclose(*slopes, atol=1e-14)


def test_a_teacher_equal_to_the_target_leaves_the_labels_alone(taught):
    hidden = torch.randn(4, 8, dtype=torch.float64)
    head, labels, rows = taught.heads[0], torch.arange(4), torch.zeros(4, dtype=torch.long)
    found = taught_loss([hidden, hidden.clone()], [head, head], labels, rows, 0.9)
    alone = torch.nn.functional.cross_entropy(head.logits(hidden), labels, reduction="none")
    assert torch.allclose(found, 0.9 * alone, atol=1e-14)


def test_the_lower_mean_of_a_conversation_chooses_its_teacher():
    """First conversation: sums 3.0 and 2.9, though most tokens are better under teacher 0; second: 1.0 and 4.0."""
    losses = torch.tensor([[0.1, 0.9], [0.2, 1.0], [2.7, 1.0], [1.0, 4.0]])
    assert best_teacher(losses, torch.tensor([0, 0, 0, 1])).tolist() == [1, 1, 1, 0]


def test_evaluated_it_is_the_target_alone(taught):
    read = []
    for j in (1, 2):
        taught.specialist(j).register_forward_pre_hook(lambda *_, j=j: read.append(j))
        taught.specialist(j).base_model.register_forward_pre_hook(lambda *_, j=j: read.append(j))
    output = taught.eval()(**batch(), gate_weights=[1.0, 0.0, 0.0])
    wanted = [
        torch.nn.functional.cross_entropy(
            lists_of_logits(taught, e, 0), torch.tensor(e.responses[0], dtype=torch.long), reduction="none"
        )
        for e in talks().examples
    ]
    assert torch.allclose(output.token_loss[batch()["labels"] != -100], torch.cat(wanted), atol=1e-12)
    assert read == []


def test_the_target_alone_learns_and_its_teachers_are_counted_as_frozen(taught):
    frozen = select_trainable(taught, "specialists")
    assert frozen == [taught.specialist(1), taught.specialist(2)]
    assert all(name.startswith("specialist0.") for name in trainable_state(taught))
    taught.specialist(0).bfloat16(), taught.specialist(1).bfloat16()
    assert half_precision_specialists(taught) == {0: torch.bfloat16}
    stage = StageConfig(name="pair", train="specialists", steps=2, examples_per_category=1, warmup_steps=0)
    read, response = tokens_read(talks(), stage, seed=0)
    body, head = model_parts(taught.specialist(0))
    wide_body, wide_head = model_parts(taught.specialist(2))
    wanted = 6 * (body * read[0] + head * response) + 2 * (body * read[1] + head * response)
    wanted += 2 * (wide_body * read[2] + wide_head * response)
    assert stage_operations(taught, [stage], talks(), seed=0, gate_learns=False) == wanted


def test_the_share_of_the_data_is_the_papers():
    assert DATA_SHARE == 0.9
