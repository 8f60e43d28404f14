"""A process that does runs, one after the other: `python -m ultrafuser.reproduce.worker FOLDER NUMBER`.

It reads the keys of runs from standard input and writes JSON lines to standard output; everything else goes to a log
file. It ends by itself when whoever started it is gone, so that a killed reproduction leaves nothing running.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from ultrafuser.reproduce.doing import JOB_FILE, Worker
from ultrafuser.reproduce.plan import Plan
from ultrafuser.workers import end_with_parent, take_stdout


def main(argv: list[str]) -> None:
    """Do the runs whose keys come in, until the input ends."""
    folder, number = Path(argv[0]), argv[1]
    lines = take_stdout(folder / "work" / f"worker-{number}.log")
    keys: queue.Queue[str] = queue.Queue()
    threading.Thread(target=end_with_parent, args=(keys.put,), daemon=True).start()

    def say(entry: dict[str, Any]) -> None:
        lines.write(json.dumps(entry) + "\n")
        lines.flush()

    job = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
    _use_threads(job["threads"])
    worker = Worker(folder, Plan.model_validate(job["plan"]), say)
    while True:
        worker.do(keys.get())


def _use_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


if __name__ == "__main__":
    main(sys.argv[1:])
