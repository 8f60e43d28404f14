"""A comparison of runs for a terminal. What models wrote is shown without its control characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ultrafuser.evaluation.units import PERCENT, difference_text, interval_text, item_score_text, p_text, score_text

if TYPE_CHECKING:
    from rich.console import Console

    from ultrafuser.evaluation.compare import Comparison

__all__ = ["COUNTED", "show", "visible"]

COUNTED = {
    "unfinished": "cut off by the length limit",
    "nothing_extracted": "no answer found in what was written",
    "flagged": "verdicts to look at",
    "unscored": "without a score",
}
LAYOUT: dict[str, Any] = {"title_justify": "left", "box": None, "pad_edge": False}
CUT = 300  # characters of a question or answer


def show(console: Console, comparison: Comparison, differences: int = 5) -> None:
    """Print tables, warnings and, per benchmark, the first `differences` items on which the runs differ."""
    console.print(_scores(comparison))
    console.print()
    for benchmark, table in comparison.benchmarks.items():
        if len(table["scores"]) > 1:
            console.print(Text(f"{benchmark}: {visible(table['verdict'])}"))
        _show_counts(console, benchmark, table["scores"])
    _show_average(console, comparison)
    if any(table["against"] for table in comparison.benchmarks.values()):
        console.print()
        console.print(_against(comparison))
    for warning in comparison.warnings:
        console.print(Text(f"! {visible(warning)}", style="yellow"))
    for benchmark, table in comparison.benchmarks.items():
        if differences > 0 and table["differences"] and table["differences"]["total"]:
            _show_items(console, benchmark, table, differences)


def visible(text: str, limit: int | None = None) -> str:
    """Text safe to print: control characters and broken surrogates as �, the middle left out beyond `limit`."""
    if limit is not None and len(text) > limit:
        half = limit // 2
        text = f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"
    plain = "".join(c if c in "\n\t" or (c.isprintable() or c == " ") else "�" for c in text)
    return plain.encode("utf-8", "replace").decode("utf-8")


def _cell(summary: Mapping[str, Any] | None, unit: str, mark: bool) -> Text:
    if summary is None:
        return Text("–", style="dim")
    text = Text(score_text(summary["score"], unit) + ("*" if mark else ""), style="bold" if mark else "")
    interval = interval_text(summary, unit)
    if interval:
        text.append(f"\n{interval.replace(' to ', '–').replace(' (exact)', '°')}", style="not bold dim")
    return text


def _scores(comparison: Comparison) -> Table:
    table = Table(
        title="scores with 95% intervals (° exact, where all items score the same); shares in percent\n"
        "* ahead of every other run beyond noise",
        **LAYOUT,
    )
    table.add_column("benchmark")
    for name in comparison.runs:
        table.add_column(escape(visible(name)), justify="right")
    oracle = comparison.oracle
    if oracle is not None:
        table.add_column("best of\nthe others", justify="right", style="dim")
    for benchmark, row in comparison.benchmarks.items():
        counts = sorted({summary["n"] for summary in row["scores"].values()})
        arrow = "" if row["higher_is_better"] else ", lower is better"
        first = Text(benchmark).append(f"\n{row['metric']}, n {' / '.join(map(str, counts))}{arrow}", style="dim")
        cells = [_cell(row["scores"].get(name), row["unit"], name == row["best"]) for name in comparison.runs]
        if oracle is not None:
            best = oracle["scores"].get(benchmark)
            cells.append(Text(f"{score_text(best['score'], row['unit'])}\n{visible(best['run'])}" if best else "–"))
        table.add_row(first, *cells)
    if comparison.average is not None:
        table.add_row()
        scores = comparison.average["scores"]
        cells = [_cell(scores[name], PERCENT, False) for name in comparison.runs]
        cells += [Text(score_text(oracle["average"], PERCENT))] if oracle is not None else []
        table.add_row(Text("average", style="bold"), *cells)
    return table


def _show_counts(console: Console, benchmark: str, scores: Mapping[str, Mapping[str, Any]]) -> None:
    """What to know before believing a score, where there is any of it."""
    for key, words in COUNTED.items():
        found = [(name, one["counts"][key], one["counts"]["answers"]) for name, one in scores.items()]
        some = ", ".join(f"{count} of {total} in {visible(name)}" for name, count, total in found if count)
        if some:
            console.print(Text(f"  {words}: {some}", style="dim"))


def _show_average(console: Console, comparison: Comparison) -> None:
    average, oracle = comparison.average, comparison.oracle
    if average is None:
        return
    console.print(Text(f"average: mean of {', '.join(average['benchmarks'])}"))
    for benchmark, reason in average["left_out"].items():
        console.print(Text(f"  without {benchmark}: {visible(reason)}", style="dim"))
    if oracle is not None and oracle["baseline_over_oracle"] is not None:
        shares = f"{oracle['baseline_over_oracle']:.3f}", f"{oracle['baseline_over_best_single']:.3f}"
        line = (
            f"{comparison.baseline}: {shares[0]} of the best of the others per benchmark (chosen knowing the scores), "
        )
        console.print(Text(visible(f"{line}{shares[1]} of the best single one ({oracle['best_single']})")))


def _against(comparison: Comparison) -> Table:
    base = escape(visible(comparison.baseline))
    table = Table(
        title=f"difference to {base} on the items that both have; bold: beyond noise\n"
        "only one: items that only this run gets right, and those that only the other does",
        **LAYOUT,
    )
    table.add_column("benchmark", overflow="fold")
    table.add_column("run", overflow="fold")
    for name in ("difference", "95% interval", "p", "items", "only one"):
        table.add_column(name, justify="right", no_wrap=True)
    for benchmark, row in comparison.benchmarks.items():
        for number, (name, test) in enumerate(row["against"].items()):
            four = test.get("table")
            table.add_row(
                Text("" if number else benchmark),
                Text(visible(name)),
                Text(difference_text(test["difference"], row["unit"]), style="bold" if test["better"] else ""),
                _interval(test["ci95"], row["unit"]),
                "–" if test["p"] is None else p_text(test["p"]).removeprefix("p = ").removeprefix("p "),
                str(test["n"]),
                f"{four['only_a']} : {four['only_b']}" if four else "–",
            )
    if comparison.average is not None:
        for number, (name, test) in enumerate(comparison.average["against"].items()):
            style = "bold" if test["better"] else ""
            cells = Text(difference_text(test["difference"], PERCENT), style=style), _interval(test["ci95"], PERCENT)
            table.add_row(Text("" if number else "average", style="bold"), Text(visible(name)), *cells, "–", "–", "–")
    return table


def _interval(interval: Sequence[float] | None, unit: str) -> str:
    return "–" if interval is None else " to ".join(difference_text(end, unit) for end in interval)


def _show_items(console: Console, benchmark: str, table: Mapping[str, Any], shown: int) -> None:
    found = table["differences"]
    console.print()
    console.print(Text(f"{benchmark}: the runs differ on {found['total']} of {found['compared']} items", style="bold"))
    for item in found["items"][:shown]:
        console.print(Text(f"{visible(item['id'])}  {visible(' / '.join(item['question']), CUT)}"))
        for name, one in item["runs"].items():
            line = Text(f"  {visible(name)}: ", style="cyan")
            line.append(item_score_text(one["score"], table["unit"]), style="bold")
            if one["extracted"] is not None:
                line.append(f"  extracted {visible(one['extracted'], 80)!r}", style="default")
            if one["note"]:
                line.append(f"  ({visible(one['note'], 120)})", style="dim")
            console.print(line)
            if one["answers"]:
                console.print(Text("    " + visible(one["answers"][-1], CUT).replace("\n", "\n    "), style="dim"))
