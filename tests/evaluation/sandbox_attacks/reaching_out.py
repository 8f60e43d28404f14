"""Attacks on what is outside: files, sockets, other processes, the kernel."""

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
PASSED = {"passed"}

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
}
