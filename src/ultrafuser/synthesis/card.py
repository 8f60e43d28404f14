"""The data card of an export: what is in it (the paper's Table 15), what every step yielded, where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from ultrafuser.synthesis.domain import Domain, domains_print
from ultrafuser.synthesis.journal import Journal
from ultrafuser.synthesis.records import EDITED, KEPT, REJECTED
from ultrafuser.synthesis.shards import FEATURES
from ultrafuser.synthesis.spec import Spec
from ultrafuser.synthesis.splits import Shares
from ultrafuser.synthesis.steps import STEPS

__all__ = ["CARD", "MARK", "Exported", "Origin", "render_card"]

CARD = "README.md"
MARK = "Made by `ultrafuser synth export`"  # how a folder of ours is told from another one
REASONS = 12  # reasons listed for each step
ALL = "all"  # name of the configuration that holds every domain


@dataclass
class Exported:
    """What an export holds of one domain. Words are split at white space; tokens are counted where asked for."""

    domain: str
    wanted: Sequence[str]
    straddling: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    made_by: Counter[str] = field(default_factory=Counter)
    meta_topics: set[str] = field(default_factory=set)
    sub_topics: set[str] = field(default_factory=set)
    sums: Counter[str] = field(default_factory=Counter)
    responses: int = 0

    @property
    def conversations(self) -> int:
        """All conversations written."""
        return self.splits.total()

    def count(
        self,
        row: Mapping[str, Any],
        split: str,
        meta_topics: Iterable[str],
        sub_topics: Iterable[str],
        tokens: Callable[[str], int] | None,
    ) -> None:
        """Take a written row into the figures."""
        self.splits[split] += 1
        self.made_by[row["meta"]["made_by"]] += 1
        self.meta_topics.update(meta_topics)
        self.sub_topics.update(sub_topics)
        answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        self.responses += len(answers)
        for name, texts in (("instruction", [row["messages"][0]["content"]]), ("response", answers)):
            self.sums[f"{name} words"] += sum(len(text.split()) for text in texts)
            if tokens is not None:
                self.sums[f"{name} tokens"] += sum(map(tokens, texts))

    def mean(self, of: str) -> float | None:
        """Mean of "instruction words", "response tokens", ...; None where nothing was counted."""
        total = self.conversations if of.startswith("instruction") else self.responses
        return self.sums[of] / total if total and of in self.sums else None


@dataclass(frozen=True, slots=True)
class Origin:
    """What the card says beyond the figures: the licence, how tokens were counted, how it was split, the format."""

    form: str
    shares: Shares
    licence: str | None = None
    tokenizer: str | None = None


def render_card(
    journal: Journal, spec: Spec, domains: Sequence[Domain], made: Sequence[Exported], origin: Origin
) -> str:
    """The card as Markdown with a header that `datasets` and the Hub read. It follows from the records alone."""
    total = sum(one.conversations for one in made)
    named = ", ".join(domain.title for domain in domains)
    parts = [
        f"---\n{_header(spec, made, origin, total)}---\n# {spec.name}\n",
        f"{total:,} conversations about {named}, written by a language model in stages (UltraChat 2: Ding et al., "
        f"ACL 2025). {MARK}.\n",
        *_contents(made, origin),
        *_yields(journal, domains),
        *_origins(journal, spec, domains, origin),
        *_use(spec, made, origin),
    ]
    return "\n".join(parts)


def _header(spec: Spec, made: Sequence[Exported], origin: Origin, total: int) -> str:
    import yaml

    there = [one for one in made if one.conversations]
    configs: list[dict[str, Any]] = [{"config_name": ALL, "default": True, "data_files": _files("*", there, origin)}]
    if len(there) > 1:
        configs += [
            {"config_name": one.domain, "data_files": _files(one.domain, [one], origin)}
            for one in there
            if one.domain != ALL
        ]
    head: dict[str, Any] = {} if origin.licence is None else {"license": origin.licence}
    head |= {
        "pretty_name": spec.name,
        "task_categories": ["text-generation"],
        "tags": ["synthetic", "instruction-tuning", "ultrafuser", *(one.domain for one in made)],
        "size_categories": [_size(total)],
        "configs": configs,
        "dataset_info": [{"config_name": one["config_name"], "features": FEATURES} for one in configs],
    }
    return str(yaml.dump(head, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=120))


def _dumper() -> Any:
    """Writes what occurs twice twice, rather than by reference."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return Plain


def _files(folder: str, made: Sequence[Exported], origin: Origin) -> list[dict[str, str]]:
    splits = [name for name in origin.shares.wanted if any(one.splits[name] for one in made)]
    return [{"split": name, "path": f"{folder}/{name}/*.{origin.form}"} for name in splits]


def _size(total: int) -> str:
    below = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((name for limit, name in below if total < limit), "n>1M")


def _contents(made: Sequence[Exported], origin: Origin) -> list[str]:
    splits = origin.shares.wanted if len(origin.shares.wanted) > 1 else ()
    units = ["words", *(["tokens"] if origin.tokenizer else [])]
    head = ["domain", "meta-topics", "sub-topics", "conversations", *splits, "expanded", "complicated"]
    head += [f"{unit} per {part}" for part in ("instruction", "response") for unit in units]
    table = [
        [
            one.domain, len(one.meta_topics), len(one.sub_topics), one.conversations,
            *(one.splits[name] for name in splits), one.made_by["expansion"], one.made_by["complication"],
            *(one.mean(f"{part} {unit}") for part in ("instruction", "response") for unit in units),
        ]
        for one in made
    ]  # fmt: skip
    lines = ["## Contents", *_table(head, table), ""]
    told = f", tokens are those of `{origin.tokenizer}`" if origin.tokenizer else ""
    lines.append(
        f"Words are split at white space{told}; both are means. Topics are those that conversations are about."
    )
    if splits:
        lines.append(_apart(made, origin))
    return [*lines, ""]


def _apart(made: Sequence[Exported], origin: Origin) -> str:
    what = {"conversations": "instruction", "sub_topics": "sub-topic", "meta_topics": "meta-topic"}[origin.shares.apart]
    left = sum(one.straddling for one in made)
    told = f"; {left} conversations that come from both sides are left out" if left else ""
    return f"No {what} occurs in two splits{told}. Split by hash with seed {origin.shares.seed}."


def _yields(journal: Journal, domains: Sequence[Domain]) -> list[str]:
    """What came of every step, and why records and replies were left out."""
    table: list[list[Any]] = []
    reasons: list[list[Any]] = []
    for step in STEPS:
        found, why = journal.counts(step), Counter[str]()
        for domain in domains:
            states = Counter(found.get(domain.name, {}))
            why.update(journal.removed(step).get(domain.name, {}))
            if states:
                asked = states["waiting"] + states["answered"] + states["unusable"]
                kept = states[KEPT] + states[EDITED]
                row = [asked, states["unusable"], kept + states[REJECTED], states[REJECTED], states[EDITED], kept]
                table.append([step, domain.name, *row])
        reasons += [[step, reason, number] for reason, number in sorted(why.items(), key=_most)[:REASONS]]
    head = ["step", "domain", "requests", "without a usable reply", "records made", "left out", "edited", "kept"]
    lines = ["## What every step yielded", *_table(head, table), ""]
    if reasons:
        lines += ["Why records were left out:", "", *_table(["step", "reason", "records"], reasons), ""]
    return lines


def _most(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _origins(journal: Journal, spec: Spec, domains: Sequence[Domain], origin: Origin) -> list[str]:
    models = sorted({_name(model) for step in STEPS for model in journal.models(step)})
    licence = origin.licence or "none was named; the terms of the models below decide"
    lines = [
        "## Origin",
        f"- Licence: {licence}.",
        f"- Written by: {', '.join(f'`{name}`' for name in models) or 'unknown'}.",
        f"- Prompts: version `{domains_print(list(domains))}` of domains and prompts, seed {spec.seed}; the journal of "
        "the run holds the prompt of every record, by the record's id up to the dot.",
        f"- Sampling: topics and instructions at temperature {spec.generation.temperature:g}, top-p "
        f"{spec.generation.top_p:g}; responses at {spec.responses.temperature:g} and {spec.responses.top_p:g}, at most "
        f"{spec.responses.max_tokens} tokens.",
    ]
    used = ", ".join(f"`{one.name}`" for one in spec.filters)
    lines.append(f"- Filters: {used or 'none'}.")
    lines.append("- A language model wrote it: expect errors of fact and of reasoning, and check before relying on it.")
    return [*lines, ""]


def _name(model: str) -> str:
    """A model's name without the folders of somebody's machine."""
    path = PurePath(model.replace("\\", "/"))
    return path.name if path.is_absolute() or len(path.parts) > 2 else model


def _use(spec: Spec, made: Sequence[Exported], origin: Origin) -> list[str]:
    lines = ["## Use", "```python", "from datasets import load_dataset", "", 'data = load_dataset("FOLDER")']
    if len([one for one in made if one.conversations]) > 1:
        lines.append(f'one = load_dataset("FOLDER", "{made[0].domain}")')
    lines += ["```", "", "In a recipe of ultrafuser:", "", "```yaml", "data:"]
    for one in made:
        if one.conversations:
            files = (f"{name}: [FOLDER/{one.domain}/{name}]" for name in origin.shares.wanted if one.splits[name])
            lines.append(f"  {one.domain}: {{{', '.join(files)}}}")
    return [*lines, "```", ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|").replace("\n", " ")
