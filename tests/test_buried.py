"""A job that kills even the worker that only reads it is buried by the scripts; its record must say so, too."""

import pytest
from redis.asyncio import Redis

from greenscale_worker.job import decode
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.opening import open_client, open_queue
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
        await raw.hset("job:poison", "state", state)
        await alive.beat()
        assert [letter.code async for letter in admin.dead()] == ["crashed"]
        record = await admin.record("poison")
        assert record["state"] == expected
        assert record.get("error_code") == ("crashed" if expected == "failed" else None)
    finally:
        for each in (raw, admin, dying, alive):
            await each.aclose()
