"""What the simulator does as an engine with slots, and as a provider with rate limits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from greenscale_worker.simulator import CHAT_PATH, BudgetOptions, EngineOptions, SimulatorOptions, running
from greenscale_worker.simulator.budget import Bucket, Budget
from greenscale_worker.simulator.completions import MODEL


class Client:
    """Asks a simulator."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def ask(self, tokens: int = 5, **fields: Any) -> tuple[int, dict[str, str], Any]:
        asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": tokens, "ignore_eos": True, **fields}
        async with self._session.post(self._url + CHAT_PATH, json=asked) as response:
            content = await response.read()
            whole = response.content_type == "application/json"
            return response.status, dict(response.headers), orjson.loads(content) if whole else content

    async def stats(self) -> Any:
        async with self._session.get(self._url + "/stats") as response:
            return await response.json()

    async def change(self, content: object) -> tuple[int, Any]:
        async with self._session.post(self._url + "/engine", json=content) as response:
            return response.status, await response.json()

    async def page(self) -> tuple[int, str]:
        async with self._session.get(self._url + "/metrics") as response:
            return response.status, await response.text()

    async def gauges(self) -> dict[str, float]:
        _, page = await self.page()
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        assert all(sample.labels == {"model_name": MODEL, "engine": "0"} for sample in samples)
        return {sample.name: sample.value for sample in samples}

    async def holds(self, **inside: int) -> None:
        """Wait until so many are inside."""
        seen: dict[str, int] = {}

        async def look() -> None:
            while not inside.items() <= seen.items():
                seen.update((await self.stats())["engine"])
                await asyncio.sleep(0.01)

        await asyncio.wait_for(look(), 30)


@asynccontextmanager
async def simulated(budget: BudgetOptions | None = None, **engine: Any) -> AsyncIterator[Client]:
    options = SimulatorOptions(engine=EngineOptions(**engine) if engine else None, budget=budget or BudgetOptions())
    async with running(options) as url, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield Client(session, url)


@asynccontextmanager
async def asking(client: Client, number: int, **fields: Any) -> AsyncIterator[list[asyncio.Task[Any]]]:
    tasks = [asyncio.create_task(client.ask(**fields)) for _ in range(number)]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_engine_answers_as_the_simulator_does_whole_and_as_a_stream() -> None:
    async with simulated(slots=2, step=0.001) as client:
        whole = await client.ask(tokens=40)
        stream = await client.ask(tokens=40, stream=True)
        stats = await client.stats()
    assert (whole[0], whole[2]["usage"]["completion_tokens"]) == (200, 40)
    assert stream[2].count(b"data: {") == 42
    assert stats["engine"]["tokens"] == 80
    assert (stats["engine"]["running"], stats["engine"]["waiting"]) == (0, 0)


async def test_more_than_its_slots_wait_inside_and_the_page_says_so_under_vllms_names() -> None:
    async with simulated(slots=3, step=0.01, kv_tokens=1000) as client, asking(client, 5, tokens=100_000):
        await client.holds(running=3, waiting=2)
        gauges = await client.gauges()
        assert (gauges["vllm:num_requests_running"], gauges["vllm:num_requests_waiting"]) == (3, 2)
        assert 0 < gauges["vllm:kv_cache_usage_perc"] <= 1
        assert gauges["vllm:generation_tokens_total"] > 0


async def test_half_an_engine_puts_back_what_it_cannot_run_and_loses_nothing() -> None:
    async with simulated(slots=4, step=0.005) as client, asking(client, 4, tokens=200) as tasks:
        await client.holds(running=4)
        status, options = await client.change({"slots": 2})
        assert (status, options["slots"], options["step"]) == (200, 2, 0.005)
        await client.holds(running=2, waiting=2, preempted=2)
        assert [answer[0] for answer in await asyncio.gather(*tasks)] == [200] * 4
        for wrong in ({"slots": 0}, {"wheels": 4}, [1]):
            assert (await client.change(wrong))[0] == 400


@pytest.mark.parametrize(("status", "kind"), [(503, "Service Unavailable"), (429, "Too Many Requests")])
async def test_a_full_queue_is_refused_as_vllm_does(status: int, kind: str) -> None:
    async with (
        simulated(slots=1, step=0.01, queue_limit=2, queue_full=status) as client,
        asking(client, 3, tokens=100_000),
    ):
        await client.holds(running=1, waiting=2)
        answer = await client.ask()
        stats = await client.stats()
    assert answer[0] == status
    assert "Retry-After" not in answer[1]
    assert answer[2]["error"] == {"message": answer[2]["error"]["message"], "type": kind, "param": None, "code": status}
    assert answer[2]["error"]["message"].endswith("Please try again later or on a different instance.")
    assert (stats["outcomes"]["queue_full"], stats["engine"]["refused"]) == (1, 1)


async def test_a_client_that_leaves_frees_its_slot() -> None:
    async with simulated(slots=1, step=0.01) as client:
        async with asking(client, 2, tokens=100_000):
            await client.holds(running=1, waiting=1)
        await client.holds(running=0, waiting=0)


async def test_without_an_engine_there_is_no_page() -> None:
    async with simulated() as client:
        assert (await client.change({"slots": 1}))[0] == 404
        assert (await client.page())[0] == 404


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_holds_what_a_second_brings_and_says_when_there_is_more() -> None:
    clock = Clock()
    bucket = Bucket(600, clock)
    for _ in range(10):
        assert bucket.wait(1) == 0
        bucket.take(1)
    assert bucket.wait(1) == pytest.approx(0.1)
    clock.now += 0.1
    assert bucket.wait(1) == pytest.approx(0)
    clock.now += 3600
    assert bucket.level == 10
    assert bucket.wait(500) == 0  # larger than the bucket: taken when it is full, into debt
    bucket.take(500)
    assert bucket.wait(1) == pytest.approx(49.1)


def test_tokens_count_as_estimated_at_arrival_or_as_used_at_the_end() -> None:
    clock = Clock()
    estimate = Budget(BudgetOptions(tokens=6000), clock)
    assert estimate.admit(40, 60) == 0
    assert estimate.admit(1, 1) > 0
    estimate.settle(100)
    assert estimate.stats()["tokens"]["taken"] == 100
    usage = Budget(BudgetOptions(tokens=6000, count="usage"), clock)
    assert usage.admit(40, 60) == usage.admit(40, 60) == 0
    usage.settle(200)
    assert usage.admit(1, 1) == pytest.approx(1.01)
    assert usage.stats()["tokens"] == {"per_minute": 6000, "taken": 200, "refused": 1, "used": 2}


async def test_a_client_beyond_its_rate_is_told_when_to_come_again() -> None:
    async with simulated(BudgetOptions(requests=60, tokens=1_000_000)) as client:
        first, second = await client.ask(), await client.ask()
        stats = await client.stats()
    assert (first[0], first[1]["x-ratelimit-limit-requests"], first[1]["x-ratelimit-remaining-requests"]) == (
        200,
        "60",
        "0",
    )
    assert (second[0], second[1]["Retry-After"]) == (429, "1")
    assert 0 < float(second[1]["retry-after-ms"]) <= 1000
    assert second[2]["error"]["code"] == "rate_limit_exceeded"
    assert stats["outcomes"] == {"ok": 1, "rate_limited": 1}
    assert (stats["budget"]["requests"]["taken"], stats["budget"]["requests"]["refused"]) == (1, 1)
    assert stats["budget"]["tokens"]["refused"] == 0
