"""What the three servers have in common: JSON errors, a Redis that is away, `/health`, and how they run."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from greenscale_worker import ConfigError

from energy_readings.connection import AWAY

RETRY_SECONDS: Final = 5
GOODBYE_SECONDS: Final = 5.0
GARBAGE_THRESHOLD: Final = 50_000  # a request leaves no cycles behind; the default of 700 is work for nothing
LARGEST_BODY: Final = 256 * 1024
BODY_SECONDS: Final = 10.0
JSON: Final = "application/json"

log = logging.getLogger("energy_readings")


class RefusedError(Exception):
    """The request cannot be served as it is: `status`, a message, and where it is wrong."""

    def __init__(self, status: int, message: str, faults: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.faults = faults


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer with JSON."""
    return web.Response(body=orjson.dumps(value) + b"\n", status=status, headers=headers, content_type=JSON)


def problem(status: int, message: str, faults: list[dict[str, Any]] | None = None) -> web.Response:
    """Answer with an error: `{"error": …}`, and beside it what is wrong where, if that is known."""
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == web.HTTPServiceUnavailable.status_code else {}
    return answer({"error": message} | ({"faults": faults} if faults else {}), status, headers)


@web.middleware
async def in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error in JSON; a Redis that is away, full or refuses us is 503 with Retry-After."""
    try:
        return await handler(request)
    except RefusedError as error:
        return problem(error.status, str(error), error.faults)
    except AWAY as error:
        log.warning("%s %s: 503: %s: %s", request.method, request.path, type(error).__name__, error)
        return problem(503, "Redis is away, full or refuses this: try again later; what was sent twice is stored once")
    except web.HTTPRequestEntityTooLarge as error:
        return problem(error.status, f"the body is too large; at most {LARGEST_BODY} bytes are accepted")
    except web.HTTPException as error:
        response = problem(error.status, error.reason)
        response.headers.update({name: value for name, value in error.headers.items() if name == "Allow"})
        return response
    except Exception:
        log.exception("%s %s: 500", request.method, request.path)
        return problem(500, "this should not have happened; the log of the server says more")


async def body_of(request: web.Request) -> bytes:
    """Read a body. Raises RefusedError where it does not come in time, breaks off, or is not what its headers say."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise RefusedError(408, f"the body has not come within {BODY_SECONDS:g} s") from None
    except (web.RequestPayloadError, OSError):
        raise RefusedError(400, "the body broke off, or is not encoded as its headers say") from None


def application(*routes: web.RouteDef, check: Callable[[], Awaitable[object]] | None = None) -> web.Application:
    """Make a server with these routes and `GET /health`: 200, or 503 where `check` raises one of `AWAY`."""

    async def health(_request: web.Request) -> web.Response:
        if check is not None:
            await check()
        return answer({"status": "ok"})

    app = web.Application(middlewares=[in_json], client_max_size=LARGEST_BODY)
    app.add_routes([*routes, web.get("/health", health)])
    return app


def serve(app: web.Application, host: str, port: int, variable: str) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that have begun are answered.

    Raises ConfigError, which names the variable, where it cannot listen.
    """
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    try:
        web.run_app(app, host=host, port=port, access_log=None, print=None, shutdown_timeout=GOODBYE_SECONDS)
    except OSError as error:
        reason = str(error.strerror).rpartition(": ")[2]
        raise ConfigError(f"ENERGY_HOST and {variable}: cannot listen on {host} port {port}: {reason}") from None
