"""What comes of an entry: its readings are stored, or it says why not and whose fault it is."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from greenscale_worker import Backend, ConfigError, Job, PermanentError, TransientError
from harness.redis_server import RedisServer

from conftest import environment
from energy_readings.connection import connect
from energy_readings.ingest import fields
from energy_readings.processing import STORED, Processing, readings_of, store_all
from energy_readings.reading import Reading, parse
from energy_readings.settings import Settings, read
from energy_readings.store import Store

READING = {"site_id": "site-001", "device_id": "meter-42", "power_reading": 1500.5, "timestamp": "2024-01-15T10:30:00Z"}
ELSEWHERE = READING | {"site_id": "site-002"}


def job(payload: dict[str, Any], number: int = 1) -> Job:
    return Job(job_id=f"{number}-0", payload=payload)


def entry(*readings: dict[str, Any], array: bool = False) -> Job:
    """What the ingestion API makes of readings."""
    return job(dict(fields(parse(json.dumps(readings)), array=array)))


@pytest.fixture
async def backend(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Processing]:
    assert settings.redis_url is not None
    monkeypatch.setenv("REDIS_URL", settings.redis_url.get_secret_value())
    backend = Processing()
    yield backend
    await backend.aclose()


async def test_single_readings_and_arrays_are_stored(backend: Processing, db: redis.Redis) -> None:
    jobs = [entry(READING), entry(READING, ELSEWHERE, READING | {"power_reading": 7}, array=True)]
    answers = await asyncio.gather(*map(backend.infer, jobs))
    assert [answer.text for answer in answers] == [STORED] * 2
    stored = [json.loads(each) for each in db.lrange("site_readings:site-001", 0, -1)]
    assert stored == [READING, READING | {"power_reading": 7.0}], "what came twice is there once"
    assert db.llen("site_readings:site-002") == 1


async def test_jobs_share_round_trips(backend: Processing, db: redis.Redis) -> None:
    before = calls(db)
    await asyncio.gather(*(backend.infer(entry(READING | {"power_reading": n})) for n in range(200)))
    assert db.llen("site_readings:site-001") == 200
    assert calls(db) - before <= 5


def calls(db: redis.Redis) -> int:
    stats = db.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"rubbish": "yes"},
        {"prompt": "What is 2+2?"},
        READING | {"power_reading": "much"},
        READING | {"power_reading": "inf", "timestamp": "2024-01-15T10:30:00"},
        READING | {"site_id": "{x}", "power_reading": "1"},
        {"readings": "[]"},
        {"readings": "not JSON"},
        {"readings": json.dumps([READING, 3])},
        {"readings": json.dumps([READING]), "more": "x"},
        {"readings": [READING]},
    ],
)
async def test_rubbish_fails_for_good_beside_what_is_stored(
    backend: Processing, db: redis.Redis, payload: dict[str, Any]
) -> None:
    rubbish, good = await asyncio.gather(
        backend.infer(job(payload)), backend.infer(entry(READING)), return_exceptions=True
    )
    assert isinstance(rubbish, PermanentError)
    assert rubbish.code == "bad_reading"
    assert not isinstance(good, BaseException)
    assert db.llen("site_readings:site-001") == 1


async def test_a_broken_site_is_its_own_jobs_fault(backend: Processing, db: redis.Redis) -> None:
    db.set("site_readings:site-002", "not a list")
    good, bad, both = await asyncio.gather(
        *map(backend.infer, (entry(READING), entry(ELSEWHERE), entry(READING, ELSEWHERE, array=True))),
        return_exceptions=True,
    )
    assert not isinstance(good, BaseException)
    for error in (bad, both):
        assert isinstance(error, TransientError)
        assert error.prior == "unknown"
        assert "site-002" in str(error)
    db.delete("site_readings:site-002")
    await backend.infer(entry(READING, ELSEWHERE, array=True))
    assert db.llen("site_readings:site-001") == db.llen("site_readings:site-002") == 1


async def test_redis_that_is_away_is_nobodys_fault(
    start_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_redis()
    monkeypatch.setenv("REDIS_URL", f"{server.url}/0")
    backend = Processing()
    await backend.infer(entry(READING))
    server.stop()
    with pytest.raises(TransientError) as raised:
        await backend.infer(entry(READING))
    assert raised.value.prior == "endpoint"
    assert not await backend.ready()
    server.start()
    assert await backend.ready()
    await backend.infer(entry(READING))
    await backend.aclose()


async def test_a_full_redis_still_takes_what_was_accepted(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("maxmemory-policy noeviction")
    client = connect(read(environment(server)))
    with server.client() as db:
        db.config_set("maxmemory", "1mb")
        store = Store(client, keep_readings=0, keep_days=0)
        assert await store_all(store, [entry(READING)]) == [STORED]
        assert db.llen("site_readings:site-001") == 1
    await client.aclose()


def test_it_is_a_backend_and_a_wrong_setting_stops_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENERGY_KEEP_READINGS", "-1")
    with pytest.raises(ConfigError, match="ENERGY_KEEP_READINGS"):
        Processing()
    monkeypatch.delenv("ENERGY_KEEP_READINGS")
    backend: Backend = Processing()
    assert backend


async def test_an_entry_is_written_and_read_alike() -> None:
    (reading,) = parse(json.dumps(READING))
    assert readings_of(job(dict(fields([reading], array=False)))) == [reading]
    many = [Reading.model_validate_strings({**fields([reading], array=False), "device_id": f"m{n}"}) for n in range(3)]
    assert readings_of(job(dict(fields(many, array=True)))) == many
