"""The calls by HTTP of one deployment: answered now, or not taken, so that the caller makes them jobs of its queue."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from greenscale_worker import TransientError

from kubeserve.door.backend import ModelBackend
from kubeserve.door.leases import Leases
from kubeserve.door.replica import Rows

MOST_CALLS: Final = 256  # at once
MOST_BYTES: Final = 64 * 1024 * 1024  # of their rows
ASLEEP, NOT_READY, BUSY, DRAINING = "asleep", "not_ready", "busy", "draining"


class NotTakenError(Exception):
    """Nothing was made of the call: it may become a job. `code` is asleep, not_ready, busy or draining."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Hot:
    """Lets replicas that are awake answer; it wakes none. Calls that run are leased, so that no scaler ends them."""

    def __init__(self, deployment_id: str, backend: ModelBackend, leases: Leases) -> None:
        self._id = deployment_id
        self._backend = backend
        self._leases = leases
        self._calls = set[asyncio.Task[object]]()
        self._bytes = 0
        self._draining = False
        self._let_go = False
        self._quiet = asyncio.Event()
        self._quiet.set()

    @contextmanager
    def place(self, size: int) -> Iterator[None]:
        """Take one call with rows of `size` bytes, within which `answer` is asked. Raises NotTakenError."""
        self._check(size)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a handler runs in one
        self._calls.add(task)
        self._bytes += size
        self._quiet.clear()
        self._leases.begin(self._id)
        try:
            yield
        except asyncio.CancelledError:
            if not self._let_go:
                raise
            task.uncancel()
            raise NotTakenError(DRAINING) from None
        finally:
            self._leases.end(self._id)
            self._bytes -= size
            self._calls.discard(task)
            if not self._calls:
                self._quiet.set()

    async def answer(self, rows: Rows) -> bytes:
        """Answer, as ModelBackend does. Raises PermanentError, and NotTakenError where the replicas were lost."""
        try:
            return await self._backend.answer(rows)
        except TransientError as error:
            raise NotTakenError(NOT_READY) from error

    async def aclose(self, drain: float) -> None:
        """Take no call any more. Those that run may end for `drain` seconds; the rest goes back to their callers."""
        self._draining = True
        try:
            async with asyncio.timeout(drain):
                await self._quiet.wait()
        except TimeoutError:
            self._let_go = True
            for task in self._calls:
                task.cancel()
            await self._quiet.wait()
        await self._leases.release(self._id)

    def _check(self, size: int) -> None:
        current = self._backend.current
        if self._draining:
            raise NotTakenError(DRAINING)
        if current is None:
            raise NotTakenError(NOT_READY)
        if not current.pool.replicas:
            raise NotTakenError(ASLEEP)
        if len(self._calls) >= MOST_CALLS or (self._calls and self._bytes + size > MOST_BYTES):
            raise NotTakenError(BUSY)
