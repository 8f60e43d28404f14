"""A made-up data folder in the layout the zoo's build reads: small, seeded, and of our own invention."""

import json
import random
from pathlib import Path
from typing import Any

WORDS = ["river", "stone", "lantern", "garden", "winter", "copper", "market", "violin", "harbour", "meadow", "thunder"]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """Records as JSON Lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_gzip(file: Path, rows: list[dict[str, Any]]) -> None:
    """Records as gzipped JSON Lines."""
    import gzip

    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def sentence(draw: random.Random, count: int = 9) -> str:
    """Some words in a row."""
    return " ".join(draw.choice(WORDS) for _ in range(count)) + "."


def instructions(draw: random.Random, count: int) -> list[dict[str, Any]]:
    """Instruction records."""
    return [{"instruction": f"Tell {i}: {sentence(draw)}", "input": "", "output": sentence(draw)} for i in range(count)]


def make_data(folder: Path, examples: int = 30) -> Path:
    """Write the made-up data folder and return it."""
    draw = random.Random(5)
    raw, train = folder / "raw", folder / "train"
    for name in ("text/books.jsonl.gz", "text/addresses.jsonl.gz"):
        write_gzip(raw / name, [{"id": f"{name}/{i}", "text": sentence(draw, 40)} for i in range(examples)])
    write(raw / "text/tinystories.jsonl", [{"id": f"story/{i}", "text": sentence(draw, 40)} for i in range(examples)])
    source = [
        {"id": str(i), "package": "made", "path": f"made/{i}.py", "text": f"def made_{i}(x):\n    return x + {i}\n" * 4}
        for i in range(examples)
    ]
    write_gzip(raw / "code/python_source.jsonl.gz", source)
    sums = [{"id": f"sum/{i}", "question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(examples)]
    write_gzip(raw / "math/mathematics_dataset.jsonl.gz", sums)
    write_gzip(raw / "math/reasoning_gym.jsonl.gz", [{**row, "id": f"rg/{row['id']}"} for row in sums])
    for name in ("dolly.jsonl.gz", "p3_open.jsonl.gz", "gpteacher_roleplay.jsonl.gz"):
        write_gzip(train / "text" / name, instructions(draw, examples))
    write(train / "text/self_instruct_seed.jsonl", instructions(draw, 4))
    turns = [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": sentence(draw)}]
    write_gzip(train / "text/oasst_en.jsonl.gz", [{"id": "a", "tree": "t", "messages": turns}])
    functions = [
        {"package": package, "name": f"f{i}", "instruction": f"Add {i}.", "output": f"def f{i}(x):\n    return x + {i}"}
        for i in range(examples)
        for package in ("made", "cpython-stdlib")
    ]
    write_gzip(train / "code/py_docstrings.jsonl.gz", functions)
    puzzles = [
        {
            "family": f"P{i // 2}",
            "docstring": "",
            "sat": f"def sat(x): return x == {i}",
            "sol_header": "def sol():",
            "solution": f"    return {i}",
        }
        for i in range(examples)
    ]
    write(train / "code/python_puzzles.jsonl", puzzles)
    write(
        train / "code/mbpp_train.jsonl",
        [{"task_id": i, "text": f"Return {i}.", "code": f"def g():\r\n\treturn {i}"} for i in range(9)],
    )
    write_gzip(train / "code/gpteacher_codegen.jsonl.gz", instructions(draw, examples))
    problems = [
        {
            "id": f"g/{i}",
            "question": f"Ann has {i} pens and buys {i} more. How many?",
            "solution": f"She has {i}+{i}=<<{i}+{i}={2 * i}>>{2 * i} pens.\n#### {2 * i}",
            "answer": str(2 * i),
        }
        for i in range(examples)
    ]
    write_gzip(train / "math/gsm8k_train.jsonl.gz", problems)
    choice = {
        "id": "q/1",
        "question": "One plus one?",
        "options": ["A)2", "B)3"],
        "rationale": "Count.",
        "correct": "A",
    }
    write(train / "math/aqua_dev.jsonl", [choice])
    for forbidden in ("code/code_alpaca_2k.jsonl", "math/mawps.jsonl", "math/math_train.jsonl.gz"):
        (train / forbidden).write_text("this file must never be opened\n", encoding="utf-8")
    write(
        folder / "bench/made_bench.jsonl",
        [{"question": "A benchmark question of our own. " + sentence(random.Random(9), 20)}],
    )
    return folder
