"""The folder that holds the data of `up`: created if missing, and used by one `up` at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from greenscale_worker.errors import ConfigError

PRIVATE: Final = 0o700  # it holds prompts and answers


@contextmanager
def reserved(folder: Path, port: int) -> Iterator[None]:
    """Reserve the folder for this process, until the block is left or the process dies in any way.

    Raises ConfigError if another `up` has it, with that one's own note, or if it cannot be written.
    """
    try:
        _make(folder)
        lock = (folder / "up.lock").open("a+")
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}; expected with --data: a folder that can be written") from None
    with lock:
        _lock(lock, folder)
        lock.truncate(0)
        lock.write(f"pid {os.getpid()}, Redis on port {port}")
        lock.flush()
        yield


def _make(folder: Path) -> None:
    """Create the folder if it is missing, and make git ignore it."""
    if not folder.is_dir():
        folder.mkdir(PRIVATE, parents=True)
        (folder / ".gitignore").write_text("*\n")


def _lock(lock: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read() or "it is just starting"
        raise ConfigError(
            f"{folder}: another `up` uses it ({owner}); expected: --data with a folder of its own, or that one stopped"
        ) from None
    except OSError as error:
        raise ConfigError(f"{folder}: it cannot be locked ({error.strerror}); expected: a local folder") from None
