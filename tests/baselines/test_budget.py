"""Equal training operations: steps that spend a budget, and what the fused model's own training takes."""

import pytest

from ultrafuser.baselines import BASELINES
from ultrafuser.baselines.budget import fit_stages, fusing_operations
from ultrafuser.baselines.counting import stage_operations
from ultrafuser.baselines.making import make_baseline


def test_a_comparator_spends_what_fusing_takes(make_setting):
    """Further tuning trains one model of three, so it affords about three times the full steps of the fused model."""
    setting = make_setting("code")
    budget = fusing_operations(setting)
    made = make_baseline(BASELINES["further-tuned"], make_setting("code", operations=budget))
    assert made.training_operations == pytest.approx(budget, rel=0.15)
    assert made.steps > 2 * setting.recipe.stages[-1].steps


def test_what_fusing_takes_is_what_copies_of_the_same_size_take(make_setting):
    """The base has the specialists' shapes, so the fuser of copies costs the same, to the operation."""
    setting = make_setting()
    assert make_baseline(BASELINES["copies"], setting).training_operations == fusing_operations(setting)


def test_the_last_stage_is_fitted_and_the_others_stay(make_setting):
    setting = make_setting()
    fused = setting.fuse({name: setting.open(name) for name in setting.names}, setting.templates)
    train, stages = setting.material.train, setting.recipe.stages
    whole = stage_operations(fused, stages, train, seed=0)
    first = stage_operations(fused, stages[:1], train, seed=0)
    fitted = fit_stages(fused, stages, train, whole + 4 * (whole - first), seed=0)
    assert fitted[0] == stages[0]
    assert fitted[1].steps == pytest.approx(5 * stages[1].steps, abs=2)
    with pytest.raises(ValueError, match=r"--operations: .* leaves none for the stage 'all'"):
        fit_stages(fused, stages, train, first, seed=0)
