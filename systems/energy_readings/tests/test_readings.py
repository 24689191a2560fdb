"""The readings API: pages, ranges, and what it refuses."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from aiohttp import web

from conftest import Client
from energy_readings.connection import connect
from energy_readings.reading import Reading
from energy_readings.readings import stored
from energy_readings.settings import Settings
from energy_readings.store import Store

Serve = Callable[[web.Application], Awaitable[Client]]
URL = "/sites/site-001/readings"


@pytest.fixture
async def api(serve: Serve, settings: Settings) -> Client:
    client = connect(settings)
    readings = [
        Reading.model_validate_strings(
            {
                "site_id": "site-001",
                "device_id": "meter-42",
                "power_reading": str(minute),
                "timestamp": f"2024-01-15T10:{minute:02}:00Z",
            }
        )
        for minute in range(60)
    ]
    await Store(client, keep_readings=0, keep_days=0).add({"site-001": readings})
    await client.aclose()
    return await serve(stored(settings))


async def get(api: Client, url: str = URL, **query: str) -> tuple[int, dict[str, Any]]:
    async with api.get(url, params=query) as reply:
        assert reply.content_type == "application/json"
        return reply.status, await reply.json()


async def test_the_newest_come_first(api: Client) -> None:
    status, answer = await get(api)
    assert (status, answer["site_id"], answer["next"]) == (200, "site-001", None)
    assert [each["power_reading"] for each in answer["readings"]] == list(range(59, -1, -1))
    assert answer["readings"][0] == {
        "site_id": "site-001",
        "device_id": "meter-42",
        "power_reading": 59.0,
        "timestamp": "2024-01-15T10:59:00Z",
    }


async def test_pages_follow_each_other(api: Client) -> None:
    powers: list[float] = []
    query = {"limit": "25"}
    while True:
        _, answer = await get(api, **query)
        powers += [each["power_reading"] for each in answer["readings"]]
        if answer["next"] is None:
            break
        query["cursor"] = answer["next"]
    assert powers == list(range(59, -1, -1))


async def test_a_range_of_time(api: Client) -> None:
    _, answer = await get(api, **{"from": "2024-01-15T11:10:00+01:00", "to": "2024-01-15T10:12:00Z"})
    assert [each["power_reading"] for each in answer["readings"]] == [12.0, 11.0, 10.0]


async def test_a_plus_that_was_not_escaped_is_understood(api: Client) -> None:
    async with api.get(f"{URL}?from=2024-01-15T11:58:00+01:00") as reply:
        assert len((await reply.json())["readings"]) == 2


async def test_the_unit_is_that_of_the_settings(serve: Serve, settings: Settings) -> None:
    api = await serve(stored(settings.model_copy(update={"unit": "kVA"})))
    assert (await get(api))[1]["unit"] == "kVA"


async def test_the_sites_with_the_newest_readings_come_first(api: Client, settings: Settings) -> None:
    client = connect(settings)
    for site, when in (("old", "2023-01-01T00:00:00Z"), ("new", "2025-01-01T00:00:00Z")):
        fields = {"site_id": site, "device_id": "m", "power_reading": "1", "timestamp": when}
        await Store(client, keep_readings=0, keep_days=0).add({site: [Reading.model_validate_strings(fields)]})
    await client.aclose()
    assert await get(api, "/sites") == (200, {"sites": ["new", "site-001", "old"], "count": 3})
    assert await get(api, "/sites", limit="1") == (200, {"sites": ["new"], "count": 3})
    status, answer = await get(api, "/sites", cursor="x")
    assert (status, answer["faults"][0]["field"]) == (422, "cursor")


async def test_there_may_be_no_site(serve: Serve, settings: Settings) -> None:
    assert await get(await serve(stored(settings)), "/sites") == (200, {"sites": [], "count": 0})


async def test_a_site_without_readings_is_empty(api: Client) -> None:
    assert await get(api, "/sites/site-999/readings") == (
        200,
        {"site_id": "site-999", "unit": "W", "readings": [], "next": None},
    )


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("limit=%C2%B2", "limit"),
        ("from=yesterday", "from"),
        ("to=2024-01-15", "to"),
        ("cursor=%25", "cursor"),
        ("offset=10", "offset"),
    ],
)
async def test_a_wrong_parameter_is_told(api: Client, query: str, field: str) -> None:
    async with api.get(f"{URL}?{query}") as reply:
        assert reply.status == 422
        assert [fault["field"] for fault in (await reply.json())["faults"]] == [field]


async def test_an_id_that_is_none_is_told(api: Client) -> None:
    status, answer = await get(api, "/sites/a b/readings")
    assert (status, answer["faults"][0]["field"]) == (422, "site_id")


async def test_a_foreign_key_is_503(api: Client, db: redis.Redis) -> None:
    db.set("{site_readings:site-002}:by_time", "not an ordered set")
    assert (await get(api, "/sites/site-002/readings"))[0] == 503
    db.set("{site_readings}:sites", "not an ordered set")
    assert (await get(api, "/sites"))[0] == 503


async def test_health(api: Client) -> None:
    assert await get(api, "/health") == (200, {"status": "ok"})
