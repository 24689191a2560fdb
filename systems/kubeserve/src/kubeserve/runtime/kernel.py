"""Calls of Linux that Python's standard library does not have, by ctypes."""

from __future__ import annotations

import ctypes
import os
import platform

MACHINE = platform.machine()
PR_SET_PDEATHSIG = 1
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_CAPSET = {"x86_64": 126, "aarch64": 91}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def syscall(number: int, *arguments: object) -> int:
    """Call the kernel. Raises OSError."""
    wide = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def prctl(option: int, second: int = 0, third: int = 0) -> None:
    """Raises OSError."""
    if _libc.prctl(option, second, third, 0, 0) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def unshare(flags: int) -> None:
    """Raises OSError."""
    if _libc.unshare(flags) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def mount_tmpfs(directory: str, size: int) -> None:
    """An empty file system of at most so many bytes, in memory, seen only in this mount namespace. Raises OSError."""
    nosuid, nodev, noexec = 2, 4, 8
    options = f"size={size},nr_inodes=4096,mode=700".encode()
    if _libc.mount(b"scratch", os.fsencode(directory), b"tmpfs", nosuid | nodev | noexec, options) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def drop_capabilities() -> None:
    """What root may do beyond others is given up for good, as far as no program is executed. Raises OSError."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    syscall(_CAPSET[MACHINE], ctypes.byref(header), ctypes.byref(nothing))


def die_with(parent: int, signal: int) -> bool:
    """Have this process get the signal when its parent ends. False where that has ended already."""
    prctl(PR_SET_PDEATHSIG, signal)
    return os.getppid() == parent
