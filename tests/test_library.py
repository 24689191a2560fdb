"""A worker inside somebody's program: functions as they are, limits said once, `async with`, and what a job tells."""

import asyncio
import functools
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from greenscale_worker import worker as workers
from greenscale_worker.backends.echo import EchoBackend
from greenscale_worker.backends.handlers import HandlerBackend, as_backend
from greenscale_worker.errors import ConfigError, PermanentError, TransientError
from greenscale_worker.execution import Policy
from greenscale_worker.gate import Gate
from greenscale_worker.job import Job, Output
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.queues.registry import open_client, open_queue
from greenscale_worker.telemetry import Metrics
from greenscale_worker.worker import Worker
from harness.eventually import PATIENCE, eventually
from tests.support.jobs import KINDS


async def put(queue: MemoryQueue, *job_ids: str, **fields: Any) -> None:
    await queue.put([(each, orjson.dumps({"job_id": each, "prompt": each, **fields})) for each in job_ids])


async def reads(queue: MemoryQueue, job_id: str, **fields: str) -> dict[str, str]:
    """Wait until the job's record says so."""
    async with asyncio.timeout(PATIENCE):
        while not fields.items() <= (record := await queue.record(job_id)).items():  # noqa: ASYNC110  a record has no Event
            await asyncio.sleep(0.005)
    return record


async def answer(queue: MemoryQueue, job_id: str) -> bytes | None:
    await reads(queue, job_id, state="succeeded")
    return await queue.result(job_id)


def shout(job: Job) -> str:
    return f"{job.payload['prompt']} in {threading.current_thread().name}".upper()


async def shout_in_the_loop(job: Job) -> str:
    return shout(job)


class Shouter:
    def shout(self, job: Job, *, mark: str = "") -> str:
        return shout(job) + mark

    def __call__(self, job: Job) -> str:
        return shout(job)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (shout_in_the_loop, b"A IN MAINTHREAD"),
        (shout, b"A IN GREENSCALE-HANDLER"),
        (Shouter(), b"A IN GREENSCALE-HANDLER"),
        (Shouter().shout, b"A IN GREENSCALE-HANDLER"),
        (functools.partial(Shouter().shout, mark="!"), b"A IN GREENSCALE-HANDLER!"),
        (lambda job: shout_in_the_loop(job.model_copy()), b"A IN MAINTHREAD"),
        (lambda _: Output("whole"), b"whole"),
        (lambda _: {"is": ["json", 1]}, b'{"is":["json",1]}'),
        (HandlerBackend(shout_in_the_loop), b"A IN MAINTHREAD"),
    ],
)
async def test_a_worker_takes_a_function_as_it_is(function: Any, said: bytes) -> None:
    queue = MemoryQueue()
    async with Worker(queue, function, concurrency=1):
        await put(queue, "a")
        assert await answer(queue, "a") == said


@pytest.mark.parametrize("wrong", [None, "module:handler", Shouter, HandlerBackend])
def test_what_is_no_function_and_no_backend_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^backend: a function that takes a job, or infer, ready and aclose"):
        Worker(MemoryQueue(), wrong)


def raising(error: BaseException) -> Callable[[Job], str]:
    def handler(_job: Job) -> str:
        raise error

    return handler


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (PermanentError("nonsense", "no"), {"state": "failed", "error_code": "nonsense", "error_message": "no"}),
        (TransientError("away", "soon"), {"state": "delayed", "error_code": "away"}),
        (ValueError("a prompt"), {"state": "delayed", "error_code": "backend_error"}),
        (StopIteration(), {"state": "delayed", "error_code": "backend_error"}),
        (SystemExit(3), {"state": "delayed", "error_code": "backend_error"}),
        (asyncio.CancelledError(), {"state": "delayed", "error_code": "backend_error"}),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_a_plain_function_raises_means_what_it_means_elsewhere(
    error: BaseException, fields: dict[str, str]
) -> None:
    queue = MemoryQueue()
    async with Worker(queue, raising(error), concurrency=1):
        await put(queue, "a")
        await reads(queue, "a", **fields)


@pytest.mark.parametrize("kind", ["memory", *KINDS])
async def test_the_log_says_when_a_job_without_any_other_is_due(kind: str, redis_url: str) -> None:
    """The queue decides that at the second failure (docs/blame.md), whatever the worker would wait."""
    async with AsyncExitStack() as stack:
        queue: Any = MemoryQueue()
        client: Any = queue
        if kind != "memory":
            queue = await open_queue(kind, RedisOptions(url=redis_url), QueueOptions(), Metrics())
            client = await stack.enter_async_context(aclosing(await open_client(kind, RedisOptions(url=redis_url))))
        lines = stack.enter_context(structlog.testing.capture_logs())
        await client.put([("a", b'{"job_id": "a", "prompt": "?"}')])
        await stack.enter_async_context(Worker(queue, raising(ValueError("a prompt")), concurrency=1))
        await eventually(lambda: len(delays_of(lines)) == 2)
        first, second = delays_of(lines)
        assert first < second == 120


def delays_of(lines: list[Any]) -> list[float]:
    return [line["delay"] for line in lines if line["event"] == "job"]


async def test_an_answer_that_json_cannot_say_is_called_so() -> None:
    queue = MemoryQueue()
    async with Worker(queue, lambda _: {"a prompt"}, concurrency=1):
        await put(queue, "a")
        record = await reads(queue, "a", state="delayed", error_code="backend_error")
    said = "the handler returned what is not JSON, of type set; text, an Output or JSON is expected"
    assert record["error_message"] == said


async def test_the_hook_is_given_the_exception_of_a_plain_function_and_the_record_its_place() -> None:
    queue, told = MemoryQueue(), []
    error = ValueError("a prompt")
    async with Worker(queue, raising(error), concurrency=1, on_exception=lambda *facts: told.append(facts)):
        await put(queue, "a")
        record = await reads(queue, "a", state="delayed")
    ((job, given),) = told
    assert (job.job_id, given) == ("a", error)
    assert record["error_message"].startswith(f"ValueError at {__name__}.raising.<locals>.handler:")


async def test_threads_are_as_many_as_calls_at_a_time_and_end_with_the_worker() -> None:
    queue, names, together = MemoryQueue(), set[int | None](), threading.Barrier(3)

    def meet(_job: Job) -> str:
        names.add(threading.get_ident())
        together.wait(PATIENCE)
        return "met"

    before = handler_threads()
    async with Worker(queue, meet, concurrency=3):
        jobs = [f"job-{number}" for number in range(12)]
        await put(queue, *jobs)
        for job_id in jobs:
            assert await answer(queue, job_id) == b"met"
        assert len(names) == 3
    await eventually(lambda: handler_threads() <= before)


def handler_threads() -> set[int | None]:
    return {thread.ident for thread in threading.enumerate() if thread.name == "greenscale-handler"}


class Hanging:
    """A plain function that hangs over jobs called `stuck…`, whoever has stopped waiting for it."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.hung = threading.Semaphore(0)
        self.returned = threading.Semaphore(0)

    def __call__(self, job: Job) -> str:
        if job.job_id.startswith("stuck"):
            self.hung.release()
            self.let_go.wait(PATIENCE)
            self.returned.release()
        return "answer"

    async def is_hung(self) -> None:
        assert await asyncio.to_thread(self.hung.acquire, timeout=PATIENCE)


async def test_a_dead_letter_is_a_warning_and_an_answer_is_none() -> None:
    queue = MemoryQueue()
    with structlog.testing.capture_logs() as lines:
        async with Worker(queue, shout):
            await queue.put([("bad", b'{"job_id": "bad", "deadline": 5}')])
            await put(queue, "good")
            assert await answer(queue, "good") is not None
            await reads(queue, "bad", state="failed")
    told = {line["job_id"]: (line["log_level"], line["outcome"]) for line in lines if line["event"] == "job"}
    assert told == {"bad": ("warning", "failed"), "good": ("info", "succeeded")}


async def test_a_plain_function_that_hangs_costs_its_job_a_try_and_no_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenscale_worker.blame.FIRST_BACKOFF", 600.0)
    monkeypatch.setattr("greenscale_worker.blame.random.uniform", lambda _least, most: most)
    queue, hanging, before = MemoryQueue(), Hanging(), handler_threads()
    with structlog.testing.capture_logs() as lines:
        async with Worker(queue, hanging, concurrency=2, policy=Policy(timeout=0.1)) as worker:
            await put(queue, "stuck-1", "stuck-2", "stuck-3", "next-1", "next-2")
            for job_id in ("next-1", "next-2"):
                assert await answer(queue, job_id) == b"answer"
            for job_id in ("stuck-1", "stuck-2", "stuck-3"):
                await reads(queue, job_id, state="delayed", error_code="timeout", attempts="1")
            assert worker.busy == 0
            hanging.let_go.set()
            for _ in range(3):
                assert await asyncio.to_thread(hanging.returned.acquire, timeout=PATIENCE)
            await put(queue, "next-3")
            assert await answer(queue, "next-3") == b"answer"
            assert (await queue.record("stuck-1"))["state"] == "delayed", "what it says too late is dropped"
            hanging.let_go.clear()
            await put(queue, "stuck-4")
            await reads(queue, "stuck-4", state="delayed")
            hanging.let_go.set()
    left = [(line["job_id"], line["threads"]) for line in lines if line["event"] == "thread_left_behind"]
    assert left == [("stuck-1", 1), ("stuck-2", 2), ("stuck-3", 3), ("stuck-4", 1)]
    await eventually(lambda: handler_threads() <= before)


async def test_a_drain_hands_back_the_job_of_a_plain_function_that_hangs() -> None:
    queue, hanging, before = MemoryQueue(), Hanging(), handler_threads()
    async with asyncio.timeout(PATIENCE):
        async with Worker(queue, hanging, concurrency=1, drain=0.05):
            await put(queue, "stuck")
            await hanging.is_hung()
        record = await queue.record("stuck")
        assert record["error_code"] == "drain"
        depth = await queue.depth()
        assert (depth.running, depth.waiting) == (0, 1)
    hanging.let_go.set()
    await eventually(lambda: handler_threads() <= before)


def test_a_program_ends_though_a_plain_function_hangs(tmp_path: Path) -> None:
    script = """
import asyncio, threading
from greenscale_worker import MemoryQueue, Worker
hung = threading.Event()
def hang(job):
    hung.set()
    threading.Event().wait()
async def main():
    queue = MemoryQueue()
    async with Worker(queue, hang, concurrency=1, drain=0.0):
        await queue.put([("a", b'{"job_id": "a"}')])
        await asyncio.to_thread(hung.wait)
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, timeout=PATIENCE, capture_output=True)  # noqa: S603  our own


class Refusing(MemoryQueue):
    """A queue with a bug: it raises what no lane expects."""

    async def lease(self) -> Any:
        await super().lease()
        raise ZeroDivisionError


async def test_what_ends_a_lane_calls_the_program_back_and_is_raised_there() -> None:
    queue = Refusing()

    limit = asyncio.timeout(PATIENCE)

    async def program() -> None:
        async with limit, Worker(queue, shout, concurrency=1):
            await put(queue, "a")
            await asyncio.Event().wait()

    with pytest.raises(ZeroDivisionError):
        await program()
    assert not limit.expired()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_leaving_lets_what_runs_go_on_and_raises_what_the_program_raised() -> None:
    queue, begun, leaving = MemoryQueue(), asyncio.Event(), asyncio.Event()

    async def slow(_job: Job) -> str:
        begun.set()
        await leaving.wait()
        return "drained"

    async def program() -> None:
        async with Worker(queue, slow, concurrency=1):
            await put(queue, "a", "b")
            await begun.wait()
            asyncio.get_running_loop().call_later(0.05, leaving.set)
            raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        await program()
    assert await queue.result("a") == b"drained"
    assert (await queue.depth()).waiting == 1


async def test_a_program_may_stop_its_worker_inside_and_go_on() -> None:
    queue = MemoryQueue()
    async with Worker(queue, shout, concurrency=1) as worker:
        worker.stop()
        await eventually(lambda: worker._background is not None and worker._background[1].done())  # noqa: SLF001  its end is told nowhere
        await asyncio.sleep(0)


async def test_a_program_that_is_cancelled_twice_does_not_wait_for_the_drain_time() -> None:
    queue, begun = MemoryQueue(), asyncio.Event()

    async def endless(_job: Job) -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    async def program() -> None:
        async with Worker(queue, endless, concurrency=1, drain=10 * PATIENCE) as worker:
            draining.append(worker)
            await asyncio.Event().wait()

    draining: list[Worker] = []
    running = asyncio.create_task(program())
    await put(queue, "a")
    await begun.wait()
    running.cancel()
    await eventually(lambda: draining[0].draining)
    running.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await running
    assert (await queue.record("a"))["error_code"] == "drain"
    assert (await queue.depth()).waiting == 1


class Untold:
    """A queue of somebody's, which does not tell its options."""

    def __init__(self, queue: MemoryQueue) -> None:
        self.lease, self.bind, self.settle, self.retry = queue.lease, queue.bind, queue.settle, queue.retry
        self.beat, self.aclose, self.up = queue.beat, queue.aclose, True


def test_what_the_queue_and_the_gate_know_is_said_once() -> None:
    queue = MemoryQueue(QueueOptions(lease=5.0, max_crashes=2))

    def told(worker: Worker) -> tuple[float, int | None, int]:
        return worker._heartbeat, worker._executor._policy.max_crashes, worker._concurrency  # noqa: SLF001  they act in minutes

    assert told(Worker(queue, shout)) == (1.0, 2, 16)
    assert told(Worker(queue, shout, gate=Gate(3), policy=Policy(timeout=1.0))) == (1.0, 2, 3)
    assert told(Worker(queue, shout, heartbeat=0.5, policy=Policy(max_crashes=9), concurrency=4)) == (0.5, 9, 4)
    assert told(Worker(Untold(queue), shout)) == (3.0, 4, 16)


async def test_a_handler_sees_which_attempt_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenscale_worker.blame.FIRST_BACKOFF", 0.01)
    queue, seen = MemoryQueue(), list[int]()

    async def second_time(job: Job) -> str:
        if job.job_id != "a":
            return "other"
        seen.append(job.attempt)
        if job.attempt < 2:
            raise TransientError("again", "not yet")
        return "now"

    async with Worker(queue, second_time, concurrency=1):
        await put(queue, "a")
        await put(queue, "other-1", "other-2")  # a job that is alone is not tried again at once
        record = await reads(queue, "a", state="succeeded")
    assert seen == [1, 2]
    assert record["attempts"] == "2"


@pytest.mark.parametrize(("deadline", "limit"), [(None, 40.0), ("2999-01-01T00:00:00Z", 40.0), ("soon", 20.0)])
async def test_a_handler_sees_the_time_that_is_left(deadline: str | None, limit: float) -> None:
    queue, seen = MemoryQueue(), list[float]()

    def look(job: Job) -> str:
        seen.append(job.remaining)
        time.sleep(0.02)  # the time that it looks at
        seen.append(job.remaining)
        return "seen"

    if deadline == "soon":
        deadline = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 20.5))
    async with Worker(queue, look, concurrency=1, policy=Policy(timeout=40.0)):
        await put(queue, "a", **({"deadline": deadline} if deadline else {}))
        await answer(queue, "a")
    first, second = seen
    assert limit - PATIENCE < first <= limit + 1
    assert 0.02 <= first - second < PATIENCE


def test_a_job_that_no_worker_runs_is_at_its_first_attempt_and_has_time() -> None:
    job = Job(job_id="a")
    assert (job.attempt, job.remaining) == (1, math.inf)


MODULE = """
from greenscale_worker import HandlerBackend
def plain(job): return "plain"
def with_defaults(job, *, temperature=0.7): return "defaults"
class Callable:
    def __call__(self, job): return "called"
def makes_plain(): return plain
def makes_backend(kind="x"): return HandlerBackend(plain)
def two(job, other): return "no"
nothing = 7
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "functions_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "functions_of_a_test", raising=False)
    return "functions_of_a_test"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", "plain"),
        ("with_defaults", "defaults"),
        ("Callable", "called"),
        ("makes_plain", "plain"),
        ("makes_backend", "plain"),
    ],
)
async def test_a_plain_function_may_be_named_as_a_backend(module: str, name: str, said: str) -> None:
    from greenscale_worker.backends import open_backend  # noqa: PLC0415  beside what it opens

    backend = open_backend(f"{module}:{name}")
    assert (await backend.infer(Job(job_id="a"))).text == said
    await backend.aclose()


@pytest.mark.parametrize("name", ["two", "nothing"])
def test_what_is_no_handler_says_what_is_accepted(module: str, name: str) -> None:
    from greenscale_worker.backends import open_backend  # noqa: PLC0415  beside what it opens

    with pytest.raises(ConfigError, match=f"^backend {module}:{name}: TypeError: "):
        open_backend(f"{module}:{name}")


def test_a_backend_stays_as_it_is() -> None:
    backend = HandlerBackend(shout)
    assert as_backend(backend) is backend
    assert workers.LANES == 16


@pytest.mark.parametrize("kind", ["memory", *KINDS])
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": " "}, "bad_request"),
        ({"deadline": 5}, "bad_field"),
        ({"deadline": "2001-01-01T00:00:00Z"}, "deadline_passed"),
    ],
)
async def test_a_job_that_was_refused_before_a_call_has_no_attempts(
    redis_url: str, kind: str, fields: dict[str, Any], code: str
) -> None:
    """Neither in its record, nor as a dead letter, nor in the list; and a replay changes nothing of that."""
    where = RedisOptions(url=redis_url)
    queue = MemoryQueue() if kind == "memory" else await open_queue(kind, where)
    client = queue if isinstance(queue, MemoryQueue) else await open_client(kind, where)

    async def seen() -> None:
        while (record := await client.record("a")).get("state") != "failed":  # noqa: ASYNC110  a record has no Event
            await asyncio.sleep(0.01)
        (letter,) = [letter async for letter in client.dead()]
        (job,) = [job async for job in client.jobs()]
        assert (record["error_code"], letter.code, job.code) == (code, code, code)
        assert (record["attempts"], letter.attempts, job.attempts) == ("0", 0, 0)
        assert (record["crashes"], letter.crashes, job.crashes) == ("0", 0, 0)
        await client.replay(letter.id)

    async with Worker(queue, EchoBackend()), asyncio.timeout(PATIENCE):
        await client.put([("a", orjson.dumps({"job_id": "a", "prompt": "?", **fields}))])
        await seen()
        await seen()
    await client.aclose()
