"""The rig of the queue's contract tests: a store of jobs, two workers on it, and a client."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from greenscale_worker.job import Failure, Job, Output, Succeeded, Usage, decode
from greenscale_worker.queues import DeadLetter, Lease, Queue, QueueClient, QueueOptions
from greenscale_worker.telemetry import Metrics
from greenscale_worker.testing import QueueUnderTest

PATIENCE = 8.0  # seconds that a promise may take on a loaded machine; shorter than any needless wait
A_WHILE = 0.06  # seconds in which nothing forbidden may happen
ANSWER = Succeeded(Output("4", model="llama", finish_reason="stop", usage=Usage(3, 1, 4)))


@dataclass
class Rig:
    """One store of jobs, workers on it, and a client."""

    client: QueueClient
    opener: Callable[[], Awaitable[Queue]]
    a: Queue
    b: Queue
    heartbeat: float
    suffix: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def job(self, name: str, **fields: Any) -> tuple[str, bytes]:
        """Make a job. All queues of one server share ids, so each test has its own."""
        job_id = f"{name}-{self.suffix}"
        return job_id, orjson.dumps({"job_id": job_id, "prompt": name, **fields})

    async def put(self, *names: str) -> list[str]:
        """Put jobs of these names. Return their ids."""
        jobs = [self.job(name) for name in names]
        await self.client.put(jobs)
        return [job_id for job_id, _ in jobs]

    async def put_in_company(self, name: str) -> str:
        """Put a job beside one that runs, so that it is not alone."""
        await self.put("company")
        await claim(self.a)
        (job_id,) = await self.put(name)
        return job_id

    async def state(self, job_id: str) -> str | None:
        """Read the job's state in its record."""
        return (await self.client.record(job_id)).get("state")

    async def letters(self) -> list[DeadLetter]:
        """List all dead letters."""
        return [letter async for letter in self.client.dead()]

    async def promoted(self, number: int) -> None:
        """Promote until so many scheduled jobs have become due, and no more."""
        done = 0

        async def all_are() -> bool:
            nonlocal done
            done += await self.client.promote()
            return done >= number

        await until(all_are)
        assert done == number

    @asynccontextmanager
    async def beating(self, *queues: Queue) -> AsyncIterator[None]:
        """Send heartbeats for these workers: only a live worker finds out which others are dead."""

        async def beat_for_ever() -> None:
            while True:
                for queue in queues:
                    await queue.beat()
                await asyncio.sleep(self.heartbeat)

        task = asyncio.create_task(beat_for_ever())
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def crash(self, times: int, *, jobs: int) -> None:
        """Let so many workers die while they run the first jobs."""
        async with self.beating(self.b):
            for _ in range(times):
                victim = await self.opener()
                await asyncio.gather(*(claim(victim) for _ in range(jobs)))
                await until(lambda: self._waiting(jobs))

    async def _waiting(self, jobs: int) -> bool:
        depth = await self.client.depth()
        return depth.running == 0 and depth.waiting + depth.dead >= jobs


@pytest.fixture
async def open_rig(queue_under_test: QueueUnderTest) -> AsyncIterator[Callable[..., Any]]:
    """Open empty queues, each under its own name."""
    kind, redis = queue_under_test.kind, queue_under_test.redis
    async with AsyncExitStack() as stack:

        async def keep(queue: Any) -> Any:
            stack.push_async_callback(queue.aclose)
            return queue

        async def open_one(*, short: bool = False, **changes: Any) -> Rig:
            lease = queue_under_test.short_lease if short else 15.0
            options = QueueOptions(**{"name": f"jobs-{uuid.uuid4().hex}", "lease": lease, **changes})
            client = await keep(await kind.open_client(redis, options))

            async def opener() -> Queue:
                queue: Queue = await keep(await kind.open_queue(redis, options, Metrics()))
                return queue

            return Rig(client, opener, await opener(), await opener(), options.heartbeat)

        yield open_one


@pytest.fixture
async def rig(open_rig: Callable[..., Awaitable[Rig]]) -> Rig:
    """Return a rig with leases so long that none expires."""
    return await open_rig()


@pytest.fixture
async def short(open_rig: Callable[..., Awaitable[Rig]]) -> Rig:
    """Return a rig with leases that expire during a test."""
    return await open_rig(short=True)


def soon() -> float:
    """Return a time at which a job may be scheduled that a test waits for."""
    return time.time() + 0.4


async def claim(queue: Queue) -> Lease:
    async with asyncio.timeout(PATIENCE):
        return await queue.lease()


async def run(queue: Queue) -> Lease:
    """Claim the next job and bind it, as a worker does before it runs it."""
    lease = await claim(queue)
    assert await queue.bind(lease, decoded(lease)) == "run"
    return lease


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110  another process has no Event to wait for
            await asyncio.sleep(0.01)


@asynccontextmanager
async def lanes(queue: Queue, number: int = 1) -> AsyncIterator[list[asyncio.Task[Lease]]]:
    """Start lanes that wait for a job."""
    tasks = [asyncio.create_task(queue.lease()) for _ in range(number)]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def gets_nothing(*tasks: asyncio.Task[Lease]) -> None:
    done, _ = await asyncio.wait(tasks, timeout=A_WHILE, return_when=asyncio.FIRST_COMPLETED)
    assert not done


def failure(prior: Any = "unknown", **fields: Any) -> Failure:
    return Failure(**{"code": "http_400", "message": "no", "prior": prior, "fingerprint": "http_400", **fields})


def decoded(lease: Lease) -> Job:
    return decode(lease.payload, max_bytes=1_000_000)


def name_of(lease: Lease) -> str:
    name: str = orjson.loads(lease.payload)["prompt"]
    return name
