"""Limits of requests a minute, in a real Redis: exact for several gateways at once, whatever lies under the key."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis
from greenscale_worker import RedisOptions
from harness.redis_server import RedisServer

from kubeserve.database.values import new_id
from kubeserve.errors import UnavailableError
from kubeserve.limits import MOST_AT_ONCE, Limits, of_deployment, of_key


@pytest.fixture
async def open_limits(redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[Callable[[], Limits]]:
    """Open limits as another gateway would."""
    db.ping()
    opened: list[Limits] = []

    def again() -> Limits:
        opened.append(Limits(RedisOptions(url=f"{redis_server.url}/0")))
        return opened[-1]

    yield again
    for each in opened:
        await each.aclose()


@pytest.fixture
def limits(open_limits: Callable[[], Limits]) -> Limits:
    return open_limits()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, docker=False)
    server.start()
    yield server
    server.close()


async def test_as_many_come_at_once_as_in_a_minute_and_the_next_is_told_when(limits: Limits) -> None:
    limit = of_key(new_id(), 3)
    left = [await limits.take(limit) for _ in range(4)]
    assert [each.remaining for each in left] == [2, 1, 0, 0]
    assert [each.wait > 0 for each in left] == [False, False, False, True]
    assert 19 < left[-1].wait <= 20
    assert 59 < left[-1].reset <= 60
    refusal = left[-1].refusal
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.retry_after) == (429, "rate_limit_exceeded", left[-1].wait)
    assert str(refusal) == "requests_per_minute: the key's limit is 3 requests a minute; try again in 20 s"
    assert left[0].headers["x-ratelimit-limit-requests"] == "3"
    assert left[0].headers["x-ratelimit-remaining-requests"] == "2"
    assert 19 < float(left[0].headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 20


async def test_several_gateways_at_once_let_no_more_in_than_one(open_limits: Callable[[], Limits]) -> None:
    gateways, limit = [open_limits() for _ in range(3)], of_deployment(new_id(), 40)
    taken = await asyncio.gather(*(gateway.take(limit) for gateway in gateways for _ in range(40)))
    assert sum(not each.wait for each in taken) == 40


async def test_one_more_comes_when_it_was_said_to(limits: Limits) -> None:
    limit = of_key(new_id(), 600)
    while not (wait := (await limits.take(limit)).wait):
        pass
    assert wait <= 0.1
    await asyncio.sleep(wait)
    assert not (await limits.take(limit)).wait


async def test_who_is_refused_does_not_make_it_later(limits: Limits) -> None:
    limit = of_key(new_id(), 1)
    await limits.take(limit)
    waits = [(await limits.take(limit)).wait for _ in range(50)]
    assert waits == sorted(waits, reverse=True)


async def test_the_limits_of_others_are_others(limits: Limits) -> None:
    name = new_id()
    one, other, third = of_key(name, 1), of_key(new_id(), 1), of_deployment(name, 1)
    assert [(await limits.take(each)).wait > 0 for each in (one, one, other, third)] == [False, True, False, False]


async def test_a_limit_that_is_changed_holds_from_the_next_request(limits: Limits) -> None:
    name = new_id()
    assert [(await limits.take(of_deployment(name, 2))).wait > 0 for _ in range(3)] == [False, False, True]
    assert (await limits.take(of_deployment(name, 600))).wait == pytest.approx(0.1, abs=0.05)
    assert (await limits.take(of_deployment(new_id(), 1_000_000))).remaining == 999_999


@pytest.mark.parametrize("text", ["", "x", "-5", "1e99", "9" * 400, "nan", "0", b"\xff"])
async def test_what_is_no_time_under_the_key_is_as_none(limits: Limits, db: redis.Redis, text: str) -> None:
    limit = of_key(new_id(), 2)
    db.set(limit.key, text)
    assert [(await limits.take(limit)).wait > 0 for _ in range(3)] == [False, False, True]


async def test_another_type_under_the_key_is_as_none(limits: Limits, db: redis.Redis) -> None:
    limit = of_key(new_id(), 2)
    for put in (
        lambda: db.lpush(limit.key, "x"),
        lambda: db.hset(limit.key, "a", "b"),
        lambda: db.zadd(limit.key, {"a": 1}),
    ):
        put()
        assert [(await limits.take(limit)).wait > 0 for _ in range(3)] == [False, False, True]
        db.delete(limit.key)


async def test_a_clock_that_was_set_back_refuses_nobody_for_longer(limits: Limits, db: redis.Redis) -> None:
    limit = of_key(new_id(), 2)
    seconds, microseconds = db.time()
    db.set(limit.key, (seconds + 86_400) * 1_000_000 + microseconds)
    assert not (await limits.take(limit)).wait


async def test_what_is_counted_goes_by_itself(limits: Limits, db: redis.Redis) -> None:
    limit = of_key(new_id(), 60)
    for taken in range(1, 61):
        await limits.take(limit)
        assert 0 < db.pttl(limit.key) <= 1000 * taken


async def test_a_server_that_forgot_the_script_is_told_it_again(limits: Limits, db: redis.Redis) -> None:
    limit = of_key(new_id(), 2)
    await limits.take(limit)
    db.script_flush()
    assert (await limits.take(limit)).remaining == 0


async def test_while_redis_is_away_it_is_said_and_then_goes_on(own_redis: RedisServer) -> None:
    limits, limit = Limits(RedisOptions(url=f"{own_redis.url}/0")), of_key(new_id(), 5)
    await limits.take(limit)
    own_redis.stop()
    with pytest.raises(UnavailableError, match="limit of requests"):
        await limits.take(limit)
    own_redis.start()
    assert not (await limits.take(limit)).wait
    await limits.aclose()
    wrong = Limits(RedisOptions(url="redis://user:wrong@127.0.0.1:1/0"))
    with pytest.raises(UnavailableError):
        await wrong.take(limit)
    await wrong.aclose()


async def test_a_redis_that_is_silent_holds_up_no_crowd_longer_than_one(own_redis: RedisServer) -> None:
    limits = Limits(RedisOptions(url=f"{own_redis.url}/0"))
    await limits.take(of_key(new_id(), 5))
    own_redis.freeze()
    try:
        async with asyncio.timeout(20):  # in turns it would be a minute
            told = await asyncio.gather(
                *(limits.take(of_key(new_id(), 5)) for _ in range(10 * MOST_AT_ONCE)), return_exceptions=True
            )
    finally:
        own_redis.thaw()
    assert {type(each) for each in told} == {UnavailableError}
    assert (await limits.take(of_key(new_id(), 5))).remaining == 4  # and no answer is another's
    await limits.aclose()
