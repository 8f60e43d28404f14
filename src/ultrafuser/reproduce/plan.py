"""What one call of `reproduce` is to do: recipe, seeds, tables, held-out files; JSON that the workers read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ultrafuser import __version__, zoo
from ultrafuser.endpoint.address import normal_address
from ultrafuser.hashing import content_hash
from ultrafuser.lookup import lookup
from ultrafuser.recipe import DomainData, Recipe, SpecialistSource, load_recipe, parse_recipe
from ultrafuser.recipe.presets import preset
from ultrafuser.reproduce.scales import ALL, GATE, SCALES, Scale

COMPOSITE = "composite"
HELDOUT_FOLDER = "heldout"
SAMPLE = "sample"  # the benchmarks' items that come with the package
SUFFIXES = (".json", ".jinja", ".safetensors", ".model")


class Plan(BaseModel):
    """A whole reproduction. `recipe` holds the fused model, its stages and its data; `extra` further held-out files by
    kind, kinds that nothing is trained on; `digest` stands for the content of models and data. `other` holds the other
    training data of Table 9 by domain: they and their digest are inputs of its runs alone. `judge` ("url" and
    "model") rates and picks chat answers, and is an input of those runs alone.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    scale: str
    recipe: dict[str, Any]
    base: str | None = None
    extra: dict[str, list[str]] = {}
    seeds: list[int]
    tables: list[str]
    keep: str = "best"
    batch_size: int = 16
    digest: str = ""
    benchmark_data: str = SAMPLE
    benchmark_digest: str = ""
    other: dict[str, list[str]] = {}
    other_digest: str = ""
    judge: dict[str, str | None] | None = None

    @property
    def settings(self) -> Scale:
        """The scale's row."""
        return SCALES[self.scale]

    @property
    def specialists(self) -> list[str]:
        """Names of the specialists."""
        return list(self.recipe["specialists"])

    @property
    def domains(self) -> list[str]:
        """The domains that are trained on."""
        return list(self.recipe["data"])

    @property
    def columns(self) -> list[str]:
        """The domains, then the kinds of held-out data that nothing is trained on."""
        return [*self.domains, *self.extra]

    def open_recipe(self, seed: int = 0, changes: dict[str, Any] | None = None) -> Recipe:
        """The recipe with a seed, and whole fields replaced by `changes`."""
        return Recipe(**{**self.recipe, "seed": seed, **(changes or {})})

    def basis(self) -> dict[str, Any]:
        """What every run depends on, whatever it does: models, data, how they are read. Stages are a run's own."""
        own = ("name", "stages", "seed", "output", "device")
        recipe = {key: value for key, value in self.recipe.items() if key not in own}
        limits = [self.settings.heldout_limit, self.batch_size]
        return {"version": __version__, "recipe": recipe, "extra": self.extra, "digest": self.digest, "limits": limits}


def make_plan(
    scale: str,
    tables: Sequence[str],
    *,
    seeds: int | None = None,
    data: Path | None = None,
    recipe: Path | None = None,
    benchmarks: Path | None = None,
    other_data: Path | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
) -> Plan:
    """The plan of a scale. `tables` are the names to make; `seeds` how many, None the scale's own number.

    `data` is a folder with a folder (or file) of training conversations for each domain, and held-out ones under
    heldout/ where it has them: else the shipped held-out items serve. `recipe` replaces the shipped trio and sample.
    `benchmarks` is a folder with the benchmarks' data (docs/evaluation.md); without it the shipped items are asked.
    `other_data` is a folder as `data` is, for the table that trains on other conversations.
    `judge` is the address of an OpenAI-compatible endpoint for Tables 5 and 7, `judge_model` the model's name there.
    Raises ValueError for what does not exist, before anything is opened.
    """
    size = lookup(SCALES, scale, "--scale")
    if seeds is not None and seeds < 1:
        raise ValueError(f"--seeds: {seeds} is below 1; give how many seeds to run")
    if data is not None and recipe is not None:
        raise ValueError("--data and --recipe are both given; a recipe names its own data, so keep one of them")
    if judge is None and judge_model is not None:
        raise ValueError(f"--judge-model: {judge_model!r} needs --judge URL, the endpoint that serves it")
    if judge is not None:
        normal_address(judge, "--judge")  # told now, not when everything else is done
    extra: dict[str, list[str]] = {}
    if recipe is not None or size.recipe is not None:
        found, base = _given(recipe, size), None
    else:
        found, extra = _shipped(size, data)
        base = str(zoo.path(zoo.BASE))
    other = {} if other_data is None else {d: [_training(other_data, d, "--other-data")] for d in found.data}
    plan = Plan(
        scale=scale,
        recipe=found.model_dump(mode="json"),
        base=base,
        extra=extra,
        seeds=list(range(seeds if seeds is not None else size.seeds)),
        tables=list(tables),
        benchmark_data=SAMPLE if benchmarks is None else str(benchmarks.absolute()),
        benchmark_digest="" if benchmarks is None else _names_and_sizes(benchmarks),
        other=other,
        other_digest=_digest_of_files(other) if other else "",
        judge=None if judge is None else {"url": judge, "model": judge_model},
    )
    return plan.model_copy(update={"digest": _digest(plan)})


def _shipped(size: Scale, data: Path | None) -> tuple[Recipe, dict[str, list[str]]]:
    """The trio and the sample, or the trio and the data in a folder."""
    domains = {
        name: DomainData(
            train=[f"zoo-sample:{name}/train"] if data is None else [_training(data, name, "--data")],
            heldout=_heldout(data, name),
            validation_fraction=size.validation_share,
            limit=size.train_limit,
        )
        for name in zoo.SPECIALISTS
    }
    recipe = Recipe(
        name="reproduction",
        specialists={name: SpecialistSource(source=f"zoo:{name}") for name in zoo.SPECIALISTS},
        data=domains,
        max_length=size.max_length,
        stages=size.stages(),
    )
    return recipe, {COMPOSITE: _heldout(data, COMPOSITE)}


def _training(data: Path, name: str, option: str) -> str:
    found = sorted(path for path in data.glob(f"{name}*") if path.is_file() or path.name == name)
    if not found:
        raise ValueError(
            f"{option}: {data} holds neither a folder nor a file for {name!r}; it must hold training conversations for "
            f"each domain, for example {data / name}/*.jsonl"
        )
    return str(found[0].absolute())


def _heldout(data: Path | None, name: str) -> list[str]:
    found = sorted((data / HELDOUT_FOLDER).glob(f"{name}*")) if data is not None else []
    return [str(path.absolute()) for path in found] or [f"zoo-sample:{name}/heldout"]


def _given(recipe: Path | None, size: Scale) -> Recipe:
    """A recipe file, or the scale's preset; its first stage must train the gate and its last everything."""
    if recipe is not None:
        found = load_recipe(recipe)
    else:
        assert size.recipe is not None
        found = parse_recipe(preset(size.recipe), origin=f"preset {size.recipe}")
    kinds = [stage.train for stage in found.stages]
    if kinds != ["gate", "all"]:
        raise ValueError(
            f"--recipe: stages that train {', '.join(kinds) or 'nothing'}; the tables compare the paper's two: one "
            "with train: gate, then one with train: all"
        )
    stages = [stage.model_copy(update={"name": name}) for stage, name in zip(found.stages, (GATE, ALL), strict=True)]
    return found.model_copy(update={"stages": stages})


def _names_and_sizes(folder: Path) -> str:
    """A mark of a folder of benchmarks; a handful of items changed in place and in size would go unnoticed."""
    if not folder.is_dir():
        raise ValueError(f"--benchmarks: {folder} is no folder; give one that holds NAME.jsonl files")
    files = sorted((file.name, file.stat().st_size) for file in folder.iterdir() if file.is_file())
    return sha256(repr(files).encode()).hexdigest()[:16]


def _digest(plan: Plan) -> str:
    """One hash for the content of every local model and data file; a Hub id stands for itself."""
    digest = sha256()
    sources = [(one["source"], one["revision"]) for one in plan.recipe["specialists"].values()]
    for source, revision in [*sources, *([(plan.base, None)] if plan.base else [])]:
        digest.update(f"|{source if revision else ''}@{revision}".encode())
        folder = Path(source if revision else zoo.resolve_source(source))
        if not revision and folder.is_dir():
            digest.update(content_hash(folder).encode())
            for file in sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.suffix != ".safetensors"):
                digest.update(sha256(file.read_bytes()).digest())
    entries = [e for d in plan.recipe["data"].values() for part in ("train", "validation", "heldout") for e in d[part]]
    _digest_entries(digest, [*entries, *(e for found in plan.extra.values() for e in found)])
    return digest.hexdigest()


def _digest_of_files(data: Mapping[str, Sequence[str]]) -> str:
    digest = sha256()
    for name, entries in data.items():
        digest.update(name.encode())
        _digest_entries(digest, entries)
    return digest.hexdigest()


def _digest_entries(digest: Any, entries: Sequence[str]) -> None:
    for entry in entries:
        path = Path(zoo.resolve_data(entry))
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            digest.update(sha256(file.read_bytes()).digest() if file.is_file() else entry.encode())
