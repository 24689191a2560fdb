"""Limits the calls that a client has open: it may have a thousand callers, and has few connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.queues.redis.errors import mapped

CALLS: Final = 32  # at a time; a pool has twice as many connections


class CallLimit:
    """Once a call finds the server away, those that wait for a slot fail at once, instead of one after the other."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(CALLS)
        self._away: tuple[float, str] = (float("-inf"), "")

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one of CALLS slots during a call; wait for it first. Raises as `mapped` does."""
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        async with self._slots:
            failed_at, why = self._away
            if failed_at > asked_at:
                error = QueueUnavailableError(why)
                error.undone = True
                raise error
            try:
                with mapped():
                    yield
            except QueueUnavailableError as error:
                self._away = clock(), str(error)
                raise
