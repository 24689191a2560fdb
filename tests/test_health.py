"""What the three paths answer, and that nothing but what they ask can fail them."""

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from greenscale_worker.errors import ConfigError
from greenscale_worker.health import heartbeat_faults, serving
from greenscale_worker.telemetry import Metrics

HOST = "127.0.0.1"


class Probed:
    """What a worker would say, and a server that asks it."""

    def __init__(self) -> None:
        self.live: list[str] = []
        self.ready: list[str] = []
        self.notes: list[str] = []
        self.stuck = False
        self.broken = False
        self.metrics = Metrics()
        self.port = 0

    async def noted(self) -> list[str]:
        if self.stuck:
            await asyncio.Event().wait()
        return self.notes

    async def scrape(self) -> bytes:
        if self.broken:
            raise RuntimeError
        return self.metrics.render()

    async def get(self, path: str) -> tuple[int, str, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{self.port}{path}") as answer:
            return answer.status, await answer.text(), answer.headers["Content-Type"]


@pytest.fixture
async def probed() -> AsyncIterator[Probed]:
    worker = Probed()
    async with serving(
        HOST, 0, live=lambda: worker.live, ready=lambda: worker.ready, notes=worker.noted, metrics=worker.scrape
    ) as worker.port:
        yield worker


async def test_all_is_well(probed: Probed) -> None:
    for path in ("/livez", "/readyz"):
        assert (await probed.get(path))[:2] == (200, "ok\n")


async def test_what_is_not_ready_is_live_and_says_why(probed: Probed) -> None:
    probed.ready = ["draining", "the queue does not answer"]
    assert (await probed.get("/readyz"))[:2] == (503, "draining\nthe queue does not answer\n")
    assert (await probed.get("/livez"))[0] == 200
    probed.ready = []
    assert (await probed.get("/readyz"))[0] == 200


async def test_why_nothing_moves_is_said_below_and_fails_no_probe(probed: Probed) -> None:
    probed.notes = ["paused", "the breaker is open"]
    assert (await probed.get("/readyz"))[:2] == (200, "ok\npaused\nthe breaker is open\n")
    probed.ready = ["draining"]
    assert (await probed.get("/readyz"))[:2] == (503, "draining\npaused\nthe breaker is open\n")
    assert (await probed.get("/livez"))[:2] == (200, "ok\n")


async def test_who_does_not_say_why_in_time_holds_up_no_probe(probed: Probed) -> None:
    probed.notes, probed.stuck = ["paused"], True
    async with asyncio.timeout(5):
        assert (await probed.get("/readyz"))[:2] == (200, "ok\n")


async def test_what_is_not_live_says_why(probed: Probed) -> None:
    probed.live = ["no heartbeat"]
    assert (await probed.get("/livez"))[:2] == (503, "no heartbeat\n")
    assert (await probed.get("/readyz"))[0] == 200


async def test_metrics_can_be_scraped(probed: Probed) -> None:
    probed.metrics.finished("succeeded")
    status, text, kind = await probed.get("/metrics")
    assert status == 200
    assert kind.startswith("text/plain; version=")
    assert "greenscale_jobs" in {family.name for family in text_string_to_metric_families(text)}


async def test_a_failed_scrape_fails_no_probe(probed: Probed) -> None:
    probed.broken = True
    assert (await probed.get("/metrics"))[0] == 500
    assert (await probed.get("/livez"))[0] == 200


async def test_nothing_else_is_served(probed: Probed) -> None:
    assert (await probed.get("/"))[0] == 404


@pytest.mark.parametrize("host", [HOST, "192.0.2.1"])
async def test_where_it_cannot_listen_one_line_says_so(probed: Probed, host: str) -> None:
    other = Probed()
    with pytest.raises(ConfigError) as caught:
        async with serving(host, probed.port, live=list, ready=list, metrics=other.scrape):
            pytest.fail("served")
    line = str(caught.value)
    assert "\n" not in line
    for word in ("GREENSCALE_HEALTH_PORT", host, str(probed.port), "accepted"):
        assert word in line


async def test_it_ends_with_its_block_whoever_is_still_connected() -> None:
    asked = asyncio.Event()

    async def never() -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return b""

    async with asyncio.timeout(10), aiohttp.ClientSession() as session:
        async with serving(HOST, 0, live=list, ready=list, metrics=never) as port:
            async with session.get(f"http://{HOST}:{port}/livez") as answer:
                await answer.read()
            half = socket.create_connection((HOST, port))
            half.sendall(b"GET /liv")
            scrape = asyncio.create_task(session.get(f"http://{HOST}:{port}/metrics").__aenter__())
            await asked.wait()
        half.close()
        with pytest.raises(aiohttp.ClientError):
            await scrape
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port))


async def test_a_heartbeat_is_stuck_after_three_beats() -> None:
    now = asyncio.get_running_loop().time()
    assert heartbeat_faults(None, every=3.0) == []
    assert heartbeat_faults(now - 8.0, every=3.0) == []
    (fault,) = heartbeat_faults(now - 9.5, every=3.0)
    assert "9.5 s" in fault
