"""A queue's client for a thousand callers at once: few calls run at a time, as there are few connections."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final, cast

from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.queues import QueueClient

CALLS: Final = 32  # at a time
FREE: Final = frozenset({"read_tokens", "listen", "aclose"})  # they wait for news on connections of their own
WALKS: Final = frozenset({"jobs", "dead"})  # they are iterated over


def bounded(queue: QueueClient) -> QueueClient:
    """Return a client that is like `queue`, but lets calls wait for their turn.

    When the server turns out to be away, those who wait are told so, instead of finding out one after the other.
    """
    return cast("QueueClient", _Bounded(queue))


class _Bounded:
    def __init__(self, queue: QueueClient) -> None:
        self._queue = queue
        self._turn = asyncio.Semaphore(CALLS)
        self._away: tuple[float, QueueUnavailableError | None] = (float("-inf"), None)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._queue, name)
        if name in FREE:
            return found
        if name in WALKS:
            return self._walk(found)
        return self._call(found) if inspect.iscoroutinefunction(found) else found

    def _call(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def bounded_call(*args: Any, **options: Any) -> Any:
            await self._take_turn()
            try:
                return await call(*args, **options)
            except QueueUnavailableError as error:
                self._away = asyncio.get_running_loop().time(), error
                raise
            finally:
                self._turn.release()

        return bounded_call

    def _walk(self, walk: Callable[..., Any]) -> Callable[..., Any]:
        async def bounded_walk(*args: Any, **options: Any) -> AsyncIterator[Any]:
            await self._take_turn()
            try:
                async with aclosing(walk(*args, **options)) as items:
                    async for item in items:
                        yield item
            finally:
                self._turn.release()

        return bounded_walk

    async def _take_turn(self) -> None:
        """Wait. Raises QueueUnavailableError if a call has found the server away meanwhile."""
        asked_at = asyncio.get_running_loop().time()
        await self._turn.acquire()
        failed_at, error = self._away
        if error is not None and failed_at > asked_at:
            self._turn.release()
            away = QueueUnavailableError(str(error))
            away.undone = True
            raise away
