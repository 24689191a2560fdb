"""Follows jobs until they end: all calls of a gateway share one subscription (`client.ends`)."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from greenscale_worker.client.ends import Ended, Ends, Record
from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.queues import QueueClient


class Watched:
    """What is known of one job, for one reader, who is told by `news`; one who is slow gets the latest only."""

    def __init__(self, waiting: "asyncio.Task[Ended]", news: asyncio.Event) -> None:
        self.leaving = False
        self._waiting = waiting
        self._news = news
        self._latest: Record | None = None
        waiting.add_done_callback(self._has_ended)

    def _has_ended(self, waiting: "asyncio.Task[Ended]") -> None:
        if not waiting.cancelled():
            waiting.exception()  # which a reader who has left never asks for
        self._news.set()

    def see(self, record: Record) -> None:
        """Take a record that was read."""
        self._latest = record
        self._news.set()

    def leave(self) -> None:
        """Let the reader end."""
        self.leaving = True
        self._news.set()

    def latest(self) -> Record | None:
        """Return the latest record, once."""
        latest, self._latest = self._latest, None
        return latest

    def ended(self, *, patient: bool = False) -> Ended | None:
        """Return the end, None before it. Raises Problem if the gateway is being stopped; `patient`: if it ends now."""
        if self._waiting.done():
            return self._waiting.result()
        if self.leaving and not patient:
            raise _shutting_down()
        return None


class Following:
    """Who waits for jobs. Calls raise Problem `shutting_down` once `close` was called.

    `on_away` is called with the reason when the queue's server does not answer.
    """

    def __init__(self, queue: QueueClient, *, on_away: Callable[[str], None]) -> None:
        self._watched: dict[str, set[Watched]] = {}
        self._ends = Ends(queue, on_open=self._open, on_away=on_away)
        self._leaving = self._closed = False

    async def ended(self, job_id: str, seconds: float | None) -> Ended | None:
        """Wait until a job that has a record has ended. Return None after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                return await self._wait(job_id)
        except TimeoutError:
            return None

    @contextmanager
    def watching(self, job_id: str, news: asyncio.Event) -> Iterator[Watched]:
        """Watch a job while the block lasts: `news` is set whenever its record was looked at, and at its end."""
        waiting = asyncio.create_task(self._wait(job_id))
        watched = Watched(waiting, news)
        self._watched.setdefault(job_id, set()).add(watched)
        if self._leaving:
            watched.leave()
        try:
            yield watched
        finally:
            waiting.cancel()
            others = self._watched[job_id]
            others.discard(watched)
            if not others:
                del self._watched[job_id]

    def leave(self) -> None:
        """End what watches a job, which can go on elsewhere; those who wait for an end may wait on."""
        self._leaving = True
        for watched in [each for several in self._watched.values() for each in several]:
            watched.leave()

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

    def _open(self, job_id: str, record: Record) -> None:
        for watched in self._watched.get(job_id, ()):
            watched.see(record)


def _shutting_down() -> Problem:
    return Problem("shutting_down", "the gateway is being stopped; the job goes on", headers={"Retry-After": "1"})
