"""`Client`: one queue, as its producers and readers see it."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

from greenscale_worker.client.arguments import check_many, check_timeout, fields_of, states_of
from greenscale_worker.client.ends import Ended, Ends
from greenscale_worker.client.following import follow
from greenscale_worker.client.payload import check
from greenscale_worker.client.standing import standing
from greenscale_worker.errors import (
    BadInputError,
    ConfigError,
    GreenScaleError,
    JobCancelled,
    JobFailed,
    JobGone,
    QueueUnavailableError,
)
from greenscale_worker.job import LARGEST_READ, check_job_id
from greenscale_worker.queues import (
    Cancellation,
    Depth,
    JobClass,
    JobFilter,
    JobInfo,
    LiveWorker,
    QueueClient,
    QueueOptions,
    RedisOptions,
    State,
    TokenPiece,
)
from greenscale_worker.queues.registry import open_client
from greenscale_worker.queues.told import of_record
from greenscale_worker.wire_json import write

LARGEST: Final = 1024 * 1024
LAST_LOOK_SECONDS: Final = 1.0
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Completed:
    """A job that has ended: its record, None if that has expired, and its answer, None if it has none."""

    job_id: str
    record: JobInfo | None
    answer: str | None


class Client:
    """One queue, as its producers and readers see it.

    `url` is the address of Redis and `queue` the name of the list; `redis` and `options` replace them, and hold all
    other options. `kind` is the kind of queue: `list`, `stream` or a plug-in's. `check`: each job is checked as the
    worker will do it, so that a mistake is raised at the producer. `max_bytes` is the largest payload that the workers
    take, 8 MiB at most. The client connects with its first call; `async with` closes it.

    Calls raise QueueUnavailableError if the server does not answer, and ConfigError if it refuses this client.
    """

    def __init__(  # noqa: PLR0913  the options of a queue, with defaults
        self,
        url: str = "redis://127.0.0.1:6379/0",
        *,
        queue: str = "jobs",
        kind: str = "list",
        redis: RedisOptions | None = None,
        options: QueueOptions | None = None,
        check: bool = True,
        max_bytes: int = LARGEST,
    ) -> None:
        if max_bytes > LARGEST_READ:
            raise ConfigError(f"max_bytes={max_bytes}; expected: {LARGEST_READ} at most, as no worker reads more")
        self._kind = kind
        self._redis = redis or RedisOptions(url=url)
        self._options = options or QueueOptions(name=queue)
        self._check = check
        self._max_bytes = max_bytes
        self._opening = asyncio.Lock()
        self._queue: QueueClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends: Ends | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, env_file: str | Path = ".env") -> Self:
        """Use the settings of the worker (docs/configuration.md), from the environment and a file. Raises ConfigError.

        A file with another name than `.env` must exist.
        """
        from greenscale_worker.config import load, queue_options, redis_options  # noqa: PLC0415  only needed here

        path = Path(env_file)
        settings = load(os.environ if environ is None else environ, path, named=path != Path(".env"))
        return cls(
            kind=settings.queue,
            redis=redis_options(settings),
            options=queue_options(settings),
            check=settings.backend == "chat",
            max_bytes=settings.max_payload_bytes,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. Calls that still wait raise QueueUnavailableError."""
        (ends, self._ends), (queue, self._queue) = (self._ends, None), (self._queue, None)
        if ends is not None:
            await ends.aclose()
        if queue is not None:
            await queue.aclose()

    async def queue(self) -> QueueClient:
        """Return the underlying QueueClient, for dead letters, pauses and all else that a queue can do."""
        loop = asyncio.get_running_loop()
        if self._queue is not None and self._loop is not loop:
            raise ConfigError(
                "a Client belongs to the event loop that used it first; expected: one for each, or SyncClient"
            )
        async with self._opening:
            if self._queue is None:
                self._loop = loop
                self._queue = await open_client(self._kind, self._redis, self._options)
        return self._queue

    async def submit(  # noqa: PLR0913  what a job may have beside its parameters
        self,
        /,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        job_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        deadline: datetime | str | None = None,
        job_class: JobClass = "standard",
        not_before: datetime | float | None = None,
        **parameters: Any,
    ) -> str:
        """Submit a job. Return its id: `job_id`, or a new one.

        Classes are served in the order `interactive`, `standard`, `background`. A job with `not_before` (a datetime, or
        seconds since the epoch) is put into the queue when that has come.
        `parameters` go to the endpoint as they are: `model`, `temperature`, `max_tokens`, … (docs/wire-contract.md).
        If the server's reply is lost, the job may or may not have been submitted. Call again with the same id: a job
        that waits, runs or has an answer is not submitted twice. The QueueUnavailableError has that id as `job_id`; if
        its `undone` is true, nothing was submitted.

        Raises BadInputError for a job that no worker would run, QueueFullError if the server takes no more, ValueError
        for an unknown class.
        """
        if isinstance(not_before, datetime) and not_before.tzinfo is None:
            raise BadInputError("bad_field", f"not_before: {not_before} has no time zone; datetime.now(UTC) has one")
        due = not_before.timestamp() if isinstance(not_before, datetime) else not_before
        known = {"prompt": prompt, "messages": messages, "job_id": job_id, "metadata": metadata, "deadline": deadline}
        job = {**{name: value for name, value in known.items() if value is not None}, **parameters}
        (handed_in,) = await self._put([self._payload(job)], job_class=job_class, not_before=due)
        return handed_in

    async def submit_many(self, jobs: Iterable[Mapping[str, Any] | str]) -> list[str]:
        """Submit many jobs, each a prompt or the fields of the wire contract. Return their ids in this order.

        All are checked first, then submitted in groups of 100, each accepted or refused as a whole. Raises as `submit`
        does; BadInputError names the job, and is also raised for one id with two payloads; TypeError for what is no
        job. A server's error has all ids as `job_ids`, in this order, though some groups may have been accepted.
        """
        check_many("jobs", jobs, "a list of prompts or of dicts, one for each job,", single=(str, bytes, Mapping))
        payloads, places = list[tuple[str, bytes]](), dict[str, int]()
        for place, job in enumerate(jobs):
            job_id, payload = self._payload(job, f"jobs[{place}]: ")
            first = places.setdefault(job_id, place)
            if first != place and payloads[first][1] != payload:
                said = f"jobs[{place}]: job_id {job_id} is that of jobs[{first}], another job; expected: each its own"
                raise BadInputError("bad_job_id", said, job_id=job_id)
            payloads.append((job_id, payload))
        return await self._put(payloads)

    async def _put(
        self,
        payloads: Sequence[tuple[str, bytes]],
        *,
        job_class: JobClass = "standard",
        not_before: float | None = None,
    ) -> list[str]:
        job_ids = tuple(job_id for job_id, _ in payloads)
        try:
            queue = await self.queue()
            await queue.put(payloads, fold=True, job_class=job_class, not_before=not_before)
        except QueueUnavailableError as error:
            raise _with_ids(error, job_ids) from error
        return list(job_ids)

    async def wait(self, job_id: str, timeout: float | None = None) -> str:  # noqa: ASYNC109  its TimeoutError says how the job stands
        """Wait until a job has ended, and return its answer. The job need not be submitted yet.

        Raises BadInputError for an id that no job can have, JobFailed, JobCancelled, JobGone if its answer has expired,
        and after `timeout` seconds TimeoutError, which says how the job stands and why nothing moves. While the server
        is away, it goes on waiting.
        """
        return await self._wait(job_id, timeout, known=False)

    async def _wait(self, job_id: str, timeout: float | None, *, known: bool) -> str:  # noqa: ASYNC109  as above
        check_job_id(job_id)
        check_timeout(timeout)
        ends = await self._waiting()
        try:
            async with asyncio.timeout(timeout):
                return answer_of(await ends.wait(job_id, known=known))
        except TimeoutError:
            stands, why = await asyncio.gather(self._stands(job_id), self._why())
            raise TimeoutError(f"{job_id} has not ended within {timeout:g} s; {stands}{why}") from None

    async def ask(
        self,
        /,
        prompt: str | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  as above
        **fields: Any,
    ) -> str:
        """Submit a job as `submit` does, and wait for its answer as `wait` does."""
        check_timeout(timeout)
        return await self._wait(await self.submit(prompt, **fields), timeout, known=True)

    async def as_completed(self, job_ids: Iterable[str]) -> AsyncGenerator[Completed, None]:
        """Yield each of these jobs when it has ended; `record` is as `jobs` yields it, and says why one failed.

        Raises BadInputError for an id that no job can have, TypeError for a single id.
        """
        check_many("job_ids", job_ids, "a list of ids")
        ids = list(job_ids)
        for job_id in ids:
            check_job_id(job_id)
        async with aclosing((await self._waiting()).as_completed(ids)) as ended:
            async for each in ended:
                yield Completed(each.job_id, of_record(each.job_id, each.record), _text(each.answer))

    async def tokens(self, job_id: str) -> AsyncGenerator[TokenPiece, None]:
        """Yield the text of a job submitted with `tokens=True`, as it comes, until the job has ended.

        Where a piece's `attempt` is higher than that of the piece before, the job runs again, and its text begins anew.
        Put together, the pieces of the last attempt are the answer; of a job without `tokens` it is the only piece.
        Raises as `wait` does.
        """
        check_job_id(job_id)
        queue, ends = await self.queue(), await self._waiting()
        last, text = TokenPiece(job_id, "", 0, ""), ""
        async with aclosing(follow(queue, job_id, ends)) as found:
            async for each in found:
                if isinstance(each, TokenPiece):
                    text = each.text if each.attempt != last.attempt else text + each.text
                    last = each
                    yield each
                elif not (answer := answer_of(each)).startswith(text):
                    yield TokenPiece(job_id, last.position, last.attempt + 1, answer)
                elif answer != text:
                    yield TokenPiece(job_id, last.position, last.attempt or 1, answer.removeprefix(text))

    async def body(self, job_id: str) -> bytes | None:
        """Return the endpoint's whole answer to a job submitted with `keep="body"`, None if there is none (yet)."""
        return await (await self.queue()).body(job_id)

    async def result(self, job_id: str) -> str | None:
        """Return a job's answer, None if there is none (yet)."""
        ((_, answer),) = await (await self.queue()).look_up([job_id])
        return _text(answer)

    async def record(self, job_id: str) -> JobInfo | None:
        """Return a job's record, None if there is none: the job is unknown, or was pushed by hand and waits."""
        return of_record(job_id, await (await self.queue()).record(job_id))

    async def cancel(self, job_id: str) -> Cancellation:
        """Cancel a job that has not finished; see `QueueClient.cancel`. Raises BadInputError for an impossible id."""
        return await (await self.queue()).cancel(job_id)

    async def uncancel(self, job_id: str) -> bool:
        """Take back a cancellation that has not met its job yet; see `QueueClient.uncancel`. Raises as `cancel`."""
        return await (await self.queue()).uncancel(job_id)

    async def jobs(
        self,
        *,
        state: State | Collection[State] | None = None,
        code: str | None = None,
        worker: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[JobInfo]:
        """Yield jobs: those that run, wait, are delayed and held, then the last 1,000 that ended.

        `state` is one or several. Raises ValueError for an unknown state.
        """
        states = states_of(state)
        if limit == 0 or not states:
            return
        several = state is not None and len(states) > 1
        which = JobFilter(state=next(iter(states)) if len(states) == 1 else None, code=code, worker=worker)
        given = 0
        async for job in (await self.queue()).jobs(which, limit=None if several else limit):
            if job.state in states:
                yield job
                given += 1
            if given == limit:
                return

    async def depth(self) -> Depth:
        """Count the jobs by state."""
        return await (await self.queue()).depth()

    async def workers(self) -> list[LiveWorker]:
        """List the live worker processes."""
        return await (await self.queue()).workers()

    async def _waiting(self) -> Ends:
        if self._options.result_ttl == 0:
            raise ConfigError("results are not kept, so nothing can be waited for; expected: result_ttl above 0")
        queue = await self.queue()
        if self._ends is None:
            self._ends = Ends(queue)
        return self._ends

    async def _stands(self, job_id: str) -> str:
        """Describe how a job stands, for the TimeoutError."""
        try:
            async with asyncio.timeout(LAST_LOOK_SECONDS):
                record = await self.record(job_id)
        except (GreenScaleError, TimeoutError) as error:
            return f"how it stands is not known: {error}"
        if record is None:
            return "there is no record of it"
        why = ": ".join(word for word in (record.code, record.message) if word)
        return f"it is {record.state}" + (f", last {why}" if why else "")

    async def _why(self) -> str:
        """Describe why nothing moves, empty if jobs move or it cannot be found out."""
        with suppress(Exception):  # no error here may hide the TimeoutError
            async with asyncio.timeout(LAST_LOOK_SECONDS):
                reasons = (await standing(await self.queue())).reasons_of_waiting()
            return f"; nothing moves: {'; '.join(reasons.values())}" if reasons else ""
        return ""

    def _payload(self, job: Mapping[str, Any] | str, where: str = "") -> tuple[str, bytes]:
        """Return a job's id and its payload. Raises BadInputError or TypeError, prefixed with `where`."""
        try:
            return self._written(fields_of(job))
        except BadInputError as error:
            raise BadInputError(error.code, f"{where}{error}", job_id=error.job_id) from None
        except TypeError as error:
            raise TypeError(f"{where}{error}") from None

    def _written(self, fields: dict[str, Any]) -> tuple[str, bytes]:
        if fields.get("job_id") is None:
            fields["job_id"] = uuid4().hex
        try:
            payload = write(fields)
        except (TypeError, ValueError) as error:
            raise BadInputError("not_json", f"a job is written as JSON: {error}") from None
        return check(payload, max_bytes=self._max_bytes, chat=self._check), payload


def _with_ids(error: QueueUnavailableError, job_ids: tuple[str, ...]) -> QueueUnavailableError:
    """Add the ids of the jobs to an error, so that the caller can submit them again."""
    if error.undone:
        which = "nothing was handed in"
    elif len(job_ids) == 1:
        which = f"it is not known whether job {job_ids[0]} was handed in: submit it again under this job_id"
    else:
        which = f"it is not known which of {len(job_ids)} jobs were handed in: submit them again under their job_ids"
    told = type(error)(f"{error}; {which}")
    told.job_ids, told.undone = job_ids, error.undone
    return told


def answer_of(ended: Ended) -> str:
    """Return the answer of a job that has ended. Raises JobFailed, JobCancelled or JobGone."""
    record = ended.record
    if record.get("state") == "failed":
        raise JobFailed(ended.job_id, record.get("error_code", ""), record.get("error_message", ""))
    if record.get("state") == "cancelled":
        raise JobCancelled(ended.job_id)
    if ended.answer is None:
        raise JobGone(ended.job_id)
    return ended.answer.decode(errors="replace")


def _text(answer: bytes | None) -> str | None:
    return None if answer is None else answer.decode(errors="replace")
