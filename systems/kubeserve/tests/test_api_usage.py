"""Usage and limits over HTTP, with a real door."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from harness.redis_server import RedisServer

from kubeserve.door import usage as door_usage
from kubeserve.usage import taking
from models import of_python
from stack import Person, Stack
from test_api_predictions import deploy, deployed

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_usage, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(taking, "TAKE_SECONDS", 0.1)


@pytest.fixture
async def stack(tmp_path: Path, science: Path, redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[Stack]:
    db.ping()
    async with Stack.open(tmp_path, science, f"{redis_server.url}/0") as stack:
        yield stack


@pytest.fixture
async def doorless(tmp_path: Path, science: Path, redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[Stack]:
    db.ping()
    async with Stack.open(tmp_path, science, f"{redis_server.url}/0", door=False) as stack:
        yield stack


async def until_used(person: Person, path: str, predictions: int) -> Any:
    """Read the usage until so many calls are in it."""
    async with asyncio.timeout(PATIENCE):
        while (told := await person.ask("GET", path))["total"]["predictions"] < predictions:  # noqa: ASYNC110  as a page
            await asyncio.sleep(0.05)
        return told


async def test_what_is_asked_is_counted_and_outlives_the_deployment(stack: Stack, db: redis.Redis) -> None:
    anna, ben = await stack.person(), await stack.person("ben")
    made = await deploy(stack, anna, of_python("return [__import__('math').sqrt(row[0]) for row in rows]"))
    path = f"/deployments/{made['id']}"
    for rows in ([[4]], [[9], [16], [25]], [[-1], [1]]):
        await anna.call("POST", f"/predict/{made['id']}", rows)
    told = await until_used(anna, f"{path}/usage", 3)
    total = told["total"]
    assert (total["predictions"], total["errors"], total["rows"]) == (3, 1, 6)
    assert 0 < total["busy_seconds"] <= total["replica_seconds"]
    assert sum(point["predictions"] for point in told["points"]) == 3
    assert told["step"] == 60
    assert (await ben.call("GET", f"{path}/usage"))[0] == 404
    await anna.ask("DELETE", path)
    await anna.while_(path, 200)
    (of_all,) = (await anna.ask("GET", "/usage"))["deployments"]
    assert (of_all["deployment"], of_all["predictions"], of_all["errors"]) == ("d", 3, 1)
    assert (await ben.ask("GET", "/usage"))["deployments"] == []
    assert db.keys("*ks:*") == []


async def test_a_span_is_summed_by_the_steps_that_are_asked(doorless: Stack) -> None:
    anna = await doorless.person()
    path = f"/deployments/{await deployed(doorless, anna)}/usage"
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for days, step in ((0.01, 60), (0.5, 300), (2, 900), (7, 3600), (300, 86_400)):
        query = {"from": at.isoformat(), "to": (at + timedelta(days=days)).isoformat()}
        assert (await anna.ask("GET", path, params=query))["step"] == step
    told = await anna.ask(
        "GET", path, params={"from": "2026-01-01T00:07:13Z", "to": "2026-01-01T02:00:01Z", "step": "600"}
    )
    assert (told["begin"], told["end"]) == ("2026-01-01T00:00:00Z", "2026-01-01T02:10:00Z")
    assert told["points"] == []


@pytest.mark.parametrize(
    "query",
    [
        {"from": "yesterday"},
        {"from": "2026-01-01"},
        {"from": "2026-01-01T00:00:00"},
        {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"},
        {"from": "0001-01-01T00:00:00Z"},
        {"from": "9999-12-31T23:59:59Z"},
        {"to": "9999-12-31T23:59:59Z"},
        {"from": "1970-01-01T00:00:00Z", "to": "9998-01-01T00:00:00Z"},
        {"from": "2020-01-01T00:00:00Z", "step": "60"},
        {"step": "61"},
        {"step": "0"},
        {"step": "-60"},
        {"step": "9" * 40},
        {"step": "nan"},
    ],
)
async def test_a_span_that_is_none_is_refused_by_its_field(doorless: Stack, query: dict[str, str]) -> None:
    anna = await doorless.person()
    path = f"/deployments/{await deployed(doorless, anna)}/usage"
    status, told, _ = await anna.call("GET", path, params=query)
    assert (status, told["code"]) == (400, "bad_request"), told
    assert told["faults"][0]["field"] in {"from", "to", "step"}
