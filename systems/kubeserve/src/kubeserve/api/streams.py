"""Server-sent events: what changes, as it changes. Who reads too slowly is let go; nothing piles up meanwhile."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

import orjson
from aiohttp import web

from kubeserve.api.bodies import LogQuery
from kubeserve.api.call import Call
from kubeserve.api.models import current
from kubeserve.api.shapes import VersionShape
from kubeserve.domain import VersionState
from kubeserve.errors import NotFoundError, UnavailableError

LOOK_SECONDS: Final = 0.3
BEAT_SECONDS: Final = 15.0
SLOW_SECONDS: Final = 30.0
LONGEST_SECONDS: Final = 3600.0  # then a browser connects again, with a credential that is good then
LONGEST_LINE: Final = 8192
FINAL: Final = frozenset({VersionState.READY, VersionState.ARCHIVED, VersionState.REJECTED, VersionState.FAILED})
BEAT: Final = b": still here\n\n"

Events = AsyncGenerator[tuple[str, object], None]


async def steps(call: Call) -> web.StreamResponse:
    """Follow a version: an event `version` whenever it changes, `end` when it has come to its end."""
    first = await current(call, call.part("version_id"))
    return await _send(call, _changes(call, first))


async def logs(call: Call, query: LogQuery) -> web.StreamResponse:
    """Follow what the models of a deployment write: an event `log` for each line."""
    deployment = await call.plane.deployments.get(call.owner_id, call.part("deployment_id"))
    return await _send(call, _lines(call, deployment.id, follow=query.follow))


async def _changes(call: Call, first: VersionShape) -> Events:
    shown, now = None, first
    while True:
        if now != shown:
            yield "version", now.model_dump(mode="json")
            shown = now
        if now.state in FINAL:
            yield "end", {"state": now.state}
            return
        await asyncio.sleep(LOOK_SECONDS)
        try:
            now = await current(call, first.id)
        except NotFoundError:
            yield "end", {"state": "deleted"}
            return
        except UnavailableError:
            continue


async def _lines(call: Call, deployment_id: str, *, follow: bool) -> Events:
    async for line in call.plane.place.logs(deployment_id, follow=follow):
        yield "log", {"line": line[:LONGEST_LINE]}
    yield "end", {}


async def _send(call: Call, events: Events) -> web.StreamResponse:
    """Send events until they end, the caller goes, this process stops or an hour is over; and a comment in between."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
    with call.state.stream(call.owner_id):
        await response.prepare(call.request)
        loop = asyncio.get_running_loop()
        ends = loop.time() + LONGEST_SECONDS
        stopping = asyncio.create_task(call.plane.stopping.wait())
        coming = asyncio.ensure_future(anext(events, None))
        try:
            while loop.time() < ends and not stopping.done():
                done, _ = await asyncio.wait({coming, stopping}, timeout=BEAT_SECONDS, return_when="FIRST_COMPLETED")
                if coming not in done:
                    await _write(call.request, response, BEAT)
                    continue
                if (event := coming.result()) is None:
                    break
                await _write(call.request, response, _framed(*event))
                coming = asyncio.ensure_future(anext(events, None))
        except (ConnectionError, TimeoutError):
            pass  # the caller has gone, or does not read
        finally:
            for task in (stopping, coming):
                task.cancel()
            await asyncio.gather(stopping, coming, return_exceptions=True)
            await events.aclose()
    return response


async def _write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    try:
        async with asyncio.timeout(SLOW_SECONDS):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise


def _framed(event: str, data: object) -> bytes:
    return b"event: " + event.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"
