"""The ingestion API: what it accepts is in Redis, what it does not is told."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from aiohttp import web
from harness.redis_server import CERTIFICATE, RedisServer

from conftest import Client, environment
from energy_readings.http import LARGEST_BODY
from energy_readings.ingest import ingestion
from energy_readings.settings import Settings, read

Serve = Callable[[web.Application], Awaitable[Client]]
READING = {"site_id": "site-001", "device_id": "meter-42", "power_reading": 1500.5, "timestamp": "2024-01-15T10:30:00Z"}


@pytest.fixture
async def api(serve: Serve, settings: Settings) -> Client:
    return await serve(ingestion(settings))


async def post(api: Client, body: Any) -> tuple[int, dict[str, Any]]:
    async with api.post("/readings", data=body if isinstance(body, bytes) else json.dumps(body)) as reply:
        assert reply.content_type == "application/json"
        assert ("Retry-After" in reply.headers) == (reply.status == 503)
        return reply.status, await reply.json()


async def test_an_accepted_reading_is_in_the_stream_by_its_fields(api: Client, db: redis.Redis) -> None:
    status, answer = await post(api, READING)
    assert (status, answer["readings"]) == (202, 1)
    fields = {name: str(value) for name, value in READING.items()}
    assert db.xrange("energy_readings") == [(answer["entry_id"], fields)]


async def test_an_array_is_one_entry(api: Client, db: redis.Redis) -> None:
    readings = [READING | {"device_id": f"meter-{number}"} for number in range(100)]
    status, answer = await post(api, readings)
    assert (status, answer["readings"]) == (202, 100)
    ((entry_id, fields),) = db.xrange("energy_readings")
    assert entry_id == answer["entry_id"]
    assert json.loads(fields.pop("readings")) == readings
    assert not fields


async def test_requests_that_come_together_share_round_trips_and_get_each_its_own_entry(
    api: Client, db: redis.Redis
) -> None:
    before = db.info("stats")["total_reads_processed"]
    answers = await asyncio.gather(*(post(api, READING | {"power_reading": float(n)}) for n in range(300)))
    assert db.info("stats")["total_reads_processed"] - before < 300
    assert {status for status, _ in answers} == {202}
    powers = {entry_id: float(fields["power_reading"]) for entry_id, fields in db.xrange("energy_readings")}
    assert [powers[answer["entry_id"]] for _, answer in answers] == list(range(300))


@pytest.mark.parametrize(
    ("body", "status", "fault"),
    [
        (READING | {"power_reading": "much"}, 422, {"field": "power_reading"}),
        (READING | {"timestamp": "yesterday"}, 422, {"field": "timestamp"}),
        ([READING, READING | {"site_id": "no such id"}], 422, {"index": 1, "field": "site_id"}),
        ([], 422, {}),
        ("text", 422, {}),
        (b"{", 400, {}),
        (b"\xff\xfe", 400, {}),
    ],
)
async def test_what_is_refused_is_told_and_not_stored(
    api: Client, db: redis.Redis, body: Any, status: int, fault: dict[str, Any]
) -> None:
    got, answer = await post(api, body)
    assert got == status
    (told,) = answer["faults"]
    assert answer["error"]
    assert {name: value for name, value in told.items() if name != "message"} == fault
    assert not db.exists("energy_readings")


async def test_a_body_that_is_too_large_is_refused(api: Client, db: redis.Redis) -> None:
    status, answer = await post(api, b"[" + b" " * LARGEST_BODY + b"]")
    assert status == 413
    assert str(LARGEST_BODY) in answer["error"]
    assert not db.exists("energy_readings")


async def test_other_paths_and_methods_are_told_in_json(api: Client) -> None:
    for method, path, status in (("GET", "/", 404), ("GET", "/readings", 405)):
        async with api.request(method, path) as reply:
            assert (reply.status, reply.content_type) == (status, "application/json")


async def test_redis_that_is_away_is_503_and_then_all_is_well(
    serve: Serve, start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis("appendonly yes")
    api = await serve(ingestion(read(environment(server))))
    assert (await post(api, READING))[0] == 202
    server.stop()
    assert (await post(api, READING))[0] == 503
    assert (await api.get("/health")).status == 503
    server.start()
    accepted = [True]

    async def again() -> None:
        while (await post(api, READING))[0] != 202:
            accepted.append(False)

    await asyncio.wait_for(again(), 30)
    assert (await api.get("/health")).status == 200
    with server.client() as db:
        assert db.xlen("energy_readings") == 2, "what was accepted, and nothing else"


async def test_redis_that_is_full_is_503_and_nothing_is_dropped(
    serve: Serve, start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis("maxmemory-policy noeviction")
    api = await serve(ingestion(read(environment(server))))
    entry_id = (await post(api, READING))[1]["entry_id"]
    with server.client(decode_responses=True) as db:
        db.config_set("maxmemory", "1mb")
        assert (await post(api, READING))[0] == 503
        db.config_set("maxmemory", "0")
        assert [each for each, _ in db.xrange("energy_readings")] == [entry_id]
    assert (await post(api, READING))[0] == 202


async def test_of_requests_that_come_together_while_redis_fills_up_each_gets_the_truth(
    serve: Serve, start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis("maxmemory-policy noeviction")
    api = await serve(ingestion(read(environment(server))))
    readings = [READING | {"device_id": f"meter-{number}"} for number in range(1000)]
    with server.client(decode_responses=True) as db:
        db.config_set("maxmemory", db.info("memory")["used_memory"] + 6_000_000)
        answers = await asyncio.gather(*(post(api, readings) for _ in range(100)))
        assert {status for status, _ in answers} == {202, 503}
        accepted = {answer["entry_id"] for status, answer in answers if status == 202}
        assert accepted == {entry_id for entry_id, _ in db.xrange("energy_readings")}


async def test_redis_that_hangs_is_503_in_time(serve: Serve, start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    api = await serve(ingestion(read(environment(server))))
    assert (await post(api, READING))[0] == 202
    server.freeze()
    statuses = await asyncio.gather(*(asyncio.wait_for(post(api, READING), 30) for _ in range(3)))
    assert [status for status, _ in statuses] == [503] * 3
    server.thaw()
    assert (await post(api, READING))[0] == 202


async def test_whoever_has_waited_too_long_for_a_redis_that_hangs_is_not_sent_any_more(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, start_redis: Callable[..., RedisServer]
) -> None:
    for name, value in (("ingest.ANSWER_SECONDS", 0.5), ("connection.ANSWER_SECONDS", 0.5), ("ingest.MOST_ENTRIES", 1)):
        monkeypatch.setattr(f"energy_readings.{name}", value)
    server = start_redis()
    api = await serve(ingestion(read(environment(server))))
    server.freeze()
    async with asyncio.timeout(25):  # one after the other, each would wait half a second for those before it
        answers = await asyncio.gather(*(post(api, READING) for _ in range(100)))
    assert [status for status, _ in answers] == [503] * 100
    server.thaw()


async def test_with_password_and_tls(serve: Serve, start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("requirepass open-sesame", tls=True)
    own = environment(server, GREENSCALE_REDIS_CA_FILE=CERTIFICATE)
    assert (await post(await serve(ingestion(read(own))), READING))[0] == 503, "it wants a password"
    api = await serve(ingestion(read(own | {"REDIS_PASSWORD": "open-sesame"})))
    assert (await post(api, READING))[0] == 202
    with server.client(password="open-sesame") as db:  # noqa: S106  of a server of this test alone
        assert db.xlen("energy_readings") == 1


@pytest.mark.parametrize("user", [None, "meters"])
async def test_a_password_that_is_renewed(
    serve: Serve, start_redis: Callable[..., RedisServer], tmp_path: Path, user: str | None
) -> None:
    path = tmp_path / "password"
    path.write_text("old\n")
    server = start_redis(f"user {user or 'default'} on >old allkeys allcommands")
    own = {"REDIS_USERNAME": user} if user else {}
    api = await serve(ingestion(read(environment(server, REDIS_PASSWORD_FILE=path, **own))))
    assert (await post(api, READING))[0] == 202
    with server.client(username=user, password="old") as db:  # noqa: S106  likewise
        db.execute_command("ACL", "SETUSER", user or "default", "resetpass", ">new")
        db.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert (await post(api, READING))[0] == 503
        path.unlink()
        assert (await api.get("/health")).status == 503
        path.write_text("new\n")
        assert (await post(api, READING))[0] == 202


@pytest.mark.parametrize(
    ("command", "back"),
    [
        ("CONFIG SET maxmemory 1mb", "CONFIG SET maxmemory 0"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("SET energy_readings other", "DEL energy_readings"),
        ("ACL SETUSER default -xadd", "ACL SETUSER default +xadd"),
        ("ACL SETUSER default resetkeys ~other", "ACL SETUSER default allkeys"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    ],
    ids=["full", "lacks replicas", "wrong type", "may not", "may not there", "replica"],
)
async def test_health_says_what_a_reading_would_be_answered(
    serve: Serve, start_redis: Callable[..., RedisServer], command: str, back: str
) -> None:
    server = start_redis()
    api = await serve(ingestion(read(environment(server))))
    with server.client() as db:
        assert (await api.get("/health")).status == 200
        assert not db.exists("energy_readings"), "it adds nothing"
        db.execute_command(*command.split())
        assert (await post(api, READING))[0] == 503
        assert (await api.get("/health")).status == 503
        db.execute_command(*back.split())
        assert (await api.get("/health")).status == 200
        assert (await post(api, READING))[0] == 202
