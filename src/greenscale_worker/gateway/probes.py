"""`/livez`, `/readyz` and `/metrics`: what a cluster asks."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.route import TEXT, Route

PROBE_SECONDS: Final = 0.5  # a probe gives up after 1 s by default
SCRAPE_SECONDS: Final = 2.0


async def livez(_call: Call) -> web.Response:
    """GET /livez: the process answers; a restart does not help while the queue is away."""
    return _verdict([])


async def readyz(call: Call) -> web.Response:
    """GET /readyz: a request would be answered."""
    faults = ["draining"] if call.gateway.draining.is_set() else []
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await call.queue.record("readyz")
    except (TimeoutError, QueueUnavailableError, ConfigError):
        faults.append("the queue does not answer")
    return _verdict(faults)


async def metrics(call: Call) -> web.Response:
    """GET /metrics: with the queue's depth, if it answers."""
    with suppress(TimeoutError, QueueUnavailableError, ConfigError):
        async with asyncio.timeout(SCRAPE_SECONDS):
            call.gateway.metrics.depth(await call.queue.depth())
    return web.Response(body=call.gateway.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _verdict(faults: Sequence[str]) -> web.Response:
    text = "".join(f"{line}\n" for line in faults or ["ok"])
    return web.Response(text=text, status=503 if faults else 200, headers={"Cache-Control": "no-store"})


ROUTES: Final = (
    Route(
        method="GET",
        path="/livez",
        handler=livez,
        summary="200 as long as the gateway should not be restarted.",
        scope=None,
        answers={200: TEXT},
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=readyz,
        summary="200 if requests can be answered; 503 says why not.",
        scope=None,
        answers={200: TEXT, 503: TEXT},
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=metrics,
        summary="Metrics for Prometheus.",
        scope=None,
        answers={200: TEXT},
    ),
)
