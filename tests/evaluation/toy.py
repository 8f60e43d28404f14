"""A scripted model and a toy benchmark; as a program, a run of them that kills itself (SIGKILL) at a chosen point.

python toy.py FOLDER [--die answer|grade|rewrite|summary] [--at N] [--samples N] [--seed N] ...
"""

import argparse
import hashlib
import json
import os
import signal
from pathlib import Path

from ultrafuser.evaluation import files, runner
from ultrafuser.evaluation.benchmark import Answer, Benchmark, Item, Likelihood, Needs, Query, Source, Verdict
from ultrafuser.evaluation.data import Loaded
from ultrafuser.evaluation.plan import Options, make_task
from ultrafuser.evaluation.tools import Tools


def records(count=23):
    return [
        {"id": f"sum/{i}", "question": f"{i} + {i * i % 7} = ?" + " " * i, "answer": i + i * i % 7}
        for i in range(count)
    ]


class Sums(Benchmark):
    name = "sums"
    title = "Sums"
    domain = "math"
    metric = "accuracy"
    source = Source("sums", ("id", "question", "answer"), hub_id="someone/sums")
    reference = "made up for these tests"
    has_chain_of_thought = True

    def items(self, records, *, chain_of_thought=False):
        after = " Think." if chain_of_thought else ""
        return [
            Item(r["id"], r, turns=(r["question"] + after,), group="odd" if i % 2 else "even")
            for i, r in enumerate(records)
        ]

    def grade(self, pairs, tools):
        grades = []
        for item, answer in pairs:
            right = answer.texts[0] == str(item.record["answer"])
            grades.append(Verdict({"accuracy": float(right), "length": float(len(answer.texts[0]))}, answer.texts[0]))
        return grades


class Options2(Benchmark):
    """Likelihoods of two continuations; the first should win."""

    name = "options"
    title = "Options"
    domain = "text"
    metric = "accuracy"
    needs = Needs.LIKELIHOODS
    source = Source("options", ("id",))
    reference = "made up for these tests"

    def items(self, records, *, chain_of_thought=False):
        ask = ({"role": "user", "content": "which?"},)
        return [Item(r["id"], r, queries=(Query(ask, ("this", "that")),)) for r in records]

    def grade(self, pairs, tools):
        return [
            Verdict({"accuracy": float(a.likelihoods[0][0].logprob > a.likelihoods[0][1].logprob)}) for _, a in pairs
        ]


class Judged(Sums):
    name = "judged"
    uses = ("judge",)


class Script:
    """Answers right or wrong by the seed of its batch; every answer made is a line in `log`."""

    name = "script"
    specialists = ("one", "two")
    offers = frozenset({Needs.ANSWERS, Needs.LIKELIHOODS})

    def __init__(self, log=None, before=lambda: None, weights="a", text=None):
        self.log, self.before, self.weights, self.text = log, before, weights, text

    def describe(self):
        return {"kind": "script", "weights": self.weights}

    def length(self, item):
        return len(item.turns[0]) if item.turns else 0

    def answer(self, items, asking):
        for index, item in reversed(list(enumerate(items))):
            self.before()
            if self.log is not None:
                with open(self.log, "a", encoding="utf-8") as log:
                    log.write(f"{item.id} {asking.seed}\n")
            yield index, self._answer(item, asking)

    def _answer(self, item, asking):
        share = int(hashlib.sha256(f"{item.id}{asking.seed}".encode()).hexdigest()[:2], 16) / 255
        rest = {
            "prompts": {name: f"{name}: {item.id}" for name in self.specialists},
            "gate_weights": {"one": share, "two": 1 - share},
            "seconds": 0.5,
        }
        if item.queries:
            return Answer(likelihoods=((Likelihood(-share, 2), Likelihood(-0.5, 2)),), **rest)
        text = str(item.record["answer"]) if share > 0.4 else "no idea\u2028"
        return Answer(texts=(self.text or text,), tokens=len(text), finished=share < 0.9, **rest)


def task(benchmark=None, count=23, **options):
    benchmark = benchmark or Sums()
    origin = {"from": "file", "path": "sums.jsonl", "sha256": f"{count:064d}", "records": count}
    return make_task(benchmark, Loaded(records(count), origin), Options(**({"batch_size": 4} | options)))


def _dying(at):
    """A function whose call number `at` is the end of this process."""
    calls = iter(range(1, 10_000))

    def before(*ignored):
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--die", choices=["answer", "grade", "journal", "rewrite", "summary", "never"], default="never")
    parser.add_argument("--at", type=int, default=1)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.0)
    given = parser.parse_args()
    die = _dying(given.at)
    subject, sums = Script(given.log), Sums()
    if given.die == "answer":
        subject.before = die
    elif given.die == "grade":
        grade = sums.grade
        sums.grade = lambda pairs, tools: (die(), grade(pairs, tools))[1]
    elif given.die == "journal":  # half a line is on the disk

        def torn(log, rows):
            lines = [json.dumps(row).encode() + b"\n" for row in rows]
            if log._file.name.endswith("answers.jsonl") and next(count) == given.at:
                log._file.write(lines[0][: len(lines[0]) // 2])
                log._file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            log._file.write(b"".join(lines))
            log._file.flush()

        count = iter(range(1, 10_000))
        files.Log.append = torn
    elif given.die == "rewrite":
        runner.write_lines = die
    elif given.die == "summary":
        runner._summarise = die
    with Tools() as tools:
        runner.evaluate(
            subject, [task(sums, samples=given.samples, temperature=given.temperature)], tools, given.folder
        )


if __name__ == "__main__":
    main()
