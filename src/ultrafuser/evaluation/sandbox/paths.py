"""What a program may read: Python with its packages, the system's libraries, time zones. Nothing of the user's."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from functools import cache

__all__ = ["DEVICES", "environment", "interpreter", "prefixes", "readable", "site_folders"]

DEVICES = ["/dev/null", "/dev/urandom", "/dev/random"]
_SYSTEM = [
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/usr/share/zoneinfo",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/etc/alternatives",
]


@cache
def interpreter() -> str:
    """The installed interpreter, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@cache
def site_folders() -> list[str]:
    """Folders of the packages that this process can import: its virtual environment's, mostly."""
    named = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return [folder for folder in dict.fromkeys(map(os.path.realpath, named)) if os.path.isdir(folder)]


@cache
def home() -> str:
    """The installation that `interpreter` belongs to."""
    return os.path.dirname(os.path.dirname(interpreter()))


@cache
def prefixes() -> list[str]:
    """Folders that what `readable` lists of Python lies in."""
    return [home(), *site_folders()]


@cache
def readable() -> list[str]:
    """Files and folders, whole trees; only those that exist."""
    python = [interpreter(), *(os.path.join(home(), name) for name in ("lib", "lib64")), *site_folders()]
    found = [path for path in dict.fromkeys([*_SYSTEM, *python]) if os.path.lexists(path)]
    return [path for path in found if not any(path.startswith(other + "/") for other in found)]


def environment(folder: str) -> dict[str, str]:
    """All variables of a program. One hash seed, so that the order of sets is the same in every run."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    libraries = os.path.join(home(), "lib")  # some builds find their own library only by this
    system = (
        {"SYSTEMROOT": os.environ["SYSTEMROOT"]} if "SYSTEMROOT" in os.environ else {}
    )  # Windows starts nothing else
    return {
        "PATH": os.path.dirname(interpreter()),
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "LD_LIBRARY_PATH": libraries,
        **threads,
        **system,
    }
