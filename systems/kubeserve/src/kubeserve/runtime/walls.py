"""Walls around code that is not ours: raised in two steps, before anything of a tenant's is imported or loaded.

`enclose` leaves what the machine shares (network, IPC, mounts) and gives up capabilities.
`confine` takes away the files and the system calls; it may be called again, by a child, to take away more.
Each step reports what it reached, for not every kernel and container allows every wall. The *level* is
`{"landlock": ABI or 0, "seccomp": bool, "namespaces": [names], "rlimits": bool, "scratch": "tmpfs" | "directory",
"uid": "platform"}`.
"""

from __future__ import annotations

import os
import resource
import sys
import sysconfig
from pathlib import Path
from typing import Any

from kubeserve.runtime import kernel, landlock, namespaces, seccomp
from kubeserve.runtime.refusals import RefusedError

Limits = dict[str, Any]
_FILES = 256
_SYSTEM = ("/usr/lib", "/lib", "/usr/lib64", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo", "/dev/urandom")
_MACHINE = ("/sys/devices/system/cpu", "/proc/cpuinfo", "/proc/meminfo")  # native libraries size themselves by these
_PAGE = resource.getpagesize()


def enclose(scratch: str, size: int) -> dict[str, Any]:
    """Leave the machine's network, IPC and mounts where that is allowed, and what root may do beyond others.

    Where mounts are ours, `scratch` becomes an empty file system in memory of `size` bytes.
    """
    entered = namespaces.enter()
    mounted = False
    if "mount" in entered:
        try:
            kernel.mount_tmpfs(scratch, size)
            mounted = True
        except OSError:
            pass
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.drop_capabilities()
    return {"namespaces": entered, "scratch": "tmpfs" if mounted else "directory", "uid": "platform"}


def confine(profile: str, grants: list[tuple[str, int]]) -> dict[str, Any]:
    """Refuse all files but the environment's, the system's libraries and `grants`, and the calls of the profile."""
    if profile == "zygote":
        itself = "/proc"  # its children's, too; Landlock keeps it from what belongs to processes without these walls
    else:
        itself = "/proc/self/maps"  # by which libraries find each other
        os.open(itself, os.O_PATH)  # stays open, so that the kernel keeps the very entry that is granted
    libraries = [(path, landlock.READ) for path in (*_of_python(), *_SYSTEM, *_MACHINE)]
    libraries.append((itself, landlock.READ_FILE))
    abi = landlock.restrict([*libraries, ("/dev/null", landlock.DEVICE), *grants])
    return {"landlock": abi, "seccomp": seccomp.install(profile)}


def limit(limits: Limits, now: tuple[int, int]) -> dict[str, Any]:
    """Bound this process for good: `memory` in bytes beyond the `sizes` of now, `cpu` in seconds, `file` in bytes.

    CPU time that is used up ends it by SIGXCPU, a second later by SIGKILL.
    """
    bounds = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, _FILES)]
    if "memory" in limits:
        size, data = now
        bounds += [(resource.RLIMIT_AS, size + limits["memory"]), (resource.RLIMIT_DATA, data + limits["memory"])]
    if "file" in limits:
        bounds.append((resource.RLIMIT_FSIZE, limits["file"]))
    for kind, value in bounds:
        resource.setrlimit(kind, (value, value))
    if "cpu" in limits:
        seconds = int(limits["cpu"]) or 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    return {"rlimits": True}


def demand(minimum: dict[str, Any], level: dict[str, Any]) -> None:
    """Raises RefusedError `walls_missing` where the level is below the minimum, which has the keys of a level."""
    for wall, least in minimum.items():
        reached = level.get(wall)
        if isinstance(least, list):
            enough = set(least) <= set(reached or [])
        elif isinstance(least, int):
            enough = int(reached or 0) >= least
        else:
            enough = reached == least
        if not enough:
            raise RefusedError(
                "walls_missing",
                f"this machine gives {wall} = {reached}, and {least} is the least that is demanded: "
                "allow it to this process, or lower the minimum",
            )


def clean(scratch: str) -> None:
    """Leave the model the environment variables that it needs, and one thread."""
    os.environ.clear()
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    places = dict.fromkeys(("HOME", "TMPDIR", "JOBLIB_TEMP_FOLDER", "MPLCONFIGDIR"), scratch)
    os.environ.update({"LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **places, **dict.fromkeys(threads, "1")})
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"
    os.environ["JOBLIB_MULTIPROCESSING"] = "0"


def _of_python() -> set[str]:
    """Where this interpreter and its environment have their modules."""
    environment = Path(sys.executable).absolute().parent.parent  # not resolved: bin/python is a link out of it
    inside = str(environment) if (environment / "pyvenv.cfg").exists() else sys.prefix
    installed = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_prefix})
    return {inside, str(Path(sys.base_prefix, "lib")), installed["stdlib"], installed["platstdlib"]}


def sizes(statm: int) -> tuple[int, int]:
    """The bytes that a process maps, and those that are its own data, by its open /proc/PID/statm."""
    fields = os.pread(statm, 256, 0).split()
    return int(fields[0]) * _PAGE, int(fields[5]) * _PAGE
