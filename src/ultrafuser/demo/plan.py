"""What one demo run will do: specialists, data, stages; and the folder that remembers it between two calls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ultrafuser import __version__, zoo
from ultrafuser.demo.results import COLUMNS, COMPOSITE, DOMAINS, Strict, right_specialist
from ultrafuser.files import write_whole
from ultrafuser.recipe import DomainData, Recipe, SpecialistSource, StageConfig

PLAN_FILE = "plan.json"
JOB_FILE = "work/job.json"  # what the workers are told
OWN_NAMES = ("plan.json", "result.json", "details.json", "report.html", "parts", "work", "fused", ".lock")


class DemoSources(Strict):
    """Folders of the specialists by name, and data files by domain and split ("train", "heldout")."""

    specialists: dict[str, str]
    data: dict[str, dict[str, str]]

    def check(self) -> None:
        """Every domain has its specialist, its training and its held-out file. Raises ValueError."""
        for domain in DOMAINS:
            right_specialist(list(self.specialists), domain)
        for domain in COLUMNS:
            wanted = ("heldout",) if domain == COMPOSITE else ("train", "heldout")
            for split in wanted:
                if split not in self.data.get(domain, {}):
                    raise ValueError(f"data.{domain}.{split}: the demo needs this file")

    def files(self) -> list[Path]:
        """Every file that decides the numbers: weights, configurations, tokenizers, data."""
        found = [Path(path) for splits in self.data.values() for path in splits.values()]
        for folder in self.specialists.values():
            found += [p for p in Path(folder).iterdir() if p.suffix in (".json", ".jinja", ".safetensors", ".model")]
        return sorted(found)


class DemoPlan(Strict):
    """The settings of one run; two runs with equal plans and sources give equal numbers on one machine."""

    seed: int = 0
    fast: bool = False
    validation_share: float = 0.15
    max_length: int = 640  # the longest of the sample has 515 tokens: nothing is left out
    gate_steps: int = 100
    gate_examples: int = 4
    gate_rate: float = 3e-3
    full_steps: int = 80
    full_examples: int = 4
    full_rate: float = 4e-4
    batch_size: int = 16
    written_tokens: int = 96

    def gate_stage(self) -> StageConfig:
        """Stage 1: the gate alone learns."""
        return self._stage("gate", "gate", self.gate_steps, self.gate_examples, self.gate_rate)

    def full_stage(self) -> StageConfig:
        """Stage 2: gate and specialists learn together."""
        return self._stage("all", "all", self.full_steps, self.full_examples, self.full_rate)

    def specialists_stage(self, name: str) -> StageConfig:
        """Stage 2 without a gate: the same batches, steps and rates, the specialists learn."""
        return self._stage(name, "specialists", self.full_steps, self.full_examples, self.full_rate)

    def _stage(self, name: str, train: Any, steps: int, examples: int, rate: float) -> StageConfig:
        return StageConfig(
            name=name,
            train=train,
            steps=steps,
            examples_per_category=examples,
            learning_rate=rate,
            warmup_steps=min(steps - 1, max(1, steps // 20)),
            eval_every=max(1, -(-steps // 2)),
            save_every=max(1, -(-steps // 5)),
            logging_steps=1,
        )


FAST = {"gate_steps": 20, "full_steps": 16}


def make_plan(seed: int = 0, *, fast: bool = False) -> DemoPlan:
    """The shipped settings; `fast` takes far fewer steps: it shows the path, not the figures."""
    return DemoPlan(seed=seed, fast=fast, **(FAST if fast else {}))


def shipped_sources() -> DemoSources:
    """The trio and the sample that come with the package."""
    data = {domain: {s: str(zoo.sample_path(f"{domain}/{s}")) for s in ("train", "heldout")} for domain in DOMAINS}
    data[COMPOSITE] = {"heldout": str(zoo.sample_path(f"{COMPOSITE}/heldout"))}
    return DemoSources(specialists={name: str(zoo.path(name)) for name in zoo.SPECIALISTS}, data=data)


def recipe(plan: DemoPlan) -> Recipe:
    """The fused model of the demo as an ordinary recipe, to be kept with it and changed by the user."""
    return Recipe(
        name="demo",
        specialists={name: SpecialistSource(source=f"zoo:{name}") for name in zoo.SPECIALISTS},
        data={
            domain: DomainData(
                train=[f"zoo-sample:{domain}/train"],
                heldout=[f"zoo-sample:{domain}/heldout"],
                validation_fraction=plan.validation_share,
            )
            for domain in DOMAINS
        },
        max_length=plan.max_length,
        stages=[plan.gate_stage(), plan.full_stage()],
        seed=plan.seed,
        output="runs/demo/fused",
    )


def open_folder(folder: Path, plan: DemoPlan, sources: DemoSources, *, overwrite: bool) -> None:
    """Make or reopen the run's folder; raises ValueError when it holds something else, whatever that is.

    `overwrite` removes what an earlier demo left there, and nothing else.
    """
    sources.check()
    wanted = _description(plan, sources)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output: {folder} is a file; name a folder")
    plan_file = folder / PLAN_FILE
    if folder.is_dir() and any(folder.iterdir()) and not plan_file.is_file():
        raise ValueError(f"--output: {folder} holds files, but none of an earlier demo; name another folder")
    if plan_file.is_file() and overwrite:
        for name in OWN_NAMES[::-1]:  # the plan last: a killed removal can be repeated
            remove(folder / name)
    elif plan_file.is_file():
        _refuse_other(folder, json.loads(plan_file.read_text(encoding="utf-8")), wanted)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(plan_file, json.dumps(wanted, indent=2))


def write_model(path: Path, model: BaseModel) -> None:
    """Write a model as JSON, whole or not at all."""
    write_whole(path, model.model_dump_json(indent=1))


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _description(plan: DemoPlan, sources: DemoSources) -> dict[str, Any]:
    digest = sha256()
    for file in sources.files():
        digest.update(file.name.encode() + b"\0" + sha256(file.read_bytes()).digest())
    return {"version": __version__, "plan": plan.model_dump(), "sources": digest.hexdigest()}


def _refuse_other(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if found == wanted:
        return
    old, new = dict(found.get("plan", {})), wanted["plan"]
    names = [key for key in new if old.get(key) != new[key]]
    if names:
        reason = ", ".join(f"{key} {old.get(key)} instead of {new[key]}" for key in names[:3])
    else:
        reason = "other specialists, data or another version of ultrafuser"
    raise ValueError(
        f"--output: {folder} holds a demo run with {reason}; give --overwrite to replace it or another --output"
    )
