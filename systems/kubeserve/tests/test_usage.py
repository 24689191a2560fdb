"""Usage: what doors count comes into the database, each call once, whatever dies or is written twice."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import redis
from greenscale_worker import RedisOptions
from harness.eventually import eventually
from harness.redis_server import RedisServer
from sqlalchemy import func, select
from structlog.testing import capture_logs

from kubeserve.database import Database
from kubeserve.database.tables import usage
from kubeserve.database.values import new_id
from kubeserve.door import usage as door_usage
from kubeserve.door.metrics import AGAIN, Metrics
from kubeserve.door.usage import Meters, UsageWriter
from kubeserve.errors import UnavailableError
from kubeserve.usage import taking
from kubeserve.usage.store import Taken, UsageStore
from kubeserve.usage.taking import Taker
from kubeserve.usage.wire import LARGEST, Bucket, Sums, key_of, read, written

ANNA, BEN = new_id(), new_id()
NOW = int(time.time() // 60)


@pytest.fixture
def options(redis_server: RedisServer, db: redis.Redis) -> RedisOptions:
    db.ping()
    return RedisOptions(url=f"{redis_server.url}/0")


@pytest.fixture
def store(database: Database) -> UsageStore:
    return UsageStore(database)


@pytest.fixture
def taker(options: RedisOptions, store: UsageStore) -> Taker:
    return Taker(options, store)


async def used(store: UsageStore, deployment_id: str, owner: str = ANNA) -> tuple[int, int, int]:
    """The calls, errors and rows of a deployment, of any time."""
    found = await store.steps(owner, deployment_id, 0, 10**10, 10**9)
    return tuple(sum(getattr(each, name) for each in found) for name in ("predictions", "errors", "rows"))


async def test_what_a_door_counts_is_kept_once_however_often_it_is_written_and_taken(
    taker: Taker, store: UsageStore, options: RedisOptions, db: redis.Redis
) -> None:
    deployment, meters = new_id(), Meters()
    writer = UsageWriter(meters, options)
    for rows in (1, 2, 3):
        meters.of(deployment).called(rows, failed=rows == 3)
        for _ in range(2):
            await writer.write()
            await taker.take({deployment: ANNA})
        assert db.exists(key_of(deployment)) == 0, "what is kept is not in Redis any more"
    assert await used(store, deployment) == (3, 1, 6)


async def test_what_is_counted_while_it_is_taken_is_not_lost(
    taker: Taker, store: UsageStore, options: RedisOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, meters = new_id(), Meters()
    writer = UsageWriter(meters, options)
    keep = store.keep

    async def kept(taken: list[Taken]) -> None:
        await keep(taken)
        meters.of(deployment).called(1, failed=False)
        await writer.write()  # the former count is in the database, and not yet out of Redis

    monkeypatch.setattr(store, "keep", kept)
    meters.of(deployment).called(1, failed=False)
    await writer.write()
    await taker.take({deployment: ANNA})
    monkeypatch.undo()
    await taker.take({deployment: ANNA})
    assert await used(store, deployment) == (2, 0, 2)


async def test_a_death_after_any_step_counts_nothing_twice(
    taker: Taker, store: UsageStore, options: RedisOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, meters = new_id(), Meters()
    writer = UsageWriter(meters, options)
    meters.of(deployment).called(3, failed=True)
    with monkeypatch.context() as unheard:
        unheard.setattr(meters, "wrote", lambda *_: None)  # it is in Redis, and the answer that says so was lost
        await writer.write()

    async def die(*_: object) -> None:
        raise UnavailableError("killed between the database and Redis")

    with monkeypatch.context() as killed:
        killed.setattr(taking, "_forget", die)
        with pytest.raises(UnavailableError):
            await taker.take({deployment: ANNA})
    await taker.take({deployment: ANNA})
    await writer.write()
    await taker.take({deployment: ANNA})
    assert await used(store, deployment) == (1, 1, 3)


async def test_of_two_who_take_at_once_the_slower_one_undoes_nothing(store: UsageStore) -> None:
    deployment = new_id()
    late, early = (Taken(deployment, ANNA, Bucket(NOW, "a" * 16, Sums(count, 0, count))) for count in (5, 2))
    await store.keep([late])
    await store.keep([early])
    assert await used(store, deployment) == (5, 0, 5)
    await asyncio.gather(*(store.keep([replace(late, bucket=Bucket(NOW, "a" * 16, Sums(n)))]) for n in range(20)))
    assert (await used(store, deployment))[0] == 19


async def test_a_database_that_is_away_leaves_the_counts_in_redis(
    taker: Taker, store: UsageStore, options: RedisOptions, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, meters = new_id(), Meters()
    meters.of(deployment).called(4, failed=False)
    await UsageWriter(meters, options).write()

    async def away(_taken: object) -> None:
        raise UnavailableError("the database is away")

    monkeypatch.setattr(store, "keep", away)
    with pytest.raises(UnavailableError):
        await taker.take({deployment: ANNA})
    assert db.hlen(key_of(deployment)) == 1
    monkeypatch.undo()
    await taker.take({deployment: ANNA})
    assert await used(store, deployment) == (1, 0, 4)


async def test_doors_of_one_deployment_are_summed_and_owners_see_their_own(
    taker: Taker, store: UsageStore, options: RedisOptions
) -> None:
    anna, ben = new_id(), new_id()
    for _ in range(3):
        meters = Meters()
        meters.of(anna).called(2, failed=False)
        meters.of(ben).called(7, failed=True)
        await UsageWriter(meters, options).write()
    await taker.take({anna: ANNA, ben: BEN})
    assert await used(store, anna) == (3, 0, 6)
    assert await used(store, ben) == (0, 0, 0), "of another owner"
    totals = await store.totals(BEN, 0, 10**10)
    assert {name: each.errors for name, (_, each) in totals.items()} == {ben: 3}


async def test_steps_are_summed_from_their_begin_and_the_end_is_outside(store: UsageStore) -> None:
    deployment = new_id()
    await store.keep(
        Taken(deployment, ANNA, Bucket(minute, f"{minute:016x}", Sums(1, 0, 10, 500_000))) for minute in range(100, 131)
    )
    found = await store.steps(ANNA, deployment, 105, 130, 10)
    assert [(each.at, each.predictions, each.busy) for each in found] == [(100, 5, 2.5), (110, 10, 5.0), (120, 10, 5.0)]
    assert await store.forget(120) == 20
    assert (await used(store, deployment))[0] == 11


async def test_numbers_of_any_size_are_summed_or_refused(
    taker: Taker, store: UsageStore, db: redis.Redis, database: Database
) -> None:
    deployment = new_id()
    most = " ".join([str(LARGEST)] * 5)
    db.hset(key_of(deployment), mapping={f"{NOW}/{number:016x}": most for number in range(1000)})
    db.hset(key_of(deployment), f"{NOW}/{1000:016x}", " ".join([str(LARGEST + 1)] * 5))
    await taker.take({deployment: ANNA})
    (found,) = await store.steps(ANNA, deployment, 0, 10**10, 1)
    assert found.predictions == 1000 * LARGEST
    assert found.busy == 1000 * LARGEST / 1e6
    async with database.read() as connection:
        assert await connection.scalar(select(func.count()).select_from(usage)) == 1000
    assert db.exists(key_of(deployment)) == 0, "what is no count is removed"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("", ""),
        (f"{NOW}/{'a' * 16}", "1 2 3 4"),
        (f"{NOW}/{'a' * 16}", "1 2 3 4 -5"),
        (f"{NOW}/{'a' * 16}", "1 2 3 4 nan"),
        (f"{NOW}/{'a' * 16}", "1 2 3 4 \u0665"),
        (f"{NOW}/{'a' * 16}", f"1 2 3 4 {'9' * 5000}"),
        (f"-{NOW}/{'a' * 16}", "1 2 3 4 5"),
        (f"{NOW}/{'A' * 16}", "1 2 3 4 5"),
        (f"{NOW}/{'a' * 17}", "1 2 3 4 5"),
        (f"{'9' * 30}/{'a' * 16}", "1 2 3 4 5"),
        ("\0", "\n"),
    ],
)
def test_what_is_no_count_is_none(field: str, value: str) -> None:
    assert read(field, value) is None


def test_what_is_written_is_read() -> None:
    bucket = Bucket(NOW, "0123456789abcdef", Sums(1, 2, 3, 4, 5))
    assert read(*written(bucket)) == bucket
    assert read(*written(replace(bucket, sums=Sums(10**30)))) == replace(bucket, sums=Sums(LARGEST))


async def test_a_key_of_another_type_stops_no_other_deployment(
    taker: Taker, store: UsageStore, options: RedisOptions, db: redis.Redis
) -> None:
    odd, other, meters = new_id(), new_id(), Meters()
    db.lpush(key_of(odd), "what is this")
    writer = UsageWriter(meters, options)
    for name in (odd, other):
        meters.of(name).called(1, failed=False)
    await writer.write()
    await taker.take({odd: ANNA, other: ANNA})
    assert await used(store, other) == (1, 0, 1)
    db.delete(key_of(odd))
    await writer.write()
    db.hset(key_of(odd), b"\xff\xfe", b"\xff")
    await taker.take({odd: ANNA, other: ANNA})
    assert await used(store, odd) == (1, 0, 1), "it is counted as soon as the key is ours again"


async def test_a_clock_that_jumps_loses_no_count(
    taker: Taker, store: UsageStore, options: RedisOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, meters = new_id(), Meters()
    writer = UsageWriter(meters, options)
    for ahead in (0.0, 86_400.0, -86_400.0, 60.0, 0.0):
        monkeypatch.setattr(meters, "_ahead", time.time() - time.monotonic() + ahead)
        meters.of(deployment).called(1, failed=False)
        await writer.write()
        await taker.take({deployment: ANNA})
    assert (await used(store, deployment))[0] == 5


async def test_a_minute_far_ahead_waits_until_it_comes(taker: Taker, store: UsageStore, db: redis.Redis) -> None:
    deployment = new_id()
    db.hset(key_of(deployment), mapping=dict([written(Bucket(NOW + 10**6, "a" * 16, Sums(1)))]))
    db.hset(key_of(deployment), mapping=dict([written(Bucket(NOW, "b" * 16, Sums(1)))]))
    with capture_logs() as logs:
        for _ in range(3):
            await taker.take({deployment: ANNA})
    assert (await used(store, deployment))[0] == 1
    assert db.hlen(key_of(deployment)) == 1
    assert [each["event"] for each in logs] == ["usage_not_taken"], "told once, for as long as it is so"
    db.delete(key_of(deployment))
    await taker.take({deployment: ANNA})
    db.hset(key_of(deployment), mapping=dict([written(Bucket(NOW + 10**6, "a" * 16, Sums(1)))]))
    with capture_logs() as logs:
        await taker.take({deployment: ANNA})
    assert [each["event"] for each in logs] == ["usage_not_taken"], "and when it is so again"


async def test_a_door_goes_by_the_clock_of_redis(options: RedisOptions, db: redis.Redis) -> None:
    deployment, meters = new_id(), Meters()
    meters._ahead += 500_000  # noqa: SLF001  the clock of this machine is wrong
    meters.of(deployment).called(1, failed=False)
    await UsageWriter(meters, options).write()
    assert abs(meters._clock() - db.time()[0]) < 2  # noqa: SLF001  as above


async def test_what_nobody_takes_is_bounded(
    options: RedisOptions, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_usage, "MOST_FIELDS", 10)
    deployment, meters = new_id(), Meters()
    db.hset(key_of(deployment), mapping={f"{NOW - 10_000 - n}/{'a' * 16}": "1 1 1 1 1" for n in range(10)})
    meters.of(deployment).called(1, failed=False)
    await UsageWriter(meters, options).write()
    assert db.hlen(key_of(deployment)) == 1, "the oldest have gone"
    db.hset(key_of(deployment), mapping={f"{NOW}/{n:016x}": "1 1 1 1 1" for n in range(10)})
    meters.of(deployment).called(1, failed=False)
    await UsageWriter(meters, options).write()
    assert db.hlen(key_of(deployment)) == 11, "nothing is added, and the door goes on"
    assert 0 < db.ttl(key_of(deployment)) <= door_usage.KEPT_SECONDS


def test_a_meter_without_redis_keeps_a_day() -> None:
    meters = Meters()
    meter = meters.of("d")
    for minute in range(3000):
        meters._ahead = 60.0 * minute  # noqa: SLF001  time goes
        meter.called(1, failed=False)
    assert len(meters.unwritten()["d"]) <= 1440 + 1


def test_a_call_that_runs_again_counts_when_it_has_ended() -> None:
    metrics = Metrics()
    for outcome in (AGAIN, AGAIN, "error", "success"):
        metrics.count("d", outcome, 0.1, 3)
    (bucket,) = metrics.meters.unwritten()["d"]
    assert (bucket.sums.predictions, bucket.sums.errors, bucket.sums.rows) == (2, 1, 6)
    assert b'predictions_total{deployment="d",outcome="error"} 3.0' in metrics.text()


def test_replicas_are_counted_for_as_long_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(door_usage.time, "monotonic", lambda: now)
    meters = Meters()
    meter = meters.of("d")
    meter.stands(1)
    now += 10
    meter.stands(1)
    now += 5
    meter.stands(-1)
    now += 1
    meter.stands(-1)
    now += 100
    assert sum(each.sums.replicas for each in meters.unwritten()["d"]) == 21_000_000


async def test_redis_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_usage, "WRITE_SECONDS", 0.05)
    monkeypatch.setattr(door_usage, "log", log := MagicMock())
    server = RedisServer(tmp_path, docker=False)
    server.start()
    try:
        meters, deployment = Meters(), new_id()
        writing = asyncio.create_task(UsageWriter(meters, RedisOptions(url=f"{server.url}/0")).run())
        server.stop()
        for _ in range(3):
            meters.of(deployment).called(1, failed=False)
        await eventually(lambda: log.warning.call_count >= 2)
        server.start()
        with server.client(decode_responses=True) as db:
            await eventually(
                lambda: [value.split()[0] for value in db.hvals(key_of(deployment))] in (["3"], ["1", "2"], ["2", "1"])
            )
        writing.cancel()
        await asyncio.wait({writing})
    finally:
        server.close()
