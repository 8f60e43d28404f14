"""Adapters on a base: do the layers they change exist and fit, is it the base they were trained on, and which
specialists share one copy of it? Read from headers; where names alone leave a doubt, from the base built without
memory."""

from collections.abc import Callable, Sequence
from typing import Any

from ultrafuser.adapter_files import AdapterFacts
from ultrafuser.hashing import content_hash, remembered_hash
from ultrafuser.preflight.facts import Facts, full_config
from ultrafuser.preflight.findings import Report
from ultrafuser.preflight.headers import names_in_gguf
from ultrafuser.preflight.memory import gib, held_bytes, number_format, sharing
from ultrafuser.preflight.sources import Located, SourceError
from ultrafuser.recipe import Recipe

Shape = tuple[int, ...]
TURNED = ("gpt2", "openai-gpt")  # their layers keep weights as (n_in, n_out)


def described(one: Facts) -> str:
    """What a specialist is, in one line."""
    size = "size unknown" if one.parameters is None else f"{one.parameters:,} parameters"
    model = f"{one.architecture}, {size}, {one.dtype}, hidden size {one.hidden_size}"
    if one.adapter is None:
        return model
    layers, weights = len(one.adapter.targets), one.adapter.parameters
    return f"adapter of rank {one.adapter.rank} on {layers} layers, {weights:,} weights; its base {one.base}: {model}"


def check_fit(one: Facts, located: Located) -> None:
    """Raises SourceError where the adapter changes layers that the base lacks, or of other shapes."""
    adapter = located.adapter
    if adapter is None or not located.tensors:
        return
    shapes = _shapes(adapter, located)
    if one.model_type in TURNED and located.file is None:
        shapes = {name: shape[::-1] for name, shape in shapes.items()}
    if _misfits(adapter, shapes):
        shapes = _built(located)  # the files may name layers otherwise than the model does
    wrong = _misfits(adapter, shapes)
    if not wrong:
        return
    first = wrong[0]
    target, count = adapter.targets[first], f"{len(wrong)} of its {len(adapter.targets)} layers"
    if first not in shapes:
        what = f"changes layers that its base {one.base} does not have, first {first} ({count})"
    else:
        n_out, n_in = shapes[first]
        what = (
            f"does not fit its base {one.base}: {first} takes {n_in} and gives {n_out} there, {target.n_in} and "
            f"{target.n_out} in the adapter ({count})"
        )
    raise SourceError(what, "name the base that it was trained on")


def _misfits(adapter: AdapterFacts, shapes: dict[str, Shape]) -> list[str]:
    return [name for name, target in adapter.targets.items() if shapes.get(name) != (target.n_out, target.n_in)]


def _shapes(adapter: AdapterFacts, located: Located) -> dict[str, Shape]:
    """Shapes of the weights of the adapter's layers by the headers of the base's files, as far as these tell."""
    names = {name: name for name in adapter.targets}
    if located.file is not None:
        names |= names_in_gguf(located.file, adapter.targets)
    found: dict[str, Shape] = {}
    for layer, name in names.items():
        parts = name.split(".")
        for start in range(len(parts)):  # files of a bare model leave out the first part: h.0... for transformer.h.0...
            tensor = located.tensors.get(".".join([*parts[start:], "weight"]))
            if tensor is not None and len(tensor.shape) == 2:
                found[layer] = tensor.shape
                break
    return found


def _built(located: Located) -> dict[str, Shape]:
    """Shape (n_out, n_in) of every weight matrix by its layer's name, from the model built without memory."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    try:
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(full_config(located))
    except Exception:  # a configuration that builds no model is told when its weights are opened
        return {}
    shapes = {}
    for name, part in model.named_modules():
        weight: Any = getattr(part, "weight", None)
        if weight is not None and weight.dim() == 2:
            shape = tuple(weight.shape)
            shapes[name] = shape[::-1] if type(part).__name__ == "Conv1D" else shape
    return shapes


def check_base(one: Facts, located: Located, report: Report, say: Callable[[str], None]) -> None:
    """Notes whether the base is the one that the adapter was trained on, where the adapter records its hash."""
    adapter = located.adapter
    if adapter is None:
        return
    where = f"specialists.{one.name}.source"
    if adapter.base_sha256 is None:
        made = f" (made for {adapter.base.rstrip('/').rpartition('/')[2]})" if adapter.base else ""
        report.add("ok", where, f"records no hash of its base{made}: that it is {one.base} is taken on trust")
    elif not located.weights_here:
        report.add("ok", where, f"the hash of its base {one.base} is compared once the weights are here")
    else:
        found = remembered_hash(located.place, say)
        if found == adapter.base_sha256:
            report.add("ok", where, f"trained on this base (hash {found[:12]})")
            return
        report.add(
            "error",
            where,
            f"was trained on another base: it records the hash {adapter.base_sha256[:12]}, {one.base} has {found[:12]}",
            "name the base that it was trained on, or delete ultrafuser.json beside it to use it on this one",
        )


def check_groups(recipe: Recipe, facts: Sequence[Facts], report: Report) -> None:
    """Notes which specialists share one copy of a base, and adapters given twice; fills `report.groups`."""
    for group in sharing(facts):
        adapters = {one.name: one.adapter for one in group if one.adapter is not None}
        if not adapters:
            continue
        base, names = group[0].base, [one.name for one in group]
        _one_copy(recipe, group, report)
        ranks = sorted({adapter.rank for adapter in adapters.values()})
        alone = [one.name for one in group if one.adapter is None]
        size = held_bytes(recipe, group)
        report.groups.append(
            {"base": base, "specialists": names, "adapters": list(adapters), "ranks": ranks, "base_bytes": size}
        )
        parts = [
            f"{', '.join(adapters)}: {'adapters' if len(adapters) > 1 else 'an adapter'} on {base}, rank "
            f"{' and '.join(map(str, ranks))}"
        ]
        parts += [f"{', '.join(alone)}: the base itself"] if alone else []
        parts += [f"the base once: {gib(size)}"] if size is not None else []
        report.add("ok", "specialists", "; ".join(parts))
        _twice(adapters, report)


def _one_copy(recipe: Recipe, group: Sequence[Facts], report: Report) -> None:
    """One copy has one number format, one device and one quantisation: what one of the group is given holds for all."""
    for one in group:
        own = recipe.specialists[one.name].dtype
        if one.adapter is not None and own is not None:
            where = f"specialists.{one.name}.dtype"
            report.add("error", where, f"{own}, but an adapter has its base's number format", "remove it")
    specs = {one.name: recipe.specialists[one.name] for one in group}
    formats = {one.name: number_format(recipe, one) for one in group if one.adapter is None}
    for key, given in (
        ("dtype", formats),
        ("device", {name: spec.device for name, spec in specs.items() if spec.device}),
        ("quantisation", {name: spec.quantisation for name, spec in specs.items() if spec.quantisation}),
    ):
        first = next(iter(given), "")
        for other in given:
            if given[other] != given[first]:
                report.add(
                    "error",
                    f"specialists.{other}.{key}",
                    f"{given[other]}, but {first} has {given[first]} and both share one copy of {group[0].base}",
                    "give both the same",
                )


def _twice(adapters: dict[str, AdapterFacts], report: Report) -> None:
    seen: dict[str, str] = {}
    for name, adapter in adapters.items():
        content = content_hash(adapter.folder)
        if content in seen:
            report.add(
                "warning",
                f"specialists.{name}.source",
                f"is the same adapter as {seen[content]}'s, so that the gate has nothing to choose between the two",
                "leave one of them out",
            )
        seen.setdefault(content, name)
