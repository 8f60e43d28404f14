"""`ultrafuser eval`: score a model on benchmarks, compare runs, list the benchmarks."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ultrafuser.cli.common import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuantiseOption,
    RevisionOption,
    SpecialistPathOption,
    human_console,
    write_json,
)
from ultrafuser.files import write_whole

RUN = "run"
HELP_OPTIONS = ("-h", "--help")
WHAT, HOW, JUDGING, WHERE = "What is asked", "How it is answered", "Judges and code", "The run"


class RunByDefault(TyperGroup):
    """A group of commands in which a first word that is none of them is the first word of `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in HELP_OPTIONS):
            args = [RUN, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Its own help, then that of `run`, whose options are the ones looked for here."""
        super().format_help(ctx, formatter)
        run_command = self.commands[RUN]
        run_command.format_help(type(ctx)(run_command, info_name=RUN, parent=ctx), formatter)


def register(app: typer.Typer) -> None:
    """Add the group of verbs to the command line."""
    group = typer.Typer(
        cls=RunByDefault,
        no_args_is_help=False,
        help="Score a model on benchmarks: `ultrafuser eval MODEL --benchmarks gsm8k,humaneval --data DIR`. That is "
        "short for `ultrafuser eval run MODEL ...`, whose options are shown below.",
    )
    group.command(RUN)(run)
    group.command("list")(list_benchmarks)
    group.command("compare")(compare)
    group.command("report")(report)
    app.add_typer(group, name="eval")


def _option(*names: str, panel: str, metavar: str | None = None, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel)


RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `ultrafuser eval` wrote.")]
BaselineOption = Annotated[
    str | None,
    typer.Option("--baseline", metavar="RUN", help="The run that the others are tested against; left out: the first."),
]


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder of a fused model or of any causal LM, a .gguf file, zoo:NAME, a Hub id with --revision, or "
            "the http(s) address of an OpenAI-compatible endpoint.",
        ),
    ],
    benchmarks: Annotated[
        str | None,
        _option("--benchmarks", "-b", metavar="A,B", panel=WHAT, help="Their names, or `all`; see `eval list`."),
    ] = None,
    data: Annotated[
        str | None,
        _option(
            "--data",
            metavar="DIR",
            panel=WHAT,
            help="Folder of the data files, `sample` for a few of our own, `hub` (also when left out) for the Hub.",
        ),
    ] = None,
    hub: Annotated[
        list[str] | None,
        _option("--hub", metavar="NAME=ID@REV", panel=WHAT, help="Another place on the Hub for one benchmark."),
    ] = None,
    loss_data: Annotated[
        list[str] | None,
        _option("--loss-data", metavar="DOMAIN=FILE", panel=WHAT, help="Held-out conversations for `loss`."),
    ] = None,
    limit: Annotated[
        int | None, _option("--limit", metavar="K", panel=WHAT, help="A fixed random sample of K items of each.")
    ] = None,
    only: Annotated[
        str | None, _option("--only", metavar="NAME", panel=HOW, help="One specialist of a fused model, by itself.")
    ] = None,
    cot: Annotated[
        bool, _option("--cot", panel=HOW, help="Ask for the reasoning first, where a benchmark has that form.")
    ] = False,
    max_new_tokens: Annotated[
        int | None,
        _option("--max-new-tokens", metavar="N", panel=HOW, help="Longest answer; left out: the benchmark's own."),
    ] = None,
    temperature: Annotated[
        float, _option("--temperature", metavar="X", panel=HOW, help="0 takes the most likely token; above it, sample.")
    ] = 0.0,
    top_p: Annotated[
        float, _option("--top-p", metavar="X", panel=HOW, help="Sample from the top X of probability.")
    ] = 1.0,
    samples: Annotated[
        int, _option("--samples", metavar="N", panel=HOW, help="Answers per item, with a temperature above 0.")
    ] = 1,
    pass_at: Annotated[
        str, _option("--pass-at", metavar="K,K", panel=HOW, help="The k of pass@k, none above --samples.")
    ] = "1",
    seed: Annotated[int, _option("--seed", metavar="N", panel=HOW, help="Seed of sampling and intervals.")] = 0,
    batch_size: Annotated[
        int, _option("--batch-size", metavar="N", panel=HOW, help="Items at a time; requests, at an endpoint.")
    ] = 8,
    model_name: Annotated[
        str | None,
        _option("--model-name", metavar="NAME", panel=HOW, help="The endpoint's model; key from OPENAI_API_KEY."),
    ] = None,
    judge: Annotated[
        str | None, _option("--judge", metavar="URL", panel=JUDGING, help="Endpoint of the judge of free text.")
    ] = None,
    judge_model: Annotated[
        str | None, _option("--judge-model", metavar="NAME", panel=JUDGING, help="The judge's name at that endpoint.")
    ] = None,
    reward_model: Annotated[
        str | None, _option("--reward-model", metavar="FOLDER", panel=JUDGING, help="A sequence classifier as judge.")
    ] = None,
    allow_unsafe_code: Annotated[
        bool,
        _option(
            "--allow-unsafe-code",
            panel=JUDGING,
            help="Run generated code even where this platform cannot isolate it. It may do anything you may.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        _option("--output", "-o", metavar="DIR", panel=WHERE, help="Folder of the run; left out: runs/eval/MODEL-..."),
    ] = None,
    overwrite: Annotated[
        bool, _option("--overwrite", panel=WHERE, help="Start a run anew that lies in that folder.")
    ] = False,
    specialist_path: SpecialistPathOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantise: QuantiseOption = None,
    json_path: JsonOption = None,
) -> int:
    """Answer and grade benchmarks, keep every answer, print the scores with their 95% intervals.

    Killed or stopped midway, the same command goes on and asks nothing twice. A model folder that is called like a
    command of this group is scored with `ultrafuser eval run FOLDER`.
    """
    from ultrafuser.cli.evaluating import Request, run_request
    from ultrafuser.evaluation.plan import Options

    options = Options(
        limit=limit, samples=samples, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens,
        chain_of_thought=cot, seed=seed, pass_at=_numbers(pass_at), batch_size=batch_size,
    )  # fmt: skip
    request = Request(
        model=model, benchmarks=benchmarks, data=data, hub=hub or [], loss_data=loss_data or [], options=options,
        only=only, model_name=model_name, judge=judge, judge_model=judge_model, reward_model=reward_model,
        allow_unsafe_code=allow_unsafe_code, output=output, overwrite=overwrite, specialist_path=specialist_path,
        revision=revision, device=device, dtype=dtype, quantise=quantise,
        command=["ultrafuser", *map(_without_password, sys.argv[1:])],
    )  # fmt: skip
    console = human_console(json_path)
    try:
        write_json(json_path, run_request(request, console))
    except KeyboardInterrupt:
        console.print("\nstopped; the same command goes on where it was", markup=False)
        return 130
    return 0


def _without_password(word: str) -> str:
    """A word of the command line as the record may show it: an address without the name and password in it."""
    return re.sub(r"(https?://)[^/@\s]*@", r"\1", word)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ValueError(f"--pass-at: {text!r} must be numbers with commas between, for example 1,10") from None


def list_benchmarks(json_path: JsonOption = None) -> None:
    """List the benchmarks: name, domain, metric, what they need, data file, licence of the data."""
    from ultrafuser.cli.eval_showing import benchmark_rows, benchmark_table

    rows = benchmark_rows()
    human_console(json_path).print(benchmark_table(rows))
    write_json(json_path, {"benchmarks": rows})


def compare(
    runs: RunsArgument,
    baseline: BaselineOption = None,
    differences: Annotated[
        int, typer.Option("--differences", metavar="N", min=0, help="Items shown on which the runs differ.")
    ] = 5,
    report_path: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write a self-contained page (HTML) too.")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Set runs side by side: scores, paired tests on shared items, items they differ on. One run: its scores."""
    from ultrafuser.evaluation.compare import compare_runs, show
    from ultrafuser.evaluation.record import load_run

    loaded = [load_run(folder) for folder in runs]
    comparison = compare_runs(loaded, baseline)
    console = human_console(json_path)
    show(console, comparison, differences)
    if report_path is not None:
        _write_report(report_path, loaded, comparison)
        console.print(f"report: {report_path}", markup=False, soft_wrap=True)
    write_json(json_path, comparison.as_dict())


def report(
    runs: RunsArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")] = Path(
        "eval.html"
    ),
    baseline: BaselineOption = None,
    json_path: JsonOption = None,
) -> None:
    """Write one self-contained page about runs: scores, tests, every item with prompts, answers and verdicts."""
    from ultrafuser.evaluation.compare import compare_runs
    from ultrafuser.evaluation.record import load_run

    loaded = [load_run(folder) for folder in runs]
    comparison = compare_runs(loaded, baseline)
    _write_report(output, loaded, comparison)
    human_console(json_path).print(f"report: {output}", markup=False, soft_wrap=True)
    write_json(json_path, {"report": str(output), "comparison": comparison.as_dict()})


def _write_report(path: Path, runs: list[Any], comparison: Any) -> None:
    from ultrafuser.evaluation.report import render

    write_whole(path.expanduser(), render(runs, comparison))
