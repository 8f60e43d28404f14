"""Writes the sample's files from the journal and the maths generators: no network, same journal, same files."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from .ask import Journal, conversation, first_good
from .checks import FENCE, problem_with, run_python, tidy
from .math_families import make_math
from .prompt_files import Prompt

Row = dict[str, object]
PER_FAMILY = 7


def assemble(prompt: Prompt, attempts: int, journal: Journal, rejected: dict[str, str]) -> list[dict[str, str]] | None:
    """A composite answer with the model's prose and code around our own calculation, or None if either is unusable.

    Prose and code may come from different attempts: the longest usable prose, the first code that passes the tests.
    A rejection by hand of "KEY#ATTEMPT" excludes that attempt's part here if its reason begins with "prose" or "code".
    """
    prose = code = ""
    for attempt in range(attempts):
        got = conversation(prompt, attempt, journal, None)
        if got is None:
            break
        answer, reason = got[0][-1]["content"], rejected.get(f"{prompt.key}#{attempt}", "")
        opening = _plain_opening(answer)
        if len(opening) > len(prose) and not reason.startswith("prose"):
            prose = opening
        fence = FENCE.search(answer)
        usable = fence and not code and not reason.startswith("code")
        if usable and fence and not run_python(f"{fence.group(2)}\n\n{prompt.tests}\n"):
            code = _lead(answer, fence.start()) + fence.group()
    whole = tidy(f"{prose}\n\n{prompt.work}\n\n{code}")
    if not prose or not code or problem_with(prompt, whole, "stop"):
        return None
    return [{"role": "user", "content": prompt.turns[0]}, {"role": "assistant", "content": whole}]


def _plain_opening(answer: str) -> str:
    """The sentences with which an answer begins, up to the first that has a number, a formula or announces steps."""
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.!?]) +", answer.split("\n\n")[0].replace("\n", " ").strip()):
        if re.search(r"[\d=\\$`*]|:$|\b(?:[Ll]et's|[Hh]ere's|formula|steps?)\b", sentence):
            break
        kept.append(sentence)
    opening = " ".join(kept)
    return opening if len(opening.split()) >= 20 and opening.endswith((".", "!", "?")) else ""


def _lead(answer: str, fence: int) -> str:
    """The model's sentence in front of its code, if it is plain."""
    before = answer[:fence].rstrip().split("\n")[-1].strip()
    plain = before and before.endswith((".", ":")) and not re.search(r"[=\\]|\d", before) and len(before) < 240
    return f"{before}\n\n" if plain else ""


def model_rows(
    prompts: list[Prompt], journal: Journal, rejected: dict[str, str], attempts: int, counts: Counter[str]
) -> dict[tuple[str, str], list[Row]]:
    """Rows from the model's answers by (category, split), and in `counts` what happened to the rest."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for prompt in prompts:
        messages, reasons = first_good(prompt, attempts, journal, rejected, None)
        origin = "model"
        if messages is None and prompt.category == "composite":
            messages, origin = assemble(prompt, attempts, journal, rejected), "model + generator"
        for reason in reasons:
            counts[f"{prompt.category}: {re.sub(r'[0-9]+', 'n', reason.split(':')[0])}"] += 1
        if messages is None:
            counts[f"{prompt.category} {prompt.split}: {'no good answer' if reasons else 'not asked'}"] += 1
            continue
        row: Row = {"family": prompt.family, "messages": messages, "origin": origin}
        if prompt.tests:
            row["checked"] = True
        rows.setdefault((prompt.category, prompt.split), []).append(row)
    return rows


def write(path: Path, category: str, first: int, rows: list[Row]) -> None:
    """One JSON a line, written beside the file and then moved over it."""
    lines = []
    for number, row in enumerate(rows, first):
        head = {"id": f"{category}/{number:04d}", "category": category}
        lines.append(json.dumps(head | row, ensure_ascii=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(path)


def build(
    prompts: list[Prompt], journal: Journal, rejected: dict[str, str], attempts: int, seed: int, out: Path
) -> dict[str, object]:
    """Writes all files of the sample and returns counts, mean words and what was thrown out."""
    thrown: Counter[str] = Counter()
    tables = model_rows(prompts, journal, rejected, attempts, thrown)
    for split in ("train", "heldout"):
        made: list[Row] = [row | {"origin": "generator", "checked": True} for row in make_math(split, PER_FAMILY, seed)]
        tables["math", split] = made
    report: dict[str, object] = {}
    for (category, split), rows in sorted(tables.items()):
        first = 1 if split == "train" or category == "composite" else 1001
        write(out / f"{category}.{split}.jsonl", category, first, rows)
        words = [len(str(m["content"]).split()) for r in rows for m in r["messages"] if m["role"] == "assistant"]  # type: ignore[attr-defined]
        report[f"{category}.{split}"] = {
            "pairs": len(rows),
            "families": len({str(row["family"]) for row in rows}),
            "mean_answer_words": round(sum(words) / len(words), 1),
            "checked_by_running": sum(bool(row.get("checked")) for row in rows),
        }
    return report | {"thrown_out": dict(sorted(thrown.items()))}
