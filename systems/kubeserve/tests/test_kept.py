"""What a tenant's answers take in Redis is bounded for all of its doors together."""

import asyncio
from pathlib import Path

import pytest
import redis
from greenscale_worker import RedisOptions
from harness.eventually import eventually
from harness.redis_server import RedisServer

from kubeserve.door import kept as module
from kubeserve.door.kept import Kept
from kubeserve.errors import UnavailableError
from kubeserve.queueing import answers_key

HOUR = 60  # minutes


@pytest.fixture
def options(redis_server: RedisServer, db: redis.Redis) -> RedisOptions:
    assert db.dbsize() == 0
    return RedisOptions(url=f"{redis_server.url}/0")


def minute_of(db: redis.Redis) -> int:
    return int(db.time()[0]) // 60


async def test_the_doors_of_a_tenant_count_together(options: RedisOptions) -> None:
    one, other = Kept(100, options), Kept(100, options)
    assert [one.admit("a", 60), one.admit("a", 60), one.admit("b", 60)] == [True, False, True]
    await one.sync()
    assert other.admit("a", 30), "it has not asked yet"
    await other.sync()
    assert [other.admit("a", 11), other.admit("a", 10), other.admit("b", 100)] == [False, True, True]
    await other.sync()
    assert one.admit("a", 1), "and neither has this one"
    await one.sync()
    assert not one.admit("a", 1), "101 bytes are there"


async def test_a_door_that_admits_much_asks_at_once(
    options: RedisOptions, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_SECONDS", 3600.0)
    kept = Kept(6400, options)
    running = asyncio.create_task(kept.run())
    try:
        assert kept.admit("a", 100)
        assert kept.admit("a", 1)
        await eventually(lambda: db.hvals(answers_key("a")) == ["101"])
        assert kept.admit("a", 101)
        await eventually(lambda: db.hvals(answers_key("a")) == ["202"])
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_door_that_is_started_anew_goes_on_counting(options: RedisOptions) -> None:
    before = Kept(100, options)
    assert before.admit("a", 100)
    await before.sync()
    after = Kept(100, options)
    assert after.admit("a", 1)
    await after.sync()
    assert not after.admit("a", 1)


async def test_only_what_redis_still_has_counts(
    options: RedisOptions, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = minute_of(db)
    counts = {now - HOUR - 2: 40, now - HOUR + 2: 50, now + HOUR + 2: 60, "x": 70}
    db.hset(answers_key("a"), mapping={str(name): count for name, count in counts.items()})
    kept = Kept(100, options)
    assert kept.admit("a", 50)
    await kept.sync()
    assert not kept.admit("a", 1), "50 of the last hour, and these"
    assert 1 < int(db.ttl(answers_key("a"))) <= 2 * HOUR * 60
    db.delete(answers_key("a"))
    await kept.sync()
    assert not kept.admit("a", 1), "what nobody adds to is read again in a while"
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
    await kept.sync()
    assert kept.admit("a", 100)


async def test_a_key_of_another_type_stops_no_other_tenant(options: RedisOptions, db: redis.Redis) -> None:
    db.set(answers_key("a"), "x")
    one, other = Kept(100, options), Kept(100, options)
    assert all([one.admit("a", 60), one.admit("b", 60), other.admit("b", 1)])
    await one.sync()
    assert not one.admit("a", 60), "it counts by itself"
    await other.sync()
    assert not other.admit("b", 60)


async def test_without_redis_a_door_counts_by_itself_and_tells_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    server = RedisServer(tmp_path, docker=False)
    server.start()
    server.kill()
    kept = Kept(100, RedisOptions(url=f"{server.url}/0"))
    running = asyncio.create_task(kept.run())
    try:
        assert [kept.admit("a", 60), kept.admit("a", 60)] == [True, False]
        with pytest.raises(UnavailableError):
            await kept.sync()
        server.start()
        with server.client(decode_responses=True) as client:
            await eventually(lambda: client.hvals(answers_key("a")) == ["60"])
    finally:
        running.cancel()
        await asyncio.wait({running})
        server.close()
