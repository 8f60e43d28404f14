"""What the cells are made of: the filter's code, places that Python may lie in, containers, what is left behind."""

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from ultrafuser.evaluation.sandbox import watch

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="isolation is there on Linux only")
SRC = Path(__file__).resolve().parents[2] / "src"


@on_linux
@pytest.mark.parametrize("layer", [None, "landlock"])
def test_packages_of_a_virtual_environment_in_tmp_can_be_imported(layer, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "only_here.py").write_text("x = 1\n")
    asking = (
        f"import sys; sys.path.insert(0, {str(SRC)!r})\n"
        "from ultrafuser.evaluation.sandbox import Sandbox\n"
        f"try:\n    sandbox = Sandbox(layer={layer!r})\nexcept ValueError:\n    sys.exit(3)\n"
        'print(sandbox.run([\'import only_here; assert only_here.x == 1; open("/tmp/x", "w") if False else None\'])[0])'
    )
    ran = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", asking], capture_output=True, text=True, check=False
    )
    if ran.returncode == 3:
        pytest.skip(f"no {layer} here")
    assert "status='passed'" in ran.stdout, ran.stdout + ran.stderr


@on_linux
def test_it_tells_its_layers():
    ran = subprocess.run(
        [sys.executable, "-m", "ultrafuser.evaluation.sandbox"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["isolated"]
    assert {"files", "network", "processes", "system calls", "user", "limits"} <= set(told)


def test_a_folder_of_any_depth_is_removed(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    before = os.getcwd()
    os.chdir(folder)
    try:
        for _ in range(100):
            os.mkdir("d" * 100)  # in the end, a path longer than the system takes
            os.symlink(kept, "link")
            Path("file").write_text("x")
            os.chdir("d" * 100)
    finally:
        os.chdir(before)
    (folder / "closed").mkdir(0)
    watch.remove_tree(str(folder))
    assert sorted(os.listdir(tmp_path)) == ["kept"]
    assert (kept / "file").read_text() == "x"


@on_linux
class TestFilter:
    """The filter's code, read by a small interpreter of our own: so that both machines' tables are tested on one."""

    ALLOW, KILL = 0x7FFF0000, 0x80000000

    @staticmethod
    def decide(code: bytes, arch: int, number: int, *arguments: int) -> int:
        data = struct.pack("<IIQ6Q", number, arch, 0, *(*arguments, *[0] * (6 - len(arguments))))
        value = place = 0
        while True:
            operation, if_true, if_false, operand = struct.unpack_from("<HBBI", code, 8 * place)
            place += 1
            if operation == 0x20:
                (value,) = struct.unpack_from("<I", data, operand)
            elif operation == 0x54:
                value &= operand
            elif operation == 0x15:
                place += if_true if value == operand else if_false
            elif operation == 0x25:
                place += if_true if value > operand else if_false
            else:
                assert operation == 0x06
                return operand

    @pytest.mark.parametrize(
        ("machine", "read", "socket", "pair", "clone", "kill", "chmod", "prlimit"),
        [("x86_64", 0, 41, 53, 56, 62, 91, 302), ("aarch64", 63, 198, 199, 220, 129, 52, 261)],
    )
    def test_decisions(self, machine, read, socket, pair, clone, kill, chmod, prlimit):
        from ultrafuser.evaluation.sandbox.inside import seccomp

        refuse = 0x00050000 | errno.EPERM
        arch = seccomp.AUDIT_ARCH[machine]
        loose, strict = (
            seccomp.build(machine, seccomp.rules(machine, metadata=free, processes=free, pid=77))
            for free in (True, False)
        )
        for code in (loose, strict):
            assert self.decide(code, arch, read) == self.ALLOW
            assert self.decide(code, arch ^ 1, read) == self.KILL
            assert self.decide(code, arch, socket) == refuse
            assert self.decide(code, arch, pair, 1, 0x80001) == self.ALLOW
            assert self.decide(code, arch, pair, 1, 2) == self.decide(code, arch, pair, 30, 1) == refuse
            assert self.decide(code, arch, 435) == 0x00050000 | errno.ENOSYS  # clone3
            assert self.decide(code, arch, 999) == 0x00050000 | errno.ENOSYS
            assert self.decide(code, arch, 0x40000000 + read) == 0x00050000 | errno.ENOSYS
            assert self.decide(code, arch, clone, 0x10000000 | 17) == refuse  # a user namespace
            assert self.decide(code, arch, clone, 0x003D0F00) == self.ALLOW  # a thread
            assert self.decide(code, arch, prlimit, 0) == self.ALLOW
            assert self.decide(code, arch, prlimit, 12) == refuse
        assert self.decide(loose, arch, clone, 17) == self.ALLOW  # a process
        assert self.decide(strict, arch, clone, 17) == refuse
        assert self.decide(loose, arch, kill, 12, 9) == self.ALLOW
        assert self.decide(strict, arch, kill, 12, 9) == refuse
        assert self.decide(strict, arch, kill, 0xFFFFFFFF, 9) == refuse
        assert self.decide(strict, arch, kill, 77, 9) == self.ALLOW
        assert self.decide(loose, arch, chmod) == self.ALLOW
        assert self.decide(strict, arch, chmod) == refuse


@on_linux
@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed")
@pytest.mark.skipif(sys.platform == "linux" and os.geteuid() != 0, reason="these tests were not started as root")
@pytest.mark.parametrize("dropped", ["-sys_admin", "-all"])
def test_a_container_whose_root_may_little_has_landlock(dropped, tmp_path):
    asking = (
        f"import sys; sys.path.insert(0, {str(SRC)!r})\n"
        "from ultrafuser.evaluation.sandbox import Sandbox\n"
        "try:\n    Sandbox(layer='namespaces')\n"
        "except ValueError as problem:\n    assert 'unshare' in str(problem), problem\n"
        "else:\n    raise SystemExit('namespaces without CAP_SYS_ADMIN')\n"
        "sandbox = Sandbox(layer='landlock')\n"
        "print(sandbox.describe()['user'], sandbox.describe()['processes'])\n"
        "programs = ['import numpy', 'open(\"/etc/passwd\")', 'import os; os.fork()']\n"
        "print(*[outcome.status for outcome in sandbox.run(programs)])"
    )
    command = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", sys.executable, "-c", asking]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert ran.returncode == 0, ran.stderr
    user, statuses = ran.stdout.splitlines()
    if dropped == "-all":
        assert (user, statuses) == ("the user's uid one process only (seccomp)", "passed failed failed")
    else:
        assert (user, statuses) == ("uid of its own uid of its own", "passed failed passed")
    assert os.listdir(tmp_path) == []
