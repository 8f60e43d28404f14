"""Making a baseline by name: its needs checked first, its result kept beside the model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ultrafuser.baselines.setting import Baseline, Made, Setting, no_variants
from ultrafuser.files import write_json

__all__ = ["BASELINE_FILE", "check_needs", "make_baseline", "read_made"]

BASELINE_FILE = "baseline.json"


def make_baseline(baseline: Baseline, setting: Setting) -> Made:
    """Make it in the setting's folder, or go on with it, or read it where it is done; baseline.json says which.

    Raises ValueError before anything long where something it needs is missing, or the folder holds another one and the
    setting's `overwrite` is not set.
    """
    check_needs(baseline, setting)
    file, wanted = setting.folder / BASELINE_FILE, {"baseline": baseline.name, "setting": setting.fingerprint()}
    found = _read(file)
    same = found is not None and {key: found.get(key) for key in wanted} == json.loads(json.dumps(wanted))
    if found is not None and same and found["made"] is not None:
        return Made.from_dict(found["made"])
    if found is not None and not same and not setting.overwrite:
        raise ValueError(
            f"--output: {setting.folder} holds the baseline {found.get('baseline')!r} of another setting; give "
            "--overwrite to replace it, or choose another folder"
        )
    _refuse_foreign(setting, known=same)
    write_json(file, {**wanted, "made": None})
    made = baseline.make(setting.into(setting.folder, setting.variant, overwrite=setting.overwrite or same))
    write_json(file, {**wanted, "made": made.as_dict()})
    return made


def read_made(folder: str | Path) -> Made:
    """What FOLDER/baseline.json says. Raises ValueError where there is no finished baseline."""
    found = _read(Path(folder) / BASELINE_FILE)
    if found is None or found["made"] is None:
        raise ValueError(f"{folder} holds no finished baseline; make one with `ultrafuser baseline`")
    return Made.from_dict(found["made"])


def check_needs(baseline: Baseline, setting: Setting) -> None:
    """Raise ValueError naming the first thing that is missing, or a variant that there is not, and the fix."""
    from ultrafuser.baselines.scores import part_of

    if setting.variant and baseline.variants is no_variants:
        raise ValueError(f"variant: {baseline.name} has none, so leave out ':{setting.variant}'")
    for need in baseline.needs:
        if need == "base":
            setting.need_base()
        elif need in ("validation", "heldout"):
            part_of(setting.material, need)
        elif need == "several":
            if len(setting.names) < 2:
                raise ValueError(f"specialists: {baseline.name} needs at least two, the recipe has one")
        elif find_spec(need) is None:
            raise ValueError(f"baseline: {baseline.name} needs the package {need}: pip install 'ultrafuser[merge]'")


def _refuse_foreign(setting: Setting, *, known: bool) -> None:
    """Raise ValueError where the folder holds another model, or is or holds one that the baseline is made of."""
    from ultrafuser.modeling.storage import check_output

    place = setting.folder.resolve()
    for origin in (*setting.origins.values(), *([] if setting.base is None else [setting.base])):
        if place in (origin.folder, *origin.folder.parents):
            raise ValueError(
                f"--output: {setting.folder} is or holds {origin.path}, which is read; choose another folder"
            )
    if not known:
        check_output(setting.folder, setting.overwrite, "--output")


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"--output: {file} is not valid JSON; remove it, or choose another folder") from None
    return found
