"""An endpoint on 127.0.0.1 that answers as a test has scripted, byte by byte where it must."""

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson
from aiohttp import web
from multidict import CIMultiDictProxy

from harness.redis_server import CERTIFICATE

PATH: Final = "/v1/chat/completions"


def completion(content: str | None = "4", **message: Any) -> dict[str, Any]:
    """A chat completion with that content."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "llama",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": content, **message},
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the endpoint does with one request.

    `wait` is waited for before anything is sent, `pause` between the pieces of a body. `cut`: the connection
    is cut after what was sent. `raw`: these bytes stand for the whole answer, head included.
    """

    status: int = 200
    json: Any = None
    pieces: tuple[bytes, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: Callable[[], Awaitable[Any]] | None = None
    pause: float = 0.0
    cut: bool = False
    raw: bytes | None = None


OK: Final = Reply(json=completion())


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: bytes
    peer: tuple[str, int]

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Endpoint:
    """Serves the script one reply a request, then `default` for ever. Use with `async with`.

    `clients`: who has no certificate that this file vouches for is turned away.
    """

    def __init__(self, *script: Reply, default: Reply = OK, tls: bool = False, clients: Path | None = None) -> None:
        self.script = deque(script)
        self.default = default
        self.received: list[Received] = []
        self._tls = tls or clients is not None
        self._clients = clients
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{PATH}"

    async def __aenter__(self) -> Self:
        context = None
        if self._tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            if self._clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self._clients)
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def choose(self, _: Received) -> Reply:
        """What comes next. A test's own endpoint decides it by the request."""
        return self.script.popleft() if self.script else self.default

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        peer = transport.get_extra_info("peername")
        body = await request.read()
        self.received.append(Received(request.method, request.path, request.headers, body, peer))
        reply = self.choose(self.received[-1])
        if reply.wait is not None:
            await reply.wait()
        if reply.raw is not None:
            transport.write(reply.raw)
            transport.close()
            return web.Response()
        if reply.cut and not reply.pieces:
            transport.close()
            return web.Response()
        if not reply.pieces:
            return web.Response(status=reply.status, body=orjson.dumps(reply.json), headers=reply.headers)
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        await response.prepare(request)
        for piece in reply.pieces:
            await response.write(piece)
            await asyncio.sleep(reply.pause)
        if reply.cut:
            transport.close()
        return response
