"""Makes the application of the table of routes, and serves it."""

import asyncio
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiohttp import HttpVersion11, web
from greenscale_worker import ConfigError

from kubeserve.api import limits
from kubeserve.api.answers import http_refusal, json_answer, refusal
from kubeserve.api.call import Call
from kubeserve.api.credentials import BY_COOKIE, admit, clear_cookie
from kubeserve.api.openapi import document
from kubeserve.api.reading import read_query, read_shape
from kubeserve.api.route import Route
from kubeserve.api.routes import PREDICT, ROUTES
from kubeserve.api.state import State
from kubeserve.control import ControlPlane
from kubeserve.errors import KubeServeError, UnauthenticatedError

IDLE_SECONDS: Final = 30.0
LINGER_SECONDS: Final = 2.0
DRAIN_SECONDS: Final = 10.0
LONGEST_LINE: Final = 8190
MOST_HEADERS: Final = 64
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
ROUTE: Final = web.RequestKey("route", str)
OWNER: Final = web.RequestKey("owner", str)
STATE: Final = web.AppKey("state", State)
log = structlog.get_logger()

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(plane: ControlPlane) -> web.Application:
    """Make the application. Other parts may add routes of their own, which get the same errors, log and headers."""
    app = web.Application(middlewares=[_answered])
    state = app[STATE] = State(plane)
    state.openapi = document(ROUTES)
    app.on_response_prepare.append(_add_headers)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _handler(state, route), expect_handler=_expected)
    base = plane.settings.ingress_base_path.rstrip("/")
    if (path := f"{base}/{{deployment_id}}") != PREDICT.path:  # so that the URL of a deployment is right without proxy
        app.router.add_route(PREDICT.method, path, _handler(state, PREDICT), expect_handler=_expected)
    return app


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve until the block is left; then calls may end, for ten seconds at most.

    Yields the port, which port 0 leaves to the system. Raises ConfigError if it cannot listen.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # a few bytes may stand for gigabytes
        keepalive_timeout=IDLE_SECONDS,
        lingering_time=LINGER_SECONDS,
        max_line_size=LONGEST_LINE,
        max_field_size=LONGEST_LINE,
        max_headers=MOST_HEADERS,
        shutdown_timeout=DRAIN_SECONDS,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, backlog=1024).start()
        except OSError as error:
            reason = str(error.strerror).rpartition(": ")[2]
            raise ConfigError(
                f"KUBESERVE_HOST and KUBESERVE_PORT: cannot listen on {host} port {port}: {reason}"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _handler(state: State, route: Route) -> Next:
    body, query, answer = route.body, route.query, route.answer

    async def handle(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = route.name
        call = Call(request, state)
        call.principal = await admit(call, route)
        if call.principal is not None:
            request[OWNER] = call.owner_id
        if route.limited:
            await limits.count(call)
        given: dict[str, Any] = {}
        if query is not None:
            given["query"] = read_query(request, query)
        if body is not None:
            given["body"] = await read_shape(request, body)
        result = await route.handler(call, **given)
        if isinstance(result, web.StreamResponse):
            return result
        if answer is None:
            return web.Response(status=route.status, headers=call.headers)
        return json_answer(answer.dump_python(result, mode="json"), route.status, call.headers)

    return handle


async def _expected(request: web.Request) -> web.Response | None:
    """Do as `Expect` asks, or refuse it. That of aiohttp breaks at what is not UTF-8."""
    if request.headers["Expect"].lower() != "100-continue":
        return http_refusal(web.HTTPExpectationFailed())
    if request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer
    return None


@web.middleware
async def _answered(request: web.Request, handler: Next) -> web.StreamResponse:
    """Answer whatever happens, count it, and write one line of it."""
    began = time.perf_counter()
    try:
        response = await handler(request)
    except KubeServeError as error:
        response = refusal(error)
        if isinstance(error, UnauthenticatedError) and BY_COOKIE in request:
            clear_cookie(response, secure=request.secure)  # it is good for nothing any more
    except web.HTTPException as error:
        response = http_refusal(error)
    except ConnectionError:  # the caller has gone
        raise
    except Exception as error:  # noqa: BLE001  a mistake of ours, which stops this call alone
        response = _mistake(request, error)
    seconds = time.perf_counter() - began
    asyncio.get_running_loop().call_soon(_tell, request, response.status, seconds)  # the answer does not wait for it
    return response


def _tell(request: web.Request, status: int, seconds: float) -> None:
    route = request.get(ROUTE) or _name(request)
    request.app[STATE].metrics.count(route, status, seconds)
    log.info("http_request", route=route, status=status, ms=round(seconds * 1000, 1), owner=request.get(OWNER, ""))


def _name(request: web.Request) -> str:
    """Name what is no route of the table: a part of the page by its path as it was added, or `unknown`."""
    resource = request.match_info.route.resource
    return "unknown" if resource is None else f"{request.method} {resource.canonical}"


def _mistake(request: web.Request, error: Exception) -> web.Response:
    """Say so, with an id that the log has, too. What the error says may hold what people sent: it is not logged."""
    number = secrets.token_hex(8)
    where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-8:]]
    kind = type(error).__name__
    log.error("request_broke", id=number, route=request.get(ROUTE) or _name(request), error=kind, where=where)
    message = f"the platform made a mistake; its log has it under {number}"
    return json_answer({"error": message, "code": "internal", "faults": [], "id": number}, 500)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(request.get(limits.LEFT, {}))
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.pop("Server", None)
