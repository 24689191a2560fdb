"""A connection that breaks runs nothing twice, though the retry comes to another gateway; who leaves cancels."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from openai import AsyncOpenAI
from redis import Redis

from greenscale_worker import Worker
from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.gateway import attending
from greenscale_worker.job import Output, Succeeded
from greenscale_worker.testing.rig import run
from harness.eventually import PATIENCE, eventually
from harness.tcp_proxy import TcpProxy, Trap
from tests.support.api import Api, a_gateway
from tests.support.front import Front, a_front, client_of
from tests.test_openai_client import HELLO, Handler

LONGER: Final[Any] = [{"role": "user", "content": "Tell me something"}]
AT: Final = {
    "before the request is whole": Trap(b"POST ", half=True),
    "before the answer": Trap(b"POST "),
    "within the headers": Trap(b"POST ", keep=40),
    "within the answer": Trap(b"POST ", keep=400),
}


async def ask(client: AsyncOpenAI, **options: Any) -> str:
    """Ask for a chat, whole or as a stream; return its text."""
    answer = await client.chat.completions.create(model="m", messages=LONGER, user="me", **options)
    if not options.get("stream"):
        return str(answer.choices[0].message.content)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])


async def answered(call: asyncio.Task[str], front: Front) -> None:
    async with asyncio.timeout(PATIENCE):
        assert (await call).startswith("This is a simulated answer")
    assert await front.calls(["me"]) == {1}


@pytest.mark.parametrize(("at", "stream"), [*((at, False) for at in AT), ("before the answer", True)])
async def test_a_connection_is_cut_and_the_retry_comes_to_another_gateway(
    tmp_path: Path, redis_url: str, at: str, *, stream: bool
) -> None:
    async with a_front(tmp_path, redis_url, ttft=0.4) as front:
        first, second = await front.gateway(), await front.gateway()
        front.worker()
        async with TcpProxy(first.port) as proxy, client_of(proxy.port) as client:
            trap = Trap(b"POST ", keep=AT[at].keep, half=AT[at].half)
            proxy.set(trap)
            call = asyncio.create_task(ask(client, stream=stream))
            await eventually(lambda: proxy.connected or trap.sprung.is_set())
            proxy.target = second.port
            await answered(call, front)
            assert trap.sprung.is_set()


async def test_a_gateway_that_is_stopped_hands_its_jobs_over(tmp_path: Path, redis_url: str) -> None:
    async with a_front(tmp_path, redis_url, ttft=3) as front:
        first, second = await front.gateway(GREENSCALE_DRAIN_SECONDS=0), await front.gateway()
        front.worker()
        async with TcpProxy(first.port) as proxy, client_of(proxy.port) as client:
            call = asyncio.create_task(ask(client))
            await front.until_running(1)
            proxy.target = second.port
            await first.process.stop()
            await answered(call, front)


async def test_a_gateway_that_was_frozen_does_not_cancel_what_was_joined_elsewhere(
    tmp_path: Path, redis_url: str
) -> None:
    """It wakes, sees that the client has left, and 10 s later that another has joined the job."""
    async with a_front(tmp_path, redis_url, ttft=18) as front, AsyncExitStack() as stack:
        first, second = await front.gateway(), await front.gateway()
        front.worker()
        redis = stack.enter_context(Redis.from_url(redis_url))
        proxy = await stack.enter_async_context(TcpProxy(first.port))
        client = await stack.enter_async_context(client_of(proxy.port))
        call = asyncio.create_task(ask(client))
        await front.until_running(1)
        (alike,) = redis.scan_iter("{jobs}:alike:*")
        before = redis.zrange(alike, 0, -1)
        first.process.signal(signal.SIGSTOP)
        proxy.target = second.port
        proxy.cut()
        await eventually(lambda: redis.zrange(alike, 0, -1) != before)
        first.process.signal(signal.SIGCONT)
        await answered(call, front)


@dataclass
class Two:
    """Two gateways in this process, and a proxy before them which leads to the first."""

    apis: list[Api]
    proxy: TcpProxy
    client: AsyncOpenAI
    handler: Handler

    async def asked(self) -> "asyncio.Task[Any]":
        """Ask at the first gateway; the job runs, and further connections come to the second."""
        call = asyncio.create_task(self.client.chat.completions.create(model="m", messages=HELLO))
        await eventually(lambda: self.handler.runs)
        self.proxy.target = self.port(1)
        return call

    def port(self, number: int) -> int:
        return int(self.apis[number].url.rpartition(":")[2])

    def attended(self, number: int) -> int:
        """How many clients a gateway waits for."""
        return len(self.apis[number].gateway.attending._jobs)  # noqa: SLF001  nobody else can tell

    async def state(self) -> str:
        return (await self.apis[0].queue.record(self.handler.runs[0]))["state"]


@pytest.fixture
async def two(redis_url: str) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(a_gateway(redis_url)) for _ in range(2)]
        handler = Handler()
        await stack.enter_async_context(Worker(apis[0].worker, handler, drain=0))
        proxy = await stack.enter_async_context(TcpProxy(int(apis[0].url.rpartition(":")[2])))
        client = await stack.enter_async_context(client_of(proxy.port))
        yield Two(apis, proxy, client, handler)


async def test_a_job_that_was_joined_elsewhere_is_not_cancelled_by_the_first_gateway(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attending, "PATIENCE_SECONDS", 2.0)
    call = await two.asked()
    two.proxy.cut()
    await eventually(lambda: two.attended(1) and not two.attended(0))
    assert await two.state() == "running"
    two.handler.go.set()
    assert (await call).choices[0].message.content == "the answer"
    assert len(two.handler.runs) == 1


async def test_who_leaves_for_good_cancels_at_the_gateway_it_has_come_to(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attending, "PATIENCE_SECONDS", 2.0)
    call = await two.asked()
    two.proxy.cut()
    await eventually(lambda: two.attended(1))
    call.cancel()
    await eventually(lambda: two.handler.cut_off == two.handler.runs)
    assert await two.state() == "cancelled"
    assert len(two.handler.runs) == 1


async def test_a_retry_that_comes_late_finds_a_job_that_has_ended(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attending, "PATIENCE_SECONDS", 0.0)
    async with a_gateway(redis_url) as api:
        here = api.gateway.attending
        job = here.begin("alike", "a", None)
        await api.queue.put([("a", b'{"job_id": "a", "prompt": "?"}')], attendance=job.attendance)
        assert await api.worker.settle(await run(api.worker), Succeeded(Output("4")))
        here.left(job)
        await eventually(lambda: not here._jobs)  # noqa: SLF001  nobody else can tell
        joined = await here.join("alike", None)
        assert joined is not None
        assert joined.attendance.job_id == "a"
        assert (await api.queue.record("a"))["state"] == "succeeded"


async def test_a_retry_does_not_join_a_job_whose_client_waits_elsewhere(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attending, "LEAVING_SECONDS", 0.1)
    first = await two.asked()
    async with client_of(two.port(1)) as client:
        create, extra = client.chat.completions.create, {"x-stainless-retry-count": "1"}
        second = asyncio.create_task(create(model="m", messages=HELLO, extra_headers=extra))
        await eventually(lambda: len(set(two.handler.runs)) == 2)
        two.handler.go.set()
        await asyncio.gather(first, second)


async def test_redis_goes_away_after_a_job_was_joined_and_the_next_retry_joins_it(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway has not heard that it has joined it."""
    join, joined = two.apis[1].queue.join, list[str | None]()

    async def unheard(*args: Any) -> tuple[str | None, int]:
        found = await join(*args)
        joined.append(found[0])
        if len(joined) == 1:
            raise QueueUnavailableError("away")
        return found

    call = await two.asked()
    monkeypatch.setattr(two.apis[1].queue, "join", unheard)
    two.proxy.cut()
    await eventually(lambda: len(joined) > 1 and two.attended(1))
    two.handler.go.set()
    assert (await call).choices[0].message.content == "the answer"
    assert joined[0] == two.handler.runs[0]
    assert len(two.handler.runs) == 1


async def test_no_key_stays(two: Two, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "DELIVERED_SECONDS", 0.0)
    with Redis.from_url(redis_url) as redis:
        call = await two.asked()
        (key,) = redis.scan_iter("{jobs}:alike:*")
        assert 0 < redis.ttl(key) <= attending.ATTENDED_SECONDS
        assert 0 < redis.ttl("{jobs}:gateways") <= attending.ATTENDED_SECONDS
        two.handler.go.set()
        await call
        await eventually(lambda: not two.attended(0))
        assert not [*redis.scan_iter("{jobs}:alike:*")]
