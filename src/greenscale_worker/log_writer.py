"""Writes lines of the log at once, unless that could block: then a thread does, so that logging never blocks."""

import asyncio
import atexit
import io
import os
import select
import stat
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TextIO

MOST_BYTES: Final = 4 * 1024 * 1024  # of waiting lines; more are dropped and counted
WHOLE_BYTES: Final = 4096  # PIPE_BUF: a write of this size into a pipe is never mixed with others
FLUSH_SECONDS: Final = 0.5


class LogWriter:
    """Takes lines without ever waiting for their reader, and writes them in order and whole.

    A line is written before `put` returns, so that it is there even if the process is killed next; a line that
    `may_wait`, at the end of the event loop's turn. If writing could block (the reader of a pipe or a terminal has
    stalled), a thread writes the line later. A line that exceeds the memory for that, or cannot be written (the disk is
    full, the reader has gone), is dropped and counted in `dropped`. `on_flow` is called, from any thread, with the
    number of lines lost, once lines can be written again. A stream that is no file of the system, such as one that a
    test captures, is written to directly.
    """

    def __init__(self, on_flow: Callable[[int], None]) -> None:
        self.dropped = 0
        self.stream: TextIO | None = None
        self._on_flow = on_flow
        self._told = 0
        self._file: Any = None
        self._pipe: io.FileIO | None = None
        self._poll: select.poll | None = None
        self._torn = False  # the last line was written only in part
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self._idle = threading.Event()
        self._idle.set()

    def redirect(self, stream: TextIO | None) -> None:
        """Write to this stream from now on, unbuffered; None: nowhere. Lines lost before are not reported to it."""
        self.flush()
        self.stream = stream
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

    def gather_for(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Write lines of this loop's thread that `may_wait` together, at the end of each turn; None: no longer.

        Jobs end in groups, and a system call for each line is 3 % of what a job costs.
        """
        self._write_gathered()
        self._loop, self._loop_thread = loop, threading.get_ident()

    def put(self, line: bytes, *, may_wait: bool = False) -> None:
        """Take a line, which ends with a line feed."""
        if self._loop is None or threading.get_ident() != self._loop_thread:
            self._put(line)
            return
        whole = self._poll is None or self._pipe is not None  # how much a terminal takes at once is unknown
        if not (may_wait and whole) or self._gathered_bytes + len(line) > WHOLE_BYTES:
            self._write_gathered()
        if not (may_wait and whole):
            self._put(line)
            return
        if not self._gathered:
            self._loop.call_soon(self._write_gathered)
        self._gathered.append(line)
        self._gathered_bytes += len(line)

    def _write_gathered(self) -> None:
        lines, self._gathered, self._gathered_bytes = self._gathered, [], 0
        if lines:
            self._put(*lines)

    def _put(self, *lines: bytes) -> None:
        if self._file is None or (self._idle.is_set() and self._write_at_once(lines)):
            return
        with self._lock:
            for line in lines:
                if self._lines and self._bytes + len(line) > MOST_BYTES:
                    self.dropped += 1
                else:
                    self._lines.append(line)
                    self._bytes += len(line)
            self._idle.clear()
        self._wake()

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until all is written, for so many seconds at most. Return whether it is."""
        if threading.get_ident() == self._loop_thread:
            self._write_gathered()
        return threading.current_thread() is self._thread or self._idle.wait(seconds)

    def _write_at_once(self, lines: Sequence[bytes]) -> bool:
        """Write lines in one piece, if that cannot block. Return False if it could."""
        if self._poll is None:
            return self._write(lines, self._file)
        if len(lines[0]) > WHOLE_BYTES:  # only a single line can be that long
            return False
        if self._pipe is not None:
            return self._write(lines, self._pipe)
        return bool(self._poll.poll(0)) and self._write(lines, self._file)

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
                    while not self._write(piece, self._file):  # another process made the same pipe non-blocking
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

    def _write(self, lines: Sequence[bytes], file: Any) -> bool:
        """Write lines in one piece, or drop and count them. Return False if a non-blocking file takes nothing now."""
        start = b"\n" * self._torn
        data = start + b"".join(lines)
        written = 0
        try:
            while written < len(data):
                count = file.write(memoryview(data)[written:] if written else data)
                if count is None and not written:
                    return False
                if count is None:
                    self._await_room()
                written += count or 0
        except (OSError, ValueError):  # the disk is full, the reader has gone; the stream is closed
            whole = data[len(start) : written].count(b"\n")
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
    """Open the pipe of a file once more, non-blocking for us alone. Return None if it is no pipe, or not allowed.

    Making the file itself non-blocking would affect every other process that has it open.
    """
    if not stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
        return None
    try:
        return io.FileIO(os.open(f"/proc/self/fd/{file.fileno()}", os.O_WRONLY | os.O_NONBLOCK), "w")
    except OSError:
        return None


def _pieces(lines: list[bytes]) -> list[list[bytes]]:
    """Divide lines into pieces that a pipe takes whole; a longer line is its own piece."""
    pieces: list[list[bytes]] = [[]]
    size = 0
    for line in lines:
        if pieces[-1] and size + len(line) > WHOLE_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(line)
        size += len(line)
    return pieces
