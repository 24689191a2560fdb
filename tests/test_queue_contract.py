"""What every queue promises (queues/__init__.py, docs/queue-protocol.md), asked of each of them.

A further queue joins by one name in ROOMS.
"""

import asyncio
import importlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import orjson
import pytest

from greenscale_worker.job import Failed, Job, Output, Released, Succeeded, Usage, decode
from greenscale_worker.queues import DeadLetter, Lease, Queue, QueueAdmin, QueueOptions, RedisOptions
from greenscale_worker.queues.memory import MemoryQueue

ROOMS = ["memory", "redis_list", "redis_stream"]

PATIENCE = 8.0  # how long what is promised may take on a loaded machine; shorter than any wait without a reason
A_WHILE = 0.06  # how long something forbidden is given to happen
SHORT_LEASE = {"memory": 0.15}  # of the others: half a second
ANSWER = Succeeded(Output("4", model="llama", finish_reason="stop", usage=Usage(3, 1, 4)))


@dataclass
class Rig:
    """One store of jobs, workers on it, and somebody who administers it."""

    admin: QueueAdmin
    opener: Callable[[], Awaitable[Queue]]
    a: Queue
    b: Queue
    heartbeat: float
    suffix: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def job(self, name: str, **fields: Any) -> tuple[str, bytes]:
        """Make up a job. Ids are shared by all queues of one server, so each test has its own."""
        job_id = f"{name}-{self.suffix}"
        return job_id, orjson.dumps({"job_id": job_id, "prompt": name, **fields})

    async def put(self, *names: str) -> list[str]:
        jobs = [self.job(name) for name in names]
        await self.admin.put(jobs)
        return [job_id for job_id, _ in jobs]

    async def state(self, job_id: str) -> str | None:
        return (await self.admin.record(job_id)).get("state")

    async def letters(self) -> list[DeadLetter]:
        return [letter async for letter in self.admin.dead()]

    @asynccontextmanager
    async def beating(self, *queues: Queue) -> AsyncIterator[None]:
        """Let workers live: a queue finds out who is dead only while somebody is not."""

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
        """Let so many workers die over the first jobs."""
        async with self.beating(self.b):
            for _ in range(times):
                victim = await self.opener()
                await asyncio.gather(*(claim(victim) for _ in range(jobs)))
                await until(lambda: self._waiting(jobs))

    async def _waiting(self, jobs: int) -> bool:
        depth = await self.admin.depth()
        return depth.running == 0 and depth.waiting + depth.dead >= jobs


@pytest.fixture(params=ROOMS)
def room(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if find_spec(f"greenscale_worker.queues.{name}") is None:
        pytest.skip(f"there is no queue {name}")
    return name


@pytest.fixture
def redis_options(request: pytest.FixtureRequest, room: str) -> RedisOptions | None:
    return None if room == "memory" else RedisOptions(url=request.getfixturevalue("redis_url"))


@pytest.fixture
async def open_rig(room: str, redis_options: RedisOptions | None) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def keep(queue: Any) -> Any:
            stack.push_async_callback(queue.aclose)
            return queue

        async def open_one(*, short: bool = False, **changes: Any) -> Rig:
            lease = SHORT_LEASE.get(room, 0.5) if short else 15.0
            options = QueueOptions(**{"name": f"jobs-{uuid.uuid4().hex}", "lease": lease, **changes})
            if redis_options is None:
                admin: Any = MemoryQueue(options, worker="admin")
                names = iter(f"worker-{number}" for number in range(100))

                async def opener() -> Queue:
                    return await keep(admin.beside(next(names)))
            else:
                queues = importlib.import_module(f"greenscale_worker.queues.{room}")
                metrics = importlib.import_module("greenscale_worker.telemetry").Metrics
                admin = await keep(await queues.open_admin(redis_options, options))

                async def opener() -> Queue:
                    return await keep(await queues.open_queue(redis_options, options, metrics()))

            return Rig(admin, opener, await opener(), await opener(), options.heartbeat)

        yield open_one


@pytest.fixture
async def rig(open_rig: Callable[..., Awaitable[Rig]]) -> Rig:
    """Leases so long that none expires."""
    return await open_rig()


@pytest.fixture
async def short(open_rig: Callable[..., Awaitable[Rig]]) -> Rig:
    """Leases that expire while one waits."""
    return await open_rig(short=True)


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
    """Lanes that wait for a job."""
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


def decoded(lease: Lease) -> Job:
    return decode(lease.payload, max_bytes=1_000_000)


def name_of(lease: Lease) -> str:
    name: str = orjson.loads(lease.payload)["prompt"]
    return name


# Leasing


async def test_jobs_are_leased_oldest_first(rig: Rig) -> None:
    await rig.put("1", "2", "3")
    await rig.put("4", "5")
    leases = [await claim(rig.a) for _ in range(5)]
    assert [name_of(lease) for lease in leases] == ["1", "2", "3", "4", "5"]
    assert {(lease.tries, lease.crashes, lease.job_id, lease.attempts) for lease in leases} == {(0, 0, None, 0)}
    assert len({lease.token for lease in leases}) == len({lease.id for lease in leases}) == 5


async def test_a_lease_says_when_it_was_claimed(rig: Rig) -> None:
    await rig.put("1")
    lease = await claim(rig.a)
    assert abs(lease.claimed_at - time.time()) < PATIENCE
    assert lease.first_claimed_at == lease.claimed_at


async def test_the_payload_is_what_was_put_byte_for_byte(rig: Rig) -> None:
    raw = b'\xff\x00|\r\n{"job_id": 1e999, \xed\xa0\x80'
    await rig.admin.put([(rig.job("raw")[0], raw)])
    assert (await claim(rig.a)).payload == raw


async def test_a_waiting_lane_gets_a_job_as_it_is_put(rig: Rig) -> None:
    async with lanes(rig.a) as (lane,):
        await gets_nothing(lane)
        await rig.put("1")
        async with asyncio.timeout(PATIENCE):
            assert name_of(await lane) == "1"


async def test_every_waiting_lane_gets_a_job_of_its_own(rig: Rig) -> None:
    async with lanes(rig.a, 8) as ours, lanes(rig.b, 8) as theirs:
        await gets_nothing(*ours, *theirs)
        await rig.put(*(str(number) for number in range(16)))
        async with asyncio.timeout(PATIENCE):
            leases = await asyncio.gather(*ours, *theirs)
    assert sorted(int(name_of(lease)) for lease in leases) == list(range(16))


async def test_a_cancelled_lane_loses_no_job(rig: Rig) -> None:
    generator, count = random.Random(7), 30
    found = []
    for number in range(count):
        lane = asyncio.create_task(rig.a.lease())
        for _ in range(generator.randrange(3)):
            await asyncio.sleep(0)
        await rig.put(str(number))
        for _ in range(generator.randrange(5)):
            await asyncio.sleep(0)
        lane.cancel()
        await asyncio.wait({lane})
        if not lane.cancelled():
            found.append(lane.result())
    while len(found) < count:
        found.append(await claim(rig.a))
    assert sorted(int(name_of(lease)) for lease in found) == list(range(count))
    assert {(lease.tries, lease.crashes) for lease in found} == {(0, 0)}


async def test_a_job_meant_for_a_cancelled_lane_goes_to_one_that_waits(rig: Rig) -> None:
    async with lanes(rig.a, 2) as (first, second):
        await gets_nothing(first, second)
        await rig.put("1")
        first.cancel()
        await asyncio.wait({first})
        if first.cancelled():
            async with asyncio.timeout(PATIENCE):
                assert name_of(await second) == "1"


async def test_closing_hands_back_what_nobody_took(rig: Rig) -> None:
    async with lanes(rig.a, 4) as ours:
        await gets_nothing(*ours)
        await rig.put("1", "2", "3", "4")
        for lane in ours:
            lane.cancel()
        await asyncio.wait(ours)
    taken = {name_of(lane.result()) for lane in ours if not lane.cancelled()}
    await rig.a.aclose()
    others = [await claim(rig.b) for _ in range(4 - len(taken))]
    assert taken | {name_of(lease) for lease in others} == {"1", "2", "3", "4"}
    assert {(lease.tries, lease.crashes) for lease in others} <= {(0, 0)}


# Binding


async def test_a_bound_job_has_a_record_that_says_running(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(backend="echo")
    created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    job_id, payload = rig.job("1", metadata={"team": "é|1"}, created_at=created.isoformat())
    await rig.admin.put([(job_id, payload)])
    lease = await run(rig.a)
    record = await rig.admin.record(job_id)
    assert (lease.job_id, lease.attempts) == (job_id, 1)
    assert {name: record[name] for name in ("state", "attempts", "crashes", "backend")} == {
        "state": "running",
        "attempts": "1",
        "crashes": "0",
        "backend": "echo",
    }
    assert orjson.loads(record["metadata"]) == {"team": "é|1"}
    assert datetime.fromisoformat(record["created_at"]) == created
    assert int(record["submitted_ms"]) <= int(record["claimed_ms"])
    assert int(record["first_claimed_ms"]) == int(lease.first_claimed_at * 1000)
    assert record["worker"]
    assert not {"due_ms", "finished_ms", "error_code", "error_message", "model"} & set(record)


async def test_a_put_job_has_a_record_that_says_waiting(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    record = await rig.admin.record(job_id)
    assert abs(int(record.pop("submitted_ms")) / 1000 - time.time()) < PATIENCE
    assert record == {"state": "waiting"}


async def test_an_unknown_job_has_neither_record_nor_result(rig: Rig) -> None:
    assert await rig.admin.record("nobody") == {}
    assert await rig.admin.result("nobody") is None


async def test_the_same_job_twice_in_flight_is_folded_into_one(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "1")
    first, second = await run(rig.a), await claim(rig.b)
    record = await rig.admin.record(job_id)
    assert await rig.b.bind(second, decoded(second)) == "duplicate"
    assert (await rig.admin.depth()).running == 1
    assert await rig.admin.record(job_id) == record
    assert not await rig.b.settle(second, Failed("late", ""))
    assert await rig.a.settle(first, ANSWER)
    assert await rig.state(job_id) == "succeeded"
    assert await rig.letters() == []


async def test_the_same_job_while_the_first_waits_for_a_retry_is_folded_too(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "1")
    first = await run(rig.a)
    assert await rig.a.settle(first, Released("overload", delay=60))
    second = await claim(rig.a)
    assert await rig.a.bind(second, decoded(second)) == "duplicate"
    assert await rig.state(job_id) == "delayed"
    depth = await rig.admin.depth()
    assert (depth.waiting, depth.running, depth.delayed) == (0, 0, 1)


async def test_an_id_in_flight_with_another_payload_is_a_conflict(rig: Rig) -> None:
    job_id, payload = rig.job("1")
    _, other = rig.job("1", temperature=0)
    await rig.admin.put([(job_id, payload), (job_id, other)])
    first, second = await run(rig.a), await claim(rig.b)
    record = await rig.admin.record(job_id)
    assert await rig.b.bind(second, decoded(second)) == "conflict"
    assert second.job_id is None
    assert await rig.b.settle(second, Failed("conflict", "in flight with another payload"))
    assert await rig.admin.record(job_id) == record
    (letter,) = await rig.letters()
    assert (letter.code, letter.job_id, letter.payload) == ("conflict", None, other)
    assert await rig.a.settle(first, ANSWER)


@pytest.mark.parametrize("end", [ANSWER, Failed("refused", "no")])
async def test_a_binding_ends_when_its_job_does(rig: Rig, end: Succeeded | Failed) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), end)
    await rig.admin.put([rig.job("1", temperature=0)])
    assert await rig.state(job_id) == "waiting"
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.state(job_id) == "succeeded"


async def test_a_lease_taken_by_another_cannot_bind(short: Rig) -> None:
    await short.put("1")
    old = await claim(short.a)
    async with short.beating(short.b):
        await run(short.b)
        assert await short.a.bind(old, decoded(old)) == "stale"
        assert old.job_id is None


# Settling


async def test_an_answer_is_recorded_and_ends_the_job(rig: Rig) -> None:
    job_id, payload = rig.job("1", metadata={"team": "a"})
    await rig.admin.put([(job_id, payload)])
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.admin.result(job_id) == b"4"
    record = await rig.admin.record(job_id)
    expected = {
        "state": "succeeded",
        "attempts": "1",
        "crashes": "0",
        "metadata": '{"team":"a"}',
        "model": "llama",
        "finish_reason": "stop",
        "prompt_tokens": "3",
        "completion_tokens": "1",
        "total_tokens": "4",
    }
    assert {name: record.get(name) for name in expected} == expected
    times = [int(record[f"{name}_ms"]) for name in ("submitted", "first_claimed", "claimed", "finished")]
    assert times == sorted(times)
    assert record["worker"]
    assert "error_code" not in record
    depth = await rig.admin.depth()
    assert (depth.waiting, depth.running, depth.delayed, depth.dead) == (0, 0, 0, 0)


async def test_what_an_endpoint_did_not_say_is_not_in_the_record(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), Succeeded(Output("")))
    assert await rig.admin.result(job_id) == b""
    said = {"model", "finish_reason", "prompt_tokens", "completion_tokens", "total_tokens", "metadata"}
    assert not said & set(await rig.admin.record(job_id))


async def test_a_job_settles_once(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    assert await rig.a.settle(lease, ANSWER)
    assert not await rig.a.settle(lease, Succeeded(Output("5")))
    assert not await rig.a.settle(lease, Failed("late", ""))
    assert not await rig.a.settle(lease, Released("late"))
    assert await rig.admin.result(job_id) == b"4"
    assert await rig.letters() == []


async def test_a_failure_is_a_dead_letter_and_a_record_and_never_a_result(rig: Rig) -> None:
    job_id, payload = rig.job("1", metadata={"team": "a"})
    await rig.admin.put([(job_id, payload)])
    lease = await run(rig.a)
    assert await rig.a.settle(lease, Failed("refused", 'content | filter\n"é"'))
    assert await rig.admin.result(job_id) is None
    record = await rig.admin.record(job_id)
    expected = {
        "state": "failed",
        "attempts": "1",
        "error_code": "refused",
        "error_message": 'content | filter\n"é"',
        "metadata": '{"team":"a"}',
    }
    assert {name: record.get(name) for name in expected} == expected
    assert int(record["finished_ms"]) >= int(record["claimed_ms"])
    (letter,) = await rig.letters()
    assert (letter.id, letter.job_id, letter.code, letter.message) == (
        lease.id,
        job_id,
        "refused",
        'content | filter\n"é"',
    )
    assert (letter.tries, letter.crashes, letter.payload) == (0, 0, payload)
    assert abs(letter.died_at - time.time()) < PATIENCE
    assert (await rig.admin.depth()).dead == 1


async def test_a_payload_without_a_usable_id_is_a_dead_letter_without_a_record(rig: Rig) -> None:
    raw = b"\xff\x00 | \n not JSON"
    await rig.admin.put([("x", raw)])
    assert await rig.a.settle(await claim(rig.a), Failed("not_json", "not JSON"))
    (letter,) = await rig.letters()
    assert (letter.job_id, letter.code, letter.payload) == (None, "not_json", raw)


async def test_a_bad_payload_with_a_usable_id_has_a_record_of_its_failure(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await claim(rig.a)
    lease.job_id = job_id
    assert await rig.a.settle(lease, Failed("bad_field", "deadline: unreadable"))
    record = await rig.admin.record(job_id)
    assert (record["state"], record["error_code"]) == ("failed", "bad_field")
    (letter,) = await rig.letters()
    assert (letter.job_id, letter.code) == (job_id, "bad_field")


async def test_the_record_of_a_bad_payload_says_nothing_of_an_earlier_job(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), ANSWER)
    await rig.admin.put([(rig.job("other")[0], b"bad")])  # as if pushed by hand, with no record of its own
    lease = await claim(rig.a)
    lease.job_id = job_id
    assert await rig.a.settle(lease, Failed("bad_field", ""))
    record = await rig.admin.record(job_id)
    assert record["state"] == "failed"
    assert not {"model", "total_tokens", "claimed_ms", "worker"} & set(record)


async def test_a_bad_payload_leaves_the_record_of_a_live_job_alone(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    first = await run(rig.a)
    await rig.admin.put([(job_id, b"bad")])
    record = await rig.admin.record(job_id)
    assert record["state"] == "running"
    second = await claim(rig.b)
    second.job_id = job_id
    assert await rig.b.settle(second, Failed("bad_field", ""))
    assert await rig.admin.record(job_id) == record
    assert [letter.code for letter in await rig.letters()] == ["conflict"]
    assert await rig.a.settle(first, ANSWER)


async def test_a_finished_answer_wins_over_the_dead_letter_of_the_same_lease(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    assert await rig.a.settle(lease, Failed("timeout", ""))
    assert await rig.a.settle(lease, ANSWER)
    assert await rig.admin.result(job_id) == b"4"
    record = await rig.admin.record(job_id)
    assert record["state"] == "succeeded"
    assert not {"error_code", "error_message"} & set(record)
    assert await rig.letters() == []


async def test_without_a_time_to_live_neither_result_nor_record_is_written(
    open_rig: Callable[..., Awaitable[Rig]],
) -> None:
    rig = await open_rig(result_ttl=0)
    (job_id, other) = await rig.put("1", "2")
    lease = await run(rig.a)
    assert await rig.admin.record(job_id) == {}
    assert await rig.a.settle(lease, ANSWER)
    assert await rig.a.settle(await run(rig.a), Failed("refused", ""))
    for asked in (job_id, other):
        assert await rig.admin.record(asked) == {}
        assert await rig.admin.result(asked) is None
    assert len(await rig.letters()) == 1


async def test_results_and_final_records_end_with_their_time_to_live(
    open_rig: Callable[..., Awaitable[Rig]],
) -> None:
    rig = await open_rig(result_ttl=1)
    (job_id, other) = await rig.put("1", "2")
    assert await rig.a.settle(await run(rig.a), ANSWER)

    async def over() -> bool:
        return await rig.admin.result(job_id) is None and not await rig.admin.record(job_id)

    assert not await over()
    await until(over)
    assert await rig.state(other) == "waiting"


# Going back


async def test_a_released_job_goes_to_the_head_uncounted(rig: Rig) -> None:
    await rig.put("1", "2")
    first = await run(rig.a)
    assert await rig.a.settle(first, Released("drain"))
    again = await run(rig.b)
    assert (again.id, again.tries, again.crashes, again.attempts) == (first.id, 0, 0, 1)
    assert again.token != first.token
    assert again.first_claimed_at == first.first_claimed_at
    assert again.claimed_at >= first.claimed_at


async def test_released_jobs_keep_their_old_order_before_fresh_ones(rig: Rig) -> None:
    await rig.put(*(str(number) for number in range(8)))
    leases = [await run(rig.a) for _ in range(6)]
    random.Random(3).shuffle(leases)
    for lease in leases:
        assert await rig.a.settle(lease, Released("drain"))
    assert [name_of(await claim(rig.b)) for _ in range(8)] == [str(number) for number in range(8)]


async def test_a_release_wakes_a_lane_of_another_worker(rig: Rig) -> None:
    await rig.put("1")
    lease = await run(rig.a)
    async with lanes(rig.b) as (lane,):
        await gets_nothing(lane)
        assert await rig.a.settle(lease, Released("drain"))
        async with asyncio.timeout(PATIENCE):
            assert (await lane).id == lease.id


async def test_a_delayed_job_comes_back_when_it_is_due_and_others_pass(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "2")
    lease = await run(rig.a)
    before = time.time()
    assert await rig.a.settle(lease, Released("overload", delay=0.4, counted=True))
    record = await rig.admin.record(job_id)
    assert (record["state"], record["error_code"]) == ("delayed", "overload")
    due = int(record["due_ms"]) / 1000
    assert before + 0.35 < due < time.time() + 0.45
    assert (await rig.admin.depth()).delayed == 1
    assert name_of(await claim(rig.a)) == "2"
    again = await claim(rig.b)
    assert again.claimed_at >= due - 0.002
    assert (again.id, again.tries, again.crashes) == (lease.id, 1, 0)
    assert again.first_claimed_at == lease.first_claimed_at
    assert (await rig.admin.depth()).delayed == 0


async def test_delayed_jobs_come_back_in_the_order_in_which_they_are_due(rig: Rig) -> None:
    await rig.put("1", "2")
    first, second = await run(rig.a), await run(rig.a)
    async with lanes(rig.b, 2) as waiting:
        await gets_nothing(*waiting)
        assert await rig.a.settle(first, Released("overload", delay=0.5))
        assert await rig.a.settle(second, Released("overload", delay=0.1))
        async with asyncio.timeout(PATIENCE):
            leases = await asyncio.gather(*waiting)
    assert [name_of(lease) for lease in sorted(leases, key=lambda lease: lease.claimed_at)] == ["2", "1"]


async def test_tries_are_counted_and_shown_as_attempts(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    for tries in range(3):
        lease = await run(rig.a)
        record = await rig.admin.record(job_id)
        assert (lease.tries, lease.attempts, record["attempts"]) == (tries, tries + 1, str(tries + 1))
        assert await rig.a.settle(lease, Released("server_error", counted=True))
    lease = await run(rig.a)
    assert await rig.a.settle(lease, Failed("server_error", ""))
    assert (await rig.admin.record(job_id))["attempts"] == "4"
    (letter,) = await rig.letters()
    assert (letter.tries, letter.crashes) == (3, 0)


async def test_a_record_tells_of_the_present_run_only(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    submitted = (await rig.admin.record(job_id))["submitted_ms"]
    assert await rig.a.settle(await run(rig.a), Released("server_error", counted=True))
    lease = await run(rig.a)
    record = await rig.admin.record(job_id)
    assert not {"due_ms", "error_code"} & set(record)
    assert await rig.a.settle(lease, ANSWER)
    record = await rig.admin.record(job_id)
    assert not {"due_ms", "error_code"} & set(record)
    assert record["submitted_ms"] == submitted


async def test_an_answer_after_a_release_withdraws_the_redelivery(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    assert await rig.a.settle(lease, Released("drain"))
    assert await rig.a.settle(lease, ANSWER)
    assert await rig.state(job_id) == "succeeded"
    assert (await rig.admin.depth()).waiting == 0


async def test_a_release_counts_once(rig: Rig) -> None:
    await rig.put("1")
    lease = await run(rig.a)
    assert await rig.a.settle(lease, Released("server_error", counted=True))
    assert not await rig.a.settle(lease, Released("server_error", counted=True))
    assert (await claim(rig.a)).tries == 1


# Heartbeats and death


async def test_a_heartbeat_keeps_all_leases(short: Rig) -> None:
    await short.put("1", "2", "3")
    leases = [await run(short.a) for _ in range(3)]
    async with short.beating(short.a, short.b), lanes(short.b) as (lane,):
        await asyncio.wait({lane}, timeout=2 * 5 * short.heartbeat)
        assert not lane.done()
        assert [lease.lost for lease in leases] == [None, None, None]
        for lease in leases:
            assert await short.a.settle(lease, ANSWER)


async def test_the_jobs_of_a_dead_worker_go_to_the_head_and_count_as_crashes(short: Rig) -> None:
    job_ids = await short.put("1", "2", "3")
    dead = [await run(short.a) for _ in range(2)]
    async with short.beating(short.b):
        assert name_of(await claim(short.b)) == "3"
        again = [await run(short.b) for _ in range(2)]
        assert [lease.id for lease in again] == [lease.id for lease in dead]
        assert {(lease.tries, lease.crashes, lease.attempts) for lease in again} == {(0, 1, 1)}
        assert [lease.first_claimed_at for lease in again] == [lease.first_claimed_at for lease in dead]
        assert (await short.admin.record(job_ids[0]))["crashes"] == "1"


async def test_a_live_worker_does_not_shelter_the_leases_of_a_dead_one(short: Rig) -> None:
    await short.put("1", "2")
    live = await run(short.a)
    await run(await short.opener())
    async with short.beating(short.a, short.b):
        assert name_of(await claim(short.b)) == "2"
        assert live.lost is None


async def test_a_zombie_cannot_answer_what_failed_with_another(short: Rig) -> None:
    (job_id,) = await short.put("1")
    old = await run(short.a)
    async with short.beating(short.b):
        assert await short.b.settle(await run(short.b), Failed("refused", ""))
    assert not await short.a.settle(old, ANSWER)
    assert await short.state(job_id) == "failed"
    assert len(await short.letters()) == 1


async def test_the_outcome_of_a_zombie_is_refused(short: Rig) -> None:
    (job_id,) = await short.put("1")
    old = await run(short.a)
    async with short.beating(short.b):
        new = await run(short.b)
        assert not await short.a.settle(old, Released("drain", counted=True))
        assert not await short.a.settle(old, Failed("timeout", ""))
        assert await short.b.settle(new, ANSWER)
    assert not await short.a.settle(old, Succeeded(Output("5")))
    assert await short.admin.result(job_id) == b"4"
    assert await short.letters() == []


async def test_a_worker_is_told_of_each_lease_that_another_took(short: Rig) -> None:
    await short.put("1", "2")
    old, told = [await run(short.a) for _ in range(2)], []
    for lease in old:
        lease.on_lost = lambda lease=lease: told.append((name_of(lease), lease.lost))
    async with short.beating(short.b):
        for _ in range(2):
            await run(short.b)
    await short.a.beat()
    await short.a.beat()
    assert sorted(told) == [("1", "taken"), ("2", "taken")]


async def test_a_finished_answer_wins_as_long_as_nobody_took_the_job(short: Rig) -> None:
    (job_id,) = await short.put("1")
    lease = await run(short.a)

    async def reaped() -> bool:
        return (await short.admin.depth()).running == 0

    async with short.beating(short.b):
        await until(reaped)
        assert not await short.a.settle(lease, Released("drain"))
        assert await short.a.settle(lease, ANSWER)
        assert await short.admin.result(job_id) == b"4"
        assert (await short.admin.depth()).waiting == 0


async def test_a_worker_runs_one_suspect_at_a_time_and_others_beside_it(short: Rig) -> None:
    await short.put("1", "2", "3")
    await short.crash(2, jobs=3)
    await short.put("4")
    for lease in [await claim(short.b), await claim(short.b)]:
        assert await short.b.settle(lease, Released("drain"))
    worker = await short.opener()
    async with short.beating(worker, short.b):
        first, second = await claim(worker), await claim(worker)
        assert [(name_of(lease), lease.crashes) for lease in (first, second)] == [("1", 2), ("4", 0)]
        async with lanes(worker) as (lane,):
            await gets_nothing(lane)
            assert name_of(await claim(short.b)) == "2"
            assert await worker.settle(first, Failed("crashed", ""))
            async with asyncio.timeout(PATIENCE):
                assert name_of(await lane) == "3"


async def test_a_job_that_kills_is_handed_out_to_be_buried_by_a_worker(
    open_rig: Callable[..., Awaitable[Rig]],
) -> None:
    rig = await open_rig(short=True, max_crashes=1)
    (job_id,) = await rig.put("1")
    await rig.crash(2, jobs=1)
    assert await rig.letters() == []
    async with rig.beating(rig.b):
        lease = await claim(rig.b)
        assert lease.crashes == 2
        lease.job_id = job_id
        assert await rig.b.settle(lease, Failed("crashed", "its lease expired 2 times"))
    (letter,) = await rig.letters()
    assert (letter.code, letter.job_id, letter.crashes) == ("crashed", job_id, 2)
    assert await rig.state(job_id) == "failed"


async def test_a_job_that_kills_even_its_undertakers_is_buried_by_the_queue(
    open_rig: Callable[..., Awaitable[Rig]],
) -> None:
    rig = await open_rig(short=True, max_crashes=1)
    _, payload = rig.job("1")
    await rig.put("1")
    await rig.crash(3, jobs=1)
    (letter,) = await rig.letters()
    assert (letter.code, letter.crashes, letter.payload) == ("crashed", 3, payload)
    depth = await rig.admin.depth()
    assert (depth.waiting, depth.running, depth.delayed, depth.dead) == (0, 0, 0, 1)


async def test_live_workers_are_listed(rig: Rig) -> None:
    await rig.a.beat()
    await rig.b.beat()
    workers = await rig.admin.workers()
    assert len({worker.name for worker in workers}) == 2
    assert all(0 <= worker.beat_seconds < PATIENCE for worker in workers)
    await rig.a.aclose()
    assert len(await rig.admin.workers()) == 1


async def test_dead_workers_are_not_listed_for_long(short: Rig) -> None:
    await short.a.beat()

    async def alone() -> bool:
        await short.b.beat()
        return len(await short.admin.workers()) == 1

    assert not await alone()
    await until(alone)


# Cancelling


async def test_a_waiting_job_is_cancelled_when_it_comes_up(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "2")
    assert await rig.admin.cancel(job_id) == "will_be_cancelled"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    record = await rig.admin.record(job_id)
    assert record["state"] == "cancelled"
    assert int(record["finished_ms"]) >= int(lease.claimed_at * 1000)
    assert not await rig.a.settle(lease, ANSWER)
    assert (await rig.admin.depth()).running == 0
    assert name_of(await run(rig.a)) == "2"


async def test_a_cancellation_is_used_up(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "1")
    assert await rig.admin.cancel(job_id) == "will_be_cancelled"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    await run(rig.a)


async def test_a_job_can_be_cancelled_before_it_is_put(rig: Rig) -> None:
    job_id, payload = rig.job("1")
    assert await rig.admin.cancel(job_id) == "will_be_cancelled"
    await rig.admin.put([(job_id, payload)])
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"


@pytest.mark.parametrize("delay", [0.0, 60.0])
async def test_a_job_that_went_back_is_cancelled_at_once(rig: Rig, delay: float) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), Released("overload", delay=delay))
    assert await rig.admin.cancel(job_id) == "cancelled"
    assert await rig.state(job_id) == "cancelled"
    depth = await rig.admin.depth()
    assert (depth.waiting, depth.running, depth.delayed, depth.dead) == (0, 0, 0, 0)


async def test_a_running_job_is_cancelled_at_once_and_its_worker_told(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease, told = await run(rig.a), asyncio.Event()
    lease.on_lost = told.set
    assert await rig.admin.cancel(job_id) == "cancelled"
    assert await rig.state(job_id) == "cancelled"
    assert (await rig.admin.depth()).running == 0
    async with rig.beating(rig.a), asyncio.timeout(PATIENCE):
        await told.wait()
    assert lease.lost == "gone"
    assert not await rig.a.settle(lease, ANSWER)
    assert await rig.admin.result(job_id) is None
    assert await rig.state(job_id) == "cancelled"


@pytest.mark.parametrize("end", [ANSWER, Failed("refused", "")])
async def test_a_finished_job_cannot_be_cancelled(rig: Rig, end: Succeeded | Failed) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), end)
    record = await rig.admin.record(job_id)
    assert await rig.admin.cancel(job_id) == "finished"
    assert await rig.admin.record(job_id) == record


async def test_a_cancelled_job_cannot_be_cancelled_again_but_put_again(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    await run(rig.a)
    assert await rig.admin.cancel(job_id) == "cancelled"
    assert await rig.admin.cancel(job_id) == "finished"
    await rig.put("1")
    await run(rig.a)


# Dead letters


async def test_a_replayed_job_starts_anew_at_the_head(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "2")
    for _ in range(2):
        assert await rig.a.settle(await run(rig.a), Released("server_error", counted=True))
    assert await rig.a.settle(await run(rig.a), Failed("server_error", "a|b\nc"))
    (letter,) = await rig.letters()
    assert letter.tries == 2
    async with lanes(rig.b, 2) as waiting:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert await rig.admin.replay(letter.id)
        async with asyncio.timeout(PATIENCE):
            leases = {name_of(lease): lease for lease in await asyncio.gather(*waiting)}
    assert (leases["1"].tries, leases["1"].crashes, leases["1"].payload) == (0, 0, letter.payload)
    assert await rig.b.bind(leases["1"], decoded(leases["1"])) == "run"
    assert await rig.letters() == []
    assert await rig.b.settle(leases["1"], ANSWER)
    assert await rig.state(job_id) == "succeeded"


async def test_a_replayed_job_comes_before_fresh_ones_with_its_bytes_untouched(rig: Rig) -> None:
    raw = b"\xff|\n\x00|"
    await rig.admin.put([("raw", raw), rig.job("2")])
    assert await rig.a.settle(await claim(rig.a), Failed("not_json", "|"))
    (letter,) = await rig.letters()
    assert await rig.admin.replay(letter.id)
    assert (await claim(rig.a)).payload == raw


async def test_only_a_dead_letter_can_be_replayed_and_once(rig: Rig) -> None:
    await rig.put("1")
    assert not await rig.admin.replay("17")
    assert await rig.a.settle(await run(rig.a), Failed("refused", ""))
    (letter,) = await rig.letters()
    assert await rig.admin.replay(letter.id)
    assert not await rig.admin.replay(letter.id)
    assert (await rig.admin.depth()).waiting == 1


async def test_dead_letters_are_purged_by_age(rig: Rig) -> None:
    names = [str(number) for number in range(5)]
    await rig.put(*names)
    for _ in names:
        assert await rig.a.settle(await run(rig.a), Failed("refused", ""))
    assert await rig.admin.purge(older_than=3600) == 0
    assert len(await rig.letters()) == 5
    purged = []

    async def all_purged() -> bool:
        purged.append(await rig.admin.purge(older_than=0))
        return sum(purged) == len(names)

    await until(all_purged)
    assert await rig.letters() == []


# Pause and depth


async def test_a_paused_queue_hands_out_nothing_and_lets_what_runs_go_on(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    await rig.admin.pause()
    assert (await rig.admin.depth()).paused
    async with lanes(rig.a) as ours, lanes(rig.b) as theirs:
        await rig.put("2", "3")
        await gets_nothing(*ours, *theirs)
        await rig.a.beat()
        assert lease.lost is None
        assert await rig.a.settle(lease, ANSWER)
        assert await rig.state(job_id) == "succeeded"
        await rig.admin.resume()
        async with asyncio.timeout(PATIENCE):
            assert {name_of(await lane) for lane in (*ours, *theirs)} == {"2", "3"}
    assert not (await rig.admin.depth()).paused


async def test_the_depth_counts_every_job_in_one_place(rig: Rig) -> None:
    empty = await rig.admin.depth()
    assert (empty.waiting, empty.running, empty.delayed, empty.dead) == (0, 0, 0, 0)
    assert (empty.oldest_seconds, empty.paused) == (None, False)
    await rig.put("run", "later", "fail", "back", "wait", "wait too")
    leases = [await run(rig.a) for _ in range(4)]
    assert await rig.a.settle(leases[1], Released("overload", delay=60))
    assert await rig.a.settle(leases[2], Failed("refused", ""))
    assert await rig.a.settle(leases[3], Released("drain"))
    depth = await rig.admin.depth()
    assert (depth.waiting, depth.running, depth.delayed, depth.dead) == (3, 1, 1, 1)
    assert depth.oldest_seconds is not None
    assert 0 <= depth.oldest_seconds < PATIENCE
