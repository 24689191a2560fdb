"""What operators ask: is it well, what has it counted, what can it do."""

import asyncio
from collections.abc import Awaitable
from typing import Final

from aiohttp import web
from sqlalchemy import text

from kubeserve.api.answers import json_answer
from kubeserve.api.call import Call
from kubeserve.api.shapes import HealthShape
from kubeserve.api.state import State
from kubeserve.errors import KubeServeError
from kubeserve.queueing import ping

HEALTH_SECONDS: Final = 3.0
NOBODY: Final = "00000000-0000-0000-0000-000000000000"


async def health(call: Call) -> HealthShape | web.Response:
    """Tell whether the database, the queue and the door answer; 503 names what does not."""
    told = await call.state.health(lambda: _health(call.state))
    return told if not told.away else json_answer(told.model_dump(), 503, {"Retry-After": "1"})


async def metrics(call: Call) -> web.Response:
    """Tell what was counted, in Prometheus' text format: the API's, and the door's."""
    counted = call.state.metrics.text()
    try:
        counted += await call.plane.place.metrics()
    except KubeServeError:
        counted += b"# the door does not answer\n"
    return web.Response(body=counted, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def _health(state: State) -> HealthShape:
    plane = state.plane
    checks = {
        "database": _asked(state),
        "queue": ping(plane.redis),
        plane.place.name: plane.place.observe(NOBODY),
    }
    well = await asyncio.gather(*(_is_well(check) for check in checks.values()))
    away = [name for name, is_well in zip(checks, well, strict=True) if not is_well]
    return HealthShape(status=f"no answer from: {', '.join(away)}" if away else "ok", away=away)


async def _is_well(check: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            await check
    except (KubeServeError, TimeoutError):
        return False
    return True


async def _asked(state: State) -> None:
    async with state.plane.database.read() as connection:
        await connection.execute(text("SELECT 1"))
