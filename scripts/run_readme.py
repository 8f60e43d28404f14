"""Runs every command and every Python block of README.md in order, as a reader would, and stops at the first failure.

It works in a fresh clone of the last commit that borrows this tree's virtual environment, so nothing is left behind.
usage: run_readme.py [--skip COMMAND ...]     commands given with --skip are not run (CI runs `make test` on its own)
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ACTIVATE = ". .venv/bin/activate"
CHAT = "Write a Python function that adds two numbers.\n/weights\n/quit\n"


def blocks(text: str) -> list[tuple[str, str]]:
    """Fenced blocks of Markdown as (language, body), in order."""
    return re.findall(r"^```(bash|python)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(body: str) -> list[str]:
    """The lines of a bash block without comments."""
    lines = (re.sub(r"\s+#.*$", "", line).strip() for line in body.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def run(command: list[str] | str, shown: str, folder: Path, env: dict[str, str]) -> None:
    print(f"$ {shown}", flush=True)
    started = time.monotonic()
    stdin = CHAT if " chat " in shown else ""
    done = subprocess.run(command, shell=isinstance(command, str), input=stdin, text=True, cwd=folder, env=env)
    if done.returncode:
        sys.exit(f"README: `{shown}` ended with status {done.returncode}")
    print(f"  ({time.monotonic() - started:.0f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skip", nargs="*", default=[])
    skip = parser.parse_args().skip
    venv = ROOT / ".venv"
    env = dict(os.environ, NO_COLOR="1")
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "ultrafuser"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        (clone / ".venv").symlink_to(venv)
        (venv / ".installed").touch()  # newer than the clone's files: make has nothing to install there
        for language, body in blocks((clone / "README.md").read_text(encoding="utf-8")):
            if language == "python":
                run(["python", "-c", body], "python: " + body.splitlines()[0], clone, env)
                continue
            for command in commands(body):
                if command == ACTIVATE:  # lasts for the reader's shell, so for all that follows
                    env["PATH"] = f"{clone / '.venv' / 'bin'}{os.pathsep}{env['PATH']}"
                if command not in skip:
                    run(command, command, clone, env)


if __name__ == "__main__":
    main()
