"""System calls that Python 3.11 has no function for, by ctypes. Failures raise OSError and name the call."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

__all__ = ["ARCHITECTURES", "call", "drop_capabilities", "mount", "prctl", "syscall", "unshare"]

_libc = ctypes.CDLL(None, use_errno=True)

# prctl options
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38

# Calls made here, by machine. Those added since Linux 5.1 have one number everywhere.
ARCHITECTURES = {
    "x86_64": {"pivot_root": 155, "capset": 126},
    "aarch64": {"pivot_root": 41, "capset": 91},
}
_EVERYWHERE = {
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}


def call(function: str, *arguments: Any) -> int:
    """A function of the C library by name."""
    return _checked(getattr(_libc, function)(*arguments), function)


def syscall(name: str, *arguments: Any) -> int:
    """A system call by name; integers are passed as machine words, bytes as C strings."""
    number = (_EVERYWHERE | ARCHITECTURES[platform.machine()])[name]
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *words), name)


def prctl(option: int, *values: Any) -> None:
    """prctl(2)."""
    words = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in values]
    call("prctl", option, *words, *[ctypes.c_ulong(0)] * (4 - len(words)))


def unshare(flags: int) -> None:
    """unshare(2): leave the namespaces named by `flags` for new ones."""
    call("unshare", flags)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    texts = [os.fsencode(text) if text else None for text in (source, target, kind)]
    try:
        call("mount", *texts, ctypes.c_ulong(flags), os.fsencode(options) if options else None)
    except OSError as problem:
        raise OSError(problem.errno, f"{problem.strerror} ({source or kind} on {target})") from None


def drop_capabilities() -> None:
    """Give up every capability; with no_new_privs none comes back at exec, not even for uid 0."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    syscall("capset", header, (ctypes.c_uint32 * 6)())


def _checked(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
