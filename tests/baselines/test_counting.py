"""Counts of parameters and operations, against cases worked by hand."""

import numpy as np
import pytest

from ultrafuser.baselines.counting import (
    Parts,
    low_rank_saving,
    model_operations,
    model_parts,
    parameters,
    stage_operations,
    tokens_read,
)
from ultrafuser.data import ResponseDataset
from ultrafuser.data.dataset import Example
from ultrafuser.recipe import StageConfig


def llama(make_llama, **options):
    """Vocabulary 10, width 4, one layer of 4 heads of size 1 (2 for keys and values), inner width 8."""
    return make_llama(0, hidden=4, layers=1, vocab=10, **options)


# by hand: q 16, k and v 4 * 2 each, o 16; gate, up, down 32 each; norms 3 * 4; table and head 40 each
LAYER = 16 + 8 + 8 + 16 + 3 * 32
BODY = LAYER + 3 * 4


def data(n_specialists=1, prompt=(3, 5)):
    """Two examples of two categories, one each, prompts of these lengths (+ j for specialist j), responses 2 and 4."""
    ids = lambda n: np.zeros(n, dtype=np.int32)  # noqa: E731
    examples = [
        Example(str(i), i, [[ids(length + j)] for j in range(n_specialists)], [ids(2 * (i + 1))])
        for i, length in enumerate(prompt)
    ]
    return ResponseDataset(examples, ["a", "b"], n_specialists=n_specialists)


def stage(train, **changes):
    given = {"name": train, "train": train, "steps": 3, "examples_per_category": 1, "warmup_steps": 0}
    return StageConfig(**(given | changes))


def test_parts_of_untied_and_tied_models(make_llama):
    untied, tied = llama(make_llama), llama(make_llama, tie=True)
    assert model_parts(untied) == Parts(BODY, 40)
    assert model_parts(tied) == Parts(BODY, 40)
    assert parameters(untied) == BODY + 80
    assert parameters(tied) == BODY + 40
    assert parameters(tied, tied) == BODY + 40


def test_six_for_what_learns_and_two_for_what_is_frozen(make_llama):
    model = llama(make_llama)
    assert model_operations(model, 100, 30, learns=True) == 6 * (BODY * 100 + 40 * 30)
    assert model_operations(model, 100, 30, learns=False) == 2 * (BODY * 100 + 40 * 30)


def test_tokens_are_those_of_the_batches():
    """Each batch holds both examples: 3 + 2 and 5 + 4 tokens, 6 of them responses, in three steps."""
    read = tokens_read(data(), stage("specialists"), seed=0)
    assert read == ([3 * 14], 3 * 6)
    assert tokens_read(data(2), stage("specialists"), seed=0).read == [3 * 14, 3 * 16]


def test_random_batches_are_counted_as_run_stages_draws_them():
    from ultrafuser.data import make_sampler

    train = data()
    one = stage("specialists", sampler="random", steps=5)
    drawn = list(make_sampler("random", train.category_index, 1, steps=5, seed=7, names=["a", "b"]))
    assert tokens_read(train, one, seed=7).read == [sum(train.lengths[i] for i in drawn)]


def test_a_plain_model_in_a_stage(make_llama):
    from ultrafuser.modeling import UltraFuserForCausalLM

    fused = UltraFuserForCausalLM.from_specialists({"one": llama(make_llama)}, templates=["plain"])
    found = stage_operations(fused, [stage("specialists")], data(), seed=0, gate_learns=False)
    assert found == 6 * (BODY * 42 + 40 * 18)


@pytest.mark.parametrize(("gate", "times"), [("token", 2), ("joint", 1)])
def test_two_stages_of_a_fused_model(make_llama, gate, times):
    """Gate: token Linear(4, 3), (3, 1), 18 numbers, run once per specialist; joint Linear(8, 3), (3, 2)."""
    from ultrafuser.modeling import UltraFuserForCausalLM

    fused = UltraFuserForCausalLM.from_specialists(
        {"one": llama(make_llama), "two": llama(make_llama, tie=True)},
        templates=["plain", "chatml"],
        gate={"type": gate, "hidden_size": 3},
    )
    numbers = {"token": 4 * 3 + 3 + 3, "joint": 8 * 3 + 3 + 6}[gate]
    stages = [stage("gate"), stage("all", steps=2)]
    frozen = 2 * (BODY * (42 + 48) + 40 * (18 + 18)) + 6 * times * numbers * 18
    learning = 6 * (BODY * (28 + 32) + 40 * (12 + 12)) + 6 * times * numbers * 12
    assert stage_operations(fused, stages, data(2), seed=0) == frozen + learning
    forced = stage_operations(fused, [stage("specialists", steps=2)], data(2), seed=0, gate_learns=False)
    assert forced == 6 * (BODY * (28 + 32) + 40 * (12 + 12))
    stored = stage("gate", stored_states="exact")  # bodies run once over the two examples
    once = 2 * (BODY * (14 + 16) + 40 * (18 + 18)) + 6 * times * numbers * 18
    assert stage_operations(fused, [stored], data(2), seed=0) == once


def test_low_rank_adapters_leave_the_other_weights_without_a_gradient(make_llama):
    """Rank 1 on a square q_proj of 4 x 4 adds 8 weights; all others take 2 operations less backward."""
    from peft import LoraConfig, get_peft_model

    from ultrafuser.modeling import UltraFuserForCausalLM

    fused = UltraFuserForCausalLM.from_specialists({"one": llama(make_llama)}, templates=["plain"])
    get_peft_model(fused.specialist(0), LoraConfig(r=1, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    stages = [stage("gate"), stage("specialists", steps=2)]
    saved = low_rank_saving(fused, stages[1:], data(), seed=0)
    assert saved == 2 * (BODY * 28 + 40 * 12)
    whole = stage_operations(fused, stages[1:], data(), seed=0, gate_learns=False)
    assert whole - saved == 4 * (BODY * 28 + 40 * 12) + 6 * 8 * 28
    assert low_rank_saving(fused, stages[:1], data(), seed=0) == 0


def test_an_evidence_gate_runs_the_heads_once_more(make_llama):
    """Gate: Linear(4 + 4, 3), (3, 1), 30 numbers."""
    from ultrafuser.modeling import UltraFuserForCausalLM

    fused = UltraFuserForCausalLM.from_specialists(
        {"one": llama(make_llama), "two": llama(make_llama, tie=True)},
        templates=["plain", "chatml"],
        gate={"type": "evidence", "hidden_size": 3},
    )
    specialists = 2 * (BODY * (42 + 48) + 40 * (18 + 18))
    found = stage_operations(fused, [stage("gate")], data(2), seed=0)
    assert found == specialists + 6 * 2 * 30 * 18 + 2 * (40 + 40) * 18
