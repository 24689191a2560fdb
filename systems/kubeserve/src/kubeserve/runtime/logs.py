"""The log of a replica: what its model prints, up to a bound."""

from __future__ import annotations

import os

_LARGEST = 1024 * 1024
_AT_ONCE = 64 * 1024
_FULL = b"\n[the log is full: what follows is dropped]\n"


class Log:
    """Copies from a pipe to a file, at most 1 MiB; the rest is read and dropped. Raises OSError.

    Without a path it is this process's stdout.
    """

    def __init__(self, path: str | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.dup(1) if path is None else os.open(path, flags, 0o600)
        self.source, self.sink = os.pipe()
        self.open, self._room = True, _LARGEST
        os.set_blocking(self.source, False)

    def pump(self) -> bool:
        """Copy what is there now; False at the end of the pipe."""
        try:
            text = os.read(self.source, _AT_ONCE)
        except BlockingIOError:
            return True
        if text and self._room:
            kept = text[: self._room]
            self._room -= len(kept)
            self._write(kept if self._room else kept + _FULL)
        return bool(text)

    def drain(self) -> None:
        """Copy what a process that has ended left in the pipe."""
        for _ in range(1024 * 1024 // _AT_ONCE + 1):  # the largest pipe
            if not self.pump():
                return

    def close_sink(self) -> None:
        """Leave the writing end to others."""
        os.close(self.sink)
        self.sink = -1

    def close(self) -> None:
        """Close the file and the pipe. Twice is as good as once."""
        if self.open:
            self.open = False
            for end in (self.source, self.sink, self._file):
                if end >= 0:
                    os.close(end)

    def _write(self, text: bytes) -> None:
        try:
            os.write(self._file, text)
        except OSError:  # a full disk ends no zygote
            self._room = 0
