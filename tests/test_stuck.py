"""A handler that does not let itself be cancelled costs its own job a try, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import pytest
import structlog

from greenscale_worker import blame, cancel_scope
from greenscale_worker import worker as workers
from greenscale_worker.backends.handlers import HandlerBackend
from greenscale_worker.execution import Policy
from greenscale_worker.job import Job
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.queues.registry import open_client, open_queue
from greenscale_worker.telemetry import Metrics
from greenscale_worker.worker import Worker
from harness.eventually import PATIENCE, eventually

GRACE = 0.05
LIMIT = 0.05


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancel_scope, "GRACE_SECONDS", GRACE)
    monkeypatch.setattr(workers, "GRACE_SECONDS", GRACE)


@pytest.fixture(autouse=True)
def _long_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was delayed does not come back while one looks."""
    monkeypatch.setattr(blame, "FIRST_BACKOFF", 60.0)
    monkeypatch.setattr(blame.random, "uniform", lambda _least, most: most)


@pytest.fixture(params=["memory", "list", "stream"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class Handler:
    """Hangs over job `stuck` until it is let go, whoever cancels it; answers the others."""

    def __init__(self, clean_up: Callable[["Handler"], Awaitable[None]]) -> None:
        self.runs: list[str] = []
        self.cancelled = 0
        self.hung = asyncio.Event()
        self.let_go = asyncio.Event()
        self.ended = asyncio.Event()
        self._clean_up = clean_up

    async def __call__(self, job: Job) -> str:
        self.runs.append(job.job_id)
        if not job.job_id.startswith("stuck") or len(self.runs) > 1:
            return f"answer {len(self.runs)}"
        self.hung.set()
        try:
            await self._clean_up(self)
        finally:
            self.ended.set()
        return "late"


async def deaf(handler: Handler) -> None:
    while not handler.let_go.is_set():
        try:
            await handler.let_go.wait()
        except asyncio.CancelledError:
            handler.cancelled += 1


async def thorough(handler: Handler) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await deaf(handler)


async def grows_angry(handler: Handler) -> None:
    with suppress(asyncio.CancelledError):
        await deaf(handler)
    raise ValueError("after all")


async def slow_to_leave(handler: Handler) -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        handler.cancelled += 1
        await asyncio.sleep(60)


class Scene:
    """A worker of one lane that runs, and its queue."""

    def __init__(self, worker: Worker, admin: Any, metrics: Metrics) -> None:
        self.worker = worker
        self.admin = admin
        self.metrics = metrics
        self.running = asyncio.create_task(worker.run())

    async def put(self, *job_ids: str) -> None:
        await self.admin.put([(each, orjson.dumps({"job_id": each, "prompt": "?"})) for each in job_ids])

    async def reads(self, job_id: str, **fields: str) -> None:
        """Wait until the job's record says so."""
        async with asyncio.timeout(PATIENCE):
            while not fields.items() <= (await self.admin.record(job_id)).items():  # noqa: ASYNC110  a record has no Event
                await asyncio.sleep(0.01)

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def scene(kind: str, handler: Handler, redis_url: str, **options: Any) -> AsyncIterator[Scene]:
    metrics = Metrics()
    options = {"concurrency": 1, "policy": Policy(timeout=LIMIT), "heartbeat": 0.1, **options}
    redis = RedisOptions(url=redis_url)
    queue: Any = MemoryQueue() if kind == "memory" else await open_queue(kind, redis, QueueOptions(), metrics)
    admin: Any = queue if kind == "memory" else await open_client(kind, redis, QueueOptions())
    found = Scene(Worker(queue, HandlerBackend(handler), metrics=metrics, **options), admin, metrics)
    try:
        yield found
    finally:
        handler.let_go.set()
        found.worker.stop()
        found.worker.stop()
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait({found.running})
        await admin.aclose()


def words(lines: Any, event: str) -> list[Any]:
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize("clean_up", [deaf, thorough, grows_angry])
async def test_its_job_is_settled_without_it_and_the_next_one_runs(kind: str, redis_url: str, clean_up: Any) -> None:
    handler = Handler(clean_up)
    with structlog.testing.capture_logs() as lines:
        async with scene(kind, handler, redis_url) as found:
            await found.put("stuck", "next")
            await found.reads("stuck", state="delayed", error_code="timeout", attempts="1")
            await found.reads("next", state="succeeded")
            assert not handler.ended.is_set()
            depth = await found.admin.depth()
            assert (depth.running, depth.delayed) == (0, 1), "its lease is given back"
            assert found.worker.busy == 0
    (line,) = words(lines, "handler_stuck")
    assert (line["job_id"], line["log_level"]) == ("stuck", "error")


async def test_one_that_leaves_when_it_is_cancelled_again_has_timed_out_and_no_more(kind: str, redis_url: str) -> None:
    handler = Handler(slow_to_leave)
    with structlog.testing.capture_logs() as lines:
        async with scene(kind, handler, redis_url) as found:
            await found.put("stuck", "next")
            await found.reads("stuck", state="delayed", error_code="timeout")
            await found.reads("next", state="succeeded")
            assert handler.ended.is_set()
    assert handler.cancelled == 1
    assert words(lines, "handler_stuck") == []


@pytest.mark.parametrize("clean_up", [deaf, grows_angry])
async def test_what_it_says_when_it_comes_back_is_not_heard(kind: str, redis_url: str, clean_up: Any) -> None:
    handler = Handler(clean_up)
    with structlog.testing.capture_logs() as lines:
        async with scene(kind, handler, redis_url) as found:
            await found.put("stuck", "next")
            await found.reads("stuck", state="delayed")
            await found.reads("next", state="succeeded")
            told = found.counted("greenscale_retries_total", reason="timeout")
            calls = found.counted("greenscale_call_seconds_count")
            handler.let_go.set()
            await handler.ended.wait()
            await found.put("another")
            await found.reads("another", state="succeeded")
            assert (await found.admin.record("stuck"))["state"] == "delayed"
            assert found.counted("greenscale_retries_total", reason="timeout") == told == 1
            assert found.counted("greenscale_call_seconds_count") == calls + 1, "another's"
            assert found.worker.busy == 0
    assert sorted(line["job_id"] for line in words(lines, "job")) == ["another", "next", "stuck"]


async def test_a_job_that_somebody_cancelled_stays_so(kind: str, redis_url: str) -> None:
    handler = Handler(deaf)
    with structlog.testing.capture_logs() as lines:
        async with scene(kind, handler, redis_url, policy=Policy()) as found:
            await found.put("stuck", "next")
            await handler.hung.wait()
            assert await found.admin.cancel("stuck") == "cancelled"
            await found.reads("next", state="succeeded")
            assert (await found.admin.record("stuck"))["state"] == "cancelled"
            assert (await found.admin.depth()).running == 0
    assert len(words(lines, "handler_stuck")) == 1


async def test_one_that_was_taken_over_is_not_recorded() -> None:
    handler, queue = Handler(deaf), MemoryQueue()
    leases = []
    take = queue.lease

    async def lease() -> Any:
        leases.append(await take())
        return leases[-1]

    queue.lease = lease  # type: ignore[method-assign]
    worker = Worker(queue, HandlerBackend(handler), concurrency=1)
    running = asyncio.create_task(worker.run())
    await queue.put([(each, orjson.dumps({"job_id": each, "prompt": "?"})) for each in ("stuck", "next")])
    await handler.hung.wait()
    leases[0].lose("taken")
    await eventually(lambda: queue._store.records.get("next").get("state") == "succeeded")  # noqa: SLF001  without waiting
    assert (await queue.record("stuck"))["state"] == "running"
    handler.let_go.set()
    worker.stop()
    assert await running


async def test_a_drain_does_not_wait_for_it(kind: str, redis_url: str) -> None:
    handler = Handler(deaf)
    async with scene(kind, handler, redis_url, drain=PATIENCE) as found:
        await found.put("stuck", "next")
        await found.reads("next", state="succeeded")
        found.worker.stop()
        async with asyncio.timeout(PATIENCE / 2):
            assert await found.running
        assert not handler.ended.is_set()


async def test_one_that_gets_stuck_in_the_drain_ends_it(kind: str, redis_url: str) -> None:
    handler = Handler(deaf)
    async with scene(kind, handler, redis_url, drain=PATIENCE, policy=Policy(timeout=0.3)) as found:
        await found.put("stuck")
        await handler.hung.wait()
        found.worker.stop()
        async with asyncio.timeout(PATIENCE / 2):
            assert await found.running
        assert not handler.ended.is_set()
        await found.reads("stuck", state="delayed", error_code="timeout")


async def test_one_that_is_in_its_call_when_the_drain_ends_is_handed_back(
    kind: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "RELEASE_SECONDS", 4.0)  # half of it is for the handler, and half for the queue
    handler = Handler(deaf)
    async with scene(kind, handler, redis_url, drain=0.05, policy=Policy()) as found:
        await found.put("stuck")
        await handler.hung.wait()
        found.worker.stop()
        async with asyncio.timeout(PATIENCE / 2):
            await found.running
        assert not handler.ended.is_set()
        await found.reads("stuck", error_code="drain")
        assert (await found.admin.depth()).running == 0
        before = await found.admin.record("stuck")
        handler.let_go.set()
        await handler.ended.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert await found.admin.record("stuck") == before


async def test_a_program_that_cancels_its_worker_ends_the_lane_that_replaced_another() -> None:
    handler = Handler(deaf)
    async with scene("memory", handler, "") as found:
        await found.put("stuck", "next")
        await found.reads("next", state="succeeded")
        found.running.cancel()
        with suppress(asyncio.CancelledError):
            await found.running
        await found.put("another")
        for _ in range(20):
            await asyncio.sleep(0)
        assert (await found.admin.record("another"))["state"] == "waiting"


async def test_lanes_are_as_many_as_before_however_many_get_stuck() -> None:
    handler = Handler(deaf)
    handler.runs = []

    async def all_hang(job: Job) -> str:
        handler.runs.append(job.job_id)
        if job.job_id.startswith("stuck"):
            await deaf(handler)
        return "4"

    queue = MemoryQueue()
    worker = Worker(queue, HandlerBackend(all_hang), concurrency=2, policy=Policy(timeout=LIMIT))
    running = asyncio.create_task(worker.run())
    names = ["stuck-1", "stuck-2", "stuck-3", "next-1", "next-2"]
    await queue.put([(each, orjson.dumps({"job_id": each, "prompt": "?"})) for each in names])
    await eventually(lambda: set(names) <= set(handler.runs))
    assert worker.busy <= 2
    handler.let_go.set()
    worker.stop()
    assert await running
