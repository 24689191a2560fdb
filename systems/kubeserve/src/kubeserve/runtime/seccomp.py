"""A filter of system calls, for good: what a model has no use for is refused with EPERM.

A call of a foreign architecture ends the process; x32 and calls newer than this table get ENOSYS, so that libraries
fall back. There are two filters. `ZYGOTE` still forks, signals, binds Unix sockets and sets limits; `MODEL` adds to it:
processes have threads and no children, only themselves to signal, and no sockets but those they were given.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from kubeserve.runtime import kernel
from kubeserve.runtime.syscalls import NUMBERS

_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
ALLOW, KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
REFUSE, UNKNOWN = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_NEWEST = 456  # later calls have the same number on every machine
_SET_MODE_FILTER = 1
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_CLONE_THREAD = 0x00010000
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE = 1, 1, 0xF
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX = 0x8901, 0x8902, 0x5412, 0x541C

_BY_ARGUMENTS = (
    "socket",
    "sendto",
    "clone",
    "clone3",
    "kill",
    "tgkill",
    "prlimit64",
    "sched_setaffinity",
    "fcntl",
    "ioctl",
    "prctl",
)
_ZYGOTE_MAY = ("bind", "listen", "fork", "setrlimit", "capset")


def install(profile: str) -> bool:
    """Put the filter `zygote` or `model` on this thread; False where the kernel or the machine has none.

    no_new_privs must be set, and no other thread be running.
    """
    if kernel.MACHINE not in ARCHITECTURES:
        return False
    program = program_of(profile, kernel.MACHINE, os.getpid())
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    lines = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(lines)))
    try:
        kernel.syscall(_SECCOMP[kernel.MACHINE], _SET_MODE_FILTER, 0, ctypes.byref(head))
    except OSError:
        return False
    return True


def program_of(profile: str, machine: str, pid: int) -> list[tuple[int, int, int, int]]:
    """The filter as lines of classic BPF (code, jump if true, jump if false, operand)."""
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, ARCHITECTURES[machine]),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_AT_LEAST, 0, 1, _NEWEST + 1),  # x32 has its bit above them all
        (_RETURN, 0, 0, UNKNOWN),
    ]
    rules = _model(pid) if profile == "model" else _zygote()
    for name, rule in rules.items():
        number = NUMBERS[name][list(ARCHITECTURES).index(machine)]
        if number is not None:
            lines += [(_IF_EQUAL, 0, len(rule), number), *rule]
    return [*lines, (_RETURN, 0, 0, ALLOW)]


def _zygote() -> dict[str, list[tuple[int, int, int, int]]]:
    free = {*_ZYGOTE_MAY, *_BY_ARGUMENTS}
    rules = {name: [(_RETURN, 0, 0, REFUSE)] for name in NUMBERS if name not in free}
    return {
        **rules,
        "clone3": [
            (_RETURN, 0, 0, UNKNOWN)
        ],  # its flags lie in memory, where no filter looks; libc falls back to clone
        "socket": [
            *_unless_low(0, _AF_UNIX),
            (_LOAD, 0, 0, _low(1)),
            (_AND, 0, 0, _SOCK_TYPE),
            (_IF_EQUAL, 1, 0, _SOCK_STREAM),
            (_RETURN, 0, 0, REFUSE),
            (_RETURN, 0, 0, ALLOW),
        ],
        "sendto": _if_null(4),  # a connected socket needs no address
        "fcntl": _if_none_of(1, _F_SETOWN, _F_SETSIG, _F_SETOWN_EX),  # a signal to whom one names
        "ioctl": _if_none_of(1, _FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX),
    }


def _model(pid: int) -> dict[str, list[tuple[int, int, int, int]]]:
    refused = (*_ZYGOTE_MAY, "socket")
    return {
        **_zygote(),
        **{name: [(_RETURN, 0, 0, REFUSE)] for name in refused},
        "clone": [
            (_LOAD, 0, 0, _low(0)),
            (_IF_ANY_BIT, 1, 0, _CLONE_THREAD),
            (_RETURN, 0, 0, REFUSE),
            (_RETURN, 0, 0, ALLOW),
        ],
        "kill": [*_unless_low(0, pid), (_RETURN, 0, 0, ALLOW)],
        "tgkill": [*_unless_low(0, pid), (_RETURN, 0, 0, ALLOW)],
        "prlimit64": _if_null(2),  # limits may be read
        "sched_setaffinity": [*_unless_low(0, 0), (_RETURN, 0, 0, ALLOW)],
        "prctl": _if_none_of(0, kernel.PR_SET_PDEATHSIG),
    }


def _low(argument: int) -> int:
    """Where the lower half of an argument lies; both machines are little-endian."""
    return _ARGUMENTS + 8 * argument


def _unless_low(argument: int, value: int) -> list[tuple[int, int, int, int]]:
    """Refuse unless the argument, an int to the kernel, is this value."""
    return [(_LOAD, 0, 0, _low(argument)), (_IF_EQUAL, 1, 0, value), (_RETURN, 0, 0, REFUSE)]


def _if_null(argument: int) -> list[tuple[int, int, int, int]]:
    """Allow only a null pointer."""
    return [
        *_unless_low(argument, 0),
        (_LOAD, 0, 0, _low(argument) + 4),
        (_IF_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, REFUSE),
        (_RETURN, 0, 0, ALLOW),
    ]


def _if_none_of(argument: int, *values: int) -> list[tuple[int, int, int, int]]:
    """Refuse these values of an argument that is an int to the kernel."""
    tests = [line for value in values for line in ((_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, REFUSE))]
    return [(_LOAD, 0, 0, _low(argument)), *tests, (_RETURN, 0, 0, ALLOW)]
