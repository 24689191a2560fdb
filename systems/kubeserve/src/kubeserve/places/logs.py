"""What models write: read as what a stranger wrote, whose process may still have its hands on the file."""

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, Final

LARGEST_LOG: Final = 2 * 1024 * 1024  # the runtime stops at half of it
LARGEST_READ: Final = 256 * 1024
CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def open_log(path: Path) -> BinaryIO:
    """Open a log to read. Raises OSError, also for what is no plain file of its own: a link, a pipe, a device."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{path} is no plain file")
    return os.fdopen(handle, "rb")


def new_lines(folder: Path, read: dict[Path, int]) -> list[str]:
    """Return the lines that came since, the oldest file first, and note in `read` how far each file was read.

    A line without an end is told once it has grown to `LARGEST_READ` bytes. Control characters, which a terminal would
    obey, become U+FFFD.
    """
    lines = list[str]()
    for path in sorted(folder.glob("*.log"), key=_written_at):
        try:
            lines += _lines_of(path, read)
        except OSError:
            continue
    return lines


def _lines_of(path: Path, read: dict[Path, int]) -> list[str]:
    with open_log(path.readlink() if path.is_symlink() else path) as file:
        size = os.fstat(file.fileno()).st_size
        begin = read.get(path, max(0, size - LARGEST_READ))
        file.seek(begin if begin <= size else 0)  # smaller than it was: begun anew
        data = file.read(LARGEST_READ)
        end = len(data) if len(data) == LARGEST_READ and b"\n" not in data else data.rfind(b"\n") + 1
        read[path] = file.tell() - len(data) + end
    text = data[:end].decode(errors="replace").removesuffix("\n")
    return (
        [CONTROLS.sub("\N{REPLACEMENT CHARACTER}", line.removesuffix("\r")) for line in text.split("\n")] if end else []
    )


def _written_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # of a replica that died with its door
        return 0
