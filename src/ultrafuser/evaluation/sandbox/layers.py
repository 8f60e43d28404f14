"""Which kind of cell this machine can make: each is tried out by running a program in it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import sys
import tempfile
import threading
from functools import cache
from typing import Any

from ultrafuser.evaluation.sandbox.limits import Limits, Program
from ultrafuser.evaluation.sandbox.supervise import Cell, StartError, run_program

__all__ = ["CELLS", "choose", "describe", "with_uid"]

CELLS = {
    "namespaces": "namespaces of its own",
    "user namespaces": "namespaces of its own, made by an ordinary user",
    "landlock": "Landlock and a filter of system calls",
}
_PROBE = """
import os, socket
try:
    open({canary!r})
except OSError:
    pass
else:
    raise SystemExit("files outside can be read")
try:
    socket.socket()
except OSError:
    pass
else:
    raise SystemExit("sockets can be made")
with open("own", "w") as file:
    file.write("x")
assert os.getuid() != 0 or {uid} is None
"""


def choose(only: str | None = None) -> Cell:
    """The strongest cell that works here, or the one of kind `only`.

    Raises ValueError that says why none works and what to do.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise ValueError(
            f"generated code cannot be isolated on {sys.platform} {platform.machine()}: files, network and processes "
            "are only isolated on Linux (x86_64, aarch64); run the benchmark there (a container or virtual machine "
            "will do), or pass --allow-unsafe-code to run it with time and memory limits alone"
        )
    reasons = []
    for kind in [only] if only else CELLS:
        cell, problem = _try(kind)
        if cell is not None:
            return cell
        reasons.append(f"{CELLS[kind]}: {problem}")
    raise ValueError(
        "generated code cannot be isolated here: files, network and processes need user namespaces or Landlock "
        f"(Linux 6.2 or newer), and neither works ({'; '.join(reasons)}); allow one of them (in a container: "
        "--security-opt seccomp=unconfined, or a newer kernel), or pass --allow-unsafe-code to run it with time and "
        "memory limits alone"
    )


@cache
def _try(kind: str) -> tuple[Cell | None, str]:
    """A cell of that kind if a program runs in it and cannot get out, and else why not."""
    root = os.geteuid() == 0
    if kind == "namespaces":
        if not root:
            return None, "only root can make them so"
        cell = Cell("namespaces", counts_alone=True, uid=0)
    elif kind == "user namespaces":
        cell = Cell("namespaces", user_namespace=True, counts_alone=_kernel() >= (5, 14))
    else:
        own = root and _can_change_uid()
        cell = Cell("landlock", counts_alone=own, uid=0 if own else None)
    probe = with_uid(cell)
    with tempfile.NamedTemporaryFile(prefix="ultrafuser-canary-") as canary:
        os.chmod(canary.name, 0o644)
        program = Program(_PROBE.format(canary=canary.name, uid=probe.uid))
        try:
            outcome = run_program(program, probe, Limits(seconds=30.0), threading.Event())
        except (StartError, OSError) as problem:
            return None, str(problem)
    return (cell, "") if outcome.passed else (None, outcome.error or outcome.status)


def with_uid(cell: Cell) -> Cell:
    """The cell for one more program: with a uid that nobody has, where it takes one (`uid` is not None)."""
    if cell.uid is None:
        return cell
    return Cell(cell.layer, cell.user_namespace, _unused_uid(), cell.counts_alone)


def describe(cell: Cell) -> dict[str, Any]:
    """What holds a program, by what it holds it from."""
    if cell.layer == "none":
        return {
            "isolated": False,
            "files": "not isolated",
            "network": "not isolated",
            "processes": "process group of its own",
        }
    confined = cell.layer == "namespaces"
    alone = "uid of its own" if cell.uid is not None else ("user namespace" if confined else "the user's uid")
    if confined:
        processes = "pid namespace of its own"
    else:
        processes = "uid of its own" if cell.uid is not None else "one process only (seccomp)"
    return {
        "isolated": True,
        "files": "mount namespace: private root, read-only but /tmp" if confined else "Landlock: one folder of its own",
        "network": "network namespace without any network, and seccomp" if confined else "seccomp: no sockets",
        "processes": processes,
        "system calls": "seccomp",
        "user": alone,
    }


def _unused_uid() -> int:
    """A uid from the top of the range that this user namespace maps, different for each program that runs now."""
    with open("/proc/self/uid_map") as users, open("/proc/self/gid_map") as groups:
        ranges = [max((tuple(map(int, line.split())) for line in file), key=lambda r: r[2]) for file in (users, groups)]
    first, count = max(r[0] for r in ranges), min(min(r[2] for r in ranges), 2**31 - 1)
    window = max(count // 16, 1)
    taken = _uids_in_use()
    for _ in range(1000):
        uid = first + count - 2 - secrets.randbelow(window)
        if uid not in taken:
            return uid
    raise ValueError("no unused uid was found for generated code: allow this container more uids")


def _uids_in_use() -> set[int]:
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # ended meanwhile
                found.add(os.stat(f"/proc/{name}").st_uid)
    return found


def _can_change_uid() -> bool:
    """Whether this process has CAP_SETUID and CAP_SETGID."""
    with open("/proc/self/status") as file:
        found = re.search(r"^CapEff:\s*([0-9a-f]+)", file.read(), re.MULTILINE)
    return found is not None and (int(found[1], 16) >> 6) & 3 == 3


def _kernel() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
