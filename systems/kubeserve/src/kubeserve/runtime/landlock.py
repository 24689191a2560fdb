"""Landlock: from now on this process reaches the named files alone, and no TCP.

The kernel's interface: https://docs.kernel.org/userspace-api/landlock.html. Every right that its ABI knows is handled,
so what is not granted is refused. What Landlock does not cover (chmod, chown, Unix sockets, UDP) seccomp refuses.
"""

from __future__ import annotations

import ctypes
import os
import stat
from typing import TYPE_CHECKING

from kubeserve.runtime import kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
REMOVE_FILE, MAKE_REG, MAKE_SOCK = 1 << 5, 1 << 8, 1 << 9
TRUNCATE = 1 << 14
READ = READ_FILE | READ_DIR
_REMOVE_DIR, _MAKE_DIR = 1 << 4, 1 << 7
SCRATCH = READ | WRITE_FILE | REMOVE_FILE | MAKE_REG | TRUNCATE | _REMOVE_DIR | _MAKE_DIR
RUN = WRITE_FILE | REMOVE_FILE | MAKE_REG | MAKE_SOCK  # sockets and logs
DEVICE = READ_FILE | WRITE_FILE
_OF_FILES = WRITE_FILE | READ_FILE | TRUNCATE | 1

_FS_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_FS_NEWEST = (1 << 16) - 1  # from ABI 5: ioctl of devices
_NET_RIGHTS = 0b11  # bind and connect by TCP, from ABI 4
_SCOPES = 0b11  # abstract Unix sockets and signals, from ABI 6
_NET_FROM, _SCOPE_FROM = 4, 6


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """Which version of Landlock the kernel has; 0 for none."""
    try:
        return kernel.syscall(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def restrict(grants: Iterable[tuple[str, int]]) -> int:
    """Refuse every file but the granted ones (path, rights), for good; answer the ABI that does, 0 for none.

    A path that is not there is left out. no_new_privs must be set. Raises OSError.
    """
    version = abi()
    if not version:
        return 0
    handled = _FS_RIGHTS.get(version, _FS_NEWEST)
    rules = _Ruleset(handled, _NET_RIGHTS if version >= _NET_FROM else 0, _SCOPES if version >= _SCOPE_FROM else 0)
    size = 24 if version >= _SCOPE_FROM else 16 if version >= _NET_FROM else 8
    ruleset = kernel.syscall(_CREATE_RULESET, ctypes.byref(rules), size, 0)
    try:
        for path, rights in grants:
            _grant(ruleset, path, rights & handled)
        kernel.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _grant(ruleset: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _OF_FILES
        rule = _PathBeneath(rights, parent)
        kernel.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)
