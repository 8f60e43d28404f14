"""Attacks by taking too much, and by not coming to an end."""

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
