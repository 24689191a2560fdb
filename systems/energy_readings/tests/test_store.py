"""What stays in Redis: each reading once, the newest of a site, in the list and by time alike."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from energy_readings.connection import connect
from energy_readings.reading import Reading
from energy_readings.settings import Settings
from energy_readings.store import MOST_AT_ONCE, SITES, Store, keys

SITE = "site-001"
LIST, BY_TIME = keys(SITE)
START = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)


def reading(seconds: float, device: str = "meter-42", power: float = 1.0, site: str = SITE) -> Reading:
    when = (START + timedelta(seconds=seconds)).isoformat()
    return Reading(site_id=site, device_id=device, power_reading=power, timestamp=when)  # type: ignore[arg-type]  # as text


def texts(readings: Iterable[Reading]) -> list[str]:
    return [each.model_dump_json() for each in readings]


@pytest.fixture
async def client(settings: Settings) -> Any:
    client = connect(settings)
    yield client
    await client.aclose()


async def everything(store: Store, most: int = 7) -> list[str]:
    """All pages of the site, the newest first."""
    found, cursor = await store.page(SITE, most=most)
    while cursor is not None:
        page, cursor = await store.page(SITE, most=most, cursor=cursor)
        assert page
        found += page
    return [each.decode() for each in found]


async def test_a_reading_is_appended_to_the_list_of_its_site(client: Any, db: redis.Redis) -> None:
    store = Store(client, keep_readings=0, keep_days=0)
    late, early, other = reading(2), reading(1), reading(0, site="site-002")
    assert await store.add({SITE: [late, early], "site-002": [other]}) == {}
    assert db.lrange("site_readings:site-001", 0, -1) == texts([late, early])
    assert db.lrange("site_readings:site-002", 0, -1) == texts([other])
    assert await everything(store) == texts([late, early])


async def test_what_comes_again_is_stored_once(client: Any, db: redis.Redis) -> None:
    store = Store(client, keep_readings=0, keep_days=0)
    one, another_power = reading(0), reading(0, power=2.0)
    for _ in range(2):
        await store.add({SITE: [one, another_power, one]})
    assert db.lrange(LIST, 0, -1) == texts([one, another_power])


async def test_a_server_that_forgot_the_scripts_learns_them_again(client: Any, db: redis.Redis) -> None:
    store = Store(client, keep_readings=0, keep_days=0)
    for number in range(2):
        db.script_flush()
        assert await store.add({SITE: [reading(number)], "site-002": [reading(number, site="site-002")]}) == {}
        db.script_flush()
        assert len(await everything(store)) == number + 1


@pytest.mark.parametrize("seed", range(5))
async def test_the_newest_are_kept_in_whatever_order_and_however_often_they_come(
    client: Any, db: redis.Redis, seed: int
) -> None:
    rng, most = random.Random(seed), 20
    store = Store(client, keep_readings=most, keep_days=0)
    came: list[str] = []
    sent: list[Reading] = []
    for _ in range(60):
        fresh = [reading(rng.randrange(100), f"m{rng.randrange(3)}") for _ in range(rng.randrange(1, 6))]
        again = rng.choices(sent, k=rng.randrange(0, 4)) if sent else []
        batch = rng.sample(fresh + again, len(fresh + again))
        sent += batch
        came += [text for text in dict.fromkeys(texts(batch)) if text not in came]
        await store.add({SITE: batch})
        by_time = {text: each.microseconds for text, each in zip(texts(sent), sent, strict=True)}
        newest = sorted(by_time, key=lambda text: (by_time[text], text), reverse=True)[:most]
        assert await everything(store) == newest
        kept = db.lrange(LIST, 0, -1)
        assert sorted(kept) == sorted(newest)
        assert kept == [text for text in came if text in newest], "in the order in which they came"


async def test_what_was_dropped_does_not_come_back(client: Any, db: redis.Redis) -> None:
    store = Store(client, keep_readings=2, keep_days=0)
    old = reading(0)
    await store.add({SITE: [old]})
    await store.add({SITE: [reading(1), reading(2)]})
    await store.add({SITE: [old]})
    assert db.lrange(LIST, 0, -1) == texts([reading(1), reading(2)])


async def test_old_readings_go(client: Any, db: redis.Redis) -> None:
    now = (datetime.now(UTC) - START).total_seconds()
    old, young = reading(now - 3 * 86_400), reading(now - 3600)
    await Store(client, keep_readings=0, keep_days=0).add({SITE: [old]})
    assert db.ttl(LIST) == -1
    store = Store(client, keep_readings=0, keep_days=2)
    assert await everything(store) == [], "nobody is shown what is too old, whether it has gone or not"
    await store.add({SITE: [young, old]})
    assert db.lrange(LIST, 0, -1) == db.zrange(BY_TIME, 0, -1) == texts([young])
    for key in (LIST, BY_TIME):
        assert 2 * 86_400 - 3700 < db.ttl(key) <= 2 * 86_400 - 3600 + 1, "the site goes with its last reading"
    await Store(client, keep_readings=0, keep_days=0).add({SITE: [young]})
    assert db.ttl(LIST) == db.ttl(BY_TIME) == -1


async def test_a_site_of_which_nothing_is_kept_has_no_keys(client: Any, db: redis.Redis) -> None:
    await Store(client, keep_readings=0, keep_days=1).add({SITE: [reading(0)]})
    assert db.keys() == []


async def test_sites_are_listed_by_their_newest_reading(client: Any, db: redis.Redis) -> None:
    store = Store(client, keep_readings=0, keep_days=0)
    await store.add({"a": [reading(9, site="a"), reading(1, site="a")], "b": [reading(5, site="b")]})
    assert await store.sites(most=5) == (["a", "b"], 2)
    await store.add({"b": [reading(10, site="b")], "c": [reading(0, site="c")]})
    assert await store.sites(most=2) == (["b", "a"], 3)
    db.zadd(SITES, {"what somebody else put there": 1})
    assert await store.sites(most=5) == (["b", "a", "c"], 4)


async def test_a_site_that_is_silent_for_too_long_is_not_listed(client: Any, db: redis.Redis) -> None:
    now = (datetime.now(UTC) - START).total_seconds()
    await Store(client, keep_readings=0, keep_days=0).add({"old": [reading(now - 3 * 86_400, site="old")]})
    store = Store(client, keep_readings=0, keep_days=2)
    assert await store.sites(most=5) == ([], 0), "whether it has gone or not"
    await store.add({SITE: [reading(now)]})
    assert db.zrange(SITES, 0, -1) == [SITE]


async def test_an_index_of_sites_that_is_none_is_told_and_touches_nothing(client: Any, db: redis.Redis) -> None:
    db.set(SITES, "not an ordered set")
    store = Store(client, keep_readings=0, keep_days=1)
    failed = await store.add({SITE: [reading(0)]})
    assert "WRONGTYPE" in str(failed[SITE])
    assert db.keys() == [SITES]


async def test_many_readings_of_one_site_are_stored_in_parts(client: Any, db: redis.Redis) -> None:
    many = [reading(number) for number in range(2 * MOST_AT_ONCE + 1)]
    assert await Store(client, keep_readings=0, keep_days=0).add({SITE: many}) == {}
    assert db.llen(LIST) == db.zcard(BY_TIME) == len(many)


async def test_a_site_that_cannot_be_stored_does_not_hold_up_the_others(client: Any, db: redis.Redis) -> None:
    db.set("site_readings:broken", "not a list")
    store = Store(client, keep_readings=0, keep_days=0)
    assert list(await store.add({"broken": [reading(0)], SITE: [reading(0)]})) == ["broken"]
    assert db.llen(LIST) == 1
    db.delete("site_readings:broken")
    assert await store.add({"broken": [reading(0)]}) == {}
    assert db.llen("site_readings:broken") == 1, "what failed has left nothing behind that looks like success"


async def test_pages_stay_in_place_while_readings_come(client: Any) -> None:
    store = Store(client, keep_readings=0, keep_days=0)
    first = [reading(0, f"m{number:02}") for number in range(20)]  # all at one time: only their text orders them
    await store.add({SITE: first})
    page, cursor = await store.page(SITE, most=7)
    await store.add({SITE: [reading(5), reading(0, "m99"), reading(0, "m165")]})
    rest, end = await store.page(SITE, most=100, cursor=cursor or "")
    assert [each.decode() for each in page + rest] == sorted(texts(first), reverse=True)
    assert end is None


async def test_a_range_of_time_includes_its_ends(client: Any) -> None:
    store = Store(client, keep_readings=0, keep_days=0)
    await store.add({SITE: [reading(second) for second in range(10)]})
    since, until = reading(2).microseconds, reading(8).microseconds
    page, cursor = await store.page(SITE, most=4, since=since, until=until)
    rest, end = await store.page(SITE, most=4, since=since, until=until, cursor=cursor or "")
    assert [each.decode() for each in page + rest] == texts(reading(second) for second in range(8, 1, -1))
    assert end is None


@pytest.mark.parametrize("cursor", ["%", "a", "aé", "a=b"])
async def test_a_cursor_that_is_none_is_refused(client: Any, cursor: str) -> None:
    with pytest.raises(ValueError, match="next"):
        await Store(client, keep_readings=0, keep_days=0).page(SITE, most=1, cursor=cursor)


async def test_a_cursor_of_what_has_gone_ends_the_pages(client: Any) -> None:
    store = Store(client, keep_readings=2, keep_days=0)
    await store.add({SITE: [reading(1), reading(2)]})
    _, cursor = await store.page(SITE, most=1)
    await store.add({SITE: [reading(3), reading(4)]})
    assert await store.page(SITE, most=1, cursor=cursor or "") == ([], None)
