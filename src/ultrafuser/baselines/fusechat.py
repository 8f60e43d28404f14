"""FuseChat: every other specialist distilled into a copy of a pivot, then the copies merged (Wan et al. 2024)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ultrafuser.baselines import merging
from ultrafuser.baselines.choosing import best_on_validation, validation_losses
from ultrafuser.baselines.counting import parameters
from ultrafuser.baselines.making import make_baseline
from ultrafuser.baselines.mergekit_runs import run_mergekit
from ultrafuser.baselines.merges import Candidate, merged
from ultrafuser.baselines.scores import part_of
from ultrafuser.baselines.setting import Baseline, Made, Setting, plain_form
from ultrafuser.baselines.trained import save_plain, train_taught
from ultrafuser.lookup import lookup
from ultrafuser.training.work import HISTORY_FILE, work_folder

__all__ = ["MERGES", "fusechat"]

SCE_SHARES = (0.1, 0.5, 1.0)  # of each matrix; the repository's fusechat-sce.yml has 0.1


def _varm(pivot: Path, targets: Sequence[Path], dtype: str | None) -> list[Candidate]:
    return [Candidate("VaRM", partial(merging.variation, pivot, targets, dtype=dtype))]


def _linear(pivot: Path, targets: Sequence[Path], dtype: str | None) -> list[Candidate]:
    return [Candidate("their mean", partial(merging.average, targets, dtype=dtype))]


def _sce(pivot: Path, targets: Sequence[Path], dtype: str | None) -> list[Candidate]:
    return [
        Candidate(
            f"SCE with the share {share:g} selected",
            partial(run_mergekit, "sce", targets, base=pivot, select=share, dtype=dtype),
        )
        for share in SCE_SHARES
    ]


# name -> candidates(pivot's folder, targets' folders, dtype), the best of which on validation is made
MERGES: dict[str, Callable[..., list[Candidate]]] = {"varm": _varm, "sce": _sce, "linear": _linear}
DEFAULT = "varm"


def fusechat(setting: Setting) -> Made:
    """Fuse every other specialist with a pivot by distillation, and merge what comes of it (arXiv 2408.07990).

    Variant: `PIVOT`, `RULE` or `PIVOT+RULE`, as code+sce. The pivot is a specialist, by default the one with the lowest
    mean validation loss; the rule a row of MERGES, by default VaRM. For each other specialist, the source, a target
    that starts as the pivot learns by `teaching.taught_loss` from the data, the pivot and the source. A target takes
    the setting's steps, as in the paper, where each sees all the data; with a budget of operations each has its share.
    The targets are merged (the share that SCE selects is chosen on validation) and the result reads in the pivot's
    template. A killed run goes on within a pair and between pairs. Raises ValueError for unknown variants, and where
    SCE lacks mergekit or validation data.
    """
    pivot, rule = _parse(setting)
    chosen: dict[str, Any] = {}
    if not pivot:
        part_of(setting.material, "validation")
        losses = validation_losses(setting)
        pivot = best_on_validation(losses)
        chosen = {"pivot": pivot, "pivot_losses": losses}
    sources = [name for name in setting.names if name != pivot]
    start = _part(setting, "pivot", pivot, _as_folder)
    budget = None if setting.operations is None else setting.operations // len(sources)
    shared = replace(setting, operations=budget)
    targets = {source: _part(shared, f"target-{source}", f"{pivot}/{source}", _distil) for source in sources}
    chosen["targets"] = {source: made.chosen for source, made in targets.items()}
    folders = [Path(str(made.folder)) for made in (start, *targets.values())]
    steps = max(made.steps for made in targets.values())
    note = (
        f"{pivot} as the pivot, fused with each of {', '.join(sources)} by distillation ({steps} steps each), the "
        f"{len(targets)} targets merged by {{}}."
    )
    candidates = MERGES[rule](folders[0], folders[1:], setting.recipe.dtype)
    made = merged(setting, candidates, note, {pivot: setting.templates[pivot]})
    for folder in folders:
        _drop_model(folder)
    return replace(
        made,
        parameters_trained=sum(target.parameters_trained for target in targets.values()),
        training_operations=sum(target.training_operations for target in targets.values()),
        steps=steps,
        chosen={**chosen, **made.chosen},
    )


def _parse(setting: Setting) -> tuple[str, str]:
    """Pivot ("" where it is to be chosen) and rule."""
    first, _, second = setting.variant.partition("+")
    if first in MERGES and not second and first not in setting.origins:
        first, second = "", first
    if first:
        lookup(setting.origins, first, "variant")
    rule = second or DEFAULT
    lookup(MERGES, rule, "variant")
    if rule == "sce":
        part_of(setting.material, "validation")
        if find_spec("mergekit") is None:
            raise ValueError("variant: sce needs the package mergekit: pip install 'ultrafuser[merge]'")
    return first, rule


def _part(setting: Setting, name: str, variant: str, make: Callable[[Setting], Made]) -> Made:
    """A model on the way, made in a folder of its own: read where it is done, gone on with where it was cut short."""
    folder = setting.folder / "work" / name
    part = Baseline(f"fusechat-{name}", "", make, variants=plain_form)
    return make_baseline(part, setting.into(folder, variant, overwrite=True))


def _as_folder(setting: Setting) -> Made:
    """The pivot as an ordinary folder, whatever it is opened from: what the merge compares the targets with."""
    model = setting.open(setting.variant)
    save_plain(setting, model, setting.templates[setting.variant], title=setting.variant)
    return Made(setting.folder, 0, parameters(model), 0, 0)


def _distil(setting: Setting) -> Made:
    """The target of the pair that the variant names: it starts as the pivot, which teaches it beside the source."""
    from ultrafuser.baselines.teaching import TaughtModel

    pivot, _, source = setting.variant.partition("/")
    specialists = {"target": setting.open(pivot), "pivot": setting.open(pivot), "source": setting.open(source)}
    own, other = setting.templates[pivot], setting.templates[source]
    templates = {"target": own, "pivot": own, "source": other}
    taught = setting.fuse(specialists, templates, kind=TaughtModel, gate="constant")
    note = f"The specialist {pivot} tuned on all the data, taught by itself and {source}."
    stage = setting.stage(f"pair-{source}")
    return train_taught(setting, taught, stage, method="fusechat", title=f"{pivot}, taught by {source}", note=note)


def _drop_model(folder: Path) -> None:
    """Leave of a model that has been merged nothing but the history of its training."""
    (folder / "baseline.json").unlink(missing_ok=True)  # first: without it, the model is made again where needed
    for path in [*folder.iterdir(), *work_folder(folder).glob("*")]:
        if path.name in (HISTORY_FILE, work_folder(folder).name):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
