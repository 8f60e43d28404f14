"""Everything a fused model must stand beside: the table BASELINES. Importing this package is light."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from ultrafuser.baselines.setting import Baseline, Made, Setting, plain_form
from ultrafuser.lookup import lookup

__all__ = ["BASELINES", "Baseline", "Made", "Setting", "find_baseline"]


def later(module: str, name: str) -> Callable[..., Any]:
    """A function of this package that is imported when it is called: the table itself costs nothing."""

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(import_module(f"{__name__}.{module}"), name)(*arguments, **options)

    return call


def each_and_best(names: Sequence[str], domains: Sequence[str]) -> tuple[str, ...]:
    """The best specialist on validation, and each by name."""
    return ("", *names)


def chosen_and_paper(names: Sequence[str], domains: Sequence[str]) -> tuple[str, ...]:
    """The scale chosen on validation, and the paper's."""
    return ("", "1.0")


def at_compute_and_steps(names: Sequence[str], domains: Sequence[str]) -> tuple[str, ...]:
    """At the compute of base, specialists and fusing together, and at the steps of the others."""
    return ("", "equal-steps")


BASELINES: dict[str, Baseline] = {
    row.name: row
    for row in (
        Baseline(
            "specialist",
            "a specialist alone, as it is",
            later("mixtures", "specialist"),
            variants=each_and_best,
            paper="table 1, UltraLM-2, CodeLlama, WizardMath; table 3",
        ),
        Baseline(
            "further-tuned",
            "a specialist tuned further on everything, or on one domain's data",
            later("further", "further_tuned"),
            variants=later("further", "further_variants"),
            paper="table 1, further tuned on everything; table 8, on one subset",
        ),
        Baseline(
            "single",
            "one plain model of about the fused size, from the same start, tuned on everything",
            later("single", "single"),
            needs=("base",),
            paper="table 1, Llama-30B tuned on all the data",
        ),
        Baseline(
            "scratch",
            "one plain model of about the fused size, from random weights, at equal compute",
            later("single", "scratch"),
            needs=("base",),
            variants=at_compute_and_steps,
            paper="not in the paper",
        ),
        Baseline(
            "btx",
            "the specialists as experts of one sparse model with routers, tuned on everything",
            later("btx", "btx"),
            needs=("several",),
            variants=later("btx", "btx_variants"),
            paper="BTX, table 1; figure 5",
        ),
        Baseline(
            "uniform",
            "all specialists with equal weights, nothing trained",
            later("mixtures", "uniform"),
            needs=("several",),
            paper="not in the paper: what fusing without a gate gives",
        ),
        Baseline(
            "fixed",
            "the best mixture whose weights do not look at the text",
            later("mixtures", "fixed"),
            needs=("several",),
            paper="not in the paper: what a gate that cannot tell tokens apart gives",
        ),
        Baseline(
            "uniform-trained",
            "equal weights, the specialists trained together",
            later("mixtures", "uniform_trained"),
            needs=("several",),
            paper="not in the paper: stage 2 without a gate",
        ),
        Baseline(
            "routing",
            "a trained selector reads the prompt and gives the whole answer to one specialist",
            later("routing", "routing"),
            needs=("several", "validation"),
            paper="not in the paper",
        ),
        Baseline(
            "oracle",
            "the best specialist for each domain, or for each sample: a rule that knows the losses",
            later("oracles", "oracle"),
            needs=("several",),
            variants=later("oracles", "oracle_variants"),
            score=later("oracles", "oracle_scores"),
            paper="table 1, best specialist per task",
        ),
        Baseline(
            "selection",
            "every specialist answers, and the likeliest answer under all of them is taken",
            later("selection", "selection"),
            needs=("several",),
            score=later("selection", "selection_scores"),
            paper="table 5, where a reward model or an LLM judge picks",
        ),
        Baseline(
            "copies",
            "a fuser of unspecialised copies of the base, trained as the fused model is",
            later("copies", "copies"),
            needs=("several", "base"),
            paper="LlamaFuser, figure 5",
        ),
        Baseline(
            "average",
            "the mean of the specialists' weights, of all or of some",
            later("merges", "average"),
            needs=("several",),
            variants=later("merges", "average_variants"),
            paper="average merging, table 1 (text and math; all three: near zero)",
        ),
        Baseline(
            "task-arithmetic",
            "the base plus a scale times the specialists' differences from it",
            later("merges", "task_arithmetic"),
            needs=("several", "base"),
            variants=chosen_and_paper,
            paper="task arithmetic, table 1 (scale 1.0)",
        ),
        Baseline(
            "fusechat",
            "every other specialist distilled into a copy of a pivot, the copies merged",
            later("fusechat", "fusechat"),
            variants=plain_form,
            needs=("several",),
            paper="FuseChat, table 1",
        ),
        Baseline(
            "ties",
            "merging by TIES: trimmed differences of the majority's sign (mergekit)",
            later("merges", "ties"),
            needs=("several", "base", "validation", "mergekit"),
            paper="not in the paper",
        ),
        Baseline(
            "dare",
            "merging by DARE: differences thinned at random (mergekit)",
            later("merges", "dare"),
            needs=("several", "base", "validation", "mergekit"),
            paper="not in the paper",
        ),
    )
}


def find_baseline(text: str) -> tuple[Baseline, str]:
    """The row and the variant that `further-tuned:code` means. Raises ValueError for an unknown name."""
    name, _, variant = text.partition(":")
    return lookup(BASELINES, name, "NAME"), variant
