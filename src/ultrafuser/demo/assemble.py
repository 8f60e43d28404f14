"""Puts the parts of a run together into its result and its details."""

from __future__ import annotations

from collections.abc import Mapping

from ultrafuser import __version__
from ultrafuser.demo.parts import Part, best_base
from ultrafuser.demo.plan import DemoPlan, DemoSources
from ultrafuser.demo.results import COLUMNS, DOMAINS, DemoDetails, DemoResult, Difference, Item, Losses
from ultrafuser.demo.statistics import (
    loss_by_domain,
    mean_over_domains,
    oracle_shares,
    paired_differences,
    sample_oracle,
    weights_by_domain,
)

TRAINED = ("uniform", "further_tuned", "uniform_stage2", "stage1", "stage2")


def assemble(
    plan: DemoPlan, sources: DemoSources, parts: Mapping[str, Part], seconds: dict[str, float]
) -> tuple[DemoResult, DemoDetails]:
    """Every table of the report out of the items that the parts measured."""
    names = list(sources.specialists)
    items = {method: rows for part in parts.values() for method, rows in part.items.items()}
    best, chosen = sample_oracle({name: items[name] for name in names})
    losses = {method: loss_by_domain(rows) for method, rows in items.items()}
    validation = parts["specialists"].validation
    full = {"stage2": plan.full_stage(), "uniform_stage2": plan.full_stage(), "further_tuned": plan.full_stage()}
    stages = {"stage1": plan.gate_stage(), **full}
    result = DemoResult(
        loss=Losses(
            specialists={name: losses[name] for name in names},
            sample_oracle=loss_by_domain(best),
            **{method: losses[method] for method in TRAINED},
        ),
        gate_weights=weights_by_domain(items["stage2"], names),
        gate_weights_stage1=weights_by_domain(items["stage1"], names),
        seconds=seconds,
        differences=_differences(items, best),
        oracle_choice=oracle_shares(best, chosen, names),
        seed=plan.seed,
        fast=plan.fast,
        base=best_base(validation),
        base_validation_loss={name: mean_over_domains(validation[name], DOMAINS) for name in names},
        steps={name: stage.steps for name, stage in stages.items()},
        examples_per_step={name: stage.examples_per_category * len(DOMAINS) for name, stage in stages.items()},
        items={domain: sum(item.category == domain for item in best) for domain in COLUMNS},
        tokens={domain: sum(item.n_tokens for item in best if item.category == domain) for domain in COLUMNS},
        training_items=parts["fused"].training_items,
        parameters={**parts["fused"].parameters, **parts["further_tuned"].parameters},
        version=__version__,
    )
    curves = [curve for name in ("fused", "uniform_stage2", "further_tuned") for curve in parts[name].curves]
    return result, DemoDetails(items=items, curves=curves, examples=parts["fused"].examples)


def _differences(items: Mapping[str, list[Item]], best: list[Item]) -> dict[str, dict[str, Difference]]:
    return {
        "stage1_minus_sample_oracle": paired_differences(items["stage1"], best),
        "stage2_minus_further_tuned": paired_differences(items["stage2"], items["further_tuned"]),
        "stage2_minus_uniform_stage2": paired_differences(items["stage2"], items["uniform_stage2"]),
    }
