"""What a stream promises beside what every queue does: its length, its consumers, and how others may use it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import Failed, Output, Released, Succeeded, decode
from greenscale_worker.queues import Depth, Lease, Queue, QueueClient, QueueOptions, RedisOptions
from greenscale_worker.queues.registry import open_client, open_queue
from harness.eventually import eventually
from harness.redis_server import RedisServer
from tests.support.jobs import GROUP, NOBODY, StreamJobs
from tests.support.scene import play

ANSWER: Final = Succeeded(Output("4"))
PATIENCE: Final = 8.0
PAGE: Final = 64  # of strays, in one heartbeat
LONG_AGO: Final = 1


@dataclass
class Stream:
    """A stream, whoever administers it, and as many workers as are opened; time passes only where a test says so."""

    jobs: StreamJobs
    admin: QueueClient
    open: Callable[..., Awaitable[Queue]]

    async def books(self, waiting: int, running: int, delayed: int = 0) -> None:
        """The length is what has not ended, and a consumer has pending what its worker holds."""
        depth = await self.admin.depth()
        assert (depth.waiting, depth.running, depth.delayed) == (waiting, running, delayed)
        assert self.jobs.left() == waiting + running + delayed
        assert self.jobs.pending() == self.jobs.held()

    async def put(self, *names: str) -> list[str]:
        await self.admin.put([(name, self.payload(name)) for name in names])
        return list(names)

    def payload(self, job_id: str, prompt: str = "?") -> bytes:
        return orjson.dumps({"job_id": job_id, "prompt": prompt})

    def raw(self, command: str, *words: object) -> Any:
        return self.jobs.client.execute_command(command, self.jobs.name, *words)

    def expire(self, *leases: Lease) -> None:
        """Let leases run out, as if their workers had died."""
        self.jobs.client.zadd(self.jobs.keys.of("lease"), {lease.id: LONG_AGO for lease in leases})

    def silence(self, worker: str) -> None:
        """Let a worker have been silent for long."""
        self.jobs.client.zadd(self.jobs.keys.of("workers"), {worker: LONG_AGO})

    def idle_for_a_lease(self, ids: list[bytes]) -> None:
        """Let a classic consumer have read these long ago."""
        self.jobs.client.xclaim(self.jobs.name, GROUP, "classic", 0, ids, idle=16_000, justid=True)

    def nothing_is_left(self) -> None:
        assert (self.jobs.left(), self.jobs.pending()) == (0, {})
        for part in ("meta", "lease", "ready", "suspect", "delayed", "bound"):
            assert self.jobs.size(part) == 0, part


@pytest.fixture
async def stream(redis_server: RedisServer, redis_url: str) -> AsyncIterator[Stream]:
    where, options = RedisOptions(url=redis_url), QueueOptions()
    async with AsyncExitStack() as stack:
        client = stack.enter_context(redis_server.client())
        admin = await open_client("stream", where, options)
        stack.push_async_callback(admin.aclose)

        async def opener(**changes: Any) -> Queue:
            queue = await open_queue("stream", where, QueueOptions(**changes))
            stack.push_async_callback(queue.aclose)
            return queue

        yield Stream(StreamJobs(client), admin, opener)


async def claim(queue: Queue) -> Lease:
    return await asyncio.wait_for(queue.lease(), PATIENCE)


async def run(queue: Queue) -> Lease:
    """Claim a job and bind it, as a worker does."""
    lease = await claim(queue)
    job = decode(lease.payload, max_bytes=1_000_000, default_job_id=lease.default_job_id)
    assert await queue.bind(lease, job) == "run"
    return lease


async def bind(queue: Queue, lease: Lease) -> str:
    return await queue.bind(lease, decode(lease.payload, max_bytes=1_000_000))


# The length and the consumers


async def test_the_length_is_what_has_not_ended_at_every_step(stream: Stream) -> None:
    a, b = await stream.open(), await stream.open()
    await stream.put("1", "2", "3", "4", "5", "5", "5", "6")
    stream.jobs.add(stream.payload("7"), b"not JSON")
    await stream.books(10, 0)
    one, two, three, four, five = [await run(a) for _ in range(5)]
    same = await claim(b)
    await stream.books(4, 6)
    assert await bind(b, same) == "duplicate"
    await stream.books(4, 5)
    assert await a.settle(one, ANSWER)
    await stream.books(4, 4)
    assert await a.settle(two, Released("overload", delay=60))
    await stream.books(4, 3, 1)
    assert await a.settle(three, Released("drain"))
    await stream.books(5, 2, 1)
    assert await stream.admin.cancel("2") == "cancelled"
    await stream.books(5, 2)
    stream.expire(four)
    await b.beat()
    await stream.books(6, 1)
    assert await stream.admin.cancel("5") == "cancelled"
    await stream.books(6, 0)
    assert await stream.admin.cancel("6") == "will_be_cancelled"
    leases = [await claim(b) for _ in range(6)]
    await stream.books(0, 6)
    again, after, twin, unwanted, seven, unread = leases
    assert await bind(b, unwanted) == "cancelled"
    await stream.books(0, 5)
    assert await b.settle(unread, Failed("not_json", ""))
    await stream.books(0, 4)
    (letter,) = [letter async for letter in stream.admin.dead()]
    assert await stream.admin.replay(letter.id)
    await stream.books(1, 4)
    for lease in (again, after, twin, seven, await claim(a)):
        assert await (a if lease.payload == b"not JSON" else b).settle(lease, ANSWER)
    await stream.books(0, 0)
    assert five.payload == twin.payload
    stream.nothing_is_left()


async def test_nothing_is_ever_trimmed(stream: Stream) -> None:
    worker = await stream.open()
    with stream.jobs.client.pipeline() as pipe:
        for number in range(3000):
            pipe.xadd(stream.jobs.name, {"prompt": str(number)})
        pipe.execute()
    for _ in range(3):
        assert await worker.settle(await run(worker), ANSWER)
    await stream.put("last")
    await stream.books(2998, 0)


async def test_a_consumer_is_removed_with_the_goodbye_but_not_with_something_pending(stream: Stream) -> None:
    a, b, c = await stream.open(), await stream.open(), await stream.open()
    await stream.put("1", "2", "3")
    held, ended = await run(a), await run(b)
    assert await b.settle(ended, ANSWER)
    assert len(stream.jobs.consumers() - {NOBODY}) == 2
    await b.aclose()
    await a.aclose()
    (left,) = stream.jobs.consumers() - {NOBODY}
    assert stream.jobs.pending() == {left: {held.id.encode()}}
    stream.expire(held)
    await c.beat()
    stream.silence(left)
    await c.beat()
    assert stream.jobs.consumers() <= {NOBODY}
    await stream.books(2, 0)
    assert [(await run(c)).job_id for _ in range(2)] == ["1", "3"]


async def test_the_consumer_of_a_dead_worker_is_removed_once_its_jobs_were_taken_over(stream: Stream) -> None:
    dead, alive = await stream.open(), await stream.open()
    await stream.put("1")
    lease = await run(dead)
    (name,) = stream.jobs.consumers() - {NOBODY}
    stream.silence(name)
    await alive.beat()
    await stream.books(0, 1)
    assert name in stream.jobs.consumers()
    stream.expire(lease)
    await alive.beat()
    await stream.books(1, 0)
    assert name not in stream.jobs.consumers()
    assert len(await stream.admin.workers()) == 1
    again = await run(alive)
    assert (again.id, again.crashes) == (lease.id, 1)


# The group


async def test_what_was_added_before_the_first_worker_is_served(stream: Stream) -> None:
    stream.jobs.add(stream.payload("1"))
    await stream.put("2")
    worker = await stream.open()
    assert [(await run(worker)).job_id for _ in range(2)] == ["1", "2"]
    await stream.books(0, 2)


async def test_a_destroyed_group_is_made_anew_and_nothing_is_run_twice(stream: Stream) -> None:
    a, b = await stream.open(), await stream.open()
    await stream.put("held", "delayed", "back", "fresh")
    held, delayed, back = [await run(a) for _ in range(3)]
    assert await a.settle(delayed, Released("overload", delay=60))
    assert await a.settle(back, Released("drain"))
    await stream.books(2, 1, 1)
    assert stream.raw("XGROUP DESTROY", GROUP) == 1
    await stream.put("later")
    assert [(await run(b)).job_id for _ in range(3)] == ["back", "fresh", "later"]
    await stream.books(0, 4, 1)
    assert await a.settle(held, ANSWER)
    await stream.books(0, 3, 1)


async def test_a_deleted_stream_begins_anew(redis_server: RedisServer, tmp_path: Path) -> None:
    """Somebody deletes the stream below a worker that has one job and waits for more."""
    async with play(tmp_path, redis_server, kind="stream", GREENSCALE_CONCURRENCY=2) as scene:
        scene.jobs.client.flushdb()
        worker = scene.start()
        scene.endpoint.hold()
        (gone,) = scene.jobs.push("gone")
        await scene.in_flight(1)
        scene.jobs.client.delete(scene.jobs.name)
        (job_id,) = scene.jobs.push("new")
        await scene.in_flight(2)
        scene.endpoint.let_go()
        await scene.all_ended()
        scene.jobs.check()
        assert scene.endpoint.arrived == [gone, job_id]
        await worker.stop()
        scene.jobs.nothing_left_behind()


async def test_two_groups_run_each_job_once(stream: Stream) -> None:
    """As during the rollout of another name for the group."""
    old, new = await stream.open(), await stream.open(group="another")
    await stream.put("1", "2", "3", "4")
    leases = [(queue, await run(queue)) for queue in (old, new, new, old)]
    assert [lease.job_id for _, lease in leases] == ["1", "2", "3", "4"]
    for queue, lease in leases:
        assert await queue.settle(lease, ANSWER)
    assert (await stream.admin.depth()) == Depth(0, 0, 0, 0, None, paused=False)
    assert stream.jobs.left() == 0


# How producers may write


async def test_an_entry_of_plain_fields_is_the_payload_and_its_id_the_jobs(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with play(tmp_path, redis_server, kind="stream") as scene:
        jobs = scene.jobs
        jobs.client.flushdb()
        worker = scene.start()
        prompts = ["What is 2+2?", 'say "no"\n\\ é \x1f', "named"]
        plain = jobs.client.xadd(jobs.name, {"prompt": prompts[0], "user": "u-1"})
        odd = jobs.client.xadd(jobs.name, {"prompt": prompts[1]})
        jobs.client.xadd(jobs.name, {"prompt": prompts[2], "job_id": "of-the-fields"})
        ids = [plain.decode(), odd.decode(), "of-the-fields"]
        await eventually(lambda: all(jobs.result(job_id) for job_id in ids))
        assert [jobs.result(job_id) for job_id in ids] == [f"{prompt} #1" for prompt in prompts]
        assert {jobs.record(job_id)["state"] for job_id in ids} == {"succeeded"}
        assert jobs.left() == 0
        await worker.stop()


@pytest.mark.parametrize(
    ("fields", "payload", "job_id"),
    [
        ({"job": '{"prompt":"?"}', "job_id": "own"}, b'{"prompt":"?"}', "own"),
        ({"job": '{"job_id":"inner"}', "job_id": "own"}, b'{"job_id":"inner"}', "inner"),
        ({"job": '{"job_id":null}', "job_id": "own"}, b'{"job_id":null}', "own"),
        ({"job": "{}"}, b"{}", None),
        ({"job": "x", "prompt": "?"}, b'{"job":"x","prompt":"?"}', None),
        ({"job_id": "own", "job": "{}"}, b"{}", "own"),
        ({"prompt": "?"}, b'{"prompt":"?"}', None),
        ({'a"\n': 'b"\\'}, b'{"a\\"\\n":"b\\"\\\\"}', None),
    ],
    ids=["own-id", "id-within", "null-within", "no-id", "job-and-more", "another-order", "plain", "escaped"],
)
async def test_what_an_entry_says(stream: Stream, fields: dict[str, str], payload: bytes, job_id: str | None) -> None:
    worker = await stream.open()
    entry = stream.jobs.client.xadd(stream.jobs.name, fields).decode()
    for _ in range(2):  # the second time from what is pending
        lease = await run(worker)
        assert (lease.id, lease.payload, lease.job_id) == (entry, payload, job_id or entry)
        assert await worker.settle(lease, Released("drain"))


@pytest.mark.parametrize(
    "fields",
    [
        {"job": '{"prompt":"?"}', "job_id": "a/b"},
        {"job": '{"prompt":"?"}', "job_id": ""},
        {"job": '{"prompt":"?","job_id":7}'},
        {"job": '{"prompt":"?","job_id":""}', "job_id": "own"},
        {"prompt": "?", "job_id": "a/b"},
    ],
    ids=["field", "empty-field", "number-within", "empty-within", "plain"],
)
async def test_a_bad_job_id_is_refused_and_no_other_put_in_its_place(stream: Stream, fields: dict[str, str]) -> None:
    worker = await stream.open()
    stream.jobs.client.xadd(stream.jobs.name, fields)
    lease = await claim(worker)
    with pytest.raises(BadInputError, match="job_id"):
        decode(lease.payload, max_bytes=1000, default_job_id=lease.default_job_id)


async def test_entries_of_one_millisecond_go_back_in_their_order(stream: Stream) -> None:
    """The numbers after the dash are compared as numbers."""
    worker = await stream.open()
    ids = [f"5-{number}" for number in (8, 9, 10, 11, 100)]
    for id_ in ids:
        stream.jobs.client.xadd(stream.jobs.name, {"prompt": "?"}, id=id_)
    leases = [await run(worker) for _ in ids]
    for lease in reversed(leases):
        assert await worker.settle(lease, Released("drain"))
    await stream.put("fresh")
    assert [(await run(worker)).job_id for _ in range(6)] == [*ids, "fresh"]


# What others do with the stream


@pytest.mark.parametrize("number", [2, PAGE + 6])
async def test_what_a_classic_consumer_let_lie_is_adopted_after_a_lease(stream: Stream, number: int) -> None:
    worker = await stream.open()
    await stream.put("held")
    held = await run(worker)
    names = await stream.put(*(f"{n:03}" for n in range(number)), "fresh", "dropped")
    taken = stream.jobs.client.xreadgroup(GROUP, "classic", {stream.jobs.name: ">"}, count=number)
    ids = [id_ for id_, _ in taken[0][1]]
    await worker.beat()
    assert stream.jobs.pending()["classic"] == set(ids), "it was adopted before its time"
    stream.idle_for_a_lease(ids)
    for _ in range(0, number, PAGE):
        await worker.beat()
    await stream.books(number + 2, 1)
    assert [(await run(worker)).job_id for _ in range(number + 1)] == names[:-1]
    assert await worker.settle(held, ANSWER)
    await stream.books(1, number + 1)


async def test_an_entry_that_a_classic_consumer_let_lie_and_somebody_deleted_is_forgotten(stream: Stream) -> None:
    worker = await stream.open()
    await stream.put("1", "2")
    await worker.settle(await run(worker), ANSWER)
    ((_, ((id_, _),)),) = stream.jobs.client.xreadgroup(GROUP, "classic", {stream.jobs.name: ">"}, count=1)
    stream.idle_for_a_lease([id_])
    stream.raw("XDEL", id_)
    await worker.beat()
    stream.nothing_is_left()


@pytest.mark.parametrize("how", ["XDEL", "XTRIM"])
async def test_entries_that_somebody_deletes_leave_nothing_behind(stream: Stream, how: str) -> None:
    """Whatever they were about to do: wait, run, wait for a retry, or for somebody to see that their worker died."""
    a, b = await stream.open(), await stream.open()
    await stream.put("running", "lost", "delayed", "back", "unclaimed")
    running, lost, delayed, back = [await run(a) for _ in range(4)]
    assert await a.settle(delayed, Released("overload", delay=60))
    assert await a.settle(back, Released("drain"))
    await stream.books(2, 2, 1)
    if how == "XDEL":
        stream.raw("XDEL", *(id_ for id_, _ in stream.jobs.client.xrange(stream.jobs.name)))
    else:
        stream.raw("XTRIM", "MAXLEN", 0)
    await stream.put("later")
    stream.jobs.client.zadd(stream.jobs.keys.of("delayed"), {delayed.id: LONG_AGO})
    stream.expire(lost)
    assert (await run(b)).job_id == "later"
    assert await a.settle(running, ANSWER)
    assert await stream.admin.result("running") == b"4"
    assert await stream.admin.cancel("later") == "cancelled"
    stream.nothing_is_left()


async def test_a_replayed_job_is_run_once(stream: Stream) -> None:
    """It comes to the head, as a new entry at the end of the stream, which the group has yet to come to."""
    a, b = await stream.open(), await stream.open()
    await stream.put("1", "2", "3")
    assert await a.settle(await run(a), Failed("refused", ""))
    (letter,) = [letter async for letter in stream.admin.dead()]
    assert await stream.admin.replay(letter.id)
    assert not await stream.admin.replay(letter.id)
    await stream.books(3, 0)
    again = await run(a)
    assert (again.job_id, again.tries, again.crashes) == ("1", 0, 0)
    await stream.put("4")
    others = [await run(b) for _ in range(3)]
    assert [lease.job_id for lease in others] == ["2", "3", "4"]
    await stream.books(0, 4)
    assert await a.settle(again, ANSWER)
    for lease in others:
        assert await b.settle(lease, ANSWER)
    stream.nothing_is_left()


async def test_a_job_is_replayed_into_a_stream_that_is_gone(stream: Stream) -> None:
    worker = await stream.open()
    await stream.put("1")
    assert await worker.settle(await run(worker), Failed("refused", ""))
    stream.raw("DEL")
    (letter,) = [letter async for letter in stream.admin.dead()]
    assert await stream.admin.replay(letter.id)
    await stream.books(1, 0)
    assert (await run(worker)).job_id == "1"
    await stream.books(0, 1)


# What readers are told


async def test_the_oldest_is_as_old_as_its_entry(stream: Stream) -> None:
    worker = await stream.open()

    async def is_as_old_as(seconds: int) -> None:
        since = time.time()
        age = (await stream.admin.depth()).oldest_seconds
        assert age is not None
        assert seconds <= age + 1 <= seconds + 2 + time.time() - since + since - began

    assert (await stream.admin.depth()).oldest_seconds is None
    began = time.time()
    for seconds in (300, 200, 100):
        stream.jobs.client.xadd(stream.jobs.name, {"prompt": "?"}, id=int((began - seconds) * 1000))
    await is_as_old_as(300)
    oldest = await run(worker)
    await is_as_old_as(200)
    middle = await run(worker)
    assert await worker.settle(middle, Released("overload", delay=60))
    await is_as_old_as(100)
    assert await worker.settle(oldest, Released("drain"))
    await is_as_old_as(300)


async def test_without_a_time_to_live_an_answer_is_only_acknowledged(redis_server: RedisServer, tmp_path: Path) -> None:
    async with play(tmp_path, redis_server, kind="stream", GREENSCALE_RESULT_TTL_SECONDS=0) as scene:
        scene.jobs.client.flushdb()
        jobs = scene.jobs.push(*range(3))
        worker = scene.start()
        await scene.all_ended()
        assert scene.jobs.left() == 0
        assert scene.endpoint.calls == dict.fromkeys(jobs, 1)
        assert not [key for key in scene.jobs.client.scan_iter() if key.startswith((b"result:", b"job:"))]
        await worker.stop()
        scene.jobs.nothing_left_behind()
