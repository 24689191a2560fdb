"""Who attends a chat's job: a retry joins the job whose client has gone, and a job that nobody attends is cancelled.

OpenAI's clients send a request again if its connection breaks, without a key that would tell which it was. The job of
the broken one goes on: the retry, which has the same body and the same API key, is to be answered by it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from greenscale_worker.errors import GreenScaleError

PATIENCE_SECONDS: Final = 10.0  # after which the job of a client that has left is cancelled
REMEMBERED_SECONDS: Final = 120.0  # in which a retry finds the job: a client waits up to 8 s, or as long as it is told
LEAVING_SECONDS: Final = 2.0  # for which a retry waits, as the end of a connection may be noticed after it
LOOK_SECONDS: Final = 0.02


@dataclass(slots=True, eq=False)
class Attended:
    """A job and the connection on which it is waited for. `alike` is equal for requests that are equal.

    `kept`: it is not cancelled, as its Idempotency-Key makes a retry find it at any time. `given_up`: it is
    being cancelled, so nobody joins it.
    """

    alike: Hashable
    queue_id: str
    transport: asyncio.Transport | None
    kept: bool = False
    answered: bool = False
    given_up: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def gone(self) -> bool:
        """Whether the client has left, before its answer or after: then it may not have got it; or will come again."""
        return self.transport is None or self.transport.is_closing()


class Attending:
    """The jobs of one gateway that are attended, or were a short while ago. `cancel` cancels one, if it is open."""

    def __init__(self, cancel: Callable[[str], Awaitable[bool]]) -> None:
        self._cancel = cancel
        self._jobs: dict[Hashable, list[Attended]] = {}
        self._cancelling = set[asyncio.Task[None]]()

    def begin(self, alike: Hashable, queue_id: str, transport: asyncio.Transport | None, *, kept: bool) -> Attended:
        """Attend a job from now on; `left` or `answered` ends it."""
        job = Attended(alike, queue_id, transport, kept)
        self._jobs.setdefault(alike, []).append(job)
        return job

    async def join(self, alike: Hashable, transport: asyncio.Transport | None) -> Attended | None:
        """Attend the job of an equal request whose client has gone; None if there is none."""
        ends = asyncio.get_running_loop().time() + LEAVING_SECONDS
        while True:
            jobs = self._jobs.get(alike, [])
            for job in jobs:
                if job.gone and not job.given_up:
                    self._wind(job, None)
                    job.transport, job.answered = transport, False
                    return job
            if all(job.answered or job.given_up for job in jobs) or asyncio.get_running_loop().time() > ends:
                return None
            await asyncio.sleep(LOOK_SECONDS)

    def answered(self, job: Attended) -> None:
        """Note that its answer was sent; its client may still not have got it."""
        job.answered = True
        self._wind(job, REMEMBERED_SECONDS, self._forget)

    def left(self, job: Attended) -> None:
        """Note that its client has left: without a retry, it will be cancelled."""
        job.transport = None
        self._wind(job, PATIENCE_SECONDS, self._give_up)

    def forget(self, job: Attended) -> None:
        """Attend a job no more, whatever becomes of it."""
        self._wind(job, None)
        self._forget(job)

    async def aclose(self) -> None:
        """Cancel the jobs of clients that have left: nobody will join them here."""
        for job in [job for jobs in self._jobs.values() for job in jobs]:
            if job.gone and not job.answered:
                self._give_up(job)
            self.forget(job)
        if self._cancelling:
            await asyncio.wait(self._cancelling)

    def _give_up(self, job: Attended) -> None:
        if not job.kept:
            job.given_up = True
            task = asyncio.create_task(self._cancelled(job))
            self._cancelling.add(task)
            task.add_done_callback(self._cancelling.discard)
        self._wind(job, REMEMBERED_SECONDS, self._forget)

    async def _cancelled(self, job: Attended) -> None:
        with suppress(GreenScaleError):  # a queue that is away: the job runs for nobody
            job.given_up = await self._cancel(job.queue_id)

    def _forget(self, job: Attended) -> None:
        jobs = self._jobs.get(job.alike, [])
        if job in jobs:
            jobs.remove(job)
        if not jobs:
            self._jobs.pop(job.alike, None)

    @staticmethod
    def _wind(job: Attended, seconds: float | None, then: Callable[[Attended], None] | None = None) -> None:
        """Set what happens to a job later, in place of what was set before."""
        if job.timer is not None:
            job.timer.cancel()
        job.timer = None
        if seconds is not None and then is not None:
            job.timer = asyncio.get_running_loop().call_later(seconds, then, job)
