"""Usage and limits over HTTP, with a real door."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from kubeserve.door import usage as door_usage
from kubeserve.usage import taking
from models import of_python
from stack import Person, Stack, left_in
from test_api_predictions import deploy, deployed

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_usage, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(taking, "TAKE_SECONDS", 0.1)


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
    assert left_in(db) == []


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


ASYNC = {"Prefer": "respond-async"}


async def test_a_key_asks_as_often_as_it_may_and_is_told_when_again(doorless: Stack) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    path = f"/predict/{deployment_id}"
    made = await anna.ask("POST", "/keys", {"name": "shop", "deployment_id": deployment_id, "requests_per_minute": 2})
    assert made["requests_per_minute"] == 2
    shop = Person(doorless.http, doorless.url, made["key"])
    told = [await shop.call("POST", path, [[1]], headers=ASYNC) for _ in range(3)]
    assert [status for status, _, _ in told] == [202, 202, 429]
    assert [headers["x-ratelimit-remaining-requests"] for _, _, headers in told] == ["1", "0", "0"]
    status, refused, headers = told[2]
    assert refused["code"] == "rate_limit_exceeded"
    assert "the key's limit is 2 requests a minute" in refused["error"]
    assert 1 <= int(headers["Retry-After"]) <= 30
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    status, _, headers = await anna.call("POST", path, [[1]], headers=ASYNC)
    assert status == 202
    assert not [name for name in headers if name.lower().startswith("x-ratelimit")], "nothing limits her own token"


async def test_a_keys_limit_is_changed_by_its_owner_and_not_by_who_has_it(doorless: Stack) -> None:
    anna, bob = await doorless.person(), await doorless.person("bob")
    deployment_id = await deployed(doorless, anna)
    path = f"/predict/{deployment_id}"
    made = await anna.ask("POST", "/keys", {"name": "shop", "requests_per_minute": 1})
    limit, shop = f"/keys/{made['id']}/limit", Person(doorless.http, doorless.url, made["key"])
    assert [(await shop.call("POST", path, [[1]], headers=ASYNC))[0] for _ in range(2)] == [202, 429]
    assert (await shop.call("PUT", limit, {"requests_per_minute": 600}))[0] == 403
    assert (await bob.call("PUT", limit, {"requests_per_minute": 600}))[0] == 404
    changed = await anna.ask("PUT", limit, {"requests_per_minute": 1_000_000})
    assert (changed["requests_per_minute"], changed["name"]) == (1_000_000, "shop")
    assert "key" not in changed, "its text is told once"
    told = await shop.call("POST", path, [[1]], headers=ASYNC)
    assert (told[0], told[2]["x-ratelimit-limit-requests"]) == (202, "1000000")
    await anna.ask("PUT", limit, {"requests_per_minute": None})
    told = await shop.call("POST", path, [[1]], headers=ASYNC)
    assert (told[0], "x-ratelimit-limit-requests" in told[2]) == (202, False)
    assert [each["requests_per_minute"] for each in await anna.ask("GET", "/keys")] == [None]


async def test_a_deployment_is_asked_by_all_together_as_often_as_it_may(doorless: Stack, db: redis.Redis) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    path, own = f"/predict/{deployment_id}", f"/deployments/{deployment_id}"
    keys = [
        Person(
            doorless.http,
            doorless.url,
            (await anna.ask("POST", "/keys", {"name": name, "requests_per_minute": 5}))["key"],
        )
        for name in ("one", "two")
    ]
    assert (await anna.ask("PUT", f"{own}/limit", {"requests_per_minute": 3}))["requests_per_minute"] == 3
    assert (await anna.ask("GET", own))["target_revision"] == 1, "it is no new revision"
    callers = (keys[0], keys[1], anna, keys[0], anna)
    told = [await caller.call("POST", path, [[1]], headers=ASYNC) for caller in callers]
    assert [status for status, _, _ in told] == [202, 202, 202, 429, 429]
    assert "the deployment's limit is 3 requests a minute" in told[-1][1]["error"]
    assert told[0][2]["x-ratelimit-limit-requests"] == "3", "the tighter one is told"
    assert (await anna.call("POST", path, data=b"{", headers=ASYNC))[0] == 429, "before the rows are read"
    await anna.ask("PUT", f"{own}/limit", {"requests_per_minute": None})
    assert (await anna.call("POST", path, [[1]], headers=ASYNC))[0] == 202
    events = [each["action"] for each in await anna.ask("GET", f"{own}/events")]
    assert events.count("limited") == 2
    assert all(0 < db.ttl(key) <= 60 for key in db.keys("*rate*"))


async def test_a_key_over_its_limit_takes_nothing_from_the_others_of_a_deployment(doorless: Stack) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    path = f"/predict/{deployment_id}"
    await anna.ask("PUT", f"/deployments/{deployment_id}/limit", {"requests_per_minute": 4})
    made = await anna.ask("POST", "/keys", {"name": "greedy", "requests_per_minute": 1})
    greedy = Person(doorless.http, doorless.url, made["key"])
    greedily = [(await greedy.call("POST", path, [[1]], headers=ASYNC))[0] for _ in range(10)]
    assert greedily == [202] + 9 * [429]
    assert [(await anna.call("POST", path, [[1]], headers=ASYNC))[0] for _ in range(4)] == [202, 202, 202, 429]


async def test_what_nothing_limits_asks_redis_for_nothing(doorless: Stack, db: redis.Redis) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    await anna.ask("POST", f"/predict/{deployment_id}", [[1]], headers=ASYNC)
    assert doorless.plane.limits._script is None  # noqa: SLF001  nothing was opened
    assert db.keys("*rate*") == []


@pytest.mark.parametrize("number", [0, -1, 1_000_001, 10**30, 1.5, "600", True, [600]])
async def test_a_limit_that_is_none_is_refused_by_its_field(doorless: Stack, number: Any) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    body = {"requests_per_minute": number}
    version = (await anna.ask("GET", f"/deployments/{deployment_id}"))["revisions"][0]["version_id"]
    key = await anna.ask("POST", "/keys", {"name": "shop"})
    for method, path, more in (
        ("PUT", f"/deployments/{deployment_id}/limit", {}),
        ("POST", "/keys", {"name": "k"}),
        ("PUT", f"/keys/{key['id']}/limit", {}),
        ("POST", "/deployments", {"name": "other", "version_id": version}),
    ):
        status, told, _ = await anna.call(method, path, body | more)
        assert (status, [each["field"] for each in told["faults"]]) == (400, ["requests_per_minute"]), told
    status, told, _ = await anna.call("PUT", f"/deployments/{deployment_id}/limit", {})
    assert status == 400, "no limit is said by null"


async def test_a_limit_is_made_with_the_deployment(doorless: Stack) -> None:
    anna = await doorless.person()
    made = await anna.ask("GET", f"/deployments/{await deployed(doorless, anna)}")
    body = {"name": "other", "version_id": made["revisions"][0]["version_id"], "requests_per_minute": 1}
    other = await anna.ask("POST", "/deployments", body)
    assert (made["requests_per_minute"], other["requests_per_minute"]) == (None, 1)
    told = [(await anna.call("POST", f"/predict/{other['id']}", [[1]], headers=ASYNC))[0] for _ in range(2)]
    assert told == [202, 429]


async def test_a_key_is_good_until_its_time_is_over(doorless: Stack) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    until = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    made = await anna.ask("POST", "/keys", {"name": "brief", "deployment_id": deployment_id, "expires_at": until})
    brief = Person(doorless.http, doorless.url, made["key"])
    assert (await brief.call("POST", f"/predict/{deployment_id}", [[1]], headers=ASYNC))[0] == 202
    await brief.while_(f"/predictions/{deployment_id}.{deployment_id}", 404)
    status, told, _ = await brief.call("POST", f"/predict/{deployment_id}", [[1]], headers=ASYNC)
    assert (status, told["code"]) == (401, "unauthenticated")
    assert datetime.now(UTC) >= datetime.fromisoformat(until)
