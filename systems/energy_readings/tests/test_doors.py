"""Whatever comes in at a door, nothing stops: hostile requests, entries, stored data and answers; slow clients."""

import asyncio
import gzip
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from aiohttp import ClientTimeout, web
from greenscale_worker import Job, PermanentError

from conftest import Client
from energy_readings import http
from energy_readings.connection import connect
from energy_readings.http import LARGEST_BODY
from energy_readings.ingest import ingestion
from energy_readings.log import NO_HTTP
from energy_readings.page import page
from energy_readings.processing import readings_of, store_all
from energy_readings.readings import stored
from energy_readings.settings import Settings, read
from energy_readings.store import Store
from moving import Stub

Serve = Callable[[web.Application], Awaitable[Client]]
READING = {"site_id": "site-001", "device_id": "meter-42", "power_reading": 1500.5, "timestamp": "2024-01-15T10:30:00Z"}
GOOD = json.dumps(READING).encode()
BY_TIME = "{site_readings:site-001}:by_time"
PATIENCE = 20.0
SILENCE = 1.0  # longer than a body may take here
DEEP = b"[" * 100_000
BODIES = [
    b"", b"\x00", b"\xff\xfe\x00", b"\xef\xbb\xbf" + GOOD, DEEP, DEEP + b"]" * 100_000, b'{"a":' * 40_000,
    b"9" * 200_000, b"[" + b"9" * 100_000 + b"]", b'{"power_reading":1e999}', b'{"site_id":"\\ud800"}',
    b'{"\\ud800":1}', b'{"' + b"k" * 200_000 + b'":1}', b"[" + b"1," * 100_000 + b"1]", b"NaN", b"[NaN]",
    b'{"site_id":"a","site_id":"b"}', b'{"__proto__":{}}', GOOD[:-1], GOOD + GOOD, GOOD + b"\x00",
    json.dumps([READING] * 2000).encode(), b"x" * (LARGEST_BODY + 1), gzip.compress(GOOD),
    gzip.compress(b" " * 50_000_000), json.dumps(READING).encode("utf-16"),
]  # fmt: skip
TARGETS = [
    "/readings", "/sites/site-001/readings", "/", "//", "/../../etc/passwd", "/..%2f..%2fetc/passwd", "/%2e%2e/app.js",
    "/static/../../settings.py", "/app.js/..", "/api/sites/..%2F..%2Fhealth/readings", "/api/sites/%00/readings",
    "/api/sites/a?b#c/readings", "/api/readings", "/api/sites/x/readings?limit=" + "9" * 8000,
    "/sites/site-001/readings?cursor=" + "A" * 8000, "/sites/site-001/readings?cursor=%ff%fe&cursor=x",
    "/sites/site-001/readings?from=" + "9" * 5000, "/sites/site-001/readings?limit=" + "9" * 5000,
    "/sites/site-001/readings?limit=%D9%A3", "/sites/%ff/readings", "/sites/" + "s" * 7000 + "/readings",
    "/" + "a" * 20_000, "http://127.0.0.1:1/api/sites/site-001/readings", "http://[::1/api/sites/x/readings",
    "@127.0.0.1:1/api/sites/x/readings", "*", "/api/sites/x/readings?" + "a=b&" * 1500, "/sites/x/readings?%zz=%",
    "/api/sites/é/readings", "/health?" + "q" * 3000, "/api/sites/@evil:1/readings",
]  # fmt: skip
HEADERS = [
    b"", b"Content-Encoding: gzip\r\n", b"Content-Encoding: br\r\n", b"Content-Encoding: deflate\r\n",
    b"Content-Encoding: zstd\r\n", b"Content-Type: application/x-www-form-urlencoded\r\n", b"Expect: 100-continue\r\n",
    b"Expect: the-impossible\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: -1\r\n", b"X: \x00\r\n",
    b"Content-Type: text/plain; charset=no-such\r\n", b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"X: " + b"h" * 20_000 + b"\r\n", b"X: y\r\n" * 300, b": \r\n", b"Host: a\r\nHost: b\r\n", b"Cookie: \xff=\r\n",
]  # fmt: skip


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """See to it that no fault was one of ours."""
    yield
    faults = [each.exc_info[1] for each in caplog.get_records("call") if each.exc_info]
    assert not [each for each in faults if not isinstance(each, NO_HTTP)]


@pytest.fixture
async def doors(serve: Serve, settings: Settings, quiet: None, monkeypatch: pytest.MonkeyPatch) -> list[Client]:
    assert quiet is None
    ingest, readings = await serve(ingestion(settings)), await serve(stored(settings))
    monkeypatch.setattr(http, "BODY_SECONDS", 0.3)
    urls = {"ENERGY_INGEST_URL": str(ingest.make_url("")), "ENERGY_READINGS_URL": str(readings.make_url(""))}
    return [ingest, readings, await serve(page(read(urls)))]


async def raw(door: Client, request: bytes) -> bytes:
    """Send bytes, and give what comes back until the server closes; nothing where it waits for more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        writer.write(request)
        async with asyncio.timeout(SILENCE):
            return await reader.read()
    except (ConnectionError, TimeoutError):
        return b""
    finally:
        writer.transport.abort()


async def statuses(doors: list[Client], requests: list[bytes]) -> list[tuple[int, bytes]]:
    """Send each request to each server, some at a time; gives the status, 0 for none, beside the request."""
    turns = asyncio.Semaphore(20)

    async def one(door: Client, request: bytes) -> tuple[int, bytes]:
        async with turns:
            answer = (await raw(door, request)).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        return int(answer[9:12]) if answer.startswith(b"HTTP/1.") else 0, request[:200]

    return await asyncio.gather(*(one(door, request) for request in requests for door in doors))


async def well(doors: list[Client]) -> None:
    for door in doors:
        async with door.get("/health") as reply:
            assert reply.status == 200


def request_of(method: str, target: str, headers: bytes, body: bytes) -> bytes:
    length = b"" if b"ransfer-" in headers or b"Length" in headers else b"Content-Length: %d\r\n" % len(body)
    return b"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s%s\r\n%s" % (
        method.encode(), target.encode(), headers, length, body,
    )  # fmt: skip


async def test_no_body_target_or_header_is_too_much(doors: list[Client]) -> None:
    requests = [request_of("POST", path, b"", body) for body in BODIES for path in ("/readings", "/api/readings")]
    requests += [request_of(method, target, b"", b"") for target in TARGETS for method in ("GET", "POST", "DELETE")]
    requests += [request_of("POST", path, h, GOOD) for h in HEADERS for path in ("/readings", "/api/readings")]
    found = await statuses(doors, requests)
    assert [each for each in found if not 200 <= each[0] < 500] == []
    assert {202, 200, 400, 404, 405, 413, 422} <= {status for status, _ in found}
    await well(doors)


@pytest.mark.parametrize("seed", range(3))
async def test_no_bytes_at_all_stop_a_server(doors: list[Client], seed: int) -> None:
    rng = random.Random(seed)
    requests = []
    for _ in range(100):
        body = rng.choice([GOOD, rng.choice(BODIES)[:4000]])
        request = bytearray(request_of(rng.choice(["GET", "POST"]), rng.choice(TARGETS), rng.choice(HEADERS), body))
        for _ in range(rng.randrange(6)):
            at = rng.randrange(len(request))
            request[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
        requests.append(bytes(request))
    found = await statuses(doors, requests)
    assert [each for each in found if each[0] >= 500] == []
    assert any(200 <= status < 500 for status, _ in found)
    await well(doors)


async def test_no_file_but_those_of_the_page_is_served(doors: list[Client]) -> None:
    for target in TARGETS[4:9]:
        assert b" 404 " in (await raw(doors[2], request_of("GET", target, b"", b""))).partition(b"\r\n")[0]


async def test_the_page_asks_nobody_but_the_apis(doors: list[Client]) -> None:
    async with Stub(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", greets=False) as evil:
        for start in ("http://", "@", "/@", "//"):
            target = f"{start}127.0.0.1:{evil.port}/api/sites/x/readings"
            assert b"evil" not in await raw(doors[2], request_of("GET", target, b"", b""))


async def test_slow_clients_are_told_and_hold_up_nobody(doors: list[Client]) -> None:
    slow = []
    for door in (doors[0], doors[2]):
        for path in ("/readings", "/api/readings"):
            for _ in range(50):
                slow.append(await asyncio.open_connection("127.0.0.1", door.port))
                slow[-1][1].write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{" % path.encode())
    async with doors[0].post("/readings", data=GOOD) as reply:
        assert reply.status == 202
    await well(doors)
    told = [await asyncio.wait_for(reader.readline(), PATIENCE) for reader, _ in slow]
    assert told.count(b"HTTP/1.1 408 Request Timeout\r\n") == 100
    for _, writer in slow:
        writer.transport.abort()


async def test_a_client_that_leaves_amid_its_body_is_no_fault_of_redis(
    doors: list[Client], caplog: pytest.LogCaptureFixture
) -> None:
    for door, path in ((doors[0], b"/readings"), (doors[2], b"/api/readings")):
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", door.port)
            writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{" % path)
            await writer.drain()
            writer.transport.abort()
    await well(doors)
    assert "503" not in caplog.text


ANSWERS = [
    b"+OK\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", b"\x00" * 1000,
    b"HTTP/1.1 200 OK\r\nX: " + b"h" * 100_000 + b"\r\n\r\n", b"HTTP/1.1 999 ?\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Type: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 8_000_000,
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
async def test_whatever_stands_behind_the_page(
    serve: Serve, quiet: None, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    assert quiet is None
    monkeypatch.setattr("energy_readings.page.PATIENCE", ClientTimeout(total=0.5))
    async with Stub(answer, greets=False) as stub:
        url = f"http://127.0.0.1:{stub.port}"
        door = await serve(page(read({"ENERGY_INGEST_URL": url, "ENERGY_READINGS_URL": url})))
        for asked in (door.get("/api/sites/x/readings"), door.post("/api/readings", data=GOOD)):
            async with asked as reply:
                assert reply.status not in {500, 502}
                assert len(await reply.read()) < 1000
        await well([door])


STORED = [
    b"", b"\x00\xff", b"not JSON", b"null", b"[]", b"3", b'"text"', b"{}", b"]},{", DEEP, b"{" * 500, b"x" * 2_000_000,
    b'{"a":NaN}', GOOD.replace(b"1500.5", b"NaN"), GOOD.replace(b"1500.5", b"1e999"), GOOD.replace(b"1500.5", b"null"),
    GOOD.replace(b"1500.5", b'"1"'), GOOD.replace(b"1500.5", b"9" * 500), GOOD.replace(b"1500.5", b"true"),
    GOOD.replace(b'"meter-42"', b"{}"), GOOD.replace(b'"2024', b'"\\ud800'), GOOD[:-1] + b',"x":NaN}', GOOD + b"\n{}",
    GOOD.replace(b'"power_reading": ', b'"power_reading": NaN, "power_reading": '), b" " * 2000 + GOOD,
]  # fmt: skip


async def test_what_somebody_else_stored_is_left_out(doors: list[Client], db: redis.Redis) -> None:
    good = [GOOD.replace(b"1500.5", b"%d.5" % number) for number in range(10)]
    db.zadd(BY_TIME, {member: at * 3 for at, member in enumerate(STORED)} | {g: 5 * at for at, g in enumerate(good)})
    db.zadd(BY_TIME, {b"below": "-inf", b"above": "+inf"})
    for limit in (1, 2, 3, 1000):
        powers: list[float] = []
        query = f"limit={limit}"
        for _ in range(100):
            async with doors[2].get(f"/api/sites/site-001/readings?{query}") as reply:
                assert reply.status == 200
                answer = json.loads(await reply.read(), parse_constant=pytest.fail)
            powers += [each["power_reading"] for each in answer["readings"]]
            if answer["next"] is None:
                break
            query = f"limit={limit}&cursor={answer['next']}"
        assert powers == [number + 0.5 for number in range(9, -1, -1)], limit


@pytest.mark.parametrize("days", [0, 1])
async def test_readings_are_stored_beside_what_somebody_else_stored(
    settings: Settings, db: redis.Redis, days: int
) -> None:
    client = connect(settings)
    db.zadd(BY_TIME, dict.fromkeys(STORED, 7.5) | {b"above": "+inf", b"below": "-inf"})
    db.rpush("site_readings:site-001", *STORED)
    now = datetime.fromtimestamp(db.time()[0], UTC).isoformat()
    (entry,) = entries(READING | {"timestamp": now})
    assert await store_all(Store(client, keep_readings=1000, keep_days=days), [entry]) == [""]
    assert db.lrange("site_readings:site-001", -1, -1)
    assert db.exists("site_readings:site-001", BY_TIME) == 2
    await client.aclose()


def entries(*payloads: dict[str, Any]) -> list[Job]:
    texts = [{name: str(v) if isinstance(v, float) else v for name, v in each.items()} for each in payloads]
    return [Job(job_id=f"{number}-0", payload=each) for number, each in enumerate(texts, 1)]


VALUES: list[Any] = [
    None, True, 0, -1, 1e308, "", "\x00", "\ud800", "x" * 100_000, [], {}, [[]], {"a": {}}, "[" * 100_000, "{}", "[{}]",
    "NaN", "inf", "1e999", "9" * 5000, "\u0661", "1_0", " 1 ", "[null]", '["\\ud800"]', '[{"\\ud800":1}]', b"bytes",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
async def test_no_entry_stops_the_others(settings: Settings, db: redis.Redis, seed: int) -> None:
    rng = random.Random(seed)
    client = connect(settings)
    names = [*READING, "readings", "", "\ud800", "x" * 5000, "job"]
    payloads: list[dict[str, Any]] = [{"readings": value} for value in VALUES]
    payloads += [READING | {"power_reading": "1"} | {name: value} for name in READING for value in VALUES]
    for _ in range(200):
        payloads.append({rng.choice(names): rng.choice(VALUES) for _ in range(rng.randrange(6))})
    good = {**READING, "power_reading": "1500.5"}
    outcomes = await store_all(Store(client, keep_readings=0, keep_days=0), entries(*payloads, good))
    assert outcomes[-1] == ""
    for outcome in outcomes:
        assert outcome == "" or isinstance(outcome, PermanentError)
        assert len(str(outcome)) < 5000
        str(outcome).encode()
    assert READING in [json.loads(text) for text in db.lrange("site_readings:site-001", 0, -1)]
    await client.aclose()


def test_an_entry_of_bytes_that_are_no_text(settings: Settings) -> None:
    assert settings
    for value in VALUES:
        with pytest.raises(PermanentError):
            readings_of(Job(job_id="1-0", payload={"readings": value}))
