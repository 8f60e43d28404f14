"""Puts a program into its cell, waits for its end, and sees to it that nothing of it is left.

Run by `python -I -S -c` with the request on standard input, which then stays open as a lifeline: when it closes,
because the sandbox wants an end or is itself gone, everything is killed. Standard output becomes the program's output;
what became of it is told as lines of JSON on standard error.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from typing import Any, NoReturn

from . import landlock, namespaces, seccomp, syscalls

__all__ = ["main"]

Request = dict[str, Any]


def main() -> None:
    """Run the request on standard input."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    report = os.dup(2)  # not inherited by what is executed
    request = json.loads(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))
    try:
        start = _start_in_namespaces if request["layer"] == "namespaces" else _start_in_landlock
        child = start(request, report)
    except (OSError, KeyError) as problem:
        _tell(report, error=str(problem))
        sys.exit(1)
    watched = os.pidfd_open(child)
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.poll()
    _end(request, child, report)


def _start_in_namespaces(request: Request, report: int) -> int:
    """The child is the first process of a new pid namespace: when it ends, so does everything in there."""
    namespaces.enter(user_namespace=request["user_namespace"])
    child = os.fork()
    if child:
        return child
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        owner = request["uid"] or namespaces.INSIDE_ID
        wanted = {name: request[name] for name in ("readable", "devices", "disk", "files")}
        namespaces.build_root(**wanted, owner=owner)
        program = os.fork()
        if not program:
            _become_program(request, report)
        while True:
            ended, status, used = os.wait4(-1, 0)  # orphans come here too
            if ended == program:
                break
        _tell(report, status=status, cpu=used.ru_utime + used.ru_stime)
    except OSError as problem:
        _tell(report, error=str(problem))
    os._exit(0)


def _start_in_landlock(request: Request, report: int) -> int:
    """The child is the program; its orphans come to this process."""
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if not child:
        _become_program(request, report)
    return child


def _become_program(request: Request, report: int) -> NoReturn:
    """Give up every right, then turn into the program's interpreter. Does not return."""
    try:
        os.setsid()
        os.umask(0o077)
        confined = request["layer"] == "namespaces"
        if not confined:  # both while every path can still be walked
            rules = landlock.prepare(**{name: request[name] for name in ("readable", "devices", "folder")})
            _keep_reachable(request)
        _take_standard_files(json.dumps(request["program"]).encode())
        if request["uid"]:
            os.setgroups([])
            os.setresgid(*[request["uid"]] * 3)
            os.setresuid(*[request["uid"]] * 3)
        syscalls.drop_capabilities()
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        if not confined:
            landlock.restrict(rules)
        seccomp.install(metadata=confined, processes=confined or bool(request["uid"]), pid=os.getpid())
        os.execve(request["command"][0], request["command"], request["environment"])
    except BaseException as problem:
        _tell(report, error=f"{type(problem).__name__}: {problem}")
        os._exit(1)


def _take_standard_files(text: bytes) -> None:
    """Standard input is `text`, standard error goes where standard output goes; the rest closes at exec."""
    with os.fdopen(os.memfd_create("program"), "wb") as file:
        file.write(text)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        os.dup2(file.fileno(), 0)
    os.dup2(1, 2)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these two, and exec would keep that
        signal.signal(number, signal.SIG_DFL)


def _keep_reachable(request: Request) -> None:
    """Name folders by open descriptors where the new uid could not walk to them (in root's home, say).

    A path through /proc/self/fd needs no right on the folders above. What can be opened below is Landlock's matter.
    """
    if not request["uid"]:
        return
    names = {}
    for path in (*request["prefixes"], request["folder"]):
        if not _is_open_to_all(path):
            descriptor = os.open(path, os.O_PATH)
            os.set_inheritable(descriptor, True)
            names[path] = f"/proc/self/fd/{descriptor}"

    def renamed(path: str) -> str:
        inside = [prefix for prefix in names if path == prefix or path.startswith(prefix + "/")]
        longest = max(inside, key=len, default=None)
        return path if longest is None else names[longest] + path[len(longest) :]

    environment = {name: renamed(value) for name, value in request["environment"].items()}
    home = renamed(request["home"])
    request["environment"] = environment | ({"PYTHONHOME": home} if home != request["home"] else {})
    request["command"] = [renamed(request["command"][0]), *request["command"][1:]]
    program = request["program"]
    program |= {"paths": [renamed(path) for path in program["paths"]], "folder": renamed(program["folder"])}


def _is_open_to_all(path: str) -> bool:
    """Whether everyone may walk to `path`."""
    parts = path.split("/")
    return all(os.stat("/".join(parts[:end]) or "/").st_mode & 0o001 for end in range(1, len(parts)))


def _end(request: Request, child: int, report: int) -> None:
    """Kill what is left, wait until it is gone, and tell how the child ended if it did so by itself."""
    if request["layer"] == "namespaces":
        os.kill(child, signal.SIGKILL)  # the kernel kills all others with it, and only then is it waited for
        os.waitpid(child, 0)
        return
    ended, status, used = os.wait4(child, os.WNOHANG)
    if ended:
        _tell(report, status=status, cpu=used.ru_utime + used.ru_stime)
    else:
        os.kill(child, signal.SIGKILL)
    if request["uid"]:
        _kill_all_of(request["uid"])
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return


def _kill_all_of(uid: int) -> None:
    """Kill every process of a uid at one stroke: no fork can slip through, as it could from a list."""
    killer = os.fork()
    if not killer:
        os.setresuid(uid, uid, uid)
        try:
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(killer, 0)


def _tell(report: int, **words: Any) -> None:
    os.write(report, json.dumps(words).encode() + b"\n")
