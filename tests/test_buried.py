"""A job that kills even the worker that only reads it is buried by the scripts; its record must say so, too."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from time import time

import pytest
from redis.asyncio import Redis

from greenscale_worker import Client, JobFailed, Queue
from greenscale_worker.job import decode
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.registry import open_client, open_queue
from harness.eventually import PATIENCE
from tests.support.jobs import KINDS

PAYLOAD = b'{"job_id":"poison","prompt":"?"}'


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("state", "expected"), [("running", "failed"), ("succeeded", "succeeded")])
async def test_a_job_buried_by_the_scripts_says_so_in_its_own_record(
    redis_url: str, kind: str, state: str, expected: str
) -> None:
    where, options, raw = RedisOptions(url=redis_url), QueueOptions(max_crashes=1), Redis.from_url(redis_url)
    dying, alive = [await open_queue(kind, where, options) for _ in range(2)]
    admin = await open_client(kind, where, options)
    try:
        await admin.put([("poison", PAYLOAD)])
        lease = await dying.lease()
        assert await dying.bind(lease, decode(PAYLOAD, max_bytes=100)) == "run"
        meta = (
            f"{lease.token}|worker|0|2|{int(1000 * lease.first_claimed_at)}|poison"  # in format 1: it has crashed twice
        )
        await raw.hset("{jobs}:meta", lease.id, meta)
        await raw.zadd("{jobs}:lease", {lease.id: 1})  # and its lease has just expired
        if state == "succeeded":
            await raw.hset("job:poison", mapping={"state": state, "finished_ms": int(1000 * time() + 60_000)})
        await alive.beat()
        assert [letter.code async for letter in admin.dead()] == ["crashed"]
        record = await admin.record("poison")
        assert record["state"] == expected
        assert record.get("error_code") == ("crashed" if expected == "failed" else None)
        if expected == "failed":
            (letter,) = [letter async for letter in admin.dead()]
            assert (record["attempts"], record["crashes"]) == ("0", "3"), "no call came to its end"
            assert (letter.attempts, letter.crashes) == (0, 3)
    finally:
        for each in (raw, admin, dying, alive):
            await each.aclose()


BIG = b"x" * (8 * 1024 * 1024)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("payload", "known"),
    [
        (b'{"job_id": "big", "prompt": "' + BIG + b'"}', True),
        (b'{"prompt":"' + BIG + b'","job_id":"big"}\n', True),
        (b'{"metadata":{"job_id":"big"},"prompt":"' + BIG + b'","x":{"job_id":"big"}}', False),
        (b'{"prompt":"' + BIG + b'\\"job_id\\":\\"big\\"}', False),
    ],
    ids=["first", "last", "of something else", "quoted"],
)
async def test_a_wait_ends_for_a_job_too_large_to_be_read(
    redis_url: str, kind: str, payload: bytes, *, known: bool
) -> None:
    """Its id is known where it is the first or the last field: there it cannot be anything else."""
    async with pushed(redis_url, kind, payload) as (client, queue):
        lane = asyncio.create_task(queue.lease())
        wait = asyncio.create_task(client.wait("big", PATIENCE if known else 0.5))
        with pytest.raises(JobFailed if known else TimeoutError) as raised:
            await wait
        if isinstance(raised.value, JobFailed):
            assert (raised.value.job_id, raised.value.code) == ("big", "too_large")
        (letter,) = [letter async for letter in (await client.queue()).dead(payloads=False)]
        assert (letter.code, letter.attempts) == ("too_large", 0)
        assert (letter.job_id == "big") == known
        lane.cancel()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wait_ends_for_a_job_of_which_the_queues_notes_cannot_be_read(redis_url: str, kind: str) -> None:
    async with pushed(redis_url, kind, PAYLOAD) as (client, queue), Redis.from_url(redis_url) as raw:
        lease = await queue.lease()
        assert await queue.bind(lease, decode(PAYLOAD, max_bytes=100)) == "run"
        wait = asyncio.create_task(client.wait("poison", PATIENCE))
        await raw.hset("{jobs}:meta", lease.id, "nothing that can be read")
        await raw.zadd("{jobs}:lease", {lease.id: 1})
        await queue.beat()
        with pytest.raises(JobFailed, match="poison: unreadable: "):
            await wait
        assert not await raw.hlen("{jobs}:bound")


@asynccontextmanager
async def pushed(url: str, kind: str, payload: bytes) -> AsyncIterator[tuple[Client, Queue]]:
    """A job that another program has handed in, and a worker's side with a lane that wants one."""
    queue = await open_queue(kind, RedisOptions(url=url), QueueOptions())
    async with Client(url, kind=kind) as client, aclosing(queue), Redis.from_url(url) as raw:
        if kind == "list":
            await raw.lpush("jobs", payload)
        else:
            await raw.xadd("jobs", {"job": payload})
        yield client, queue
