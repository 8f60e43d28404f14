"""Files by Landlock: rules that a process lays on itself, without any privilege (Linux 6.2 or newer)."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from . import syscalls

__all__ = ["OLDEST", "prepare", "restrict", "version"]

OLDEST = 3  # before it, files could be cut to nothing by path

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_ALL = {3: (1 << 15) - 1, 5: (1 << 16) - 1}  # every right on files that is known since a version
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
READ = _EXECUTE | _READ_FILE | _READ_DIR
DEVICE = _READ_FILE | _WRITE_FILE
OWN = _ALL[3] & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK)


def version() -> int:
    """The kernel's Landlock version, 0 where there is none."""
    try:
        return syscalls.syscall("landlock_create_ruleset", None, 0, 1)
    except (OSError, KeyError):
        return 0


def prepare(*, readable: Iterable[str], devices: Iterable[str], folder: str) -> int:
    """A rule set, as a descriptor: trees to read, devices, one folder of the program's own."""
    found = version()
    if found < OLDEST:
        raise OSError(f"Landlock {found or 'is missing'}: version {OLDEST} or newer is needed")
    handled = _ALL[5] if found >= 5 else _ALL[3]
    network = 3 if found >= 4 else 0  # bind and connect by TCP
    scoped = 3 if found >= 6 else 0  # abstract UNIX sockets and signals stay among restricted processes
    attribute = struct.pack("<QQQ", handled, network, scoped)
    attribute = attribute[: 24 if found >= 6 else 16 if found >= 4 else 8]
    ruleset = syscalls.syscall("landlock_create_ruleset", attribute, len(attribute), 0)
    for paths, rights in ((readable, READ), (devices, DEVICE), ([folder], OWN)):
        for path in paths:
            _allow(ruleset, path, rights & handled)
    return ruleset


def restrict(ruleset: int) -> None:
    """From now on the process can open nothing else. It can stat other files, but neither open, list, make, move nor
    remove any. Needs no_new_privs."""
    syscalls.syscall("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _ON_FILES
        attribute = ctypes.create_string_buffer(struct.pack("<Qi", rights, descriptor), 12)
        syscalls.syscall("landlock_add_rule", ruleset, 1, attribute, 0)
    finally:
        os.close(descriptor)
