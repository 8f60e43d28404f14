"""Namespaces of a program's own: processes, network, IPC, host name, and mounts with a root of what it needs alone."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from . import syscalls

__all__ = ["INSIDE_ID", "build_root", "enter"]

INSIDE_ID = 1000  # what an ordinary user is called in their own user namespace
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4


def enter(*, user_namespace: bool) -> None:
    """New namespaces for the calling process; the pid namespace begins with its next child.

    Without `user_namespace` it needs CAP_SYS_ADMIN. With it, any user may, where the system lets them.
    """
    user, group = os.geteuid(), os.getegid()
    kinds = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    syscalls.unshare(kinds | (_NEWUSER if user_namespace else 0))
    if user_namespace:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{INSIDE_ID} {user} 1")
        _write("/proc/self/gid_map", f"{INSIDE_ID} {group} 1")


def build_root(*, readable: Iterable[str], devices: Iterable[str], disk: int, files: int, owner: int) -> None:
    """Make a new root and leave the old one: `readable` trees and `devices` at their own paths, and an empty /tmp.

    All of it is read-only but /tmp, which lies in memory, holds `disk` bytes and `files` files, and is `owner`'s.
    """
    syscalls.mount("none", "/", flags=_REC | _PRIVATE)
    base = next(filter(os.path.isdir, ("/tmp", "/var/tmp", "/mnt", "/proc")))  # anywhere: only this process sees it
    syscalls.mount("root", base, "tmpfs", _NOSUID | _NODEV, "size=4m,nr_inodes=4k,mode=755")
    os.mkdir(base + "/.old")
    syscalls.syscall("pivot_root", os.fsencode(base), os.fsencode(base + "/.old"))
    os.chdir("/")
    os.mkdir("/tmp")
    options = f"size={disk},nr_inodes={files},mode=700,uid={owner},gid={owner}"
    syscalls.mount("tmp", "/tmp", "tmpfs", _NOSUID | _NODEV | _NOEXEC, options)
    for path in readable:
        _show(path, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)
    for path in devices:
        _show(path, _ATTR_RDONLY | _ATTR_NOSUID)
    os.symlink("/tmp", "/dev/shm")
    syscalls.call("umount2", b"/.old", _DETACH)
    os.rmdir("/.old")
    _set_attributes("/", _ATTR_RDONLY, recursive=False)


def _show(path: str, attributes: int) -> None:
    """Bind the old root's `path` into the new one at the same place; a link stays a link."""
    old = "/.old" + path
    if os.path.lexists(path):
        return  # part of a tree that is shown already
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(old):
        os.symlink(os.readlink(old), path)
        return
    if os.path.isdir(old):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC))
    syscalls.mount(old, path, flags=_BIND | _REC)
    _set_attributes(path, attributes, recursive=True)


def _set_attributes(path: str, attributes: int, *, recursive: bool) -> None:
    attribute = struct.pack("<QQQQ", attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    syscalls.syscall("mount_setattr", _AT_FDCWD, os.fsencode(path), flags, attribute, len(attribute))


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
