"""A fleet of processes as one careful client: of a provider with rate limits, and of an engine that tells its load.

The simulator judges: it refuses what comes too fast, and counts what waits inside. Where a verdict needs a figure, it
is that of the promise, and is waited for; `long` tests take it over minutes.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from redis import Redis

from greenscale_worker.queues import Flow, QueueOptions, RedisOptions
from greenscale_worker.queues.registry import open_client
from harness.eventually import PATIENCE
from harness.simulated import Simulated, Window
from harness.worker_process import Fleet

SLOTS: Final = 16
STEP, PER_SEQUENCE = 0.012, 0.00012
CAPACITY: Final = SLOTS / (STEP + PER_SEQUENCE * SLOTS)  # tokens a second
FEW: Final = 2  # of engine_limit.py, for so few slots
WINDOW_SECONDS: Final = 4.0
ENGINE: Final = ("--engine", "--slots", str(SLOTS), "--per-prompt-token", "0")


class Crew:
    """Workers on one queue before a simulator."""

    def __init__(self, redis: Redis, url: str, fleet: Fleet, simulated: Simulated) -> None:
        self.simulated = simulated
        self.fleet = fleet
        self._redis = redis
        self._url = url
        self._numbers = count()

    def push(self, number: int, tokens: int | None = None) -> None:
        """Push jobs whose answers have so many tokens, or 16 to 64."""
        dice = random.Random(7)
        jobs: list[dict[str, Any]] = [
            {
                "job_id": f"job-{each}",
                "prompt": f"Tell me of {each:09d}",
                "max_tokens": tokens or dice.randint(16, 64),
                "ignore_eos": True,
            }
            for _, each in zip(range(number), self._numbers, strict=False)
        ]
        for start in range(0, number, 1000):
            self._redis.lpush("jobs", *map(json.dumps, jobs[start : start + 1000]))

    def start(self, workers: int) -> None:
        for _ in range(workers):
            self.fleet.start()

    async def ready(self) -> None:
        for worker in self.fleet.workers:
            await worker.says("ready", 2 * PATIENCE)

    async def watch(self, seconds: float = WINDOW_SECONDS) -> Window:
        return await asyncio.to_thread(self.simulated.watch, seconds)

    async def flow(self) -> Flow:
        client = await open_client("list", RedisOptions(url=self._url), QueueOptions())
        try:
            return await client.flow()
        finally:
            await client.aclose()

    async def comes_to(self, holds: Callable[[Flow], bool], seconds: float = 2 * PATIENCE) -> Flow:
        """Wait until the fleet is in such a state."""
        ends, flow = asyncio.get_running_loop().time() + seconds, await self.flow()
        while not holds(flow):
            assert asyncio.get_running_loop().time() < ends, flow
            await asyncio.sleep(0.1)
            flow = await self.flow()
        return flow

    async def settles_at(self, holds: Callable[[Window], bool], why: Callable[[Window], object]) -> Window:
        """Look until a window is as promised: on a loaded machine not every one is."""
        seen: list[object] = []
        ends = asyncio.get_running_loop().time() + 6 * PATIENCE
        while not holds(window := await self.watch()):
            seen.append(why(window))
            assert asyncio.get_running_loop().time() < ends, seen
        return window


@pytest.fixture
def crew_at(redis_url: str, client: Redis, tmp_path: Path) -> Iterator[Callable[..., Crew]]:
    """Set a crew before a simulator with these options."""
    opened: list[Any] = []

    def set_up(*options: str, **settings: object) -> Crew:
        simulated = Simulated(tmp_path, *options)
        opened.append(simulated)
        common = {"REDIS_URL": redis_url, "NEYSA_API_URL": simulated.url, "GREENSCALE_MODEL": "m"}
        looked_at = {"GREENSCALE_ENGINE_METRICS_URL": simulated.metrics_url} if "--engine" in options else {}
        fleet = Fleet(tmp_path, **common, **looked_at, **settings)
        opened.append(fleet)
        return Crew(client, redis_url, fleet, simulated)

    yield set_up
    for each in reversed(opened):
        each.__exit__(None, None, None)


@asynccontextmanager
async def others(simulated: Simulated, number: int, tokens: int = 40) -> AsyncIterator[None]:
    """Send so many requests at once past the queue, for as long as the block runs."""

    async def ask(session: aiohttp.ClientSession) -> None:
        for each in count():
            messages = [{"role": "user", "content": f"other {id(session)} {each}"}]
            body = {"messages": messages, "max_tokens": tokens, "ignore_eos": True}
            async with session.post(simulated.url, json=body) as response:
                await response.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = [asyncio.create_task(ask(session)) for _ in range(number)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def is_full(window: Window) -> bool:
    """Whether the engine works at its best, and no more than a few wait inside."""
    return window.tokens_per_second >= 0.95 * CAPACITY and window.waiting <= FEW + 1


def figures(window: Window) -> tuple[float, float, int]:
    return window.tokens_per_second / CAPACITY, window.waiting, window.most_waiting


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_fleet_fills_an_engine_whatever_its_size_and_no_queue_limit_refuses_it(
    crew_at: Callable[..., Crew], workers: int
) -> None:
    crew = crew_at(*ENGINE, "--queue-limit", "24", GREENSCALE_CONCURRENCY=64)
    crew.push(20_000)
    crew.start(workers)
    await crew.ready()
    await crew.settles_at(is_full, figures)
    assert crew.simulated.stats()["engine"]["refused"] == 0


async def test_half_an_engine_is_found_and_others_are_yielded_to(crew_at: Callable[..., Crew]) -> None:
    crew = crew_at(*ENGINE, GREENSCALE_CONCURRENCY=64)
    crew.push(20_000)
    crew.start(2)
    await crew.comes_to(lambda flow: (flow.limit or 0) >= SLOTS)
    await asyncio.to_thread(crew.simulated.change, slots=SLOTS // 2)
    await crew.comes_to(lambda flow: (flow.limit or 99) <= SLOTS // 2 + FEW)
    await asyncio.to_thread(crew.simulated.change, slots=SLOTS)
    await crew.comes_to(lambda flow: (flow.limit or 0) >= SLOTS)
    async with others(crew.simulated, 2 * SLOTS):
        await crew.comes_to(lambda flow: flow.limit == 1)
    await crew.comes_to(lambda flow: (flow.limit or 0) >= SLOTS)


async def test_a_number_is_the_most_that_the_engine_can_raise_the_limit_to(crew_at: Callable[..., Crew]) -> None:
    crew = crew_at(*ENGINE, GREENSCALE_CONCURRENCY=64, GREENSCALE_LIMIT=5)
    crew.push(5_000)
    crew.start(1)
    await crew.comes_to(lambda flow: flow.limit == 5 and flow.held == "limit")
    window = await crew.watch()
    assert max(seen.running + seen.waiting for seen in window.seen) <= 5


async def test_when_the_worker_that_looks_is_killed_another_one_looks(crew_at: Callable[..., Crew]) -> None:
    crew = crew_at(*ENGINE, GREENSCALE_CONCURRENCY=64)
    crew.push(20_000)
    crew.start(1)
    await crew.comes_to(lambda flow: (flow.limit or 0) >= SLOTS)
    crew.start(1)
    await crew.fleet.workers[1].says("ready")
    crew.fleet.workers[0].kill()
    await asyncio.to_thread(crew.simulated.change, slots=SLOTS // 2)
    await crew.comes_to(lambda flow: (flow.limit or 99) <= SLOTS // 2 + FEW)


LIMITED: Final = {"GREENSCALE_CONCURRENCY": 16}


def provider(requests: int, tokens: int) -> tuple[tuple[str, ...], dict[str, object]]:
    """A provider's options, and the settings of workers that keep to them."""
    options = ("--latency", "0.5", "--requests-per-minute", str(requests), "--tokens-per-minute", str(tokens))
    settings: dict[str, object] = {"GREENSCALE_REQUESTS_PER_MINUTE": requests, "GREENSCALE_TOKENS_PER_MINUTE": tokens}
    return options, LIMITED | settings


def is_in_time(window: Window) -> bool:
    """Whether nearly nothing was refused, and nearly all that is allowed was used."""
    return window.refused < 0.005 and max(window.used("requests"), window.used("tokens")) >= 0.97


def usage(window: Window) -> tuple[float, float, float]:
    return window.refused, window.used("requests"), window.used("tokens")


@pytest.mark.parametrize("tokens", [30, 160])  # requests are short, or tokens
async def test_a_fleet_keeps_to_the_rate_limits_of_a_provider_and_uses_them(
    crew_at: Callable[..., Crew], tokens: int
) -> None:
    options, settings = provider(1200, 120_000)
    crew = crew_at(*options, **settings)
    crew.push(5_000, tokens)
    crew.start(3)
    await crew.ready()
    await crew.settles_at(is_in_time, usage)
    crew.fleet.workers[0].kill()
    await crew.settles_at(is_in_time, usage)


@pytest.mark.long
async def test_eight_workers_keep_to_a_provider_for_five_minutes_whoever_is_killed(
    crew_at: Callable[..., Crew],
) -> None:
    options, settings = provider(600, 60_000)
    crew = crew_at(*options, **settings)
    crew.push(10_000, 80)
    crew.start(8)
    await crew.ready()
    await asyncio.sleep(10)
    watching = asyncio.create_task(crew.watch(300))
    for victim in range(4):
        await asyncio.sleep(50)
        crew.fleet.workers[victim].kill()
        crew.start(1)
    window = await watching
    assert is_in_time(window), usage(window)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 8])
async def test_a_fleet_is_as_fast_as_with_the_best_fixed_limit_for_minutes(
    crew_at: Callable[..., Crew], workers: int
) -> None:
    crew = crew_at(*ENGINE, "--queue-limit", "24", GREENSCALE_CONCURRENCY=64)
    crew.push(30_000)
    crew.start(workers)
    await crew.ready()
    await crew.settles_at(is_full, figures)
    window = await crew.watch(120)
    assert is_full(window), figures(window)
    assert window.most_waiting <= SLOTS // 2
    assert crew.simulated.stats()["engine"]["refused"] == 0
    await asyncio.to_thread(crew.simulated.change, slots=SLOTS // 2)
    await crew.comes_to(lambda flow: (flow.limit or 99) <= SLOTS // 2 + FEW, seconds=10)
