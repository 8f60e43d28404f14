"""Runs programs in the sandbox as root or as an ordinary user, with things on the host that must stay unharmed.

`python sandbox_driver.py [--user UID]` with a request on standard input; what happened comes as JSON on standard
output. Words like @PID@ in the programs are replaced by what is there to be attacked.
"""

import contextlib
import ctypes
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
MARK = "ufa"  # with a pid behind it, at most 15 characters
NAME_ITSELF = f"import ctypes as _c; _c.CDLL(None).prctl(15, b'{MARK}', 0, 0, 0)\n"  # its children keep the name


def become(uid: int) -> None:
    """Drop to `uid` for good, where Python and this project stay in reach even if they lie in root's closed home."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: bytes | None, target: str, kind: bytes | None, flags: int, options: bytes | None = None) -> None:
        if libc.mount(source, target.encode(), kind, ctypes.c_ulong(flags), options):
            raise OSError(ctypes.get_errno(), f"mount {target}")

    needed = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, SOURCE.parent)}
    closed: dict[str, list[str]] = {}
    for path in needed:
        for folder in reversed(Path(path).parents):
            if not folder.stat().st_mode & stat.S_IXOTH:
                closed.setdefault(str(folder), []).append(path)
                break
    if closed:
        if libc.unshare(0x00020000):  # CLONE_NEWNS
            raise OSError(ctypes.get_errno(), "unshare")
        mount(b"none", "/", None, 16384 | 1 << 18)  # MS_REC, MS_PRIVATE
    for folder, paths in closed.items():
        opened = {path: os.open(path, os.O_PATH) for path in paths}
        mount(b"none", folder, b"tmpfs", 0, b"mode=755")
        for path, descriptor in opened.items():
            os.makedirs(path)
            mount(b"/proc/self/fd/%d" % descriptor, path, None, 4096 | 16384)  # MS_BIND, MS_REC
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


class Host:
    """What a program could harm: a file, a process, listening sockets, the temporary folder."""

    def __init__(self) -> None:
        self.temporary = tempfile.mkdtemp()
        self.home = Path(tempfile.mkdtemp(prefix="canary-home-"))
        self.secret = self.home / "secret.txt"
        self.secret.write_text("secret")
        self.secret.chmod(0o600)
        self.before = self.secret.stat()
        self.process = subprocess.Popen(["sleep", "300"])
        self.sockets = [self._listen(socket.AF_INET, ("127.0.0.1", 0))]
        self.sockets.append(self._listen(socket.AF_UNIX, str(self.home / "socket")))
        self.sockets.append(self._listen(socket.AF_UNIX, f"\0{self.home.name}"))
        self.boxes = [self._box(str(self.home / "box")), self._box(f"\0{self.home.name}-box")]

    @staticmethod
    def _listen(family: int, address: object) -> socket.socket:
        listener = socket.socket(family)
        listener.bind(address)
        listener.listen()
        listener.setblocking(False)
        return listener

    @staticmethod
    def _box(address: str) -> socket.socket:
        box = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        box.bind(address)
        box.setblocking(False)
        return box

    def words(self) -> dict[str, str]:
        return {
            "@PID@": str(self.process.pid),
            "@DRIVER@": str(os.getpid()),
            "@PORT@": str(self.sockets[0].getsockname()[1]),
            "@HOME@": str(self.home),
            "@ABSTRACT@": self.home.name,
            "@PROJECT@": str(SOURCE.parent),
        }

    def harm(self) -> list[str]:
        """What was done to it: nothing, if all is well."""
        found = []
        now = self.secret.stat()
        if self.process.poll() is not None:
            found.append("the canary process is gone")
        if self.secret.read_text() != "secret" or (now.st_mode, now.st_mtime_ns) != self._kept():
            found.append("the canary file was changed")
        if sorted(os.listdir(self.home)) != ["box", "secret.txt", "socket"]:
            found.append(f"the canary's folder holds {os.listdir(self.home)}")
        if os.listdir(self.temporary):
            found.append(f"left behind: {os.listdir(self.temporary)}")
        for listener in self.sockets:
            try:
                listener.accept()
                found.append(f"a connection came to {listener.getsockname()}")
            except BlockingIOError:
                pass
        for box in self.boxes:
            with contextlib.suppress(BlockingIOError):
                found.append(f"a message came: {box.recv(100)!r}")
        return found + attackers()

    def _kept(self) -> tuple[int, int]:
        return self.before.st_mode, self.before.st_mtime_ns

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for name in ("secret.txt", "socket", "box"):
            (self.home / name).unlink(missing_ok=True)
        os.rmdir(self.home)
        os.rmdir(self.temporary)


def attackers() -> list[str]:
    """Processes that an attack has left."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "comm").read_text().strip() == f"{MARK}-{os.getpid()}":
                found.append(f"process {folder.name} is left")
        except OSError:
            continue
    return found


def main() -> None:
    if "--user" in sys.argv:
        become(int(sys.argv[sys.argv.index("--user") + 1]))
        os.environ |= {"HOME": "/nonexistent"}
        os.execv(sys.executable, [sys.executable, __file__])  # a process that changes its uid is not dumpable
    sys.path.insert(0, str(SOURCE))
    from ultrafuser.evaluation.sandbox import Limits, Program, Sandbox

    request = json.load(sys.stdin)
    host = Host()
    tempfile.tempdir = host.temporary
    os.environ["SECRET_TOKEN"] = "not for programs"
    name_itself = NAME_ITSELF.replace(MARK, f"{MARK}-{os.getpid()}")
    try:
        answer = {"outcomes": []}
        for limits, sources in request["batches"]:
            with Sandbox(layer=request["layer"], limits=Limits(**limits), workers=request["workers"]) as sandbox:
                programs = []
                for source in sources:
                    for word, value in host.words().items():
                        source = source.replace(word, value)
                    programs.append(Program(name_itself + source))
                print("running", file=sys.stderr, flush=True)
                outcomes = sandbox.run(programs)
                answer["outcomes"] += [[outcome.status, outcome.output] for outcome in outcomes]
                answer["described"] = sandbox.describe()
        answer["harm"] = host.harm()
    except ValueError as problem:
        answer = {"refused": str(problem)}
    finally:
        host.close()
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
