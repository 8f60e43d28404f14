"""What the benchmarks with one checked answer per problem share: items from records, verdicts from `MathChecker`."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ultrafuser.evaluation.benchmark import Answer, Benchmark, Item, Record, Verdict

if TYPE_CHECKING:
    from ultrafuser.evaluation.math_answers import Kind
    from ultrafuser.evaluation.tools import Tools

__all__ = ["CHAIN_OF_THOUGHT", "ProblemBenchmark", "identities"]

CHAIN_OF_THOUGHT = "Let's think step by step."  # Kojima et al., arXiv 2205.11916


class ProblemBenchmark(Benchmark):
    """Problems with one right answer: the share of them that is answered right (`accuracy`)."""

    domain = "math"
    metric = "accuracy"
    has_chain_of_thought = True
    kind: Kind

    @abstractmethod
    def prompt(self, record: Record) -> str:
        """What the model is asked."""

    def right_answer(self, record: Record) -> str:
        """The reference answer, as `MathChecker` takes it."""
        return str(record["answer"])

    def group(self, record: Record) -> str | None:
        """The category that sub-scores are shown by."""
        return None

    def items(self, records: Iterable[Record], *, chain_of_thought: bool = False) -> list[Item]:
        """One question each; chain of thought puts the phrase of the paper after it, on a line of its own.

        Raises ValueError where math-verify is missing or a record is not in the form of the local file: before
        anything is asked.
        """
        from ultrafuser.evaluation.math_answers import require_library

        if self.kind != "letter":
            require_library()
        records = list(records)
        named = zip(identities(self.name, records), records, strict=True)
        return [self._item(identity, record, f"\n{CHAIN_OF_THOUGHT}" * chain_of_thought) for identity, record in named]

    def _item(self, identity: str, record: Record, ending: str) -> Item:
        try:
            self.right_answer(record)
            return Item(identity, record, turns=(self.prompt(record) + ending,), group=self.group(record))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.name}: record {identity}: {type(error).__name__}: {error}") from None

    def grade(self, pairs: Sequence[tuple[Item, Answer]], tools: Tools) -> list[Verdict]:
        """1 where the final answer equals the reference. The note says how it was found, or why there is none."""
        cases = [(self.right_answer(item.record), "".join(answer.texts[:1])) for item, answer in pairs]
        verdicts = []
        for (gold, _), (_, answer), found in zip(cases, pairs, tools.math.check(cases, self.kind), strict=True):
            notes = [] if answer.finished or found.correct else ["cut off by the length limit"]
            notes += [found.note] if found.note else []
            verdicts.append(
                Verdict(
                    scores={self.metric: float(found.correct)},
                    extracted=found.extracted,
                    note="; ".join(notes),
                    detail={"reference": gold},
                )
            )
        return verdicts


def identities(name: str, records: Sequence[Record]) -> list[str]:
    """The records' ids, or their places where they have none (as on the Hub). ValueError for a repeated id."""
    found = [str(record["id"]) if record.get("id") is not None else f"{name}/{i}" for i, record in enumerate(records)]
    repeated = [identity for identity, count in Counter(found).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{name}: {len(repeated)} ids stand in the data more than once, first {repeated[0]!r}; ids must differ"
        )
    return found
