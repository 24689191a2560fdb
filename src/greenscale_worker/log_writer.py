"""Writes lines of the log from a thread of its own, so that a reader that stalls never stops the one who logs."""

import atexit
import io
import select
import threading
import time
from collections.abc import Callable
from typing import Final, TextIO

MOST_BYTES: Final = 4 * 1024 * 1024  # of lines that wait; above, they are dropped and counted
WHOLE_BYTES: Final = 4096  # PIPE_BUF: so much goes into a pipe in one piece, whoever else writes there
COLLECT_SECONDS: Final = 0.01  # between two rounds of writing: a busy worker wakes the thread a hundred times a second
FLUSH_SECONDS: Final = 0.5


class LogWriter:
    """Takes lines without ever waiting, and writes them in order and whole.

    A line that does not fit into the memory for waiting lines, or that cannot be written (the disk is full, the reader
    has gone), is dropped and counted in `dropped`. `on_flow` is called from the writing thread with the number of lines
    lost, once lines can be written again. A stream that is no file of the system, such as one that a test captures, is
    written to directly.
    """

    def __init__(self, on_flow: Callable[[int], None]) -> None:
        self.dropped = 0
        self._on_flow = on_flow
        self._told = 0
        self._file: io.RawIOBase | None = None
        self._torn = False  # the last line could be written in part only
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self._idle = threading.Event()
        self._idle.set()

    def redirect(self, stream: TextIO | None) -> None:
        """Write to this stream from now on, unbuffered; None: nowhere."""
        self.flush()
        buffer = getattr(stream, "buffer", None)
        self._file, self._torn = getattr(buffer, "raw", buffer), False

    def put(self, line: bytes) -> None:
        """Take a line, which ends with a line feed. Never waits, unless the stream is written to directly."""
        if not isinstance(self._file, io.FileIO):
            self._write([line])
            return
        with self._lock:
            if self._lines and self._bytes + len(line) > MOST_BYTES:
                self.dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            idle = self._idle.is_set()
            if idle:
                self._idle.clear()
        if idle:
            self._wake()

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until all is written, for so many seconds at most. False: it is not."""
        return threading.current_thread() is self._thread or self._idle.wait(seconds)

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
                self._write(lines)
                time.sleep(COLLECT_SECONDS)

    def _take(self) -> list[bytes]:
        with self._lock:
            lines, self._lines, self._bytes = self._lines, [], 0
            if not lines:
                self._idle.set()
            return lines

    def _write(self, lines: list[bytes]) -> None:
        """Write lines, as many at a time as a pipe takes in one piece."""
        first = 0
        while first < len(lines):
            last, size = first + 1, len(lines[first])
            while last < len(lines) and size + len(lines[last]) <= WHOLE_BYTES:
                size += len(lines[last])
                last += 1
            self._write_piece(lines[first:last])
            first = last

    def _write_piece(self, lines: list[bytes]) -> None:
        if self._file is None:
            return
        start = b"\n" * self._torn
        data = memoryview(start + b"".join(lines))
        written = 0
        try:
            while written < len(data):
                count = self._file.write(data[written:])
                if count is None:  # somebody who has the same pipe has set it to non-blocking
                    self._await_room()
                written += count or 0
        except (OSError, ValueError):  # the disk is full, the reader has gone; the stream is closed
            whole = bytes(data[len(start) : written]).count(b"\n")
            with self._lock:
                self.dropped += max(0, len(lines) - whole)
            if written:
                self._torn = data[written - 1] != ord("\n")
            return
        self._torn = False
        if (lost := self.dropped - self._told) > 0:
            self._told += lost
            self._on_flow(lost)

    def _await_room(self) -> None:
        if isinstance(self._file, io.FileIO):
            poll = select.poll()
            poll.register(self._file.fileno(), select.POLLOUT)
            poll.poll()
