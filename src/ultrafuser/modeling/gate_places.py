"""Where the specialists of a gate-only checkpoint lie, each checked by the hash of its weights; a base that several
adapters sit on is found, checked and opened once.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ultrafuser.adapter_files import read_adapter
from ultrafuser.hashing import content_hash
from ultrafuser.modeling.adapter_entries import compact
from ultrafuser.modeling.adapter_folders import read_matrices
from ultrafuser.modeling.adapters import Adapter, SharedSpecialist, bare, share
from ultrafuser.modeling.configuration import Group, UltraFuserConfig
from ultrafuser.modeling.specialists import Origin, open_specialist, resolve
from ultrafuser.modeling.unchanged import check_adapter_unchanged, check_unchanged

if TYPE_CHECKING:
    from ultrafuser.modeling.model import UltraFuserForCausalLM

Paths = Mapping[str, str | os.PathLike]


class Place(NamedTuple):
    """Where a specialist lies, and its base where it is an adapter."""

    origin: Origin
    base: Origin | None = None


def note_places(model: "UltraFuserForCausalLM", config: UltraFuserConfig, final: Path) -> None:
    """Write into `config.sources` where the specialists of `model` lie, as seen from the folder `final`.

    Raises ValueError where a specialist has no files to point at, or has changed since it was opened.
    """
    checked: list[Any] = []
    for name, entry, specialist in zip(config.specialist_names, config.sources, model.specialists, strict=True):
        origin: Origin | None = getattr(specialist, "ultrafuser_origin", None)
        base: Origin | None = getattr(specialist, "base_origin", None)
        shared = isinstance(specialist, SharedSpecialist)
        if origin is None or (shared and base is None):
            raise ValueError(
                f"specialists.{name}: fused from memory or from a self-contained checkpoint, so a gate-only checkpoint "
                "has nothing to point at; save without gate_only, or fuse from folders or Hub ids"
            )
        if not shared:
            check_unchanged(name, specialist, origin)
        elif base is not None and not any(specialist.module is module for module in checked):
            checked.append(specialist.module)
            check_unchanged(name, bare(specialist.module), base)
        _note(entry, origin, final)
        if shared and specialist.row.layers:
            check_adapter_unchanged(name, specialist, origin)
            assert base is not None
            _note(entry["base"], base, final)


def _note(entry: dict[str, Any], origin: Origin, final: Path) -> None:
    if origin.hub_id is None:
        entry["folder"] = str(origin.path)
        entry["folder_from_here"] = os.path.relpath(origin.path, final.resolve())


def forget_places(config: UltraFuserConfig) -> None:
    """Take what `note_places` wrote out again."""
    for entry in config.sources:
        for part in (entry, entry.get("base") or {}):
            part.pop("folder", None)
            part.pop("folder_from_here", None)


def check_names(config: UltraFuserConfig, given: Paths) -> None:
    """Raise ValueError where `given` names no specialist, or the base ("NAME.base") of one that is no adapter."""
    names = list(config.specialist_names)
    names += [f"{name}.base" for name, entry in zip(names, config.sources, strict=True) if entry.get("base")]
    for name in given:
        if name not in names:
            raise ValueError(f"specialist_paths.{name}: no such specialist; there are {', '.join(names)}")


def find_places(config: UltraFuserConfig, given: Paths, path: str | os.PathLike) -> list[Place]:
    """Where every specialist lies: as `given`, by Hub id, or as noted; "NAME.base" gives the base of an adapter.

    A base given for one specialist of a group serves all of them. Raises ValueError where something is missing or is
    not what the gate was trained with.
    """
    names, found, bases = config.specialist_names, [None] * config.n_specialists, {}  # type: ignore[var-annotated]
    for group in config.groups:
        given_base = next((given[key] for j in group.members for key in _keys(config, names[j]) if key in given), None)
        for j in group.members:
            name, entry = names[j], config.sources[j]
            adapter = bool((config.adapters.get(name) or {}).get("layers"))
            base = None
            if name in config.adapters:
                if group.name not in bases:
                    noted, label = (entry["base"], f"{name}.base") if adapter else (entry, name)
                    bases[group.name] = _verified(label, noted, given_base, path)
                base = bases[group.name]
            origin = base if base is not None and not adapter else _verified(name, entry, given.get(name), path)
            found[j] = Place(origin, base)  # type: ignore[call-overload]
    return found  # type: ignore[return-value]


def _keys(config: UltraFuserConfig, name: str) -> tuple[str, ...]:
    """Names under which the base of a specialist can be given; a specialist that is the base alone has its own."""
    return (f"{name}.base",) if (config.adapters.get(name) or {}).get("layers") else (name,)


def open_group(config: UltraFuserConfig, group: Group, places: list[Place], **options: Any) -> list[Any]:
    """The specialists of a group from their places; `options` are those of `open_specialist`.

    Raises ValueError for an adapter whose settings are not those that the gate was trained with.
    """
    names = [config.specialist_names[j] for j in group.members]
    first = places[group.members[0]]
    origin, sub_config = first.base or first.origin, config.specialist_configs[group.members[0]]
    model = open_specialist(origin.path, field=f"specialists.{names[0]}", config=sub_config, **options)
    model.ultrafuser_origin = origin
    if names[0] not in config.adapters:
        return [model]
    adapters: list[Adapter | None] = []
    for name, j in zip(names, group.members, strict=True):
        if not config.adapters[name]["layers"]:
            adapters.append(None)
            continue
        facts = read_adapter(places[j].origin.folder, f"specialists.{name}")
        layers = {layer: (target.rank, target.scaling) for layer, target in facts.targets.items()}
        if compact(layers, model) != config.adapters[name]["layers"]:
            raise ValueError(
                f"specialists.{name}: rank, alpha or layers of the adapter in {str(facts.folder)!r} are not those that "
                f"this gate belongs to; point at the right one with specialist_paths={{{name!r}: ...}}"
            )
        adapters.append(read_matrices(facts, places[j].origin))
    return list(share(model, adapters))


def _verified(name: str, entry: Mapping[str, Any], given: str | os.PathLike | None, path: str | os.PathLike) -> Origin:
    """Where specialist `name` lies, its weights checked against the hash. Raises ValueError where it is another one."""
    field = f"specialists.{name}"
    if given is not None:
        origin = resolve(given, field=f"specialist_paths.{name}")
    elif entry.get("id"):
        origin = resolve(entry["id"], entry.get("revision"), field)
    else:
        noted = [Path(path) / entry["folder_from_here"]] if entry.get("folder_from_here") else []
        noted += [Path(entry["folder"])] if entry.get("folder") else []
        folder = next((place for place in noted if place.exists()), None)
        if folder is None:
            looked = " and ".join(repr(os.path.normpath(place)) for place in noted) or "none is noted"
            raise ValueError(
                f"{field}: its weights are not where they were (looked at {looked}); put them there, or say where they "
                f"are: --specialist-path {name}=PLACE, in Python specialist_paths={{{name!r}: PLACE}}"
            )
        origin = resolve(folder, field=field)
    found, expected = content_hash(origin.path), entry.get("sha256")
    if found != expected:
        raise ValueError(
            f"{field}: the weights in {str(origin.path)!r} have SHA-256 {found}, but this gate belongs to "
            f"{expected}; point at the right ones with specialist_paths={{{name!r}: ...}}, or train a gate for these"
        )
    return origin
