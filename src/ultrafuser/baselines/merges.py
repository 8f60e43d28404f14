"""Merged specialists: average, task arithmetic, TIES, DARE; what is free in them is chosen on the validation data."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from ultrafuser.baselines.choosing import best_on_validation
from ultrafuser.baselines.counting import parameters
from ultrafuser.baselines.mergekit_runs import run_mergekit
from ultrafuser.baselines.merging import average as average_folders
from ultrafuser.baselines.merging import task_arithmetic as add_to_base
from ultrafuser.baselines.setting import Made, Setting
from ultrafuser.baselines.trained import card
from ultrafuser.files import write_json
from ultrafuser.lookup import lookup

__all__ = ["Candidate", "average", "average_variants", "dare", "merged", "task_arithmetic", "ties"]

SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
TIES_GRID = tuple((density, scale) for density in (0.2, 0.5, 0.8) for scale in (0.2, 0.3, 0.5, 1.0))
DARE_GRID = tuple((density, scale) for density in (0.2, 0.5, 0.9) for scale in (0.1, 0.2, 0.3, 0.5))
WORK = "merging"  # the folder of candidates, beside that of a training
CANDIDATES_FILE = "candidates.json"


@dataclass(frozen=True)
class Candidate:
    """A merge that could be made: `make(folder)` writes configuration and weights there."""

    label: str
    make: Callable[[Path], None]


def average_variants(names: Sequence[str], domains: Sequence[str]) -> tuple[str, ...]:
    """All specialists, and every pair."""
    return ("", *("+".join(pair) for pair in combinations(names, 2))) if len(names) > 2 else ("",)


def average(setting: Setting) -> Made:
    """The mean of the specialists' weights (Ding et al., ACL 2025, table 1: average merging).

    Variant: "" all of them, `text+math` these. Raises ValueError for unknown, repeated or fewer than two names.
    """
    names = setting.variant.split("+") if setting.variant else setting.names
    for name in names:
        lookup(setting.origins, name, "variant")
    if len(set(names)) < max(2, len(names)):
        raise ValueError(f"variant: {setting.variant!r} must name two or more different specialists, as text+code")
    folders = [setting.origins[name].path for name in names]
    make = partial(average_folders, folders, dtype=setting.recipe.dtype)
    return merged(setting, [Candidate("average", make)], f"The mean of the weights of {', '.join(names)}.")


def task_arithmetic(setting: Setting) -> Made:
    """The base plus `scale` times the sum of the specialists' differences from it (Ilharco et al. 2023).

    Variant: "" chooses the scale among SCALES on the validation data, `1.0` (the paper's) takes that one.
    """
    scales = SCALES if not setting.variant else (_number(setting.variant),)
    base, folders = setting.need_base().path, _folders(setting)
    candidates = [
        Candidate(f"{scale:g}", partial(add_to_base, base, folders, scale=scale, dtype=setting.recipe.dtype))
        for scale in scales
    ]
    note = "The common base plus {} times the sum of the specialists' differences from it."
    return merged(setting, candidates, note)


def ties(setting: Setting) -> Made:
    """TIES (Yadav et al. 2023, arXiv 2306.01708) by mergekit: trim, elect signs, mean of what agrees, times a scale."""
    return _by_mergekit(setting, "ties", TIES_GRID, "TIES by mergekit, {} (share of each difference kept, scale).")


def dare(setting: Setting) -> Made:
    """DARE (Yu et al. 2024, arXiv 2311.03099) by mergekit: differences dropped at random, the rest scaled up."""
    return _by_mergekit(
        setting, "dare_linear", DARE_GRID, "DARE by mergekit, {} (share of each difference kept, scale)."
    )


def _by_mergekit(setting: Setting, method: str, grid: Sequence[tuple[float, float]], note: str) -> Made:
    base, folders = setting.need_base().path, _folders(setting)
    candidates = [
        Candidate(
            f"density {density:g}, scale {scale:g}",
            partial(
                run_mergekit, method, folders, base=base, density=density, scale=scale,
                dtype=setting.recipe.dtype, seed=setting.seed,
            ),
        )
        for density, scale in grid
    ]  # fmt: skip
    return merged(setting, candidates, note)


def merged(
    setting: Setting, candidates: Sequence[Candidate], note: str, templates: Mapping[str, str] | None = None
) -> Made:
    """Make the candidate of the lowest mean validation loss, under the specialist's template that suits it best.

    `templates`: the ones to choose among by specialist, all where None. Without validation data: the only candidate,
    under the only template or `Setting.template`. `note` may name the choice as {}. What has been measured is kept, so
    that a grid cut short goes on. Raises ValueError where several candidates meet no validation data.
    """
    from ultrafuser.modeling.storage import staged

    templates = setting.templates if templates is None else templates
    template = setting.template if len(templates) > 1 else next(iter(templates.values()))
    best, chosen = candidates[0], dict[str, Any]()
    if setting.material.validation is not None:
        losses = _measured(setting, candidates, templates)
        key = best_on_validation(losses)
        best = next(one for one in candidates if key.startswith(f"{one.label} / "))
        name = key.removeprefix(f"{best.label} / ")
        template = templates[name]
        chosen = {"choice": best.label, "template": name, "validation": losses[key], "validation_losses": losses}
    elif len(candidates) > 1:
        raise ValueError("data: the recipe has no validation data to choose on; give its domains a validation_fraction")
    note = note.format(best.label)
    setting.say(f"saving to {setting.folder}")
    tokenizer = copy.deepcopy(setting.tokenizer)
    tokenizer.chat_template = template
    with staged(setting.folder) as place:
        best.make(place)
        tokenizer.save_pretrained(place)
        (place / "README.md").write_text(card("Merged specialists", note), encoding="utf-8")
    shutil.rmtree(setting.folder / WORK, ignore_errors=True)
    count = parameters(_open(setting, setting.folder))
    return Made(setting.folder, 0, count, 0, 0, note, chosen)


def _measured(
    setting: Setting, candidates: Sequence[Candidate], templates: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Validation loss of every candidate under each of the templates, by "candidate / template" and domain."""
    from ultrafuser.baselines.scores import measure_model

    work = setting.folder / WORK
    file, place = work / CANDIDATES_FILE, work / "candidate"
    wanted = json.loads(json.dumps(setting.fingerprint()))
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    losses: dict[str, dict[str, float]] = found.get("losses", {}) if found.get("setting") == wanted else {}
    named = {source: name for name, source in reversed(list(templates.items()))}
    for candidate in candidates:
        keys = {f"{candidate.label} / {name}": (name, source) for source, name in named.items()}
        if all(key in losses for key in keys):
            continue
        setting.say(f"measuring {candidate.label} on the validation data")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        candidate.make(place)
        model = _open(setting, place)
        for key, (name, source) in keys.items():
            fused = setting.fuse({name: model}, {name: source})
            losses[key] = measure_model(setting, fused, "validation").by_domain()
        write_json(file, {"setting": wanted, "losses": losses})
    shutil.rmtree(place, ignore_errors=True)
    return losses


def _open(setting: Setting, folder: Path) -> Any:
    from ultrafuser.modeling import open_specialist

    return open_specialist(folder, dtype=setting.recipe.dtype, device=setting.device, field="merged")


def _folders(setting: Setting) -> list[Path]:
    return [origin.path for origin in setting.origins.values()]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"variant: {text!r} is not a number; give a scale such as 1.0") from None
