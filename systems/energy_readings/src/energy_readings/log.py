"""The log: lines go to stderr without anybody waiting for whoever reads them."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Full, Queue
from threading import Thread
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

MOST_LINES: Final = 1000  # that wait
GOODBYE_SECONDS: Final = 1.0
NO_HTTP: Final = (HttpProcessingError, RequestPayloadError)


class _Handler(logging.Handler):
    """Hands lines to a thread. Those for which there is no room are counted, and the next one says how many."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: Queue[str | None] = Queue(MOST_LINES)
        self._dropped = 0
        self._writer = Thread(target=self._write, args=(sys.stderr.fileno(),), daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        note = f" ({self._dropped} lines before this one were dropped)" if self._dropped else ""
        try:
            self._lines.put_nowait(f"{self.format(record)}{note}\n")
            self._dropped = 0
        except Full:
            self._dropped += 1

    def finish(self) -> None:
        """Wait for what is on its way, not for long."""
        try:
            self._lines.put_nowait(None)
        except Full:
            return
        self._writer.join(GOODBYE_SECONDS)

    def _write(self, file: int) -> None:
        # Not by way of sys.stderr: its lock, held by a thread that waits, would abort the end of this process.
        while (line := self._lines.get()) is not None:
            rest = line.encode(errors="backslashreplace")
            try:
                while rest:
                    rest = rest[os.write(file, rest) :]
            except OSError:  # nobody reads any more
                continue


def _brief(record: logging.LogRecord) -> bool:
    """Let what was not HTTP be one line: anybody could fill the log with traces of it."""
    if record.exc_info and isinstance(record.exc_info[1], NO_HTTP):
        record.msg, record.exc_info = f"{record.msg}: {type(record.exc_info[1]).__name__}", None
    return True


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Log warnings and errors while the block runs."""
    handler = _Handler()
    handler.addFilter(_brief)
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, handlers=[handler], force=True
    )
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.finish()
