"""Shows the text of a run while it comes. A slow or failing queue costs the job nothing but that view."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from threading import get_ident
from typing import Final, Protocol

from greenscale_worker.telemetry import log

PAUSE_SECONDS: Final = 0.1
LAST_SECONDS: Final = 1.0
MOST_WAITING: Final = 8 * 1024 * 1024  # characters


class Write(Protocol):
    """Writes a piece of text: `Queue.write_tokens` for one lease."""

    def __call__(self, text: str, *, last: bool) -> Awaitable[bool]:
        """Return False if the lease was lost."""
        ...


class TokenWriter:
    """Writes the first piece at once, and then what has gathered, at most every 100 ms.

    Where a write fails, or more gathers than is kept, nothing more of this run is written: a text has no holes, only an
    end that is missing, and the answer has that.
    """

    def __init__(self, write: Write, job_id: str) -> None:
        self._write = write
        self._job_id = job_id
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._pieces: list[str] = []
        self._waiting = 0
        self._began = self._over = False
        self._closing = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    def emit(self, text: str) -> None:
        """Take a piece, from any thread."""
        if get_ident() == self._thread:
            self._take(text)
        else:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._take, text)

    async def finish(self) -> None:
        """Write the rest, for a second at most."""
        self._closing.set()
        try:
            async with asyncio.timeout(LAST_SECONDS):
                if self._pump is not None:
                    await self._pump
                if self._began or self._pieces:
                    await self._send(last=True)
        except TimeoutError:
            self._fail("the queue is slow")
        self._over = True

    def _take(self, text: str) -> None:
        if self._over or not text:
            return
        self._pieces.append(text)
        self._waiting += len(text)
        if self._waiting > MOST_WAITING:
            self._fail("too much text waits to be written")
        elif self._pump is None and not self._closing.is_set():
            self._pump = asyncio.create_task(self._write_on())

    async def _write_on(self) -> None:
        try:
            while self._pieces and not self._over and not self._closing.is_set():
                await self._send(last=False)
                with suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE_SECONDS):
                        await self._closing.wait()
        finally:
            self._pump = None

    async def _send(self, *, last: bool) -> None:
        if self._over:
            return
        pieces, self._pieces, self._waiting = self._pieces, [], 0
        self._began = True
        try:
            if not await self._write("".join(pieces), last=last):
                self._over = True
        except Exception as error:  # noqa: BLE001  a plug-in's queue may raise anything, and the job goes on
            self._fail(str(error) or type(error).__name__)

    def _fail(self, why: str) -> None:
        if not self._over:
            log.warning("tokens_not_written", job_id=self._job_id, error=why)
        self._over = True
        self._pieces = []
