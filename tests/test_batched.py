"""Handlers that take many jobs at once: who shares a call, who gets which outcome, and who is left alone."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from greenscale_worker.backends.batched import batched
from greenscale_worker.backends.handlers import HandlerBackend
from greenscale_worker.errors import PermanentError, TransientError
from greenscale_worker.execution import Policy
from greenscale_worker.job import Job
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.worker import Worker
from harness.eventually import PATIENCE, eventually

REFUSED = PermanentError("refused", "no")
Handler = Callable[[Job], Any]


class Panic(BaseException):
    """As libraries in Rust raise it."""


def job(number: int) -> Job:
    return Job(job_id=str(number), payload={"prompt": str(number)})


def text(job: Job) -> str:
    return f"<{job.payload['prompt']}>"


class Held:
    """A handler whose calls end when they are let go."""

    def __init__(self, most: int) -> None:
        self.calls: list[list[str]] = []
        self.cancelled = 0
        self.gate = asyncio.Semaphore(0)
        self.handler = batched(most=most)(self._answer)

    async def _answer(self, jobs: Sequence[Job]) -> list[str]:
        self.calls.append([job.job_id for job in jobs])
        try:
            await self.gate.acquire()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [text(job) for job in jobs]

    def ask(self, *numbers: int) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.handler(job(number))) for number in numbers]


async def gathered(*tasks: asyncio.Task[Any]) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_call_takes_what_came_in_while_the_last_one_ran_and_each_job_gets_its_own_answer() -> None:
    held = Held(most=3)
    first = held.ask(0)
    await eventually(lambda: held.calls == [["0"]])
    rest = held.ask(1, 2, 3, 4)
    await asyncio.sleep(0)
    for _ in range(3):
        held.gate.release()
    assert await gathered(*first, *rest) == ["<0>", "<1>", "<2>", "<3>", "<4>"]
    assert held.calls == [["0"], ["1", "2", "3"], ["4"]]


async def test_a_job_without_company_does_not_wait_for_it() -> None:
    held = Held(most=100)
    held.gate.release()
    assert await gathered(*held.ask(1)) == ["<1>"]


async def test_an_answer_that_is_an_exception_is_for_its_job_alone() -> None:
    fault = ValueError("of one's own")

    @batched(most=10)
    async def handler(jobs: Sequence[Job]) -> list[object]:
        return ["4", REFUSED, fault, asyncio.CancelledError(), "5"][: len(jobs)]

    answers = await gathered(*(asyncio.create_task(handler(job(number))) for number in range(5)))
    assert (answers[0], answers[1], answers[2], answers[4]) == ("4", REFUSED, fault, "5")
    assert isinstance(answers[3], asyncio.CancelledError)


@pytest.mark.parametrize(
    "error", [TransientError("busy", "", prior="endpoint"), ValueError("x"), SystemExit(3), Panic()]
)
async def test_what_a_handler_raises_is_for_all_jobs_of_the_call_and_no_other(error: BaseException) -> None:
    calls = 0

    @batched(most=2)
    async def handler(jobs: Sequence[Job]) -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise error
        return [text(job) for job in jobs]

    async def ask(number: int) -> object:
        try:
            return await handler(job(number))
        except (Exception, SystemExit, Panic) as caught:  # noqa: BLE001  what it is, is asked below
            return caught

    async with asyncio.timeout(PATIENCE):
        assert await asyncio.gather(*(ask(number) for number in range(3))) == [error, error, "<2>"]


@pytest.mark.parametrize(
    ("answers", "gave"), [(["1"], "1 answers"), ([], "0 answers"), (None, "NoneType"), ("ab", "str"), ({1, 2}, "set")]
)
async def test_a_wrong_number_of_answers_fails_every_job_of_the_call(answers: Any, gave: str) -> None:
    @batched(most=2)
    async def handler(_jobs: Sequence[Job]) -> Any:
        return answers

    faults = await gathered(*(asyncio.create_task(handler(job(number))) for number in range(2)))
    for fault in faults:
        assert (fault.code, fault.prior) == ("backend_error", "unknown")
        assert str(fault) == f"it gave {gave} to 2 jobs, not an answer to each"


async def test_a_cancelled_job_leaves_its_neighbours_alone() -> None:
    held = Held(most=10)
    first, second = held.ask(1, 2)
    await eventually(lambda: held.calls)
    first.cancel()
    await asyncio.wait({first})
    held.gate.release()
    assert await gathered(second) == ["<2>"]
    assert held.cancelled == 0


async def test_a_job_that_is_cancelled_before_its_call_is_not_part_of_it() -> None:
    held = Held(most=10)
    running = held.ask(0)
    await eventually(lambda: held.calls)
    gone, stays = held.ask(1, 2)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait({gone})
    for _ in range(2):
        held.gate.release()
    assert await gathered(*running, stays) == ["<0>", "<2>"]
    assert held.calls == [["0"], ["2"]]


async def test_a_call_for_which_nobody_waits_is_cancelled_and_the_next_one_begins() -> None:
    held = Held(most=2)
    gone, stays = held.ask(1, 2), held.ask(3)
    await eventually(lambda: held.calls)
    for task in gone:
        task.cancel()
    await asyncio.wait(gone)
    await eventually(lambda: held.calls == [["1", "2"], ["3"]])
    held.gate.release()
    assert await gathered(*stays) == ["<3>"]
    assert held.cancelled == 1


async def test_a_constant_error_does_not_grow() -> None:
    @batched(most=10)
    async def handler(jobs: Sequence[Job]) -> list[object]:
        return [REFUSED for _ in jobs]

    def depth() -> int:
        trace, count = REFUSED.__traceback__, 0
        while trace is not None:
            trace, count = trace.tb_next, count + 1
        return count

    await gathered(asyncio.create_task(handler(job(0))))
    before = depth()
    await gathered(*(asyncio.create_task(handler(job(number))) for number in range(20)))
    assert depth() == before


@pytest.mark.parametrize("most", [0, -1])
def test_a_group_holds_somebody(most: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        batched(most=most)


# --- in a worker ---


class Running:
    """A worker over some jobs, in this loop."""

    def __init__(self, handler: Handler, **options: Any) -> None:
        self.queue = MemoryQueue()
        self.worker = Worker(self.queue, HandlerBackend(handler), **options)

    async def put(self, *numbers: int) -> None:
        await self.queue.put(
            [(str(number), b'{"job_id": "%d", "prompt": "%d"}' % (number, number)) for number in numbers]
        )

    async def state(self, number: int) -> str | None:
        return (await self.queue.record(str(number))).get("state")


async def test_jobs_of_a_worker_share_calls_and_are_settled_one_by_one() -> None:
    sizes = []

    @batched(most=8)
    async def handler(jobs: Sequence[Job]) -> list[object]:
        sizes.append(len(jobs))
        await asyncio.sleep(0)
        return [REFUSED if int(job.job_id) % 10 == 0 else text(job) for job in jobs]

    run = Running(handler, concurrency=20)
    await run.put(*range(100))
    running = asyncio.create_task(run.worker.run())
    while (depth := await run.queue.depth()).waiting or depth.running:  # noqa: ASYNC110  of a queue
        await asyncio.sleep(0.01)
    run.worker.stop()
    assert await running
    assert depth.dead == 10
    assert await run.queue.result("17") == b"<17>"
    assert await run.state(20) == "failed"
    assert max(sizes) == 8


async def test_a_time_limit_ends_a_call_that_hangs_and_others_go_on() -> None:
    calls = []

    @batched(most=4)
    async def handler(jobs: Sequence[Job]) -> list[str]:
        calls.append([job.job_id for job in jobs])
        if len(calls) == 1:
            await asyncio.Event().wait()
        return [text(job) for job in jobs]

    run = Running(handler, concurrency=4, policy=Policy(timeout=0.1))
    await run.put(*range(4))
    running = asyncio.create_task(run.worker.run())
    async with asyncio.timeout(PATIENCE):
        while [await run.state(number) for number in range(4)] != ["succeeded"] * 4:  # noqa: ASYNC110  of a queue
            await asyncio.sleep(0.01)
    run.worker.stop()
    assert await running
    assert calls[0] == ["0", "1", "2", "3"]


async def test_a_drain_waits_for_a_call_and_hands_back_what_it_cannot_wait_for() -> None:
    held = Held(most=2)
    run = Running(held.handler, concurrency=4, drain=PATIENCE)
    await run.put(*range(4))
    running = asyncio.create_task(run.worker.run())
    await eventually(lambda: held.calls == [["0", "1"]])
    run.worker.stop()
    held.gate.release()
    await eventually(lambda: held.calls == [["0", "1"], ["2", "3"]])
    run.worker.stop()
    assert await running
    assert held.cancelled == 1
    assert [await run.state(number) for number in range(4)] == ["succeeded", "succeeded", "delayed", "delayed"]
    assert (await run.queue.depth()).waiting == 2
