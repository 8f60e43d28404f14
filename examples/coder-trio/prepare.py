"""Cuts the data of this example from public sets: for each domain training, validation and held-out conversations.

    python prepare.py DATA OUT

DATA holds databricks-dolly-15k (text/dolly.jsonl.gz), GSM8K's training split (math/gsm8k_train.jsonl.gz), MBPP's
training and validation tasks (code/mbpp_train.jsonl, code/mbpp_validation.jsonl). The adapters learnt from the first
2,000 records of dolly and GSM8K; nothing of those is used here. `docs/LOG.md` says where each set comes from.
"""

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEEN = 2000  # records at the head of dolly and GSM8K that an adapter may have learnt from
LONGEST = 1400  # characters of prompt and answer together: short examples keep a laptop's run short
SIZES = {"train": 240, "validation": 40, "heldout": 80}


def records(path: Path) -> Iterator[dict[str, Any]]:
    """One object per line, packed or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def pair(prompt: str, answer: str) -> dict[str, str]:
    """A record that `ultrafuser` reads."""
    return {"instruction": prompt, "output": answer}


def dolly(data: Path) -> Iterator[dict[str, str]]:
    """Instructions with their context, if there is one."""
    for record in list(records(data / "text/dolly.jsonl.gz"))[SEEN:]:
        context = record.get("input") or ""
        yield pair("\n\n".join(filter(None, (record["instruction"], context))), record["output"])


def gsm8k(data: Path) -> Iterator[dict[str, str]]:
    """Word problems with worked solutions."""
    for record in list(records(data / "math/gsm8k_train.jsonl.gz"))[SEEN:]:
        yield pair(record["question"], record["solution"])


def mbpp(data: Path, part: str) -> Iterator[dict[str, str]]:
    """Tasks with their tests; the answer is a fenced program, as an instruction model would write it."""
    for record in records(data / f"code/mbpp_{part}.jsonl"):
        tests = "\n".join(record["test_list"])
        prompt = f"{record['text']}\nYour code should pass these tests:\n{tests}"
        yield pair(prompt, f"```python\n{record['code'].strip()}\n```")


def short(found: Iterator[dict[str, str]]) -> list[dict[str, str]]:
    """Those that fit."""
    return [r for r in found if r["output"].strip() and len(r["instruction"]) + len(r["output"]) <= LONGEST]


def main() -> None:
    """Write OUT/DOMAIN.PART.jsonl."""
    if len(sys.argv) != 3:
        sys.exit("usage: python prepare.py DATA OUT")
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    code = short(mbpp(data, "train")), short(mbpp(data, "validation"))
    pools = {"text": short(dolly(data)), "math": short(gsm8k(data)), "code": code[0]}
    for domain, pool in pools.items():
        at = 0
        for part, size in SIZES.items():
            chosen = code[1][:size] if (domain, part) == ("code", "heldout") else pool[at : at + size]
            at += size
            lines = [json.dumps(record, ensure_ascii=False) for record in chosen]
            (out / f"{domain}.{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            sys.stdout.write(f"{domain}.{part}: {len(lines)} conversations\n")


if __name__ == "__main__":
    main()
