"""Which system calls the core's processes may make, by what a process is for.

Invariants:

* Who reads documents has a list of what it may call; all else is refused, and what no decoder could want kills.
* Nothing that is allowed there opens a way out: no new process, program, connection or name in the file system, no file
  opened for writing, no memory made executable, no signal to anyone else.
* Numbers are those of x86_64, the only machine the core reads on.
"""

import errno
import os
from collections.abc import Iterable, Mapping

from ocr_core.confinement.seccomp import ALLOW, KILL, Condition, Policy, Rule, refuse

NEWEST = 462

_HARMLESS: Mapping[str, int] = {
    # files that are open, and names that are only looked at
    "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "lseek": 8, "pread64": 17, "pwrite64": 18,
    "readv": 19, "writev": 20, "access": 21, "pipe": 22, "dup": 32, "dup2": 33, "sendfile": 40, "fcntl": 72,
    "flock": 73, "fsync": 74, "fdatasync": 75, "ftruncate": 77, "getcwd": 79, "readlink": 89, "umask": 95,
    "statfs": 137, "fstatfs": 138, "readahead": 187, "getdents64": 217, "fadvise64": 221, "newfstatat": 262,
    "readlinkat": 267, "faccessat": 269, "eventfd2": 290, "dup3": 292, "pipe2": 293, "preadv": 295, "pwritev": 296,
    "memfd_create": 319, "preadv2": 327, "pwritev2": 328, "statx": 332, "close_range": 436, "faccessat2": 439,
    # memory
    "munmap": 11, "brk": 12, "mremap": 25, "msync": 26, "mincore": 27, "madvise": 28, "mlock": 149, "munlock": 150,
    "membarrier": 324,
    # threads
    "sched_yield": 24, "exit": 60, "getpriority": 140, "sched_getparam": 143, "sched_getscheduler": 145,
    "sched_get_priority_max": 146, "sched_get_priority_min": 147, "gettid": 186, "futex": 202,
    "sched_setaffinity": 203, "sched_getaffinity": 204, "set_tid_address": 218, "restart_syscall": 219,
    "exit_group": 231, "set_robust_list": 273, "get_robust_list": 274, "rseq": 334, "futex_waitv": 449,
    "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456,
    # signals
    "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pause": 34, "getitimer": 36, "alarm": 37,
    "setitimer": 38, "wait4": 61, "rt_sigpending": 127, "rt_sigtimedwait": 128, "rt_sigsuspend": 130,
    "sigaltstack": 131, "waitid": 247,
    # time
    "nanosleep": 35, "gettimeofday": 96, "getrusage": 98, "times": 100, "time": 201, "clock_gettime": 228,
    "clock_getres": 229, "clock_nanosleep": 230, "getcpu": 309,
    # waiting
    "poll": 7, "select": 23, "epoll_wait": 232, "epoll_ctl": 233, "pselect6": 270, "ppoll": 271, "epoll_pwait": 281,
    "epoll_create1": 291, "epoll_pwait2": 441,
    # sockets that are open
    "accept": 43, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48, "getsockname": 51,
    "getpeername": 52, "getsockopt": 55, "accept4": 288, "recvmmsg": 299, "sendmmsg": 307,
    # facts about the process and the machine
    "getpid": 39, "uname": 63, "getrlimit": 97, "sysinfo": 99, "getuid": 102, "getgid": 104, "geteuid": 107,
    "getegid": 108, "getppid": 110, "getpgrp": 111, "getgroups": 115, "getresuid": 118, "getresgid": 120,
    "getpgid": 121, "getsid": 124, "capget": 125, "getrandom": 318,
}  # fmt: skip

# What takes hold of other processes, of the kernel or of the machine, or is known for the holes it had.
_HOSTILE: Mapping[str, int] = {
    "ptrace": 101, "syslog": 103, "uselib": 134, "vhangup": 153, "modify_ldt": 154, "pivot_root": 155,
    "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167,
    "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    "init_module": 175, "delete_module": 176, "quotactl": 179, "nfsservctl": 180, "lookup_dcookie": 212,
    "clock_settime": 227, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256,
    "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "mount_setattr": 442,
    "quotactl_fd": 443, "statmount": 457, "listmount": 458,
}  # fmt: skip

# Another program, or another user: kills who reads documents; who keeps processes may start them.
_ANOTHER_PROGRAM: Mapping[str, int] = {
    "execve": 59, "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114, "setgroups": 116, "setresuid": 117,
    "setresgid": 119, "setfsuid": 122, "setfsgid": 123, "capset": 126, "personality": 135, "unshare": 272,
    "execveat": 322,
}  # fmt: skip

_OPEN, _OPENAT = 2, 257
_MMAP, _MPROTECT = 9, 10
_IOCTL, _SOCKET, _SOCKETPAIR, _SETSOCKOPT = 16, 41, 53, 54
_CLONE, _CLONE3, _KILL, _TGKILL = 56, 435, 62, 234
_PRCTL, _UTIMENSAT, _PRLIMIT64 = 157, 280, 302

_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | (os.O_TMPFILE & ~os.O_DIRECTORY)
_EXECUTABLE = 4  # PROT_EXEC
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET, _SOL_SOCKET = 1, 1, 5, 1
_CLONE_THREAD = 0x00010000
_CLONE_ODDITIES = 0x7E026000  # new namespaces, vfork, ptrace
_TERMINAL_AND_FLAGS = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS FIONREAD FIONBIO FIONCLEX FIOCLEX
_NAMES_AND_QUESTIONS = (2, 3, 15, 16, 21, 23, 39, 0x53564D41)  # what names threads and memory, or only asks


def for_reading(pid: int) -> Policy:
    """For a process that sees a stranger's bytes and starts nothing.

    Args:
        pid: Its own, the only one that it may signal.
    """
    read_only = refuse(errno.EROFS)
    nowhere = refuse(errno.EACCES)
    rules = _rules(_HARMLESS.values(), ALLOW) | _rules([*_HOSTILE.values(), *_ANOTHER_PROGRAM.values()], KILL)
    rules |= {
        _OPEN: _only(Condition(1, (0,), _FOR_WRITING), otherwise=read_only),
        _OPENAT: _only(Condition(2, (0,), _FOR_WRITING), otherwise=read_only),
        _MMAP: _only(Condition(2, (0,), _EXECUTABLE)),
        _MPROTECT: _only(Condition(2, (0,), _EXECUTABLE)),
        _IOCTL: _only(Condition(1, _TERMINAL_AND_FLAGS), otherwise=refuse(errno.ENOTTY)),
        _SOCKET: Rule(nowhere),
        # Kinds that take no address when something is sent: no way to a socket elsewhere.
        _SOCKETPAIR: _only(
            Condition(0, (_AF_UNIX,)), Condition(1, (_SOCK_STREAM, _SOCK_SEQPACKET), 0xF), otherwise=nowhere
        ),
        _SETSOCKOPT: _only(Condition(1, (_SOL_SOCKET,))),
        _CLONE: _only(Condition(0, (_CLONE_THREAD,), _CLONE_THREAD | _CLONE_ODDITIES)),
        _CLONE3: Rule(refuse(errno.ENOSYS)),  # its flags lie behind a pointer; without it, clone is used
        _KILL: _only(Condition(0, (pid,))),
        _TGKILL: _only(Condition(0, (pid,))),
        _PRCTL: _only(Condition(0, _NAMES_AND_QUESTIONS)),
        _PRLIMIT64: _only(Condition(0, (0, pid))),  # its own; what was lowered for good stays so
        _UTIMENSAT: _only(Condition(1, (0,)), Condition(1, (0,), upper=True)),  # the heartbeat: no name
    }
    return Policy(rules=rules, default=refuse(errno.EPERM), newest=NEWEST)


def for_keeping_processes() -> Policy:
    """For a process that starts and watches others and sees no document: everything but what is hostile, no network."""
    rules = _rules(_HOSTILE.values(), KILL)
    rules[_SOCKET] = _only(Condition(0, (_AF_UNIX,)), otherwise=refuse(errno.EACCES))
    return Policy(rules=rules, default=ALLOW)


def _rules(numbers: Iterable[int], action: int) -> dict[int, Rule]:
    return dict.fromkeys(numbers, Rule(action))


def _only(*conditions: Condition, otherwise: int = refuse(errno.EPERM)) -> Rule:
    return Rule(ALLOW, (conditions,), otherwise)
