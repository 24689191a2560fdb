"""The gateway as a process, and what clients, Redis and signals do to it."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
import pytest

from greenscale_worker import ConfigError, RedisOptions, open_client
from greenscale_worker.cli.serve import _has_keys
from greenscale_worker.gateway import app, core, sse
from greenscale_worker.gateway.core import Gateway, GatewayOptions
from greenscale_worker.gateway.keys import new_key
from greenscale_worker.job import Output, Succeeded
from greenscale_worker.testing.rig import ANSWER, run
from harness.eventually import PATIENCE, eventually
from harness.redis_server import RedisServer, free_port
from tests.support.api import Answer, Api, a_gateway, conforms
from tests.support.desk import Desk, a_desk, ended

LONG: Final = {"Prefer": f"wait={PATIENCE:.0f}"}
PROMPT: Final = b'{"prompt": "What is 2+2?"}'


@pytest.fixture
async def desk(tmp_path: Path, redis_url: str) -> AsyncIterator[Desk]:
    async with a_desk(tmp_path) as desk:
        desk.environment |= {"REDIS_URL": redis_url, "GREENSCALE_GATEWAY_PORT": str(free_port())}
        yield desk


class Served:
    """A process that serves."""

    def __init__(self, desk: Desk, process: Any, session: aiohttp.ClientSession) -> None:
        self.process = process
        self.session = session
        self.url = f"http://127.0.0.1:{desk.environment['GREENSCALE_GATEWAY_PORT']}"

    async def call(self, method: str, path: str, data: bytes | None = None, **headers: str) -> Answer:
        async with self.session.request(method, self.url + path, data=data, headers=headers) as response:
            answer = Answer(response.status, response.headers.copy(), await response.read())
        conforms(method, path, answer)
        return answer

    async def status(self, path: str) -> int:
        try:
            async with self.session.get(self.url + path) as response:
                return response.status
        except aiohttp.ClientConnectionError:
            return 0

    async def listens(self) -> None:
        while await self.status("/livez") != 200:
            assert self.process.returncode is None, (await self.process.communicate())[1]
            await asyncio.sleep(0.02)

    async def becomes(self, path: str, status: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.status(path) != status:  # noqa: ASYNC110  what is awaited is another process
                await asyncio.sleep(0.02)


@pytest.fixture
async def serve(desk: Desk) -> AsyncIterator[Callable[..., Any]]:
    async with aiohttp.ClientSession() as session:

        async def start(**environment: str) -> Served:
            desk.environment |= environment
            served = Served(desk, await desk.start("serve"), session)
            async with asyncio.timeout(PATIENCE):
                await served.listens()
            return served

        yield start


async def events_of(process: Any) -> tuple[int, list[dict[str, Any]], str]:
    done = await ended(process)
    assert done.code is not None
    return done.code, [orjson.loads(line) for line in done.out.splitlines()], done.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_a_signal(serve: Any, number: signal.Signals) -> None:
    served = await serve()
    assert await served.status("/readyz") == 200
    assert (await served.call("POST", "/v1/jobs", PROMPT)).status == 202
    served.process.send_signal(number)
    code, events, err = await events_of(served.process)
    assert (code, err) == (0, "")
    assert [event["event"] for event in events] == ["gateway_started", "draining", "stopped"]
    assert events[0]["url"] == served.url


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"GREENSCALE_RESULT_TTL_SECONDS": "0"}, "GREENSCALE_RESULT_TTL_SECONDS"),
        ({"GREENSCALE_GATEWAY_HOST": "0.0.0.0"}, "GREENSCALE_GATEWAY_HOST"),  # noqa: S104  it is refused
        ({"GREENSCALE_GATEWAY_HOST": "example.org"}, "GREENSCALE_GATEWAY_HOST"),
        ({"GREENSCALE_GATEWAY_PORT": "0"}, "GREENSCALE_GATEWAY_PORT"),
    ],
)
async def test_it_refuses_to_start_and_says_why_in_a_line(desk: Desk, environment: dict[str, str], name: str) -> None:
    desk.environment |= environment
    done = await desk.run("serve")
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert name in line
    assert "expected" in line


async def test_a_port_that_is_in_use_is_said_in_a_line(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", int(desk.environment["GREENSCALE_GATEWAY_PORT"]))):
        done = await desk.run("serve")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert "GREENSCALE_GATEWAY_PORT" in line
    assert "in use" in line


async def test_who_waits_when_it_is_stopped_is_told_where_to_look(serve: Any) -> None:
    served = await serve(GREENSCALE_DRAIN_SECONDS="0.5")
    job_id = (await served.call("POST", "/v1/jobs", PROMPT)).json["id"]
    calls = [
        asyncio.create_task(served.call("POST", "/v1/jobs", PROMPT, **LONG)),
        asyncio.create_task(served.call("GET", f"/v1/jobs/{job_id}/result", **LONG)),
        asyncio.create_task(served.call("GET", f"/v1/jobs/{job_id}/events")),
    ]
    await in_work(served, 3)
    served.process.terminate()
    posted, read, followed = await asyncio.gather(*calls)
    assert (posted.status, posted.code) == (503, "shutting_down")
    assert posted.headers["Location"].startswith("/v1/jobs/")
    assert (read.status, read.headers["Location"]) == (503, f"/v1/jobs/{job_id}")
    assert followed.status == 200
    assert (await events_of(served.process))[0] == 0
    again = await serve()
    assert (await again.call("GET", posted.headers["Location"])).json["state"] == "waiting"


async def test_who_waits_is_answered_while_it_drains_and_nobody_else_is_let_in(serve: Any, redis_url: str) -> None:
    served = await serve()
    waits = asyncio.create_task(served.call("POST", "/v1/jobs", PROMPT, **LONG))
    await in_work(served, 1)
    served.process.terminate()
    await served.becomes("/livez", 0)
    assert not waits.done()
    async with a_gateway(redis_url) as other:
        assert await other.worker.settle(await run(other.worker), ANSWER)
        answered = await waits
    assert (answered.status, answered.json["state"]) == (200, "succeeded")
    assert (await events_of(served.process))[0] == 0


async def test_a_second_signal_hurries(serve: Any) -> None:
    served = await serve(GREENSCALE_DRAIN_SECONDS="600")
    waits = asyncio.create_task(served.call("POST", "/v1/jobs", PROMPT, Prefer="wait=600"))
    await in_work(served, 1)
    served.process.terminate()
    await served.becomes("/livez", 0)
    served.process.terminate()
    assert (await waits).code == "shutting_down"
    assert (await events_of(served.process))[0] == 0


async def in_work(served: Served, requests: int) -> None:
    """Wait until so many requests of /v1 are being answered."""
    async with asyncio.timeout(PATIENCE):
        while True:
            text = (await served.call("GET", "/metrics")).body.decode()
            found = re.findall(r'greenscale_gateway_open_requests\{route="\w+ /v1/.*"\} (\d+)\.0', text)
            if sum(map(int, found)) >= requests:
                return
            await asyncio.sleep(0.02)


async def test_while_redis_is_away_everything_is_503_and_then_goes_on(
    tmp_path: Path, start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis()
    async with a_desk(tmp_path) as desk, aiohttp.ClientSession() as session:
        desk.environment |= {"REDIS_URL": server.url, "GREENSCALE_GATEWAY_PORT": str(free_port())}
        served = Served(desk, await desk.start("serve"), session)
        await served.listens()
        job_id = (await served.call("POST", "/v1/jobs", PROMPT)).json["id"]
        waits = asyncio.create_task(served.call("GET", f"/v1/jobs/{job_id}", Prefer="wait=600"))
        await in_work(served, 1)
        server.stop()
        for method, path in (
            ("POST", "/v1/jobs"),
            ("GET", "/v1/jobs"),
            ("GET", f"/v1/jobs/{job_id}"),
            ("DELETE", f"/v1/jobs/{job_id}"),
            ("GET", f"/v1/jobs/{job_id}/events"),
            ("GET", "/v1/dead"),
            ("GET", "/v1/stats"),
        ):
            away = await served.call(method, path, PROMPT if method == "POST" else None)
            assert (away.status, away.code) == (503, "queue_unavailable"), path
            assert int(away.headers["Retry-After"]) > 0
        assert (await served.status("/readyz"), await served.status("/livez")) == (503, 200)
        assert not waits.done()
        server.start()
        await served.becomes("/readyz", 200)
        assert (await served.call("POST", "/v1/jobs", PROMPT)).status == 202
        waits.cancel()
        served.process.terminate()
        code, events, _ = await events_of(served.process)
        assert code == 0
        seen = [event for event, _ in groupby(each["event"] for each in events)]  # each queue may say it
        assert seen == ["gateway_started", "queue_unavailable", "queue_back", "draining", "stopped"]


async def test_it_starts_while_redis_is_away(desk: Desk) -> None:
    desk.environment["REDIS_URL"] = f"redis://127.0.0.1:{free_port()}"
    async with aiohttp.ClientSession() as session:
        served = Served(desk, await desk.start("serve"), session)
        async with asyncio.timeout(PATIENCE):
            await served.listens()
        assert await served.status("/readyz") == 503
        assert (await served.call("GET", "/v1/jobs")).code == "queue_unavailable"


@pytest.fixture
async def api(redis_url: str) -> AsyncIterator[Api]:
    async with a_gateway(redis_url, options=GatewayOptions(queue="jobs", max_bytes=4096)) as api:
        yield api


async def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(api: Api) -> None:
    body = b'{"prompt": "' + b"x" * 10_000_000 + b'"}'
    whole = BytesIO(body)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 65536):
            yield body[at : at + 65536]

    for data in (whole, pieces()):
        try:
            refused = await api.post("/v1/jobs", data=data)
        except aiohttp.ClientConnectionError:  # it did not wait for all of it
            continue
        assert (refused.status, refused.code) == (413, "too_large")
    fits = b'{"prompt": "' + b"x" * (4096 - 14 - 60) + b'"}'
    assert (await api.post("/v1/jobs", data=fits)).status == 202


async def talk(api: Api, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Write raw bytes, and return all that comes back until the gateway hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))

    async def write() -> None:
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)

    writing, read = asyncio.create_task(write()), bytearray()
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            while piece := await reader.read(65536):
                read += piece
    await writing
    writer.close()
    return bytes(read)


async def test_headers_without_end_are_refused_and_take_no_memory(api: Api) -> None:
    def memory() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before, head = memory(), b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
    long_one = [head + b"X: ", *[b"x" * 65536] * 1600]
    many = [head, *[b"X-Header: %b\r\n" % (b"x" * 1000)] * 100_000]
    for pieces in (long_one, many, [b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n"]):
        assert (await talk(api, *pieces))[:12] in (b"", b"HTTP/1.0 400")
    assert memory() - before < 32 * 1024 * 1024
    assert (await api.get("/livez")).status == 200


async def test_who_sends_too_slowly_is_cut_off(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(app, "LINGER_SECONDS", 0.3)
    monkeypatch.setattr(core, "BODY_SECONDS", 0.3)
    async with a_gateway(redis_url) as api:
        assert await talk(api, b"") == b"", "who says nothing"
        slow_head = [b"GET /livez HTTP/1.1\r\n", *[b"X: y\r\n"] * 20]
        assert await talk(api, *slow_head, pause=0.05) == b""
        head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
        answered = await talk(api, head, *[b" "] * 20, pause=0.05)
        assert answered.startswith(b"HTTP/1.1 408")
        assert b'"code":"request_timeout"' in answered


async def test_who_does_not_read_a_long_answer_is_cut_off(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "WRITE_SECONDS", 0.5)
    async with a_gateway(redis_url) as api:
        job_id = await api.submit()
        assert await api.worker.settle(await run(api.worker), Succeeded(Output("x" * 8_000_000)))
        host, port = "127.0.0.1", int(api.url.rpartition(":")[2])
        loop, peer = asyncio.get_running_loop(), socket.socket()
        with peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.setblocking(False)  # noqa: FBT003  its only argument
            await loop.sock_connect(peer, (host, port))
            await loop.sock_sendall(peer, f"GET /v1/jobs/{job_id}/result HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await loop.sock_recv(peer, 1)
            await eventually(lambda: not held_by_gateway(port))


def held_by_gateway(port: int) -> list[str]:
    """The connections of a port that are open, with bytes that were not read."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return [each[4] for each in fields if each[1].endswith(f":{port:04X}") and int(each[4].partition(":")[0], 16)]


async def test_who_leaves_is_forgotten(api: Api) -> None:
    job_id = await api.submit()

    def open_requests() -> float:
        families = api.gateway.metrics.registry.collect()
        samples = (sample for family in families for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == "greenscale_gateway_open_requests")

    calls = [asyncio.create_task(api.get(f"/v1/jobs/{job_id}", headers=LONG)) for _ in range(20)]
    calls += [asyncio.create_task(api.get(f"/v1/jobs/{job_id}/events")) for _ in range(20)]
    await eventually(lambda: open_requests() == 40)
    for call in calls:
        call.cancel()
    await eventually(lambda: open_requests() == 0)
    assert not api.gateway.following._watched  # noqa: SLF001  nobody is left in it
    assert not api.gateway.following._ends._waits  # noqa: SLF001  as above


async def test_a_fault_of_the_gateway_is_said_without_a_word_of_the_request(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a secret prompt")

    monkeypatch.setattr(api.queue, "record", broken)
    answered = await api.get("/v1/jobs/x")
    assert (answered.status, answered.code) == (500, "internal_error")
    out = "".join(capsys.readouterr())
    assert "gateway_error" in out
    assert "RuntimeError" in out
    assert "a secret prompt" not in out + answered.body.decode()


async def test_where_others_can_reach_it_there_must_be_keys(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    async with aclosing(await open_client("list", RedisOptions(url=server.url))) as queue:
        gateway = Gateway(queue, GatewayOptions(queue="jobs", open_without_keys=False))
        with pytest.raises(ConfigError, match=r"192\.0\.2\.1 can be reached by others, and there are no keys"):
            await _has_keys(gateway, "192.0.2.1", asyncio.Event())
        key_id, _, key = new_key(scopes=("read",))
        await queue.set_key(key_id, key.model_dump_json().encode())
        server.stop()
        starting = asyncio.create_task(_has_keys(gateway, "192.0.2.1", asyncio.Event()))
        stopped = asyncio.Event()
        stopped.set()
        assert await _has_keys(Gateway(queue, gateway.options), "192.0.2.1", stopped) is False, "a signal ends it"
        assert not starting.done()
        server.start()
        await queue.set_key(key_id, key.model_dump_json().encode())  # this server keeps nothing
        assert await starting is True


async def test_hundreds_of_calls_at_once_are_answered(api: Api) -> None:
    """More than there may be connections to Redis."""
    answers = await asyncio.gather(*(api.post("/v1/jobs", {"prompt": "x"}) for _ in range(300)))
    assert {answer.status for answer in answers} == {202}
    looks = await asyncio.gather(*(api.get(answer.json["links"]["self"]) for answer in answers))
    assert {look.json["state"] for look in looks} == {"waiting"}
    lists = await asyncio.gather(*(api.get("/v1/jobs?limit=2") for _ in range(20)))
    assert {answer.status for answer in lists} == {200}


async def test_a_gateway_that_is_killed_loses_no_job_of_those_who_waited(serve: Any, redis_url: str) -> None:
    served = await serve()
    calls = [
        asyncio.create_task(served.call("POST", "/v1/jobs", PROMPT, **LONG, **{"Idempotency-Key": str(number)}))
        for number in range(100)
    ]
    async with a_gateway(redis_url) as other:
        async with asyncio.timeout(PATIENCE):
            while (await other.queue.depth()).waiting < len(calls):  # noqa: ASYNC110  it is in Redis
                await asyncio.sleep(0.02)
        served.process.kill()
        await asyncio.wait(calls)
        assert all(isinstance(call.exception(), aiohttp.ClientConnectionError) for call in calls)
        again = [
            asyncio.create_task(other.post("/v1/jobs", data=PROMPT, headers={**LONG, "Idempotency-Key": str(number)}))
            for number in range(len(calls))
        ]
        for _ in calls:
            assert await other.worker.settle(await run(other.worker), ANSWER)
        answers = await asyncio.gather(*again)
        assert {(answer.status, answer.json["state"]) for answer in answers} == {(200, "succeeded")}
        assert len({answer.json["id"] for answer in answers}) == len(calls)
        assert (await other.queue.depth()).waiting == 0, "none ran twice"
