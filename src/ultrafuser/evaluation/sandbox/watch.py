"""How much a tree of processes and a folder use, read from outside. Linux only: /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Use", "folder_use", "remove_tree", "tree_use"]


@dataclass
class Use:
    """Memory in bytes (resident or swapped out, files' pages not counted) and tasks (threads of all processes)."""

    memory: int = 0
    tasks: int = 0


def tree_use(root: int) -> Use:
    """What the descendants of process `root` use, itself left out. Processes that end meanwhile count as nothing."""
    use = Use()
    waiting = _children(root)
    while waiting:
        pid = waiting.pop()
        waiting += _children(pid)
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name in ("RssAnon", "RssShmem", "VmSwap"):
                use.memory += int(value.split()[0]) * 1024
            elif name == "Threads":
                use.tasks += int(value)
    return use


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except OSError:
        return found
    return found


def folder_use(folder: str, most_files: int) -> tuple[int, int]:
    """Bytes and number of files below `folder`; counting stops at `most_files`."""
    size = count = 0
    waiting = [folder]
    while waiting and count <= most_files:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    count += 1
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:  # gone meanwhile, closed, or too deep a path: still one file more
            count += 1
    return size, count


def remove_tree(folder: str) -> None:
    """Remove a folder that may hold anything: closed folders, and folders in folders beyond any path's length.

    Only for a folder that nobody writes to any more. Deep folders are first moved up, so it needs no recursion.
    """
    number = 0
    os.chmod(folder, 0o700)
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in list(os.scandir(entry.path)):
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, 0o700)
                    os.rename(inner.path, os.path.join(folder, f".moved-{(number := number + 1)}"))
                else:
                    os.unlink(inner.path)
            os.rmdir(entry.path)
    os.rmdir(folder)
