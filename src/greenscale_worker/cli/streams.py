"""The standard streams of a command: replaces missing ones, and makes a failed write end in one line."""

import errno
import os
import sys
from contextlib import suppress
from typing import Final, TextIO

MODES: Final = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))
UNWRITABLE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE, errno.ENXIO}


def open_missing() -> None:
    """Open a substitute for each stream that was closed before we began (`>&-`).

    Otherwise the next file that is opened gets its number, and Python has None there. Writing to such a stdout fails,
    as on a closed one; stderr drops what is written, and stdin is empty.
    """
    for name, flags, mode in MODES:
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))


def is_of_stdout(error: OSError) -> bool:
    """Return whether an error comes from writing to stdout: others name a file, or have another code."""
    return error.filename is None and error.errno in UNWRITABLE


def discard() -> None:
    """Drop unwritten output: Python would try to write it again at exit, and print its own error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _redirect_to_nowhere(stream)


def _redirect_to_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
