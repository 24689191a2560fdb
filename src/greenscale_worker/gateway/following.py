"""Follows jobs until they end: all calls of a gateway share one subscription (`client.ends`)."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager

from greenscale_worker.client.ends import Ended, Ends, Record
from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.queues import QueueClient
from greenscale_worker.tasks import end


class Following:
    """Who waits for jobs. Calls raise Problem `shutting_down` once `close` was called.

    `on_away` is called with the reason when the queue's server does not answer.
    """

    def __init__(self, queue: QueueClient, *, on_away: Callable[[str], None]) -> None:
        self._streams = set[asyncio.Event]()
        self._leaving = False
        self._seen: dict[str, set[Callable[[Record], None]]] = {}
        self._ends = Ends(queue, on_open=self._open, on_away=on_away)
        self._closed = False

    async def ended(self, job_id: str, seconds: float | None) -> Ended | None:
        """Wait until a job that has a record has ended. Return None after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                return await self._wait(job_id)
        except TimeoutError:
            return None

    async def states(self, job_id: str, quiet: float) -> AsyncGenerator[Record | Ended | None, None]:
        """Yield a job's record as often as it is looked at, then its end; None after so many seconds without a word.

        A reader that is slow gets the latest record only.
        """
        news, latest = asyncio.Event(), list[Record]()

        def see(record: Record) -> None:
            latest[:] = [record]
            news.set()

        with self._watching(job_id, see):
            waiting = asyncio.create_task(self._wait(job_id))
            waiting.add_done_callback(lambda _: news.set())
            self._streams.add(news)
            try:
                while not waiting.done():
                    if self._leaving:
                        raise _shutting_down()
                    try:
                        async with asyncio.timeout(quiet):
                            await news.wait()
                    except TimeoutError:
                        yield None
                    news.clear()
                    if latest:
                        yield latest.pop()
                yield waiting.result()
            finally:
                self._streams.discard(news)
                await end(waiting)

    def leave(self) -> None:
        """End what follows a job, which can go on elsewhere; those who wait for an end may wait on."""
        self._leaving = True
        for news in self._streams:
            news.set()

    async def close(self) -> None:
        """End all that waits."""
        self._closed = True
        await self._ends.aclose()

    async def _wait(self, job_id: str) -> Ended:
        try:
            if not self._closed:
                return await self._ends.wait(job_id, known=True)
        except QueueUnavailableError:  # only raised when `close` was called
            pass
        raise _shutting_down()

    @contextmanager
    def _watching(self, job_id: str, see: Callable[[Record], None]) -> Iterator[None]:
        self._seen.setdefault(job_id, set()).add(see)
        try:
            yield
        finally:
            watchers = self._seen[job_id]
            watchers.discard(see)
            if not watchers:
                del self._seen[job_id]

    def _open(self, job_id: str, record: Record) -> None:
        for see in self._seen.get(job_id, ()):
            see(record)


def _shutting_down() -> Problem:
    return Problem("shutting_down", "the gateway is being stopped; the job goes on", headers={"Retry-After": "1"})
