"""Command line: `python -m scripts.make_sample ask --url URL --journal FILE`, then `... build --journal FILE`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .ask import Client, Journal, ask_all
from .build import build
from .prompt_files import FOLDER, MODEL_CATEGORIES, asking_order, read_prompts


def read_rejected(path: Path = FOLDER.parent / "rejected.txt") -> dict[str, str]:
    """Answers thrown out after reading them: "KEY#ATTEMPT reason" a line."""
    rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {key: reason for key, _, reason in (row.partition(" ") for row in rows if row and not row.startswith("#"))}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the two commands."""
    parser = argparse.ArgumentParser(prog="make_sample", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    ask = commands.add_parser("ask", help="put the prompts to a model; a killed run goes on where it stopped")
    ask.add_argument(
        "--url",
        required=True,
        nargs="+",
        help="OpenAI-compatible base URLs of one model, e.g. http://127.0.0.1:8080/v1",
    )
    ask.add_argument("--slots", type=int, default=8, help="requests in flight at each server")
    ask.add_argument("--train", type=int, default=170, help="good training answers that suffice per category")
    ask.add_argument("--heldout", type=int, default=60, help="good held-out answers that suffice per category")
    make = commands.add_parser("build", help="write the sample from the journal and the maths generators")
    make.add_argument("--out", type=Path, default=FOLDER.parents[2] / "src/ultrafuser/zoo/sample")
    for command in (ask, make):
        command.add_argument("--journal", type=Path, required=True, help="file that keeps every answer")
        command.add_argument("--attempts", type=int, default=3, help="answers asked for until one passes the checks")
        command.add_argument("--seed", type=int, default=20261124)
    args = parser.parse_args(argv)

    prompts = asking_order([prompt for category in MODEL_CATEGORIES for prompt in read_prompts(category)])
    journal, rejected = Journal(args.journal), read_rejected()
    if args.command == "ask":
        client = Client(tuple(args.url), args.seed)
        report: dict[str, object] = dict(
            ask_all(
                prompts,
                client,
                journal,
                rejected,
                args.attempts,
                args.slots,
                {"train": args.train, "heldout": args.heldout},
            )
        )
    else:
        report = build(prompts, journal, rejected, args.attempts, args.seed, args.out)
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
