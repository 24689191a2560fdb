"""A receiver of webhooks: it refuses some events once, is slow with others, and keeps all that it was sent."""

import asyncio
import hmac
import random
from base64 import b64decode, b64encode
from types import TracebackType
from typing import Final, Self

import orjson
from aiohttp import web

from chaos.facts import Event
from greenscale_worker.webhooks.events import EVENT_TYPES
from harness.redis_server import free_port

REFUSED: Final = 0.2  # of events: 500 at the first try, and the next try comes 5 s later
SLOW: Final = 0.2
SLOW_SECONDS: Final = 1.0
KINDS: Final = [kind for kind in EVENT_TYPES if kind.startswith(("batch.", "job."))]


class Receiver:
    """Receives; use with `async with`. `secret` is what it verifies with, once its endpoint is registered."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.secret = ""
        self._refused = set[str]()
        self._port = free_port()
        app = web.Application()
        app.router.add_post("/hook", self._receive)
        self._runner = web.AppRunner(app, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @property
    def endpoint(self) -> dict[str, object]:
        """What to register."""
        return {"name": "chaos", "url": f"http://127.0.0.1:{self._port}/hook", "event_types": KINDS}

    async def _receive(self, request: web.Request) -> web.Response:
        body, event_id = await request.read(), request.headers.get("webhook-id", "")
        said = orjson.loads(body)
        signed = said["id"] == event_id and self._is_signed(request, body)
        self.events.append(Event(event_id, said["type"], said["data"]["id"], signed))
        luck = random.Random(event_id).random()  # noqa: S311  each event has its own, whenever it comes
        if luck < REFUSED and event_id not in self._refused:
            self._refused.add(event_id)
            return web.Response(status=500)
        if luck > 1 - SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        return web.Response(status=204)

    def _is_signed(self, request: web.Request, body: bytes) -> bool:
        """Verify a message as Standard Webhooks says."""
        signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + body
        digest = hmac.digest(b64decode(self.secret.removeprefix("whsec_")), signed, "sha256")
        return f"v1,{b64encode(digest).decode()}" in request.headers["webhook-signature"].split()
