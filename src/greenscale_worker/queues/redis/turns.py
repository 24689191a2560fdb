"""Lets the calls of a client wait for their turn: it may have a thousand callers, and has few connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.queues.redis.errors import mapped

CALLS: Final = 32  # at a time; a pool has twice as many connections


class Turns:
    """When the server turns out to be away, those who wait are told so, instead of finding out one after the other."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(CALLS)
        self._away: tuple[float, str] = (float("-inf"), "")

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Call the server when it is one's turn. Raises as `mapped` does."""
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        async with self._turns:
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
