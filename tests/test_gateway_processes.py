"""The gateway as processes under stress: Redis away, full; killed, stopped; many who wait, stream or say nothing."""

import asyncio
import os
import resource
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import openai
import orjson
import pytest
from openai import AsyncOpenAI

from harness.eventually import PATIENCE, eventually
from harness.redis_server import RedisServer
from harness.tcp_proxy import TcpProxy
from tests.support.front import Door, Front, a_front, client_of

LONGER: Final[Any] = [{"role": "user", "content": "Tell me something"}]
MIB: Final = 2**20


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
    return Counter("answer" if isinstance(each, str) and each.startswith("This is") else repr(each)[:90] for each in done)


async def test_a_gateway_is_killed_while_500_wait_and_their_retries_join_their_jobs(
    tmp_path: Path, redis_url: str
) -> None:
    names = [f"n{number}" for number in range(500)]
    async with a_front(tmp_path, redis_url, ttft=1) as front:
        first, second = await front.gateway(), await front.gateway()
        async with TcpProxy(first.port) as proxy, client_of(proxy.port, max_retries=4) as client:
            calls = [
                asyncio.create_task(ask(client, name, extra_headers={"Idempotency-Key": name})) for name in names
            ]
            await front.in_queue(second, len(names))
            proxy.target = second.port
            first.process.kill()
            front.worker(GREENSCALE_CONCURRENCY=200)
            assert await outcomes(calls) == {"answer": 500}
        assert await front.calls(names) == {1}


@pytest.mark.parametrize("stream", [False, True])
async def test_redis_goes_away_and_comes_back_while_100_wait(
    tmp_path: Path, start_redis: Callable[..., RedisServer], *, stream: bool
) -> None:
    redis = start_redis("appendonly yes", "appendfsync always")
    names = [f"n{number}" for number in range(100)]
    async with a_front(tmp_path, redis.url, ttft=1.5, per_token=0.02) as front:
        door = await front.gateway()
        front.worker(GREENSCALE_CONCURRENCY=200)
        async with client_of(door.port) as client:
            calls = [asyncio.create_task(ask(client, name, stream=stream)) for name in names]
            await front.until_running(len(names))
            redis.kill()
            await asyncio.sleep(1)
            redis.start()
            print(await outcomes(calls), await front.calls(names))
        door.process.terminate()
        assert await door.process.exit_code() == 0
        print([l["event"] for l in door.process.log()], door.process.stderr)


async def test_redis_is_full_and_then_is_not(tmp_path: Path, start_redis: Callable[..., RedisServer]) -> None:
    redis = start_redis()
    async with a_front(tmp_path, redis.url, ttft=0.5, per_token=0.02) as front, AsyncExitStack() as stack:
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
            print(raised.value.status_code, raised.value.code, raised.value.response.headers.get("retry-after"))
            async with front.session.post(f"{door.url}/v1/jobs", json={"prompt": "x"}) as response:
                print(response.status, response.headers, await response.text())
            await asyncio.sleep(1.5)
            server.config_set("maxmemory", 0)
        print(await outcomes(calls), await front.calls(accepted), await front.calls(["refused"]))
        assert (await ask(client, "later")).startswith("This is")
        print([l for l in door.process.log() if l["level"] != "info"], door.process.stderr)


async def test_a_thousand_streams_at_once(tmp_path: Path, redis_url: str) -> None:
    names = [f"n{number}" for number in range(1000)]
    async with a_front(tmp_path, redis_url, ttft=6, per_token=0.05) as front:
        door = await front.gateway()
        for _ in range(2):
            front.worker(GREENSCALE_CONCURRENCY=500)
        before = door.memory
        async with client_of(door.port, max_retries=0) as client:
            calls = [asyncio.create_task(ask(client, name, stream=True)) for name in names]
            await front.in_queue(door, len(names))
            print("waiting MiB", before / MIB, door.memory / MIB)
            assert await outcomes(calls) == {"answer": 1000}
        print("after MiB", door.memory / MIB)
        assert await front.calls(names) == {1}


async def test_there_are_too_few_files(tmp_path: Path, redis_url: str) -> None:
    async with a_front(tmp_path, redis_url) as front:
        door = await front.gateway()
        front.worker()
        resource.prlimit(door.process.pid, resource.RLIMIT_NOFILE, (64, 64))
        idle = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(200)]
        for _, writer in idle:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(2)
        for _, writer in idle:
            writer.close()
        async with client_of(door.port) as client:
            assert (await ask(client, "later")).startswith("This is")
        door.process.terminate()
        assert await door.process.exit_code() == 0
        print(door.process.log(), door.process.stderr[:3000])
