"""Runs one program in a cell and watches it from outside: time, output, memory, tasks, files."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ultrafuser.evaluation.sandbox import paths, watch
from ultrafuser.evaluation.sandbox.limits import MIB, Limits, Outcome, Program, Status

__all__ = ["Cell", "StartError", "run_program"]

INSIDE = Path(__file__).with_name("inside")
KEPT = 8192  # characters of output in an outcome
GRACE = 10.0  # seconds for the launcher to clear up
SHORTEST, LONGEST = 0.005, 0.05  # seconds between looks at what a program uses


class StartError(RuntimeError):
    """The cell itself could not be made: nothing was run."""


@dataclass(frozen=True, slots=True)
class Cell:
    """How a program is held: `layer` is namespaces, landlock or none (own process group and limits only).

    `uid` is the program's own, None where it stays the user's. `counts_alone` says that the kernel counts this
    program's processes apart from all others, so that RLIMIT_NPROC means it alone.
    """

    layer: str
    user_namespace: bool = False
    uid: int | None = None
    counts_alone: bool = False


def run_program(program: Program, cell: Cell, limits: Limits, stopped: threading.Event) -> Outcome:
    """Run it to its end, a limit, or `stopped`. Raises StartError where the cell cannot be made."""
    if cell.layer == "namespaces":
        return _Run(program, cell, limits, "/tmp", stopped).outcome()
    folder = tempfile.mkdtemp(prefix="ultrafuser-")
    try:
        if cell.uid is not None:
            os.chown(folder, cell.uid, cell.uid)
        return _Run(program, cell, limits, folder, stopped).outcome()
    finally:
        try:
            watch.remove_tree(folder)
        except OSError as problem:
            logging.getLogger(__name__).warning("the folder of a generated program stays behind: %s", problem)


class _Run:
    """One program from its start to its outcome."""

    def __init__(self, program: Program, cell: Cell, limits: Limits, folder: str, stopped: threading.Event) -> None:
        self.cell, self.limits, self.folder, self.stopped = cell, limits, folder, stopped
        self.word = secrets.token_hex(16)  # written by the harness when the program has come to its end
        self.output = bytearray()
        self.printed = 0
        self.begun = time.monotonic()
        request = {
            "word": self.word,
            "folder": folder,
            "paths": paths.site_folders(),
            "limits": _resource_limits(limits, cell),
            "parts": [("<program>", program.source), ("<tests>", program.tests)],
        }
        self.process = _start_bare(request, folder) if cell.layer == "none" else _start(request, cell, limits, folder)

    def outcome(self) -> Outcome:
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        try:
            stopped_for = self._watch()
        finally:
            self._kill()
            reader.join(GRACE if self.cell.layer != "none" else 1.0)  # without isolation, a daemon may keep the pipe
        seconds = time.monotonic() - self.begun
        if not reader.is_alive() and self.process.stdout is not None:
            self.process.stdout.close()
        told = self._told(stopped_for is not None)
        text = self.output.decode("utf-8", "replace")
        came_to_its_end = self.word in text
        text = text.replace(self.word, "")
        status, reason = self._judge(stopped_for, told, came_to_its_end, text)
        text = text[-KEPT:]
        return Outcome(status, f"{text.rstrip()}\n{reason}".lstrip() if reason else text, seconds)

    def _read(self) -> None:
        assert self.process.stdout is not None
        while piece := os.read(self.process.stdout.fileno(), 65536):
            self.printed += len(piece)
            self.output += piece
            if len(self.output) > 4 * KEPT + self.limits.output:
                del self.output[: -4 * KEPT]

    def _watch(self) -> tuple[Status, str] | None:
        """Wait for the end; the limit that was crossed before, if any."""
        pause = SHORTEST
        while True:
            try:
                self.process.wait(pause)
                return None
            except subprocess.TimeoutExpired:
                pause = min(2 * pause, LONGEST)
            if found := self._crossed():
                return found

    def _crossed(self) -> tuple[Status, str] | None:
        limits = self.limits
        if time.monotonic() - self.begun > limits.seconds:
            return "timeout", f"stopped after {limits.seconds:g} seconds"
        if self.printed > limits.output:
            return "output", f"stopped: it printed more than {limits.output} bytes"
        if self.stopped.is_set():
            return "killed", "stopped from outside"
        if sys.platform != "linux":
            return None
        use = watch.tree_use(self.process.pid)
        own = 2 if self.cell.layer == "namespaces" else 0  # the launcher's second half: a task, a few megabytes
        if use.memory > limits.memory + 8 * MIB * own:
            return "memory", f"stopped: it used more than {limits.memory // MIB} MiB of memory"
        if use.tasks > limits.processes + own:
            return "killed", f"stopped: it had more than {limits.processes} processes and threads"
        if self.cell.layer != "namespaces":
            size, files = watch.folder_use(self.folder, limits.files)
            if size > limits.disk or files > limits.files:
                return "killed", f"stopped: more than {limits.disk // MIB} MiB or {limits.files} files in its folder"
        return None

    def _kill(self) -> None:
        """End everything: the launcher does it when its lifeline closes."""
        process = self.process
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        if self.cell.layer == "none":
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _told(self, cut_short: bool) -> dict[str, Any]:
        """How the program's own process ended: "status" as of wait(2), "cpu" seconds."""
        if self.process.stderr is None:
            return {"code": self.process.returncode}
        with self.process.stderr as file:
            lines = file.read().decode("utf-8", "replace").splitlines()
        told: dict[str, Any] = {}
        for line in lines:
            try:
                told |= json.loads(line)
            except ValueError:
                told["trouble"] = line  # the launcher's own traceback: its last line
        if "error" not in told and "status" not in told and self.process.returncode:
            told["error"] = told.get("trouble", f"the launcher ended with exit status {self.process.returncode}")
        if "error" in told and not cut_short:
            raise StartError(f"sandbox: {told['error']}")
        if "status" in told:
            told["code"] = os.waitstatus_to_exitcode(told["status"])
        return told

    def _judge(
        self, stopped_for: tuple[Status, str] | None, told: dict[str, Any], came_to_its_end: bool, text: str
    ) -> tuple[Status, str]:
        """Status, and a last line for the output where the program's own says nothing."""
        if stopped_for is not None:
            return stopped_for
        if self.printed > self.limits.output:
            return "output", f"it printed more than {self.limits.output} bytes"
        code = told.get("code")
        if code == 0 and came_to_its_end:
            return "passed", ""
        if code is not None and code < 0:
            late = told.get("cpu", 0.0) >= self.limits.cpu_seconds or -code == getattr(signal, "SIGXCPU", None)
            if late:
                return "timeout", f"stopped after {self.limits.cpu_seconds:g} seconds on the processor"
            return "killed", f"ended by signal {signal.Signals(-code).name}"
        if code == 0 or code is None:
            return "failed", "it left before its end (exit status 0)"
        last = text.rstrip().rpartition("\n")[2]
        if last.startswith("MemoryError"):
            return "memory", ""
        return "failed", "" if last else f"it left before its end (exit status {code})"


@cache
def harness() -> str:
    """The text of the program's own first lines; it is not in the program's sight as a file."""
    return (INSIDE / "harness.py").read_text(encoding="utf-8")


def _command() -> list[str]:
    """An interpreter that runs the harness; like -I, but that it reads our PYTHONHASHSEED, and without site packages'
    start-up files (-S): their folders are added by the harness."""
    return [paths.interpreter(), "-s", "-S", "-P", "-B", "-c", harness()]


def _start(request: dict[str, Any], cell: Cell, limits: Limits, folder: str) -> subprocess.Popen[bytes]:
    """Start a launcher. Its standard input stays open: when we close it, or are gone, the launcher ends everything."""
    environment = paths.environment(folder)
    whole = {
        "layer": cell.layer,
        "user_namespace": cell.user_namespace,
        "uid": cell.uid,
        "readable": paths.readable(),
        "devices": [path for path in paths.DEVICES if os.path.exists(path)],
        "prefixes": paths.prefixes(),
        "home": paths.home(),
        "folder": folder,
        "disk": limits.disk,
        "files": limits.files,
        "command": _command(),
        "environment": environment,
        "program": request,
    }
    begin = f"import sys; sys.path.insert(0, {str(INSIDE.parent)!r}); from inside.launcher import main; main()"
    process = subprocess.Popen(
        [paths.interpreter(), "-I", "-S", "-c", begin],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"LD_LIBRARY_PATH": environment["LD_LIBRARY_PATH"]},
        cwd="/",
        start_new_session=True,
    )
    text = json.dumps(whole).encode()
    _send(process, b"%d\n" % len(text) + text)
    return process


def _start_bare(request: dict[str, Any], folder: str) -> subprocess.Popen[bytes]:
    """Start the program itself, with nothing around it but its own process group."""
    process = subprocess.Popen(
        _command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=paths.environment(folder),
        cwd=folder,
        start_new_session=True,
    )
    _send(process, json.dumps(request).encode())
    with contextlib.suppress(OSError):
        process.stdin.close()  # type: ignore[union-attr]
    process.stdin = None
    return process


def _send(process: subprocess.Popen[bytes], request: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended at once: how, comes out later
        process.stdin.write(request)
        process.stdin.flush()


def _resource_limits(limits: Limits, cell: Cell) -> dict[str, tuple[int, int]]:
    """Soft and hard limits by the names of the module `resource`."""
    seconds = math.ceil(limits.cpu_seconds)
    space = limits.memory + 512 * MIB
    found = {
        "RLIMIT_CPU": (seconds, seconds + 1),
        "RLIMIT_AS": (space, space),
        "RLIMIT_FSIZE": (limits.file_size, limits.file_size),
        "RLIMIT_NOFILE": (limits.open_files, limits.open_files),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_MEMLOCK": (0, 0),
        "RLIMIT_MSGQUEUE": (0, 0),
    }
    if cell.counts_alone:
        found["RLIMIT_NPROC"] = (limits.processes, limits.processes)
    return found
