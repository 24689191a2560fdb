"""Server-sent events: written one by one, to a client that reads them."""

import asyncio
from typing import Any, Final

from aiohttp import web

from greenscale_worker.wire_json import write

HEADERS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
QUIET_SECONDS: Final = 15.0  # without a word; proxies hang up after a minute
WRITE_SECONDS: Final = 60.0  # for a client that does not read


async def begin(request: web.Request) -> web.StreamResponse:
    """Send the headers."""
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    return response


async def send(response: web.StreamResponse, event: str, data: Any, *, event_id: str | None = None) -> None:
    """Send an event. Raises ConnectionError if the client is gone, or has not read for a minute."""
    head = f"event: {event}\n" + ("" if event_id is None else f"id: {event_id}\n")
    await put(response, b"%bdata: %b\n\n" % (head.encode(), write(data)))


async def keep_alive(response: web.StreamResponse) -> None:
    """Send a comment, so that nobody takes the connection for dead. Raises as `send`."""
    await put(response, b": keep-alive\n\n")


async def put(response: web.StreamResponse, data: bytes) -> None:
    """Write, and wait until the client has taken most of it. Raises as `send`."""
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await response.write(data)
    except TimeoutError:
        raise ConnectionResetError("the client does not read") from None
