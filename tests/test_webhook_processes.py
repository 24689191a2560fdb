"""Gateways as processes: an event outlives the one that told it, and nothing secret is in their logs."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from time import time

import pytest

from harness.eventually import eventually
from harness.redis_server import free_port
from tests.support.desk import Desk, a_desk, ended
from tests.support.endpoint import Endpoint, Reply
from tests.support.hooks import event_in, hooks_on

TOKEN = "s3cret-token"  # noqa: S105  the test's own


@pytest.fixture
async def desk(tmp_path: Path, redis_url: str) -> AsyncIterator[Desk]:
    async with a_desk(tmp_path) as desk:
        desk.environment |= {
            "REDIS_URL": redis_url,
            "GREENSCALE_WEBHOOKS_ALLOW_PRIVATE": "true",
            "GREENSCALE_LEASE_SECONDS": "1",
            "GREENSCALE_DRAIN_SECONDS": "1",
            "GREENSCALE_LOG_LEVEL": "debug",
        }
        yield desk


async def serve(desk: Desk) -> asyncio.subprocess.Process:
    desk.environment["GREENSCALE_GATEWAY_PORT"] = str(free_port())
    return await desk.start("serve")


async def test_an_event_outlives_a_gateway_that_is_killed_and_comes_by_the_same_id(desk: Desk, redis_url: str) -> None:
    hangs = asyncio.Event()
    async with hooks_on(redis_url) as hooks, Endpoint(Reply(wait=hangs.wait)) as receiver:
        hook = await hooks.add(f"{receiver.url}?token={TOKEN}")
        assert await hooks.tell() == 1  # nobody serves: it waits
        killed = await serve(desk)
        await eventually(lambda: receiver.received)
        killed.send_signal(signal.SIGKILL)
        heir = await serve(desk)
        await eventually(lambda: len(receiver.received) == 2)
        first, second = receiver.received
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        event_in(second, hook.secret)
        receiver.default = Reply(status=500)
        await hooks.tell("batch.failed", at=time())
        await eventually(lambda: len(receiver.received) == 3)
        while sorted(await hooks.states()) != ["scheduled", "succeeded", "succeeded"]:  # noqa: ASYNC110  in Redis
            await asyncio.sleep(0.01)
        hangs.set()
        text = (await ended(killed)).out
        heir.terminate()
        done = await ended(heir)
        assert (done.code, done.err) == (0, "")
        text += done.out
        assert '"webhook_failed"' in text
        for private in (TOKEN, hook.secret, receiver.url):
            assert private not in text


async def test_a_gateway_that_is_stopped_hands_back_what_it_delivers(desk: Desk, redis_url: str) -> None:
    hangs = asyncio.Event()
    async with hooks_on(redis_url) as hooks, Endpoint(Reply(wait=hangs.wait)) as receiver:
        await hooks.add(receiver)
        await hooks.tell()
        stopped = await serve(desk)
        await eventually(lambda: receiver.received)
        stopped.terminate()
        assert (await ended(stopped)).code == 0
        assert await hooks.states() == ["waiting"]
        hangs.set()
