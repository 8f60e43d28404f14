"""Attacks, each really run: as root and as an ordinary user, in namespaces and with Landlock alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation is there on Linux only")

DRIVER = Path(__file__).with_name("sandbox_driver.py")
USER = 54321
LIMITS = {
    "seconds": 30,
    "cpu_seconds": 20,
    "memory": 192 * 2**20,
    "processes": 12,
    "open_files": 32,
    "file_size": 2**20,
    "disk": 4 * 2**20,
    "files": 200,
    "output": 100_000,
}

SHORT = LIMITS | {"seconds": 1.5, "cpu_seconds": 1}

REFUSED = """
def refused(action, *arguments, **named):
    try:
        result = action(*arguments, **named)
    except (OSError, ValueError, AttributeError):
        return
    raise SystemExit(f"{action} {arguments} {named} gave {result!r}")
"""
RAW = """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
def raw(on_x86, on_arm, *arguments):
    number = on_x86 if platform.machine() == "x86_64" else on_arm
    if number is not None and libc.syscall(number, *arguments) != -1:
        raise SystemExit(f"system call {number} worked")
"""
PASSED, ENDED = {"passed"}, {"timeout", "killed", "failed", "memory"}

# name: (program, what may come of it). One that passes has found every attempt refused.
ATTACKS: dict[str, tuple[str, set[str]]] = {
    "reading files": (
        REFUSED
        + """
import os
for path in ("@HOME@/secret.txt", "/etc/shadow", "/etc/passwd", "/etc/hostname", "@PROJECT@/pyproject.toml",
             "/proc/1/environ", "/proc/@DRIVER@/environ", "/proc/@DRIVER@/mem", "/proc/@PID@/cmdline",
             "/proc/self/environ", "/sys/kernel/notes", "/dev/mem", "/dev/kmsg", "/dev/tty", "/root/.bashrc"):
    refused(open, path, "rb")
for folder in ("@HOME@", "@PROJECT@", "/root", "/home", "/etc", "/proc", "/var", "/sys", "/run"):
    try:
        found = os.listdir(folder)
    except OSError:
        continue
    assert not set(found) & {"secret.txt", "pyproject.toml", "shadow", "1", "log", "kernel"}, (folder, found)
""",
        PASSED,
    ),
    "writing files": (
        REFUSED
        + """
import os, sys
for path in ("@HOME@/secret.txt", "@HOME@/new", "/etc/new", "/usr/lib/new", "/new", "/var/tmp/new", "/run/new",
             os.__file__, os.path.dirname(os.__file__) + "/new.py", "@PROJECT@/new.py", "/proc/self/oom_score_adj",
             "/proc/sys/kernel/core_pattern", "/dev/new"):
    for mode in ("w", "a", "r+", "x"):
        refused(open, path, mode)
    refused(os.truncate, path, 0)
refused(os.unlink, "@HOME@/secret.txt")
refused(os.mkdir, "@HOME@/new")
refused(os.rename, "@HOME@/secret.txt", "here")
refused(os.rmdir, "@HOME@")
refused(os.mkfifo, "@HOME@/fifo")
for target in ("@HOME@/secret.txt", "@HOME@", os.__file__):
    refused(os.chmod, target, 0o777)
    refused(os.utime, target, (1, 1))
    refused(os.chown, target, os.getuid(), os.getgid())
    refused(os.setxattr, target, "user.x", b"1")
""",
        PASSED,
    ),
    "links out of the folder": (
        REFUSED
        + """
import os
os.symlink("@HOME@/secret.txt", "file"); os.symlink("@HOME@", "folder"); os.symlink("/", "root")
os.symlink("../" * 30 + "@HOME@/secret.txt", "climbing")
for path in ("file", "climbing", "folder/secret.txt", "root@HOME@/secret.txt", "root/etc/shadow"):
    refused(open, path)
    refused(open, path, "r+")
refused(open, "folder/new", "w")
refused(os.listdir, "folder")
refused(os.link, "@HOME@/secret.txt", "hard")
refused(os.mknod, "device", 0o600 | 0o020000, os.makedev(1, 1))
here = os.open(".", os.O_RDONLY)
refused(os.open, "../" * 30 + "@HOME@/secret.txt", os.O_RDONLY, dir_fd=here)
""",
        PASSED,
    ),
    "sockets": (
        REFUSED
        + """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET, 40):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        refused(socket.socket, family, kind)
refused(socket.create_connection, ("127.0.0.1", @PORT@), 1)
def connect(address):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
refused(connect, "@HOME@/socket")
refused(connect, "\\0@ABSTRACT@")
left, right = socket.socketpair()
refused(left.connect, "@HOME@/socket")
refused(left.connect, "\\0@ABSTRACT@")
def send(family, kind, address):
    pair = socket.socketpair(family, kind)
    pair[0].sendto(b"x", address)
for address in ("@HOME@/box", "\\0@ABSTRACT@-box"):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
        refused(send, socket.AF_UNIX, kind, address)
refused(socket.socketpair, 30, socket.SOCK_STREAM)  # AF_TIPC
refused(socket.getaddrinfo, "localhost.localdomain", 80)
""",
        PASSED,
    ),
    "killing others": (
        """
import os, signal
for pid in {os.getppid(), 1, 2, 3, @PID@, @DRIVER@, -@PID@, -@DRIVER@, -1} - {os.getpid()}:
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
        try:
            os.kill(pid, number)
        except OSError:
            pass
""",
        PASSED,
    ),
    "signals by other ways": (
        REFUSED
        + RAW
        + """
import fcntl, os, resource, signal, socket
for pid in (@PID@, @DRIVER@):
    raw(424, 424, os.open("/dev/null", os.O_RDONLY), 9, None, 0)  # pidfd_send_signal to what is no process
    refused(lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL))
    refused(resource.prlimit, pid, resource.RLIMIT_NOFILE, (1, 1))
    refused(os.setpriority, os.PRIO_PROCESS, pid, 19)
    refused(os.sched_setaffinity, pid, [0])
left, right = socket.socketpair()
for pid in (@PID@, @DRIVER@):
    try:
        fcntl.fcntl(left, fcntl.F_SETOWN, pid)
        fcntl.fcntl(left, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(left, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        right.send(b"x")
    except OSError:
        pass
""",
        PASSED,
    ),
    "other processes' memory": (
        RAW
        + """
import os
for pid in (1, os.getppid(), @PID@, @DRIVER@):
    raw(101, 117, 16, pid, 0, 0)  # ptrace attach
    raw(101, 117, 0x4206, pid, 0, 0)  # ptrace seize
    raw(310, 270, pid, None, 0, None, 0, 0)  # process_vm_readv
    raw(311, 271, pid, None, 0, None, 0, 0)
    raw(312, 272, pid, pid, 0, 0, 0)  # kcmp
    raw(438, 438, pid, 0, 0)  # pidfd_getfd
""",
        PASSED,
    ),
    "the kernel's large parts": (
        RAW
        + """
for flags in (0x20000, 0x10000000, 0x10020000, 0x40000000):
    raw(272, 97, flags)  # unshare
    raw(56, 220, flags | 17, None, None, None, None)  # clone
    raw(308, 268, 0, flags)  # setns
raw(435, 435, None, 0)  # clone3
raw(165, 40, b"none", b"/tmp", b"tmpfs", 0, None)
raw(166, 39, b"/tmp", 2)
raw(155, 41, b".", b".")
raw(161, 51, b".")
for number in (425, 426, 427, 428, 429, 430, 431, 432, 433, 442, 451, 452, 460, 500, 0x40000000 + 41):
    raw(number, number, 1, None, 0, 0, 0, 0)
raw(321, 280, 0, None, 0)  # bpf
raw(298, 241, None, 0, -1, -1, 0)  # perf_event_open
raw(323, 282, 0)  # userfaultfd
raw(250, 219, 0, -3, 1)  # keyctl: the session's keys
raw(248, 217, b"user", b"x", b"y", 1, -3)
raw(246, 104, 0, 0, None, 0)
raw(169, 142, 0xFEE1DEAD, 672274793, 0, None)
raw(304, 265, -100, None, 0)  # open_by_handle_at
raw(135, 92, 0x0400000)  # personality
""",
        PASSED,
    ),
    "becoming root": (
        REFUSED
        + """
import ctypes, os
assert 0 not in (os.getuid(), os.geteuid(), os.getgid(), os.getegid()), os.getresuid()
for action in (os.setuid, os.setgid, os.seteuid):
    refused(action, 0)
refused(os.setgroups, [0])
refused(os.chroot, ".")
data = (ctypes.c_uint32 * 6)()
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
assert ctypes.CDLL(None).capget(header, data) == 0 and not any(data), list(data)
assert ctypes.CDLL(None).prctl(39, 0, 0, 0, 0) == 1  # no_new_privs
""",
        PASSED,
    ),
    "other programs": (
        REFUSED
        + """
import os, subprocess
for command in ("/bin/sh", "/usr/bin/env", "/usr/bin/su", "/usr/bin/mount"):
    refused(os.execv, command, [command])
with open("own", "w") as file:
    file.write("#!/bin/sh\\n")
try:
    os.chmod("own", 0o700)
except OSError:
    pass
refused(os.execv, "own", ["own"])
""",
        PASSED,
    ),
    "what was inherited": (
        """
import os, stat
allowed = {"PATH", "HOME", "TMPDIR", "LANG", "PYTHONHASHSEED", "LD_LIBRARY_PATH", "PYTHONHOME", "LC_CTYPE",
           "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}
assert set(os.environ) <= allowed, set(os.environ) - allowed
open_files = []
for number in range(3, 1000):
    try:
        mode = os.fstat(number).st_mode
    except OSError:
        continue
    open_files.append(number)
    if stat.S_ISDIR(mode):  # a folder to start from, where Python lies in a closed one: no way up from it
        try:
            os.listdir(number)
        except OSError:
            pass
        for name in ("../../../../.bashrc", "../../../../../etc/shadow", "../../../../../../etc/passwd"):
            try:
                os.open(name, os.O_RDONLY, dir_fd=number)
            except OSError:
                continue
            raise SystemExit(f"{name} from {number}")
    else:
        assert stat.S_ISFIFO(mode), (number, mode)
assert sum(not stat.S_ISDIR(os.fstat(number).st_mode) for number in open_files) == 1  # a copy of standard output
assert os.read(0, 1) == b""
assert os.getsid(0) == os.getpid() and os.getpgid(0) == os.getpid()
""",
        PASSED,
    ),
    "fork bomb": ("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass", ENDED),
    "fork comet": (
        """
import os, signal
if not os.fork():
    while True:
        if os.fork():
            os._exit(0)
os.wait()
signal.pause()
""",
        ENDED,
    ),
    "thread bomb": (
        """
import threading, time
threading.stack_size(65536)
while True:
    try:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    except RuntimeError:
        pass
""",
        ENDED,
    ),
    "memory bomb": ("hoard = []\nwhile True:\n    hoard.append(bytearray(b'x') * 1_000_000)", {"memory"}),
    "one large allocation": ("bytearray(10**12)", {"memory"}),
    "memory bomb of many": (
        """
import os, time
for _ in range(8):
    if not os.fork():
        hoard = bytearray(b"x") * 60_000_000
        time.sleep(60)
time.sleep(60)
""",
        {"memory", "failed"},  # failed: where it may have only one process
    ),
    "memory that nobody counts": (
        REFUSED
        + RAW
        + """
import mmap, os
refused(os.memfd_create, "x")
refused(mmap.mmap, -1, 1 << 20)
raw(29, 194, 0, 1 << 20, 0o1600)  # shmget
raw(68, 186, 0, 0o1600)  # msgget
for number in range(10):
    raw(31, 195, number, 0, None)  # shmctl: remove
    raw(66, 191, number, 0, 0, None)  # semctl: remove
    raw(71, 187, number, 0, None)  # msgctl: remove
raw(240, 180, b"x", 0o102, 0o600, None)  # mq_open
raw(447, 447, 0)  # memfd_secret
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
block = ctypes.create_string_buffer(1 << 20)
assert libc.mlock(block, 1 << 20) == -1
""",
        PASSED,
    ),
    "endless output": ("while True:\n    print('x' * 1000)", {"output"}),
    "endless errors": ("import os\nwhile True:\n    os.write(2, b'x' * 1000)", {"output"}),
    "an error of 100 MB": ("raise ValueError('x' * 100_000_000)", {"output", "memory"}),
    "an error that hangs": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
        {"timeout"},
    ),
    "endless loop": ("while True:\n    pass", {"timeout"}),
    "endless sleep": ("import time\ntime.sleep(1000)", {"timeout"}),
    "signals ignored": (
        """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True:
    pass
""",
        {"timeout"},
    ),
    "stops itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", {"timeout"}),
    "closes everything": ("import os, time\nos.closerange(0, 1000)\ntime.sleep(1000)", {"timeout"}),
    "daemon": (
        """
import os, time
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 1000)
            while True:
                time.sleep(0.1)
        os._exit(0)
except OSError:
    pass
time.sleep(0.2)
""",
        PASSED,
    ),
    "daemon at the time-out": (
        """
import os, time
try:
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
except OSError:
    pass
time.sleep(1000)
""",
        {"timeout"},
    ),
    "filling the disk": (
        """
number = 0
while True:
    try:
        with open(f"file{number}", "wb") as file:
            while True:
                file.write(bytes(100_000))
    except OSError:
        number += 1
    if number > 1000:
        break
""",
        {"killed", "passed"},  # passed: a file system of its own was full
    ),
    "files without number": (
        """
import os
for number in range(100_000):
    try:
        os.close(os.open(f"file{number}", os.O_CREAT))
    except OSError:
        break
else:
    raise SystemExit("no limit")
""",
        {"killed", "passed"},
    ),
    "folders in folders": (
        """
import os
for number in range(3000):
    try:
        os.mkdir("folder", 0o700)
        os.chdir("folder")
    except OSError:
        break
""",
        {"killed", "passed"},
    ),
    "closed folders": (
        "import os\nos.makedirs('a/b/c')\nos.mkdir('a/b/c/d', 0)\nopen('a/b/file', 'w').close()",
        PASSED,
    ),
    "a larger file limit": (
        REFUSED
        + """
import resource
for name in ("RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_CORE"):
    kind = getattr(resource, name)
    refused(resource.setrlimit, kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
def many():
    files = [open("/dev/null") for _ in range(100)]
refused(many)
with open("big", "wb", buffering=0) as file:
    file.write(bytes(1 << 20))
    refused(file.write, b"x")
""",
        PASSED,
    ),
}


HANGING = [name for name, (_, allowed) in ATTACKS.items() if "timeout" in allowed]
QUICK = [name for name in ATTACKS if name not in HANGING]


def attack(layer: str, *options: str) -> dict:
    """Run all attacks in a process of its own and give what happened to the host."""
    ordered = [*QUICK, *HANGING]
    batches = [(LIMITS, [ATTACKS[name][0] for name in QUICK]), (SHORT, [ATTACKS[name][0] for name in HANGING])]
    ran = subprocess.run(
        [sys.executable, str(DRIVER), *options],
        input=json.dumps({"layer": layer, "workers": 10, "batches": batches}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    if "refused" not in answer:
        answer["outcomes"] = dict(zip(ordered, answer["outcomes"], strict=True))
    return answer


def surprises(answer: dict) -> dict[str, str]:
    """Attacks that came out otherwise than they may."""
    return {
        name: f"{status}: {output[-500:]}"
        for name, (status, output) in answer["outcomes"].items()
        if status not in ATTACKS[name][1]
    }


@pytest.mark.parametrize(
    ("who", "layer"),
    [("root", "namespaces"), ("root", "landlock"), ("user", "user namespaces"), ("user", "landlock")],
)
def test_attacks_fail_and_leave_the_host_unharmed(who, layer):
    root = os.geteuid() == 0
    if who == "root" and not root:
        pytest.skip("these tests were not started as root")
    answer = attack(layer, *(["--user", str(USER)] if who == "user" and root else []))
    if "refused" in answer and "namespaces" in layer:
        pytest.skip(f"no {layer} here: {answer['refused']}")
    assert "refused" not in answer, answer
    assert answer["described"]["isolated"]
    assert answer["harm"] == []
    assert surprises(answer) == {}


SLEEPER = """
import ctypes, os, time
ctypes.CDLL(None).prctl(15, b"@NAME@", 0, 0, 0)
try:
    os.fork()
    os.setsid()
except OSError:
    pass
time.sleep(1000)
"""


@pytest.mark.parametrize("layer", ["namespaces", "user namespaces", "landlock"])
def test_nothing_outlives_the_process_that_asked(layer, tmp_path):
    name = f"uf-{os.getpid()}-{layer[:4]}"
    asking = f"""
import sys
sys.path.insert(0, {str(DRIVER.parents[2] / "src")!r})
from ultrafuser.evaluation.sandbox import Limits, Sandbox
try:
    sandbox = Sandbox(layer={layer!r}, limits=Limits(seconds=600), workers=2)
except ValueError:
    sys.exit(3)
sandbox.run([{SLEEPER.replace("@NAME@", name)!r}] * 2)
"""
    process = subprocess.Popen([sys.executable, "-c", asking], env=os.environ | {"TMPDIR": str(tmp_path)})
    try:
        wait_until(lambda: len(named(name)) >= 2 or process.poll() is not None, "the programs never started")
        if process.poll() == 3:
            pytest.skip(f"no {layer} here")
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not named(name), "programs outlived the process that asked for them")


def named(name: str) -> list[str]:
    """Processes of that name."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "comm").read_text().strip() == name:
                found.append(folder.name)
        except OSError:
            continue
    return found


def wait_until(condition, otherwise: str, seconds: float = 60.0) -> None:
    """Wait for a condition, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.05)
