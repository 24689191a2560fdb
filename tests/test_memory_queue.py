"""What the queue of one process promises beyond the contract of all queues (testing/queue_contract)."""

import asyncio
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenscale_worker.job import Failed, Failure, Outcome, Output, Released, Succeeded, decode
from greenscale_worker.queues import Lease, QueueOptions
from greenscale_worker.queues.memory import MemoryQueue

ANSWER = Succeeded(Output("4"))
LEASE = 10.0
HEARTBEAT = LEASE / 5
ENDS = ["answer", "fail", "release", "delay", "retry", "blame"]
STEPS = ["put", "claim", *ENDS, "die", "cancel", "replay", "wait", "stop"]


class Clock:
    """Goes when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def payload(job_id: str) -> bytes:
    return orjson.dumps({"job_id": job_id, "prompt": "?"})


async def run(queue: MemoryQueue) -> Lease:
    async with asyncio.timeout(5):
        lease = await queue.lease()
    await queue.bind(lease, decode(lease.payload, max_bytes=1000))
    return lease


async def test_a_process_that_was_stopped_keeps_its_leases() -> None:
    clock = Clock()
    queue = MemoryQueue(QueueOptions(lease=LEASE), clock=clock)
    await queue.put([("1", payload("1")), ("2", payload("2"))])
    lease = await run(queue)
    await queue.beat()
    clock.seconds += 3600  # as after Ctrl-Z and fg
    other = queue.beside("other")
    assert (await run(other)).id != lease.id
    await queue.beat()
    assert lease.lost is None
    assert await queue.settle(lease, ANSWER)


async def test_an_amnesty_ends() -> None:
    clock = Clock()
    queue = MemoryQueue(QueueOptions(lease=LEASE), clock=clock)
    other = queue.beside("other")
    await queue.put([("1", payload("1"))])
    await run(queue)
    clock.seconds += 3600
    for _ in range(3):
        await other.beat()
        clock.seconds += HEARTBEAT
    assert (await run(other)).crashes == 1


async def test_a_cancelled_job_is_lost_at_once_and_a_lost_one_forgotten() -> None:
    queue, told = MemoryQueue(), asyncio.Event()
    await queue.put([("1", payload("1"))])
    lease = await run(queue)
    lease.on_lost = told.set
    assert await queue.cancel("1") == "cancelled"
    assert (told.is_set(), lease.lost) == (True, "gone")
    await queue.beat()
    assert not queue._held  # noqa: SLF001  a leak cannot be seen from outside


async def test_a_lane_that_may_take_no_suspect_waits_for_its_worker_to_finish_one() -> None:
    clock = Clock()
    queue = MemoryQueue(QueueOptions(lease=LEASE), clock=clock)
    await queue.put([("1", payload("1")), ("2", payload("2"))])
    for _ in range(2):
        victim = queue.beside("victim")
        await run(victim)
        await run(victim)
        for _ in range(6):
            clock.seconds += HEARTBEAT
            await queue.beat()
    suspect = await run(queue)
    lane = asyncio.create_task(queue.lease())
    await asyncio.sleep(0)
    await queue.settle(suspect, ANSWER)
    async with asyncio.timeout(5):
        assert (await lane).crashes == 2


async def test_lanes_for_which_nothing_waits_let_others_run() -> None:
    queue, loops = MemoryQueue(), 0
    await queue.put([(str(number), payload(str(number))) for number in range(100)])

    async def lane() -> None:
        while True:
            await queue.settle(await queue.lease(), ANSWER)

    task = asyncio.create_task(lane())
    while (await queue.depth()).waiting:
        loops += 1
        await asyncio.sleep(0)
    task.cancel()
    assert loops >= 100


async def test_every_outcome_is_told_once() -> None:
    told: list[tuple[str | None, Outcome]] = []
    queue = MemoryQueue(on_settled=lambda lease, outcome: told.append((lease.job_id, outcome)))
    await queue.put([("1", payload("1")), ("2", payload("2"))])
    outcomes: list[Outcome] = [Released("overload"), ANSWER, Failed("refused", "no")]
    for outcome in outcomes:
        lease = await run(queue)
        assert await queue.settle(lease, outcome)
        assert not await queue.settle(lease, Released("late"))
    assert told == list(zip(["1", "1", "2"], outcomes, strict=True))


async def test_a_job_whose_outcome_could_not_be_told_stays_leased() -> None:
    def refuse(_lease: Lease, _outcome: Outcome) -> None:
        raise OSError("no space left")

    queue = MemoryQueue(on_settled=refuse)
    await queue.put([("1", payload("1"))])
    lease = await run(queue)
    for outcome in (ANSWER, Failed("refused", ""), Released("drain")):
        with pytest.raises(OSError, match="no space"):
            await queue.settle(lease, outcome)
    assert (await queue.depth()).running == 1
    assert (await queue.record("1"))["state"] == "running"


async def test_results_that_have_ended_take_no_memory() -> None:
    clock = Clock()
    queue = MemoryQueue(QueueOptions(result_ttl=60), clock=clock)
    for number in range(50):
        await queue.put([(str(number), payload(str(number)))])
        assert await queue.settle(await run(queue), ANSWER)
        clock.seconds += 10
    known = [str(number) for number in range(50) if await queue.record(str(number))]
    assert known == [str(number) for number in range(45, 50)]
    records = queue._store.records  # noqa: SLF001  what is kept cannot be seen from outside
    assert len(records._records._values) <= 6  # noqa: SLF001
    assert len(records._results._values) <= 6  # noqa: SLF001


async def test_an_answer_that_is_not_unicode_is_recorded_all_the_same() -> None:
    queue = MemoryQueue()
    await queue.put([("1", payload("1"))])
    assert await queue.settle(await run(queue), Succeeded(Output("a\ud800")))
    assert await queue.result("1") == b"a?"


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), max_size=60))
def test_whatever_happens_no_job_is_lost_or_ended_twice(steps: list[tuple[str, int]]) -> None:
    asyncio.run(Walk().walk(steps))


class Walk:
    """Puts, runs, loses and ends jobs, then lets one worker finish the rest and takes stock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ended: Counter[bytes] = Counter()
        self.queue = MemoryQueue(QueueOptions(lease=LEASE, max_crashes=1), clock=self.clock, on_settled=self.note)
        self.workers = [self.queue.beside("0"), self.queue.beside("1")]
        self.leases: list[tuple[MemoryQueue, Lease]] = []
        self.put: list[str] = []

    def note(self, lease: Lease, outcome: Outcome) -> None:
        if isinstance(outcome, Succeeded):
            self.ended[lease.payload] += 1

    async def walk(self, steps: list[tuple[str, int]]) -> None:
        for step, number in steps:
            await self.step(step, number)
            self.check_places()
        await self.finish()

    async def step(self, step: str, number: int) -> None:
        if step == "put":
            self.put.append(f"job-{len(self.put)}")
            await self.queue.put([(self.put[-1], payload(self.put[-1]))])
        elif step == "claim":
            await self.claim(self.workers[number % 2])
        elif step in ENDS and self.leases:
            await self.end(step, number)
        elif step == "die":
            self.workers[number % 2] = self.queue.beside(f"reborn-{number}")
        elif step == "cancel" and self.leases:
            _, lease = self.leases[number % len(self.leases)]
            if lease.job_id and await self.queue.cancel(lease.job_id) == "cancelled":
                self.ended[lease.payload] += 1
        elif step == "replay":
            async for letter in self.queue.dead():
                await self.queue.replay(letter.id)
        elif step in {"wait", "stop"}:
            await self.wait(number * HEARTBEAT, beats=step == "wait")

    async def end(self, step: str, number: int) -> None:
        worker, lease = self.leases[number % len(self.leases)]  # zombies settle, too
        outcomes: dict[str, Outcome] = {
            "answer": ANSWER,
            "fail": Failed("refused", ""),
            "release": Released("drain"),
            "delay": Released("overload", delay=3.0 * number),
        }
        if step in outcomes:
            await worker.settle(lease, outcomes[step])
            return
        prior: Any = "job" if step == "blame" else "endpoint" if number % 2 else "unknown"
        facts = {"used": number / 5, "max_tries": 2.0, "delay": float(number)}
        await worker.retry(lease, Failure(code="no", message="", prior=prior, fingerprint="no", **facts))

    async def claim(self, worker: MemoryQueue) -> None:
        lane = asyncio.create_task(worker.lease())
        for _ in range(3):
            await asyncio.sleep(0)
        lane.cancel()
        await asyncio.wait({lane})
        if not lane.cancelled():
            lease = lane.result()
            self.leases.append((worker, lease))
            assert await worker.bind(lease, decode(lease.payload, max_bytes=1000)) == "run"

    async def wait(self, seconds: float, *, beats: bool) -> None:
        if not beats:
            self.clock.seconds += seconds
        for _ in range(int(seconds / HEARTBEAT) if beats else 1):
            self.clock.seconds += HEARTBEAT
            for worker in self.workers:
                await worker.beat()

    def check_places(self) -> None:
        store = self.queue._store  # noqa: SLF001  the places are what is to be checked
        places = [*store.ready, *store.suspects, *store.held, *store.delayed, *store.leased.values()]
        assert sorted(entry.id for entry in places) == sorted(store.open)
        assert [entry.id for entry in store.ready] == sorted(entry.id for entry in store.ready)
        assert [entry.id for entry in store.held] == sorted(entry.id for entry in store.held)
        assert [entry.expires for entry in store.leased.values()] == sorted(e.expires for e in store.leased.values())
        assert all(store.open.get(entry.id) is entry for entry in store.bound.values())

    async def unfinished(self) -> int:
        depth = await self.queue.depth()
        return depth.waiting + depth.running + depth.delayed + depth.held

    async def finish(self) -> None:
        survivor = self.queue.beside("survivor")
        while await self.unfinished():
            self.clock.seconds += HEARTBEAT
            await survivor.beat()
            while (depth := await self.queue.depth()).waiting + depth.held:
                lease = await run(survivor)
                assert await survivor.settle(lease, ANSWER)
        async for letter in self.queue.dead():
            self.ended[letter.payload] += 1
        assert self.ended == Counter(payload(job_id) for job_id in self.put)
