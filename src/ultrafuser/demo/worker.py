"""A process that does some parts of a demo run, one after the other: `python -m ultrafuser.demo.worker FOLDER PART...`.

It writes one JSON line per step of progress to standard output; everything else goes to a log file. It ends by itself
when whoever started it is gone, so that a killed demo leaves nothing running.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import IO

from ultrafuser.demo.plan import JOB_FILE, DemoPlan, DemoSources
from ultrafuser.workers import end_with_parent, take_stdout


def main(argv: list[str]) -> None:
    """Do the named parts of the run in the folder."""
    folder, names = Path(argv[0]), argv[1:]
    lines = take_stdout(folder / "work" / f"{names[0]}.log")
    threading.Thread(target=end_with_parent, daemon=True).start()

    from ultrafuser.demo.parts import Context, run_part

    job = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
    _use_threads(job["threads"])
    context = Context(
        DemoPlan.model_validate(job["plan"]),
        DemoSources.model_validate(job["sources"]),
        folder,
        _Reporter(lines),
    )
    try:
        for name in names:
            run_part(name, context)
    except (ValueError, OSError) as error:
        _say(lines, {"error": str(error)})
        raise


class _Reporter:
    """Writes progress lines, ten a second at most, never missing the last of a phase."""

    def __init__(self, lines: IO[str]) -> None:
        self.lines = lines
        self.last = (0.0, "")

    def __call__(self, phase: str, done: int, total: int, loss: float | None) -> None:
        now = time.monotonic()
        if phase == self.last[1] and done < total and now - self.last[0] < 0.1:
            return
        self.last = (now, phase)
        _say(self.lines, {"phase": phase, "done": done, "total": total, "loss": loss})


def _say(lines: IO[str], entry: dict) -> None:
    lines.write(json.dumps(entry) + "\n")
    lines.flush()


def _use_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


if __name__ == "__main__":
    main(sys.argv[1:])
