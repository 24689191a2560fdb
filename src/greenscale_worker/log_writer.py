"""Writes lines of the log at once, unless that could block: then a thread does, so that no reader stops who logs."""

import atexit
import io
import os
import select
import stat
import threading
from collections.abc import Callable
from typing import Any, Final, TextIO

MOST_BYTES: Final = 4 * 1024 * 1024  # of lines that wait; above, they are dropped and counted
WHOLE_BYTES: Final = 4096  # PIPE_BUF: so much goes into a pipe in one piece, whoever else writes there
FLUSH_SECONDS: Final = 0.5


class LogWriter:
    """Takes lines without ever waiting for their reader, and writes them in order and whole.

    A line is written before `put` returns, so that it is there even if the process is killed next. Where that could
    block (the reader of a pipe or a terminal has stalled), a thread writes the line when it can be written. A line for
    which there is no memory then, or that cannot be written (the disk is full, the reader has gone), is dropped and
    counted in `dropped`. `on_flow` is called, from whichever thread, with the number of lines lost, once lines can be
    written again. A stream that is no file of the system, such as one that a test captures, is written to directly.
    """

    def __init__(self, on_flow: Callable[[int], None]) -> None:
        self.dropped = 0
        self._on_flow = on_flow
        self._told = 0
        self._file: Any = None
        self._pipe: io.FileIO | None = None
        self._poll: select.poll | None = None
        self._torn = False  # the last line could be written in part only
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self._idle = threading.Event()
        self._idle.set()

    def redirect(self, stream: TextIO | None) -> None:
        """Write to this stream from now on, unbuffered; None: nowhere. It is not told what another stream has lost."""
        self.flush()
        self._told = self.dropped
        if self._pipe is not None:
            self._pipe.close()
        buffer = getattr(stream, "buffer", None)
        self._file, self._torn = getattr(buffer, "raw", buffer), False
        self._pipe = self._poll = None
        if isinstance(self._file, io.FileIO) and not self._file.closed and not _is_regular(self._file):
            self._pipe = _own_pipe(self._file)
            self._poll = select.poll()
            self._poll.register(self._file.fileno(), select.POLLOUT)

    def put(self, line: bytes) -> None:
        """Take a line, which ends with a line feed."""
        if self._file is None or (self._idle.is_set() and self._write_at_once(line)):
            return
        with self._lock:
            if self._lines and self._bytes + len(line) > MOST_BYTES:
                self.dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            self._idle.clear()
        self._wake()

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until all is written, for so many seconds at most. False: it is not."""
        return threading.current_thread() is self._thread or self._idle.wait(seconds)

    def _write_at_once(self, line: bytes) -> bool:
        """Write a line, if that cannot block; False: it could."""
        if self._poll is None:
            return self._write([line], self._file)
        if len(line) > WHOLE_BYTES:
            return False
        if self._pipe is not None:
            return self._write([line], self._pipe)
        return bool(self._poll.poll(0)) and self._write([line], self._file)

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.flush)
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            while lines := self._take():
                for piece in _pieces(lines):
                    while not self._write(piece, self._file):  # somebody else has made the same pipe non-blocking
                        self._await_room()

    def _take(self) -> list[bytes]:
        with self._lock:
            lines, self._lines, self._bytes = self._lines, [], 0
            if not lines:
                self._idle.set()
            return lines

    def _await_room(self) -> None:
        if self._poll is not None:
            self._poll.poll()

    def _write(self, lines: list[bytes], file: Any) -> bool:
        """Write lines in one piece, or drop and count them. False: the file is non-blocking and takes nothing now."""
        start = b"\n" * self._torn
        data = memoryview(start + b"".join(lines))
        written = 0
        try:
            while written < len(data):
                count = file.write(data[written:])
                if count is None and not written:
                    return False
                if count is None:
                    self._await_room()
                written += count or 0
        except (OSError, ValueError):  # the disk is full, the reader has gone; the stream is closed
            whole = bytes(data[len(start) : written]).count(b"\n")
            with self._lock:
                self.dropped += max(0, len(lines) - whole)
            if written:
                self._torn = data[written - 1] != ord("\n")
            return True
        self._torn = False
        if (lost := self.dropped - self._told) > 0:
            self._told += lost
            self._on_flow(lost)
        return True


def _is_regular(file: io.FileIO) -> bool:
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def _own_pipe(file: io.FileIO) -> io.FileIO | None:
    """Open the pipe of a file once more, non-blocking for us alone; None where it is no pipe, or that is not allowed.

    To make the file itself non-blocking would do the same to every other process that has it.
    """
    if not stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
        return None
    try:
        return io.FileIO(os.open(f"/proc/self/fd/{file.fileno()}", os.O_WRONLY | os.O_NONBLOCK), "w")
    except OSError:
        return None


def _pieces(lines: list[bytes]) -> list[list[bytes]]:
    """Divide lines into pieces that a pipe takes whole; a line that is longer is a piece of its own."""
    pieces: list[list[bytes]] = [[]]
    size = 0
    for line in lines:
        if pieces[-1] and size + len(line) > WHOLE_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(line)
        size += len(line)
    return pieces
