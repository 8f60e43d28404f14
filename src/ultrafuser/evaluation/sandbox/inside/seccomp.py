"""A filter of system calls (seccomp, mode 2): the classic BPF program is assembled here by hand.

It is a list of what is refused, not of what is let through: Python and NumPy use different calls with every release.
What a list of refusals could miss is caught twice: calls newer than the list do not exist (ENOSYS), and the program
has no capability and no file outside its own (namespaces or Landlock).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from dataclasses import dataclass

from . import syscalls

__all__ = ["Rule", "build", "install", "rules"]

LAST_KNOWN = 450  # set_mempolicy_home_node, Linux 5.17; numbers from 424 on are the same on every machine
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# number on x86_64, number on aarch64; None: the machine has no such call
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # network: a socketpair of streams stays, event loops need it and it leads nowhere
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    # other processes' memory and files
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "move_pages": (279, 239), "migrate_pages": (256, 238),
    # other processes' share of the machine
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setattr": (314, 274), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122), "mbind": (237, 235),
    "set_mempolicy": (238, 237), "set_mempolicy_home_node": (450, 450),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # large and rarely needed parts of the kernel
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18), "nfsservctl": (180, 42), "personality": (135, 92),
    # memory that no process's resident size shows, and what others share: numbers of it can be guessed
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # the machine itself: root's alone, refused all the same
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "acct": (163, 89), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142),
    "syslog": (103, 116), "quotactl": (179, 60), "quotactl_fd": (443, 443), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "iopl": (172, None),
    "ioperm": (173, None), "modify_ldt": (154, None), "vhangup": (153, 58), "sync": (162, 81), "syncfs": (306, 267),
}  # fmt: skip

# Landlock does not cover these: with it alone, a user's program could lock the user out of their own files
_METADATA: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
}  # fmt: skip

# Where neither a pid namespace nor a uid of its own holds a program's processes together, it may have only one
_PROCESSES: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None), "vfork": (58, None), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
}  # fmt: skip

_SOME = {
    "clone": (56, 220), "clone3": (435, 435), "mmap": (9, 222), "prlimit64": (302, 261), "ioctl": (16, 29),
    "fcntl": (72, 25), "kill": (62, 129), "tgkill": (234, 131), "socketpair": (53, 199),
}  # fmt: skip

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_CLONE_THREAD = 0x00010000
_SHARED_ANONYMOUS = 0x21  # MAP_SHARED | MAP_ANONYMOUS: outlives its mapping in other processes, uncounted
_WHOLE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """Refuse call `number` with `error`; with `argument`, only where `(argument & mask) == value` is `equal`."""

    number: int
    error: int = errno.EPERM
    argument: int | None = None
    mask: int = _WHOLE
    value: int = 0
    equal: bool = True


def rules(machine: str, *, metadata: bool, processes: bool, pid: int) -> list[Rule]:
    """The rules for a machine; `metadata` lets chmod and its like through, `processes` forks and signals.

    `pid` is the process that the filter is for: without `processes` it may signal only itself.
    """
    column = list(AUDIT_ARCH).index(machine)
    some = {name: numbers[column] for name, numbers in _SOME.items()}
    listed = dict(_REFUSED)
    if not metadata:
        listed |= _METADATA
    if not processes:
        listed |= _PROCESSES
    found = [Rule(number) for numbers in listed.values() if (number := numbers[column]) is not None]
    found += [
        Rule(
            some["clone3"], errno.ENOSYS
        ),  # its flags lie in memory, out of a filter's sight: libc falls back to clone
        Rule(some["clone"], argument=0, mask=_NEW_NAMESPACES, equal=False),
        Rule(some["mmap"], argument=3, mask=_SHARED_ANONYMOUS, value=_SHARED_ANONYMOUS),
        Rule(some["prlimit64"], argument=0, equal=False),
        Rule(some["socketpair"], argument=0, value=1, equal=False),  # AF_UNIX alone
        Rule(some["socketpair"], argument=1, mask=0xF, value=1, equal=False),  # datagrams could be sent elsewhere
    ]
    for request in (0x5412, 0x541C, 0x8901, 0x8902):  # TIOCSTI, TIOCLINUX: typing for the user; FIOSETOWN, SIOCSPGRP
        found.append(Rule(some["ioctl"], argument=1, value=request))
    if not metadata:
        found += [Rule(some["ioctl"], argument=1, mask=0xFF00, value=kind) for kind in (0x6600, 0x5800)]  # file flags
    if not processes:
        found.append(Rule(some["clone"], argument=0, mask=_CLONE_THREAD))
        found += [Rule(some[name], argument=0, value=pid, equal=False) for name in ("kill", "tgkill")]
        for command in (8, 10, 15, 1024, 1026):  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals; F_SETLEASE, F_NOTIFY
            found.append(Rule(some["fcntl"], argument=1, value=command))
    return found


def build(machine: str, found: list[Rule]) -> bytes:
    """The BPF program: another machine's calls kill, unknown numbers do not exist, then the rules; the rest passes."""
    load_number = _instruction(0x20, 0)
    code = [
        _instruction(0x20, 4),  # A = architecture
        _instruction(0x15, AUDIT_ARCH[machine], 1, 0),
        _instruction(0x06, 0x80000000),  # kill the process
        load_number,
        _instruction(0x25, LAST_KNOWN, 0, 1),  # also x32 calls on x86_64: they have bit 30 set
        _refuse(errno.ENOSYS),
    ]
    for rule in found:
        if rule.argument is None:
            code += [_instruction(0x15, rule.number, 0, 1), _refuse(rule.error)]
            continue
        code += [
            _instruction(0x15, rule.number, 0, 5),
            _instruction(0x20, 16 + 8 * rule.argument),  # the argument's lower half (little endian)
            _instruction(0x54, rule.mask),  # A &= mask
            _instruction(0x15, rule.value, *((0, 1) if rule.equal else (1, 0))),
            _refuse(rule.error),
            load_number,
        ]
    return b"".join([*code, _instruction(0x06, 0x7FFF0000)])  # allow


def install(*, metadata: bool, processes: bool, pid: int) -> None:
    """Filter the calling process from now on, and all that it starts. Needs no_new_privs."""
    machine = platform.machine()
    code = build(machine, rules(machine, metadata=metadata, processes=processes, pid=pid))
    buffer = ctypes.create_string_buffer(code, len(code))

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    whole = Filter(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    syscalls.prctl(syscalls.PR_SET_SECCOMP, 2, ctypes.byref(whole))


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand)


def _refuse(error: int) -> bytes:
    return _instruction(0x06, 0x00050000 | error)
