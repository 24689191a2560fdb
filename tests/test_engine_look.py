"""One worker of the fleet looks at the engine, and what cannot be seen is said."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from greenscale_worker.config import engine_pages, load, most_in_flight, queue_options
from greenscale_worker.engine_limit import CAUTIOUS
from greenscale_worker.engine_look import PAGE_BYTES, EngineLook
from greenscale_worker.errors import ConfigError
from greenscale_worker.queues import QueueOptions
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.telemetry import Metrics
from harness.eventually import PATIENCE, eventually

Lines = list[MutableMapping[str, Any]]
SOON = 0.02


@pytest.fixture
def lines() -> Iterator[Lines]:
    with capture_logs() as captured:
        yield captured


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenscale_worker.engine_look.EVERY_SECONDS", SOON)


class Page:
    """An engine's metrics, or what stands in their place."""

    def __init__(self) -> None:
        self.status = 200
        self.text = ""
        self.looks = 0
        self.says(0, 0)

    def says(self, running: int, waiting: int) -> None:
        self.status = 200
        self.text = f"vllm:num_requests_running {running}\nvllm:num_requests_waiting {waiting}\n"

    async def answer(self, _: web.Request) -> web.Response:
        self.looks += 1
        return web.Response(text=self.text, status=self.status)


@asynccontextmanager
async def serving(*pages: Page) -> AsyncIterator[list[str]]:
    app = web.Application()
    for number, page in enumerate(pages):
        app.router.add_get(f"/{number}/metrics", page.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        yield [f"http://somebody:secret@127.0.0.1:{port}/{number}/metrics?key=hidden" for number in range(len(pages))]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def looking(*looks: EngineLook) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(look.run()) for look in looks]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def fleet(limit: int | None = None) -> MemoryQueue:
    queue = MemoryQueue(QueueOptions(limit="engine"))
    if limit is not None:
        await queue.observe(60, limit)
    return queue


async def has_limit(queue: MemoryQueue, limit: int) -> None:
    """Wait until the fleet has this limit."""
    async with asyncio.timeout(PATIENCE):
        while (await queue.flow()).limit != limit:  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(SOON)


async def test_one_of_two_workers_looks_and_both_obey() -> None:
    page, queue = Page(), await fleet(20)
    page.says(10, 6)
    other = queue.beside("other")
    async with serving(page) as urls, looking(*(EngineLook(each, urls) for each in (queue, other))):
        await has_limit(queue, 1)  # nothing is in flight here: what waits is others'
        before = page.looks
        turns = [await each.observe(60) for each in (queue, other)]
        assert turns.count(None) == 1
        await eventually(lambda: page.looks > before + 3)


async def test_a_page_that_cannot_be_read_is_said_once_without_secrets_and_keeps_the_gate_from_opening(
    lines: Lines,
) -> None:
    page, queue = Page(), await fleet()
    page.status = 503
    async with serving(page) as urls, looking(EngineLook(queue, urls)):
        await eventually(lambda: page.looks > 5)
        flow = await queue.flow()
        assert flow.limit == CAUTIOUS
        assert flow.engine_unseen.endswith("/0/metrics: HTTP 503 Service Unavailable")
        page.says(0, 0)
        await eventually(lambda: [line["event"] for line in lines] == ["engine_unseen", "engine_seen"])
        assert (await queue.flow()).engine_unseen == ""
    assert "secret" not in str(lines)
    assert "hidden" not in str(lines)


async def test_an_engine_that_is_away_in_the_end_leaves_a_cautious_limit() -> None:
    queue = await fleet(500)
    async with looking(EngineLook(queue, ["http://127.0.0.1:1/metrics"])):
        await has_limit(queue, CAUTIOUS)


async def test_one_of_two_engines_away_stops_growth_but_what_waits_lowers_the_limit(lines: Lines) -> None:
    here, away, queue = Page(), Page(), await fleet(20)
    away.text = "<html>It works!</html>"
    async with serving(here, away) as urls, looking(EngineLook(queue, urls)):
        await eventually(lambda: here.looks > 3)
        assert (await queue.flow()).limit == 20
        here.says(10, 10)
        await has_limit(queue, 1)
    assert "1/metrics: it does not tell how many requests run and wait" in str(lines)


async def test_a_page_that_is_too_long_is_not_read_in_part(lines: Lines) -> None:
    page, queue = Page(), await fleet(20)
    page.says(20, 0)
    page.text = "#" * (PAGE_BYTES - len(page.text)) + "\n" + page.text.replace("waiting 0", "waiting 0000090")
    async with serving(page) as urls, looking(EngineLook(queue, urls)):
        await eventually(lambda: lines)
        assert (await queue.flow()).limit == 20
    assert "it has more than 8,388,608 bytes" in str(lines)


async def test_a_page_that_unpacks_to_a_flood_is_not_unpacked(lines: Lines) -> None:
    packed = gzip.compress(bytes(10 * PAGE_BYTES))

    async def flood(_: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    page, queue = Page(), await fleet(20)
    page.answer = flood  # type: ignore[method-assign]
    async with serving(page) as urls, looking(EngineLook(queue, urls)):
        await eventually(lambda: lines)
        assert (await queue.flow()).limit == 20
    assert "it is compressed" in str(lines)


async def test_what_the_engine_says_is_shown_by_the_worker_that_looks() -> None:
    page, queue, metrics = Page(), await fleet(), Metrics()
    page.says(7, 2)
    async with serving(page) as urls, AsyncExitStack() as stack:
        await stack.enter_async_context(looking(EngineLook(queue, urls, metrics=metrics)))
        await eventually(lambda: b'greenscale_engine_requests{state="running"} 7.0' in metrics.render())
        assert b'greenscale_engine_requests{state="waiting"} 2.0' in metrics.render()
        page.status = 404
        await eventually(lambda: b"greenscale_engine_requests{" not in metrics.render())


def test_the_settings_say_what_is_looked_at_and_how_far_it_may_go() -> None:
    url = "GREENSCALE_ENGINE_METRICS_URL"
    both = load({url: "http://a:8000/metrics, http://b:8000/metrics", "GREENSCALE_LIMIT": "40"})
    assert engine_pages(both) == ["http://a:8000/metrics", "http://b:8000/metrics"]
    assert (queue_options(both).limit, queue_options(both).limit_most, most_in_flight(both)) == ("engine", 40, 40)
    alone = load({url: "http://a:8000/metrics"})
    assert (queue_options(alone).limit, most_in_flight(alone)) == ("engine", None)
    off = load({url: "", "GREENSCALE_LIMIT": "40"})
    assert (engine_pages(off), queue_options(off).limit) == ([], 40)
    with pytest.raises(ConfigError, match=f"GREENSCALE_LIMIT=engine: {url} is missing"):
        engine_pages(load({"GREENSCALE_LIMIT": "engine"}))
    with pytest.raises(ConfigError, match="full URLs"):
        load({url: "http://a:8000/metrics,b"})
