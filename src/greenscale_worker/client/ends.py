"""Waits for jobs to end; all waits of a client share one subscription."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from greenscale_worker.errors import GreenScaleError, QueueUnavailableError
from greenscale_worker.queues import OPEN, QueueClient
from greenscale_worker.tasks import end

PORTION: Final = 200  # jobs that are looked up together
DEAF_SECONDS: Final = 0.5  # between two looks while there is no subscription
SAFE_SECONDS: Final = 1.0  # and while there is: a message may get lost, and none says why a job waits
SECONDS_FOR_EACH: Final = 0.01  # so that looks at many jobs do not make the server busy
LONGEST_SECONDS: Final = 30.0
AWAY_SECONDS: Final = 0.5
LINGER_SECONDS: Final = 2.0  # without a wait, until the subscription ends

Record = dict[str, str]


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that has ended: its record, empty if it has expired, and its answer, None if it has none."""

    job_id: str
    record: Record
    answer: bytes | None


@dataclass(slots=True, eq=False)
class _Wait:
    """One call that waits. `known`: the job had a record, so that a missing record means that it has expired."""

    job_id: str
    tell: Callable[[Ended | GreenScaleError], None]
    known: bool


class Ends:
    """Waits for jobs to end: by the queue's messages, and by a look now and then in case a message is lost.

    `on_open` is called with id and record of a job that was looked at and has not ended, `on_away` with the reason why
    the server does not answer, once for each time that it is away.
    """

    def __init__(
        self,
        queue: QueueClient,
        *,
        on_open: Callable[[str, Record], None] | None = None,
        on_away: Callable[[str], None] | None = None,
    ) -> None:
        self._queue = queue
        self._on_open = on_open
        self._on_away = on_away
        self._waits: dict[str, set[_Wait]] = {}
        self._to_look_at: dict[str, None] = {}  # in order
        self._news = asyncio.Event()
        self._listening = False
        self._task: asyncio.Task[None] | None = None

    async def wait(self, job_id: str, *, known: bool = False) -> Ended:
        """Wait until a job has ended. `known`: it was submitted, so it has a record.

        Raises ConfigError if the server refuses us; while it does not answer, it is waited for.
        """
        future: asyncio.Future[Ended | GreenScaleError] = asyncio.get_running_loop().create_future()

        def tell(end: Ended | GreenScaleError) -> None:
            if not future.done():
                future.set_result(end)

        wait = self._add(job_id, tell, known=known)
        try:
            return _raised(await future)
        finally:
            self._drop(wait)

    async def as_completed(self, job_ids: Iterable[str], *, known: bool = False) -> AsyncGenerator[Ended, None]:
        """Yield each of these jobs when it has ended. Raises as `wait` does."""
        ended: asyncio.Queue[Ended | GreenScaleError] = asyncio.Queue()
        waits = [self._add(job_id, ended.put_nowait, known=known) for job_id in dict.fromkeys(job_ids)]
        try:
            for _ in waits:
                yield _raised(await ended.get())
        finally:
            for wait in waits:
                self._drop(wait)

    async def aclose(self) -> None:
        """Stop listening. Calls that still wait raise QueueUnavailableError."""
        task, self._task = self._task, None
        await end(task)
        self._tell_all(list(self._waits), QueueUnavailableError("the client was closed"))

    def _add(self, job_id: str, tell: Callable[[Ended | GreenScaleError], None], *, known: bool) -> _Wait:
        wait = _Wait(job_id, tell, known)
        self._waits.setdefault(job_id, set()).add(wait)
        self._to_look_at[job_id] = None
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return wait

    def _drop(self, wait: _Wait) -> None:
        waits = self._waits.get(wait.job_id, set())
        waits.discard(wait)
        if not waits:
            self._waits.pop(wait.job_id, None)
            self._to_look_at.pop(wait.job_id, None)

    async def _run(self) -> None:
        try:
            while self._waits:  # a new wait may begin while a subscription ends
                self._listening = False
                async with self._queue.listen(self._heard):
                    await self._serve()
        except Exception as error:  # noqa: BLE001  a plug-in may raise anything; no call may wait for ever because of it
            self._tell_all(list(self._waits), GreenScaleError(f"the queue cannot be watched: {error!r}"))

    async def _serve(self) -> None:
        """Look at jobs on every message, and now and then. End when nothing has been waited for in LINGER_SECONDS."""
        while True:
            self._news.clear()
            await self._look()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._news.wait()
            except TimeoutError:
                if not self._waits:
                    return
                self._to_look_at.update(dict.fromkeys(self._waits))

    def _heard(self, job_ids: Sequence[str] | None) -> None:
        if job_ids is None:
            self._listening = True
            job_ids = list(self._waits)
        waited_for = [job_id for job_id in job_ids if job_id in self._waits]
        if waited_for:
            self._to_look_at.update(dict.fromkeys(waited_for))
            self._news.set()

    def _pause(self) -> float:
        if not self._waits:
            return LINGER_SECONDS
        least = SAFE_SECONDS if self._listening else DEAF_SECONDS
        return least + min(LONGEST_SECONDS, SECONDS_FOR_EACH * len(self._waits))

    async def _look(self) -> None:
        """Look at the jobs that may have changed, until the server has answered for all of them."""
        away = False
        while self._to_look_at:
            some = list(islice(self._to_look_at, PORTION))
            for job_id in some:  # before the query, so that a job that ends meanwhile is looked at again
                del self._to_look_at[job_id]
            try:
                found = await self._queue.look_up(some)
            except QueueUnavailableError as error:
                if not away and self._on_away is not None:
                    self._on_away(str(error))
                away = True
                self._to_look_at.update(dict.fromkeys(some))
                await asyncio.sleep(AWAY_SECONDS)
            except GreenScaleError as error:
                self._tell_all(some, error)
            else:
                for job_id, (record, answer) in zip(some, found, strict=True):
                    self._read(job_id, record, answer)

    def _read(self, job_id: str, record: Record, answer: bytes | None) -> None:
        state = record.get("state")
        if state in OPEN and self._on_open is not None and job_id in self._waits:
            self._on_open(job_id, record)
        for wait in list(self._waits.get(job_id, ())):
            if state in OPEN or not (state or wait.known):
                wait.known = wait.known or state in OPEN
            else:
                wait.tell(Ended(job_id, record, answer))
                self._drop(wait)

    def _tell_all(self, job_ids: Iterable[str], refusal: GreenScaleError) -> None:
        for job_id in job_ids:
            for wait in list(self._waits.get(job_id, ())):
                wait.tell(refusal)
                self._drop(wait)


def _raised(end: Ended | GreenScaleError) -> Ended:
    if isinstance(end, GreenScaleError):
        raise end
    return end
