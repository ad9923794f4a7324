"""Limits the system calls of a sandboxed process (Linux): it can compute, and use files that are already open.

A seccomp filter (seccomp(2), the kernel's seccomp_filter.rst) is a program of classic BPF. It is built here from a list
of allowed calls. Every other call fails with EPERM, so that a parser gets an error and is not killed.
"""

import ctypes
import errno
import platform
import struct
import sys

# Number of each allowed call by architecture. All others fail: opening, connecting, executing, forking, signalling.
_CALLS = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12,
        "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "pwrite64": 18, "readv": 19,
        "writev": 20, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39, "sendto": 44,
        "recvfrom": 45, "exit": 60, "getrusage": 98, "sigaltstack": 131, "setrlimit": 160, "gettid": 186, "futex": 202,
        "sched_getaffinity": 204, "restart_syscall": 219, "clock_gettime": 228, "clock_nanosleep": 230,
        "exit_group": 231, "set_robust_list": 273, "getrandom": 318, "rseq": 334,
    },
    "aarch64": {
        "close": 57, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68,
        "ppoll": 73, "exit": 93, "exit_group": 94, "futex": 98, "set_robust_list": 99, "nanosleep": 101,
        "clock_gettime": 113, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124,
        "restart_syscall": 128, "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
        "setrlimit": 164, "getrusage": 165, "getpid": 172, "gettid": 178, "sendto": 206, "recvfrom": 207, "brk": 214,
        "munmap": 215, "mremap": 216, "mmap": 222, "mprotect": 226, "madvise": 233, "getrandom": 278, "rseq": 293,
    },
}  # fmt: skip
# Calls that are allowed for one first argument only: to create threads but not processes, to send signals to itself,
# and to set its own limits.
_CLONE, _TGKILL, _PRLIMIT, _CLONE3 = "clone", "tgkill", "prlimit64", "clone3"
_GUARDED = {
    "x86_64": {_CLONE: 56, _TGKILL: 234, _PRLIMIT: 302, _CLONE3: 435},
    "aarch64": {_CLONE: 220, _TGKILL: 131, _PRLIMIT: 261, _CLONE3: 435},
}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE_THREAD = 0x10000

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; _ARGUMENT: low half of the first argument
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE = 22, 38, 4
_SECCOMP_MODE_FILTER = 2


def filter_calls(pid: int) -> None:
    """Permanently restricts this process, whose id is `pid`, and its threads to the calls above. Does nothing if the
    system is not Linux.

    OSError if the kernel refuses the filter, NotImplementedError on a processor whose calls are not listed here.
    """
    if sys.platform != "linux":
        return
    machine = platform.machine()
    if machine not in _CALLS:
        raise NotImplementedError(f"no list of system calls for {machine}")
    program = b"".join(_program(machine, pid))
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for what in (
        (_PR_SET_DUMPABLE, 0, 0, 0, 0),  # other processes of the user cannot read its memory; no core dump
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),  # without it only root may set a filter
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0),
    ):
        if prctl(what[0], *(ctypes.c_char_p(x) if isinstance(x, bytes) else ctypes.c_ulong(x) for x in what[1:])):
            raise OSError(ctypes.get_errno(), "the kernel refuses a seccomp filter")


def _program(machine: str, pid: int):
    """The instructions, 8 bytes each. A jump has the number of instructions to skip if true and if false."""

    def step(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
        return struct.pack("HBBI", code, true, false, value)

    def fail(number: int) -> bytes:
        return step(_RETURN, _FAIL | number)

    yield step(_LOAD, _ARCH)
    yield step(_EQUAL, _AUDIT_ARCH[machine], 1, 0)
    yield fail(errno.EPERM)
    yield step(_LOAD, _NUMBER)
    for number in _CALLS[machine].values():
        yield step(_EQUAL, number, 0, 1)
        yield step(_RETURN, _ALLOW)
    for name, number in _GUARDED[machine].items():
        if name == _CLONE3:  # a filter cannot read its flags, which are in memory; on ENOSYS the C library uses clone
            yield step(_EQUAL, number, 0, 1)
            yield fail(errno.ENOSYS)
            continue
        test, value = {_CLONE: (_ANY_BIT, _CLONE_THREAD), _TGKILL: (_EQUAL, pid), _PRLIMIT: (_EQUAL, 0)}[name]
        yield step(_EQUAL, number, 0, 4)
        yield step(_LOAD, _ARGUMENT)
        yield step(test, value, 0, 1)
        yield step(_RETURN, _ALLOW)
        yield fail(errno.EPERM)
    yield fail(errno.EPERM)
