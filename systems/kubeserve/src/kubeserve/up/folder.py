"""Ends the `up` that has a folder, and removes what it left there."""

import fcntl
import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from greenscale_worker import ConfigError

from kubeserve.places.layout import Layout

LOCK: Final = "up.lock"
PATIENCE: Final = 120.0  # seconds: what runs may end
POLL: Final = 0.05
OWN: Final = frozenset(
    {LOCK, ".gitignore", "control.lock", "door.lock", "secret", ".secret", "logs", "valkey", "place", "models", "run",
     "deployments", "environments", "uploads", "proofs", "objects",
     "archives"}
)  # fmt: skip


def owner(data: Path) -> int | None:
    """Return the process that runs there, None if none does. Raises ConfigError if `up` never ran there."""
    try:
        with (data / LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found = re.match(r"pid (\d+)", lock.read())
                return int(found[1]) if found else None
    except OSError:
        raise ConfigError(f"--data {data}: no `up` has ever run there; expected: the folder of one") from None
    return None


def end(data: Path) -> bool:
    """End what runs there. Return whether something did. Raises ConfigError if it does not end."""
    pid = owner(data)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        ends = time.monotonic() + PATIENCE
        while owner(data) is not None:
            if time.monotonic() > ends:
                raise ConfigError(f"the `up` with pid {pid} has not ended after {PATIENCE:g} s; its terminal says why")
            time.sleep(POLL)
    shutil.rmtree(Layout(data).run, ignore_errors=True)  # of one that was killed
    return pid is not None


def purge(data: Path) -> None:
    """Remove the data: accounts, models, environments. What is not ours is left. Raises ConfigError while it runs."""
    if owner(data) is not None:
        raise ConfigError(f"--data {data}: `up` runs there")
    for path in data.iterdir():
        if path.name in OWN or path.name.startswith("kubeserve.db"):
            remove(path)
    if not any(data.iterdir()):
        data.rmdir()


def remove(path: Path) -> None:
    """Remove a file or a folder; environments are read-only for all."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for folder, _, _ in os.walk(path):
        os.chmod(folder, stat.S_IRWXU)  # noqa: PTH101  a text already
    shutil.rmtree(path, onerror=_again)


def _again(function: Callable[[str], Any], path: str, _: Any) -> None:
    if os.path.lexists(path):
        os.chmod(Path(path).parent, stat.S_IRWXU)  # noqa: PTH101  a text already
        function(path)
