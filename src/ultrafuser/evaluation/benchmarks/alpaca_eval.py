"""AlpacaEval: a judge compares the answer with a reference model's. Versions 1 and 2 differ in that model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial

from ultrafuser.evaluation.benchmark import Answer, Benchmark, Item, Record, Source, Verdict
from ultrafuser.evaluation.judges import Comparison, Pair
from ultrafuser.evaluation.tools import Tools

__all__ = ["ALPACA_EVAL", "ALPACA_EVAL_2", "AlpacaEval"]

_PREAMBLE = "Give a helpful, detailed and polite answer to the request below.\n\n"


def _from_hub(record: Record, field: str) -> Record:
    """A record of tatsu-lab/alpaca_eval, which has a file for each reference and no ids."""
    digest = hashlib.sha256(record["instruction"].encode()).hexdigest()[:12]
    return {
        "id": f"alpaca_eval/{digest}",
        "dataset": record["dataset"],
        "instruction": record["instruction"],
        field: record["output"],
    }


class AlpacaEval(Benchmark):
    """Win rate against the answers in the record's field `reference_field`: a tie counts half.

    It is the plain rate, not the length-controlled one that the leaderboard of version 2 sorts by; the mean length of
    answers stands beside it. `preamble` goes before each instruction; the judge does not see it.
    """

    domain = "text"
    metric = "win_rate"
    reference = "Li et al., 2023, AlpacaEval: An Automatic Evaluator of Instruction-following Models"
    max_new_tokens = 1024
    uses = ("judge",)

    def __init__(self, name: str, title: str, reference_field: str, hub_file: str, preamble: str = "") -> None:
        self.name, self.title = name, title
        self._field, self._preamble = reference_field, preamble
        self.source = Source(
            file="alpaca_eval",
            required=("id", "dataset", "instruction", reference_field),
            hub_id="tatsu-lab/alpaca_eval",
            hub_file=hub_file,
            adapt=partial(_from_hub, field=reference_field),
            licence="CC BY-NC 4.0",
        )

    def items(self, records: Iterable[Record], *, chain_of_thought: bool = False) -> list[Item]:
        """One item per instruction, grouped by the data set that it came from."""
        return [
            Item(
                id=record["id"],
                record=record,
                turns=(self._preamble + record["instruction"],),
                group=record["dataset"],
            )
            for record in records
        ]

    def grade(self, pairs: Sequence[tuple[Item, Answer]], tools: Tools) -> list[Verdict]:
        """Verdicts of the judge; "orders_agree" is the share of comparisons on which both orders agree."""
        if tools.judge is None:
            raise ValueError(f"{self.name} needs a judge: --judge URL, or --reward-model FOLDER")
        texts = [answer.texts[0] if answer.texts else "" for _, answer in pairs]
        references = [item.record[self._field] for item, _ in pairs]
        cases = [
            Pair(item.record["instruction"], text, reference)
            for (item, _), text, reference in zip(pairs, texts, references, strict=True)
        ]
        comparisons = tools.judge.compare(cases)
        return [self._verdict(*one) for one in zip(texts, references, comparisons, strict=True)]

    def _verdict(self, text: str, reference: str, comparison: Comparison) -> Verdict:
        scores = {self.metric: comparison.win, "answer_characters": float(len(text))}
        if comparison.detail.get("agreed") is not None:
            scores["orders_agree"] = float(comparison.detail["agreed"])
        detail = {**comparison.detail, "reference_characters": len(reference)}
        return Verdict(scores, extracted=text, note=comparison.note, detail=detail)


ALPACA_EVAL = AlpacaEval("alpaca_eval", "AlpacaEval", "davinci003", "alpaca_eval.json", _PREAMBLE)
ALPACA_EVAL_2 = AlpacaEval(
    "alpaca_eval_2", "AlpacaEval 2 (plain win rate)", "gpt4_1106", "alpaca_eval_gpt4_baseline.json"
)
