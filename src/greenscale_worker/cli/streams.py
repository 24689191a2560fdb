"""The standard streams of a command: none may be missing, and one that cannot be written to fails in one line."""

import errno
import os
import sys
from contextlib import suppress
from typing import Final, TextIO

MODES: Final = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))
UNWRITABLE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE, errno.ENXIO}


def open_missing() -> None:
    """Put something in the place of a stream that was closed before we began (`>&-`).

    Otherwise the next file that is opened takes its number, and Python has None there. What is written to such a stdout
    fails as it would have failed on the closed one; stderr swallows it, and stdin is empty.
    """
    for name, flags, mode in MODES:
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))


def is_of_stdout(error: OSError) -> bool:
    """Say whether an error comes from writing to stdout: others name a file, or have another code."""
    return error.filename is None and error.errno in UNWRITABLE


def discard() -> None:
    """Drop what cannot be written any more: Python would try again at exit, and fail in words of its own."""
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
