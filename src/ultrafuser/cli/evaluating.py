"""The work of `ultrafuser eval`: from names on the command line to benchmarks, data, judge and model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ultrafuser.cli.common import resolve_data
from ultrafuser.cli.eval_showing import progress, show_scores
from ultrafuser.files import write_whole
from ultrafuser.lookup import lookup

if TYPE_CHECKING:
    from ultrafuser.evaluation.benchmark import Benchmark
    from ultrafuser.evaluation.plan import Options, Task
    from ultrafuser.evaluation.record import Run
    from ultrafuser.evaluation.subject import Subject
    from ultrafuser.evaluation.tools import Tools

__all__ = ["Request", "run_request"]

ALL = "all"
RUNS = Path("runs/eval")
ROUNDS = 8  # an endpoint's batch is this many times the requests in flight, so that few wait for the last
ENDPOINT = ("http://", "https://")
LOSS = "loss"


@dataclass(frozen=True)
class Request:
    """What the user asked for, as given."""

    model: str
    benchmarks: str | None
    options: Options
    data: str | None = None
    hub: Sequence[str] = ()
    loss_data: Sequence[str] = ()
    only: str | None = None
    model_name: str | None = None
    judge: str | None = None
    judge_model: str | None = None
    reward_model: str | None = None
    allow_unsafe_code: bool = False
    output: Path | None = None
    overwrite: bool = False
    specialist_path: Sequence[str] | None = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantise: str | None = None
    command: Sequence[str] = ()

    @property
    def endpoint(self) -> bool:
        """Whether the model is behind an address."""
        return self.model.startswith(ENDPOINT)

    @property
    def asked(self) -> Options:
        """The options of the tasks."""
        rounds = ROUNDS if self.endpoint else 1
        return replace(self.options, batch_size=rounds * self.options.batch_size)

    def folder(self) -> Path:
        """The run's folder: named by the user, or by model and settings, so that the same command finds it again."""
        if self.output is not None:
            return self.output.expanduser()
        settings = asdict(self) | {"options": {**asdict(self.options), "pass_at": None, "batch_size": None}}
        for name in ("benchmarks", "output", "overwrite", "command", "allow_unsafe_code", "device", "specialist_path"):
            del settings[name]
        for name in ("dtype", "quantise"):  # as stored: the folder has the name it had before there was a choice
            if settings[name] is None:
                del settings[name]
        for name in ("model", "data"):
            path = Path(settings[name] or "").expanduser()
            settings[name] = str(path.resolve()) if settings[name] and path.exists() else settings[name]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=list).encode()).hexdigest()
        return RUNS / f"{self._slug()}-{digest[:8]}"

    def _slug(self) -> str:
        name = self.model_name or self.model.rstrip("/").rpartition("//")[2] if self.endpoint else self.model
        last = name if name.startswith("zoo:") else Path(name).expanduser().absolute().name.removesuffix(".gguf")
        return re.sub(r"[^\w.-]+", "-", f"{last}-{self.only}" if self.only else last).strip("-")


def run_request(request: Request, console: Console) -> dict[str, Any]:
    """Do the run, or what is left of it, and show it; returns what the JSON file holds."""
    from ultrafuser.evaluation.judges import open_judge
    from ultrafuser.evaluation.opening import refuse_foreign
    from ultrafuser.evaluation.record import REPORT_FILE, read_summary
    from ultrafuser.evaluation.runner import evaluate
    from ultrafuser.evaluation.tools import Tools

    _check_places(request)
    folder = request.folder()
    refuse_foreign(folder)
    names, wanted = _names(request.benchmarks), request.benchmarks == ALL
    tasks, left_out = _tasks(request, names, forgive=wanted)
    with ExitStack() as stack:
        judge = open_judge(
            url=request.judge, model=request.judge_model, reward_model=request.reward_model, device=request.device
        )
        tools = stack.enter_context(Tools(judge=judge, make_sandbox=_sandbox if request.allow_unsafe_code else None))
        tasks = _equipped(tasks, left_out, tools, forgive=wanted)
        subject, notice = _open_subject(request, stack)
        tasks = _suitable(tasks, left_out, subject, tools, forgive=wanted)
        for name, reason in left_out.items():
            console.print(Text(f"left out: {name}: {reason}", style="dim"), soft_wrap=True)
        console.print(Text(f"{subject.name} -> {folder}"), soft_wrap=True)
        before = {} if request.overwrite else read_summary(folder)
        with progress(console) as on_progress:
            run = evaluate(
                subject, tasks, tools, folder,
                overwrite=request.overwrite, command=request.command, on_progress=on_progress,
            )  # fmt: skip
    chosen = {task.benchmark.name: run.summary[task.benchmark.name] for task in tasks}
    if all(name in before for name in chosen):
        console.print("finished before; --overwrite starts it anew", style="dim")
    show_scores(console, run, chosen, notice)
    _write_report(run, folder / REPORT_FILE)
    console.print(Text(f"as a page: {folder / REPORT_FILE}"), soft_wrap=True)
    return {"model": run.settings["model"], "run": str(folder), "benchmarks": chosen, "left_out": left_out}


def _write_report(run: Run, file: Path) -> None:
    from ultrafuser.evaluation.compare import compare_runs
    from ultrafuser.evaluation.report import render

    write_whole(file, render([run], compare_runs([run])))


def _check_places(request: Request) -> None:
    """What can be told from the words alone."""
    if request.endpoint:
        for name in ("only", "revision", "device", "dtype", "quantise", "specialist_path"):
            if getattr(request, name):
                option = name.replace("_", "-")
                raise ValueError(f"--{option}: {request.model} is an endpoint, which has no such thing; leave it out")
    elif request.model_name is not None:
        raise ValueError(f"--model-name: {request.model!r} is no endpoint; an endpoint starts with http:// or https://")


def _names(text: str | None) -> list[str]:
    """Names of benchmarks, in the order given, each once."""
    from ultrafuser.evaluation.benchmarks import BENCHMARKS

    if text == ALL:
        return list(BENCHMARKS)
    names = list(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))
    if not names:
        raise ValueError("--benchmarks: none is named; give names with commas between, or all (`ultrafuser eval list`)")
    for name in names:
        lookup(BENCHMARKS, name, "--benchmarks")
    return names


def _tasks(request: Request, names: Sequence[str], *, forgive: bool) -> tuple[list[Task], dict[str, str]]:
    """The data of every benchmark; `forgive` leaves out one that has none, and says why."""
    from ultrafuser.evaluation.benchmarks import BENCHMARKS
    from ultrafuser.evaluation.data import HubPlace, load_domains, load_records
    from ultrafuser.evaluation.plan import make_task

    places = _pairs(request.hub, "--hub", "NAME=ID@REVISION")
    for name in places:
        lookup(BENCHMARKS, name, "--hub")
    files = {domain: Path(resolve_data(file)) for domain, file in _loss_files(request).items()}
    tasks, left_out = [], {}
    for name in names:
        benchmark = BENCHMARKS[name]
        try:
            if name == LOSS and name not in places:
                loaded = load_domains(files, request.data)
            else:
                hub = HubPlace.parse(places[name], benchmark.source) if name in places else None
                loaded = load_records(benchmark.source, request.data, hub=hub)
            tasks.append(make_task(benchmark, loaded, request.asked))
        except ValueError as error:
            if not forgive:
                raise
            left_out[name] = str(error)
    if not tasks:
        raise ValueError(f"--benchmarks: none of them has data; {next(iter(left_out.values()))}")
    return tasks, left_out


def _loss_files(request: Request) -> dict[str, str]:
    """Files by domain: those named, or with the sample data the ones that come with the package."""
    from ultrafuser.zoo.sample import CATEGORIES

    named = _pairs(request.loss_data, "--loss-data", "DOMAIN=FILE")
    if named or request.data != "sample":
        return named
    return {domain: f"zoo-sample:{domain}/heldout" for domain in CATEGORIES}


def _pairs(texts: Sequence[str], option: str, form: str) -> dict[str, str]:
    found = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark or not name or not value:
            raise ValueError(f"{option}: {text!r} must read {form}")
        found[name] = value
    return found


def _sandbox() -> Any:
    from ultrafuser.evaluation.sandbox import Sandbox

    return Sandbox(allow_unsafe=True)


def _equipped(tasks: list[Task], left_out: dict[str, str], tools: Tools, *, forgive: bool) -> list[Task]:
    from ultrafuser.evaluation.plan import lacking

    return _kept(tasks, left_out, lambda benchmark: lacking(benchmark, tools), forgive)


def _suitable(
    tasks: list[Task], left_out: dict[str, str], subject: Subject, tools: Tools, *, forgive: bool
) -> list[Task]:
    from ultrafuser.evaluation.plan import missing

    return _kept(tasks, left_out, lambda benchmark: missing(benchmark, subject, tools), forgive)


def _kept(
    tasks: list[Task], left_out: dict[str, str], why_not: Callable[[Benchmark], str | None], forgive: bool
) -> list[Task]:
    """The tasks that can be run; the others are refused, or with `forgive` left out with the reason."""
    reasons = {task.benchmark.name: reason for task in tasks if (reason := why_not(task.benchmark)) is not None}
    if reasons and (not forgive or len(reasons) == len(tasks)):
        name, reason = next(iter(reasons.items()))
        raise ValueError(f"{name}: {reason}")
    left_out.update(reasons)
    return [task for task in tasks if task.benchmark.name not in reasons]


def _open_subject(request: Request, stack: ExitStack) -> tuple[Subject, str | None]:
    """The model under test, and what has to be said about its gate's weights."""
    batch_size = request.options.batch_size
    if request.endpoint:
        from ultrafuser.endpoint import ChatClient
        from ultrafuser.evaluation.subjects.endpoint import EndpointSubject

        endpoint = EndpointSubject(ChatClient(request.model, request.model_name, concurrency=batch_size))
        return stack.enter_context(closing(endpoint)), None
    from ultrafuser.cli.opening import open_fused
    from ultrafuser.evaluation.subjects.local import LocalSubject, only_specialist

    only = request.only
    opened = open_fused(
        request.model, revision=request.revision, device=request.device, specialist_paths=request.specialist_path,
        only=only, dtype=request.dtype, quantise=request.quantise,
    )  # fmt: skip
    model, tokenizer, notice = opened.model, opened.tokenizer, opened.gate_notice
    if only is not None and model.n_specialists > 1:
        model, notice = only_specialist(model, only), None
    name = request.model if only is None else f"{request.model} ({only})"
    return LocalSubject(model, tokenizer, name=name, batch_size=batch_size), notice
