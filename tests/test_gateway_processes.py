"""The gateway as processes under stress: Redis away, full; killed, stopped; many who wait, stream or say nothing."""

import asyncio
import random
import resource
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from itertools import cycle, groupby, islice
from pathlib import Path
from typing import Any, Final

import openai
import pytest
from openai import AsyncOpenAI

from harness.eventually import PATIENCE, eventually
from harness.redis_server import RedisServer
from harness.tcp_proxy import TcpProxy
from tests.support.front import a_front, client_of

LONGER: Final[Any] = [{"role": "user", "content": "Tell me something"}]
MIB: Final = 2**20
AWAY: Final = ["gateway_started", "queue_unavailable", "queue_back", "draining", "stopped"]
GOOD: Final = ["gateway_started", "draining", "stopped"]


async def ask(client: AsyncOpenAI, name: str, **options: Any) -> str:
    """Ask for a chat, whole or as a stream; return its text."""
    answer = await client.chat.completions.create(model="m", messages=LONGER, user=name, **options)
    if not options.get("stream"):
        return str(answer.choices[0].message.content)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])


async def outcomes(calls: list[asyncio.Task[str]]) -> Counter[str]:
    """Count answers, and errors by class."""
    async with asyncio.timeout(2 * PATIENCE):
        done = await asyncio.gather(*calls, return_exceptions=True)
    return Counter(
        "answer" if isinstance(each, str) and each.startswith("This is") else repr(each)[:90] for each in done
    )


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("number", [100, pytest.param(500, marks=pytest.mark.long)])
async def test_a_gateway_is_killed_while_many_wait_and_their_retries_join_their_jobs(
    tmp_path: Path, redis_url: str, number: int, *, keyed: bool
) -> None:
    names = [f"n{each}" for each in range(number)]
    async with a_front(tmp_path, redis_url, ttft=1) as front:
        first, second = await front.gateway(), await front.gateway()
        async with TcpProxy(first.port) as proxy, client_of(proxy.port, max_retries=4) as client:
            headers = [{"Idempotency-Key": name} if keyed else {} for name in names]
            calls = [
                asyncio.create_task(ask(client, name, extra_headers=extra))
                for name, extra in zip(names, headers, strict=True)
            ]
            await front.in_queue(second, len(names))
            proxy.target = second.port
            first.process.kill()
            front.worker(GREENSCALE_CONCURRENCY=200)
            assert await outcomes(calls) == {"answer": number}
        assert await front.calls(names) == {1}


@pytest.mark.parametrize("stream", [False, True])
async def test_redis_goes_away_and_comes_back_while_100_wait(
    tmp_path: Path, start_redis: Callable[..., RedisServer], *, stream: bool
) -> None:
    redis = start_redis("appendonly yes", "appendfsync always")
    names = [f"n{number}" for number in range(100)]
    async with a_front(tmp_path, redis.url, ttft=5, per_token=0.02) as front:
        door = await front.gateway()
        front.worker(GREENSCALE_CONCURRENCY=200)
        async with client_of(door.port) as client:
            calls = [asyncio.create_task(ask(client, name, stream=stream)) for name in names]
            await front.until_running(len(names))
            redis.kill()
            await door.process.says("queue_unavailable")
            redis.start()
            assert await outcomes(calls) == {"answer": len(names)}
            assert await front.calls(names) == {1}
        await door.process.stop()
        said = [line["event"] for line in door.process.log()]
        assert [event for event, _ in groupby(said)] == AWAY, "each of the gateway's queues may say it"


async def test_redis_is_full_and_then_is_not(tmp_path: Path, start_redis: Callable[..., RedisServer]) -> None:
    redis = start_redis()
    async with a_front(tmp_path, redis.url, ttft=3, per_token=0.02) as front, AsyncExitStack() as stack:
        door = await front.gateway()
        front.worker(GREENSCALE_CONCURRENCY=100)
        client = await stack.enter_async_context(client_of(door.port, max_retries=0))
        patient = await stack.enter_async_context(client_of(door.port))
        accepted = [f"n{number}" for number in range(50)]
        calls = [asyncio.create_task(ask(patient, name, stream=True)) for name in accepted]
        await front.until_running(len(accepted))
        with redis.client() as server:
            server.config_set("maxmemory", 1)
            with pytest.raises(openai.InternalServerError) as raised:
                await ask(client, "refused")
            assert (raised.value.status_code, raised.value.code) == (503, "queue_full")
            assert raised.value.response.headers["Retry-After"] == "10"
            async with front.session.post(f"{door.url}/v1/jobs", json={"prompt": "x"}) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (503, "queue_full")
            await front.until_running(0, most=0)  # the endpoint has answered all
            server.config_set("maxmemory", 0)
        assert await outcomes(calls) == {"answer": len(accepted)}
        assert await front.calls(accepted) == {1}
        assert await front.calls(["refused"]) == {0}
        assert (await ask(client, "later")).startswith("This is")
        await door.process.stop()
        assert [line["event"] for line in door.process.log()] == GOOD


@pytest.mark.parametrize(("number", "seconds"), [(200, 4.0), pytest.param(1000, 10.0, marks=pytest.mark.long)])
async def test_many_streams_at_once(tmp_path: Path, redis_url: str, number: int, seconds: float) -> None:
    names = [f"n{each}" for each in range(number)]
    async with a_front(tmp_path, redis_url, ttft=seconds, per_token=0.05) as front:
        door = await front.gateway()
        for _ in range(2):
            front.worker(GREENSCALE_CONCURRENCY=500)
        async with client_of(door.port, max_retries=0) as client:
            calls = [asyncio.create_task(ask(client, name, stream=True)) for name in names]
            await front.in_queue(door, len(names))
            assert await outcomes(calls) == {"answer": number}
        assert door.memory < 150 * MIB, "issue 13"
        assert await front.calls(names) == {1}


async def test_there_are_too_few_files(tmp_path: Path, redis_url: str) -> None:
    async with a_front(tmp_path, redis_url) as front:
        door = await front.gateway()
        front.worker()
        resource.prlimit(door.process.pid, resource.RLIMIT_NOFILE, (64, 64))
        idle = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(200)]
        for _, writer in idle:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await door.process.says("out_of_files")
        reader, writer = idle[0]
        for _ in range(10):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"ok\n")
        for _, writer in idle:
            writer.transport.abort()
        async with client_of(door.port) as client:
            assert (await ask(client, "later")).startswith("This is")
        await door.process.stop()
        said = [line["event"] for line in door.process.log()]
        said = [event for event in said if event not in AWAY[1:3]]  # a new connection to Redis may have found no file
        assert said == [*GOOD[:1], "out_of_files", *GOOD[1:]]


HEAD: Final = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
BOMB: Final = zlib.compress(b" " * 30_000_000)
ONE_OF_MANY: Final = HEAD + b'Content-Length: 900000\r\n\r\n"' + b"x" * 899_998 + b'"'
CHUNK: Final = b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n"
FLOODS: Final = {  # how it begins, and what is then sent again and again, up to how many bytes
    "a body of 10 MB": (HEAD + b"Content-Length: 10000000\r\n\r\n", b"x" * 100_000, 10_000_000),
    "a body without end": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n",
        50 * MIB,
    ),
    "JSON that is deep": (HEAD + b"Content-Length: 1000000\r\n\r\n", b"[" * 100_000, 1_000_000),
    "headers without end": (HEAD, b"X-Header: " + b"y" * 8000 + b"\r\n", 100 * MIB),
    "a bomb": (HEAD + b"Content-Encoding: deflate\r\nContent-Length: %d\r\n\r\n" % len(BOMB), BOMB, len(BOMB)),
    "bad requests": (b"", ONE_OF_MANY, 50 * MIB),
    "answers that nobody reads": (b"", b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000, 50 * MIB),
}


async def flood(port: int, head: bytes, piece: bytes, most: int) -> bytes:
    """Send, and read what comes first, or nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    with suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(3):
            for _ in range(0, most, len(piece)):
                writer.write(piece)
                await writer.drain()
    answer = b""
    with suppress(ConnectionError):
        answer = await reader.read(12)
    writer.transport.abort()
    return answer


@pytest.mark.parametrize("what", FLOODS)
async def test_a_flood_is_refused_takes_no_memory_and_disturbs_nobody(
    tmp_path: Path, redis_url: str, what: str
) -> None:
    async with a_front(tmp_path, redis_url) as front:
        door = await front.gateway()
        front.worker()
        async with client_of(door.port, max_retries=0, timeout=5) as client:
            await ask(client, "first")
            before, peak = door.memory, 0
            floods = [asyncio.create_task(flood(door.port, *FLOODS[what])) for _ in range(4)]
            while not all(each.done() for each in floods):
                assert (await ask(client, "meanwhile")).startswith("This is")
                peak = max(peak, door.memory)
        assert {each.result()[9:12] for each in floods} <= {b"", b"400", b"413", b"415", b"200"}
        assert peak - before < 40 * MIB
        await door.process.stop()
        assert [line["event"] for line in door.process.log()] == GOOD


async def test_many_who_send_slowly_disturb_nobody(tmp_path: Path, redis_url: str) -> None:
    async with a_front(tmp_path, redis_url) as front, AsyncExitStack() as stack:
        door = await front.gateway()
        front.worker()
        slow = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(500)]
        for _, writer in slow:
            stack.callback(writer.transport.abort)
        client = await stack.enter_async_context(client_of(door.port, max_retries=0, timeout=5))
        for at, letter in enumerate(HEAD + b"Content-Length: 500\r\n\r\n{"):
            for _, writer in slow:
                writer.write(bytes([letter]))
            if not at % 10:
                assert (await ask(client, "meanwhile")).startswith("This is")
        assert door.memory < 150 * MIB
        for _, writer in slow:
            writer.transport.abort()
        await door.process.stop()
        assert [line["event"] for line in door.process.log()] == GOOD


@pytest.mark.parametrize("stream", [False, True])
async def test_who_waits_when_a_gateway_is_stopped_is_answered_or_told(
    tmp_path: Path, redis_url: str, *, stream: bool
) -> None:
    async with a_front(tmp_path, redis_url, ttft=1) as front:
        patient, other = await front.gateway(), await front.gateway(GREENSCALE_DRAIN_SECONDS=0)
        async with client_of(patient.port) as client, client_of(other.port, max_retries=0) as told:
            calls = [asyncio.create_task(ask(client, f"n{each}", stream=stream)) for each in range(50)]
            refused = [asyncio.create_task(ask(told, f"r{each}", stream=stream)) for each in range(50)]
            await front.in_queue(other, 100)
            patient.process.terminate()
            other.process.terminate()
            front.worker(GREENSCALE_CONCURRENCY=50)
            assert await outcomes(calls) == {"answer": 50}
            errors = list(await asyncio.gather(*refused, return_exceptions=True))
        for error in errors:
            assert isinstance(error, openai.InternalServerError)
            assert (error.status_code, error.code) == (503, "shutting_down")
            assert error.response.headers["Location"].startswith("/v1/jobs/chat-")
        assert [await door.process.exit_code() for door in front.doors] == [0, 0]


@pytest.mark.long
@pytest.mark.parametrize("stream", [False, True])
async def test_at_default_settings_who_waits_for_a_minute_gets_the_answer(
    tmp_path: Path, redis_url: str, *, stream: bool
) -> None:
    """Longer than headers are held back, and than proxies wait for a word."""
    async with a_front(tmp_path, redis_url) as front:
        door = await front.gateway()
        async with client_of(door.port, timeout=30) as client:
            call = asyncio.create_task(ask(client, "me", stream=stream))
            await asyncio.sleep(60)
            assert not call.done()
            front.worker()
            assert await outcomes([call]) == {"answer": 1}
        assert await front.calls(["me"]) == {1}


@pytest.mark.long
async def test_at_default_settings_who_leaves_cancels_unless_a_key_keeps_the_job(
    tmp_path: Path, redis_url: str
) -> None:
    async with a_front(tmp_path, redis_url, ttft=30) as front:
        door = await front.gateway()
        front.worker()
        async with client_of(door.port) as client:
            calls = [
                asyncio.create_task(ask(client, name, stream=stream, extra_headers=headers))
                for name, stream, headers in (
                    ("leaves", False, {}),
                    ("leaves a stream", True, {}),
                    ("keeps", False, {"Idempotency-Key": "1"}),
                )
            ]
            await front.until_running(3)
            for call in calls:
                call.cancel()
            await asyncio.sleep(8)
            assert (await front.stats())["in_flight"] == 3, "a retry may still come"
            await front.until_running(1, most=1)
            again = asyncio.create_task(ask(client, "keeps", stream=False, extra_headers={"Idempotency-Key": "1"}))
            assert await outcomes([again]) == {"answer": 1}
        assert await front.calls(["leaves", "leaves a stream", "keeps"]) == {1}


@pytest.mark.long
async def test_at_default_settings_who_sends_slowly_is_cut_off(tmp_path: Path, redis_url: str) -> None:
    async with a_front(tmp_path, redis_url) as front:
        door = await front.gateway()
        loop = asyncio.get_running_loop()

        async def until_cut_off(first: bytes, then: bytes) -> tuple[float, bytes]:
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
            began = loop.time()
            writer.write(first)
            reading = asyncio.create_task(reader.read())
            with suppress(ConnectionError):
                while not reading.done():
                    writer.write(then)
                    await asyncio.sleep(0.5)
            answer = await asyncio.gather(reading, return_exceptions=True)
            writer.transport.abort()
            return loop.time() - began, answer[0] if isinstance(answer[0], bytes) else b""

        head, body = await asyncio.gather(
            until_cut_off(HEAD, b"X: y\r\n"), until_cut_off(HEAD + b"Content-Length: 1000\r\n\r\n", b" ")
        )
        assert head[0] < 90
        assert body[0] < 60
        assert body[1].startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.long)])
async def test_connections_are_cut_at_random_on_both_sides(tmp_path: Path, redis_url: str, number: int) -> None:
    dice, names = random.Random(13), [f"n{each}" for each in range(number)]
    port, _, database = redis_url.rpartition(":")[2].partition("/")
    async with a_front(tmp_path, redis_url, ttft=0.2, per_token=0.01) as front, AsyncExitStack() as stack:
        behind = await stack.enter_async_context(TcpProxy(int(port)))
        door = await front.gateway(REDIS_URL=f"redis://127.0.0.1:{behind.port}/{database}")
        before = await stack.enter_async_context(TcpProxy(door.port))
        front.worker(GREENSCALE_CONCURRENCY=50)
        client = await stack.enter_async_context(client_of(before.port, max_retries=20))
        turn = asyncio.Semaphore(50)

        async def ask_in_turn(name: str) -> str:
            async with turn:
                return await ask(client, name)

        calls = [asyncio.create_task(ask_in_turn(name)) for name in names]
        # So few that no client is away for longer than its job is kept for it, as one is that waits longer each time.
        for proxy in islice(cycle((before, behind)), number // 3):
            await asyncio.sleep(dice.random() * 0.4)
            proxy.cut()
            if behind.cuts and sum(call.done() for call in calls) > number * 0.7:
                break
        assert await outcomes(calls) == {"answer": number}
        assert before.cuts
        assert await front.calls(names) == {1}
        await door.process.stop()


async def test_a_worker_is_killed_amid_streams(tmp_path: Path, redis_url: str) -> None:
    """Who has got some of the text is told; who has got none gets the answer of the next run."""
    names = [f"n{each}" for each in range(50)]
    async with a_front(tmp_path, redis_url, ttft=0.5, per_token=0.2) as front:
        door, worker = await front.gateway(), front.worker(GREENSCALE_CONCURRENCY=40, GREENSCALE_LEASE_SECONDS=2)
        async with client_of(door.port) as client:
            texts: dict[str, str] = {}

            async def read(name: str) -> None:
                stream = await client.chat.completions.create(model="m", messages=LONGER, user=name, stream=True)
                async for chunk in stream:
                    texts[name] = texts.get(name, "") + (chunk.choices[0].delta.content or "")

            calls = {name: asyncio.create_task(read(name)) for name in names}
            await eventually(lambda: sum(bool(text) for text in texts.values()) == 40)
            worker.kill()
            front.worker(GREENSCALE_CONCURRENCY=60, GREENSCALE_LEASE_SECONDS=2)
            errors = await asyncio.gather(*calls.values(), return_exceptions=True)
        for name, error in zip(names, errors, strict=True):
            if error is None:
                assert texts[name].startswith("This is"), texts[name]
                assert texts[name].count("This is") == 1, "nothing is glued together"
            else:
                assert isinstance(error, openai.APIError), error
                assert error.code == "restarted"
        assert Counter(error is None for error in errors) == {True: 10, False: 40}
