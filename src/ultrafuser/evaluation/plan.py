"""What a run will do, settled and checked before the first answer: options, items, batches, seeds."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ultrafuser.evaluation.benchmark import Benchmark, Item, Needs
from ultrafuser.evaluation.data import Loaded
from ultrafuser.evaluation.subject import Asking, Subject
from ultrafuser.evaluation.tools import Tools

__all__ = ["Options", "Task", "check", "lacking", "make_task", "missing", "pick"]

DEFAULT_BATCH = 8
WHAT = {
    Needs.ANSWERS: "written answers",
    Needs.CHOICES: "log-probabilities of one-word answers",
    Needs.LIKELIHOODS: "log-likelihoods of given texts",
}


@dataclass(frozen=True, slots=True)
class Options:
    """How a run asks. `limit` items per benchmark (None: all), `samples` answers per item; `max_new_tokens` None
    leaves it to the benchmark; `pass_at` are the k of pass@k. Raises ValueError for what cannot be."""

    limit: int | None = None
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    chain_of_thought: bool = False
    seed: int = 0
    pass_at: tuple[int, ...] = (1,)
    batch_size: int = DEFAULT_BATCH

    def __post_init__(self) -> None:
        for name in ("limit", "samples", "max_new_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')}: {value} is too small; at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"--temperature: {self.temperature} must be 0 (most likely token) or above")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p: {self.top_p} must be above 0 and at most 1")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"--samples: {self.samples} answers at temperature 0 would all be the same; give a --temperature, "
                "for example 0.8"
            )
        if not self.pass_at or min(self.pass_at) < 1:
            raise ValueError(f"--pass-at: {', '.join(map(str, self.pass_at)) or 'nothing'}; numbers from 1 up")
        if max(self.pass_at) > self.samples:
            raise ValueError(
                f"--pass-at: pass@{max(self.pass_at)} needs at least {max(self.pass_at)} answers per item, and "
                f"--samples is {self.samples}; raise it (with a --temperature above 0)"
            )


@dataclass(frozen=True)
class Task:
    """One benchmark of a run: its items in the order of the data, and how they are asked."""

    benchmark: Benchmark
    items: list[Item]
    origin: dict[str, Any]
    available: int  # items in the data, before the limit
    options: Options

    @property
    def samples(self) -> int:
        """Answers per item; a likelihood is the same each time, so one will do."""
        return self.options.samples if self.benchmark.needs is Needs.ANSWERS else 1

    @property
    def total(self) -> int:
        """Answers in all."""
        return len(self.items) * self.samples

    @property
    def chain_of_thought(self) -> bool:
        """Whether this benchmark is asked for its reasoning."""
        return self.options.chain_of_thought and self.benchmark.has_chain_of_thought

    def batches(self, length: Callable[[Item], int]) -> list[list[Item]]:
        """The items, alike in length, in batches; longest first, so that memory runs out at once or never.

        They depend on the items alone, not on what has been answered, so a run that goes on has the same.
        """
        ordered = sorted(self.items, key=length, reverse=True)
        size = self.options.batch_size
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def asking(self, sample: int, batch: int) -> Asking:
        """How one batch is answered; its seed comes from the run's seed, the sample's number and the batch's."""
        options = self.options
        digest = hashlib.sha256(f"{options.seed} {self.benchmark.name} {sample} {batch}".encode()).digest()
        longest = options.max_new_tokens or self.benchmark.max_new_tokens
        seed = int.from_bytes(digest[:4], "big") >> 1
        return Asking(longest, options.temperature, options.top_p, seed)

    def as_dict(self, tools: Tools) -> dict[str, Any]:
        """What run.json says about it: everything that its answers and verdicts depend on, the subject apart."""
        benchmark, options = self.benchmark, self.options
        about: dict[str, Any] = {
            "title": benchmark.title,
            "domain": benchmark.domain,
            "metric": benchmark.metric,
            "higher_is_better": benchmark.higher_is_better,
            "reference": benchmark.reference,
            "licence": benchmark.source.licence,
            "needs": benchmark.needs.value,
            "data": self.origin,
            "available": self.available,
            "items": len(self.items),
            "limit": options.limit,
            "samples": self.samples,
            "seed": options.seed,
        }
        if benchmark.needs is Needs.ANSWERS:
            about |= {
                "max_new_tokens": options.max_new_tokens or benchmark.max_new_tokens,
                "temperature": options.temperature,
                "top_p": options.top_p,
                "chain_of_thought": self.chain_of_thought,
            }
        if "sandbox" in benchmark.uses:
            about["sandbox"] = tools.sandbox.describe()
        if "judge" in benchmark.uses and tools.judge is not None:
            about["judge"] = tools.judge.describe()
        return about


def make_task(benchmark: Benchmark, loaded: Loaded, options: Options) -> Task:
    """The task of one benchmark on loaded records. Raises ValueError for data that gives no items or like ids."""
    chain = options.chain_of_thought and benchmark.has_chain_of_thought
    try:
        items = benchmark.items(loaded.records, chain_of_thought=chain)
    except (KeyError, TypeError, IndexError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{benchmark.name}: its data is not in the form it needs ({reason}); {_place(loaded)}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{benchmark.name}: {error}") from error
    if not items:
        raise ValueError(f"{benchmark.name}: its data holds nothing to ask; {_place(loaded)}")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ValueError(f"{benchmark.name}: two items have the id {item.id!r}; {_place(loaded)}")
        seen.add(item.id)
    return Task(benchmark, pick(items, options.limit), loaded.origin, len(items), options)


def pick(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` items, in their order: those whose ids come first when hashed.

    So they are a random sample that is the same in every run, whatever else the file holds, and a smaller limit takes
    a part of what a larger one takes.
    """
    if limit is None or limit >= len(items):
        return list(items)
    ranked = sorted(range(len(items)), key=lambda place: hashlib.sha256(items[place].id.encode()).digest())
    return [items[place] for place in sorted(ranked[:limit])]


def lacking(benchmark: Benchmark, tools: Tools) -> str | None:
    """Why a benchmark's answers could not be graded with these tools; None when they can."""
    if "judge" in benchmark.uses and tools.judge is None:
        return "it needs a judge; give --judge URL with --judge-model NAME, or --reward-model FOLDER"
    if "rating" in benchmark.uses and tools.judge is not None and not tools.judge.rates:
        return f"it needs a judge that rates answers, which {tools.judge.name} does not; give --judge URL instead"
    if "sandbox" in benchmark.uses:
        try:
            tools.sandbox.describe()
        except ValueError as error:
            return str(error)
    return None


def missing(benchmark: Benchmark, subject: Subject, tools: Tools) -> str | None:
    """Why a benchmark cannot be run with this subject and these tools; None when it can."""
    if benchmark.needs not in subject.offers:
        return f"it needs {WHAT[benchmark.needs]}, which {subject.name} does not give"
    return lacking(benchmark, tools)


def check(tasks: Sequence[Task], subject: Subject, tools: Tools) -> None:
    """Everything that can be known to fail before the first answer. Raises ValueError naming benchmark and fix."""
    if not tasks:
        raise ValueError("--benchmarks: none is named; `ultrafuser eval list` shows them")
    if importlib.util.find_spec("scipy") is None:
        raise ValueError(
            "the package scipy is missing (for intervals); install it with: pip install 'ultrafuser[eval]'"
        )
    for task in tasks:
        reason = missing(task.benchmark, subject, tools)
        if reason is not None:
            raise ValueError(f"{task.benchmark.name}: {reason}")
    if tasks[0].options.chain_of_thought and not any(task.chain_of_thought for task in tasks):
        names = ", ".join(task.benchmark.name for task in tasks)
        raise ValueError(f"--cot: none of {names} has a chain-of-thought form; leave --cot out")


def _place(loaded: Loaded) -> str:
    origin = loaded.origin
    return f"look at {origin.get('path') or origin.get('id') or 'its files'}"
