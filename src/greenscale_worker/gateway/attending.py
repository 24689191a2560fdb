"""Who attends a chat's job: a retry joins the job whose client has gone, and a job that nobody attends is cancelled.

OpenAI's clients send a request again if its connection breaks, without a key that would tell which it was. The job of
the broken one goes on: the retry, which has the same body and the same API key, is to be answered by it, whichever
gateway it comes to. So the queue keeps who attends which job, from the moment a job is put; a gateway tells it whose
clients have gone, and shows that it lives.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from secrets import token_hex
from typing import Final

from greenscale_worker.errors import GreenScaleError
from greenscale_worker.queues import ALIVE_SECONDS, ATTENDED_SECONDS, ENDED, OPEN, Attendance, Change, QueueClient
from greenscale_worker.tasks import end
from greenscale_worker.telemetry import log

PATIENCE_SECONDS: Final = 10.0  # after which the job of a client that has left is cancelled, unless it has ended
DELIVERED_SECONDS: Final = 5.0  # after which an answer that was sent has come, if its connection is still there
LEAVING_SECONDS: Final = ALIVE_SECONDS + 1.0  # for which a retry waits: that a client has gone may be noticed after it
TELL_SECONDS: Final = ALIVE_SECONDS / 4
RENEW_SECONDS: Final = ATTENDED_SECONDS / 2
LOOK_SECONDS: Final = 0.05  # twice as long each time


@dataclass(slots=True, eq=False)
class Attended:
    """A job and the connection on which it is waited for.

    `offered`: the queue knows that its client has gone. `over`: nothing is to be done any more but to say so; for a
    client without an answer this is that its job is to be cancelled.
    """

    attendance: Attendance
    transport: asyncio.Transport | None
    renewed: float
    answered: bool = False
    offered: bool = False
    over: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def gone(self) -> bool:
        """Whether the client has left, before its answer or after: then it may not have got it; or will come again."""
        return self.transport is None or self.transport.is_closing()

    def change(self, now: float) -> Change | None:
        """Return what the queue is to be told."""
        if self.gone and not self.offered and (self.answered or not self.over):
            return "left"
        if self.over and not (self.answered and self.offered):
            return "over"
        return "waits" if not self.gone and now - self.renewed >= RENEW_SECONDS else None


class Attending:
    """The jobs that one gateway attends, or did a short while ago."""

    def __init__(self, queue: QueueClient) -> None:
        self._queue = queue
        self._name = token_hex(8)
        self._numbers = count(1)
        self._jobs = set[Attended]()
        self._unknown = set[tuple[str, int]]()  # what was to be joined, where no answer has come
        self._abandoned = set[str]()  # jobs to cancel
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def begin(self, alike: str, job_id: str, transport: asyncio.Transport | None) -> Attended:
        """Attend a job from now on; `left` or `answered` ends it. To be put with its `attendance`."""
        return self._begin(Attendance(alike, job_id, self._name, next(self._numbers)), transport)

    async def join(self, alike: str, transport: asyncio.Transport | None) -> Attended | None:
        """Attend the job of an equal request whose client has gone; None if there is none. Raises GreenScaleError."""
        number, ends, pause = next(self._numbers), self._now() + LEAVING_SECONDS, LOOK_SECONDS
        for job in self._jobs:  # a client that comes again has not left for good, even if the queue is away now
            if job.attendance.alike == alike and job.gone and not job.answered and not job.over:
                self._wind(job, PATIENCE_SECONDS)
        while True:
            try:
                job_id, waiting = await self._queue.join(alike, self._name, number)
            except BaseException:  # cancelled, too: it may have been joined
                self._unknown.add((alike, number))
                self._start()
                raise
            if job_id is not None:
                return self._begin(Attendance(alike, job_id, self._name, number), transport)
            if not waiting or self._now() > ends:
                return None
            await asyncio.sleep(pause)
            pause = min(2 * pause, TELL_SECONDS)

    def answered(self, job: Attended) -> None:
        """Note that its answer was sent; its client may still not have got it."""
        job.answered = True
        self._wind(job, DELIVERED_SECONDS)

    def left(self, job: Attended, *, cancel: bool = True) -> None:
        """Note that its client has left: without a retry, it will be cancelled, or go on."""
        job.transport = None
        job.answered = not cancel
        self._wind(job, PATIENCE_SECONDS)
        self._news.set()

    async def aclose(self) -> None:
        """Let the jobs that are attended here be joined elsewhere; they go on."""
        self._closed = True
        await end(self._task)
        for job in self._jobs:
            if not job.answered:
                job.transport, job.answered = None, True
        await self._tell_all()

    def _begin(self, attendance: Attendance, transport: asyncio.Transport | None) -> Attended:
        job = Attended(attendance, transport, self._now())
        self._jobs.add(job)
        self._start()
        return job

    def _start(self) -> None:
        if not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._keep())

    def _wind(self, job: Attended, seconds: float) -> None:
        if job.timer is not None:
            job.timer.cancel()
        job.timer = asyncio.get_running_loop().call_later(seconds, self._end, job)

    def _end(self, job: Attended) -> None:
        job.over = True
        self._news.set()

    async def _keep(self) -> None:
        """Tell the queue what is new, while any job is attended."""
        while self._jobs or self._unknown or self._abandoned:
            with suppress(TimeoutError):
                async with asyncio.timeout(TELL_SECONDS):
                    await self._news.wait()
            self._news.clear()
            await self._tell_all()

    async def _tell_all(self) -> None:
        try:
            await self._tell()
            for alike, number in list(self._unknown):
                job_id, _ = await self._queue.join(alike, self._name, number)
                self._unknown.discard((alike, number))
                if job_id is not None:
                    self.left(self._begin(Attendance(alike, job_id, self._name, number), None))
            await self._cancel_abandoned()
        except GreenScaleError:  # a queue that is away is told later
            pass
        except Exception as error:  # noqa: BLE001  a plug-in may raise anything; the next turn may do better
            log.error("gateway_error", route="attending", error=type(error).__name__, where=type(self._queue).__name__)

    async def _tell(self) -> None:
        """Tell the queue what has become of clients, and that this gateway lives."""
        now = self._now()
        over = [job for job in self._jobs if job.over]
        await self._leave_answers([job for job in over if not job.answered])
        changes = [(job, change) for job in self._jobs if (change := job.change(now))]
        held = await self._queue.attend(self._name, [(job.attendance, change) for job, change in changes])
        for (job, change), is_held in zip(changes, held, strict=True):
            job.offered = job.offered or (change == "left" and is_held)
            job.renewed = now
            if change == "over" and is_held and not job.answered:
                self._abandoned.add(job.attendance.job_id)
        self._jobs.difference_update(over)

    async def _leave_answers(self, jobs: Sequence[Attended]) -> None:
        """Let a late retry find those that have ended: there is nothing to cancel, and their answer was paid for."""
        records = await asyncio.gather(*(self._queue.record(job.attendance.job_id) for job in jobs))
        for job, record in zip(jobs, records, strict=True):
            job.answered = record.get("state") in ENDED

    async def _cancel_abandoned(self) -> None:
        async def cancel(job_id: str) -> None:
            if (await self._queue.record(job_id)).get("state") in OPEN:
                await self._queue.cancel(job_id)
            self._abandoned.discard(job_id)

        await asyncio.gather(*map(cancel, self._abandoned))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
