"""What a cluster asks, over HTTP: `/livez` (503: restart it), `/readyz` (does it work?), `/metrics`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from greenscale_worker.errors import ConfigError

BEATS_MISSED: Final = 3
GOODBYE_SECONDS: Final = 0.2
NOTES_SECONDS: Final = 0.5  # a probe gives up after 1 s by default

Faults = Sequence[str]


def heartbeat_faults(tried: float | None, *, every: float) -> Faults:
    """Return a fault if the heartbeat is stuck: last tried, by the loop's clock, more than three beats ago.

    Whether it was answered does not matter: a restart does not help while the queue's server is away.
    `tried` None: there is no heartbeat yet.
    """
    silence = 0.0 if tried is None else asyncio.get_running_loop().time() - tried
    if silence <= BEATS_MISSED * every:
        return []
    return [f"no heartbeat was tried for {silence:.1f} s, one is due every {every:g} s"]


@asynccontextmanager
async def serving(  # noqa: PLR0913  the address, and what each path reports
    host: str,
    port: int,
    *,
    live: Callable[[], Faults],
    ready: Callable[[], Faults],
    metrics: Callable[[], Awaitable[bytes]],
    notes: Callable[[], Awaitable[Faults]] | None = None,
) -> AsyncIterator[int]:
    """Serve until the block is left. Yields the port, which port 0 leaves to the system.

    `live` and `ready` return what is wrong, a line each: no line means 200, else 503 with these lines as its body.
    `notes` returns lines that `/readyz` adds without changing the status: what keeps jobs from moving though this
    process is well. It has half a second. Raises ConfigError if it cannot listen.
    """

    async def livez(_request: web.Request) -> web.Response:
        return _verdict(live())

    async def readyz(_request: web.Request) -> web.Response:
        said: Faults = []
        if notes is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(NOTES_SECONDS):
                    said = await notes()
        return _verdict(ready(), said)

    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(body=await metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=GOODBYE_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            reason = str(error.strerror).rpartition(": ")[2]  # asyncio puts the address before it
            where = f"GREENSCALE_HEALTH_HOST and GREENSCALE_HEALTH_PORT: cannot listen on {host} port {port}"
            raise ConfigError(f"{where}: {reason}; an address of this machine and a free port are accepted") from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _verdict(faults: Faults, notes: Faults = ()) -> web.Response:
    text = "".join(f"{line}\n" for line in (*(faults or ["ok"]), *notes))
    return web.Response(text=text, status=503 if faults else 200, headers={"Cache-Control": "no-store"})
