"""The application: every request passes here, is counted, checked against its route, and answered."""

import asyncio
import logging
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import ValidationError

from greenscale_worker.errors import ConfigError, FilesUnavailableError
from greenscale_worker.gateway import sse
from greenscale_worker.gateway.core import LEFT, Call, Caller, Gateway, is_loopback
from greenscale_worker.gateway.errors import Problem, of_error, of_validation, problem_of
from greenscale_worker.gateway.limits import request_of
from greenscale_worker.gateway.metrics import GatewayMetrics
from greenscale_worker.gateway.openapi import document
from greenscale_worker.gateway.page import page
from greenscale_worker.gateway.response_ends import KeepsResponses
from greenscale_worker.gateway.route import Route
from greenscale_worker.gateway.table import ROUTES
from greenscale_worker.gateway.upkeep import upkeep
from greenscale_worker.telemetry import log
from greenscale_worker.wire_json import write

IDLE_SECONDS: Final = 75.0  # for the headers of a request, and between two; longer than most proxies keep a connection
LINGER_SECONDS: Final = 5.0  # for the rest of a body that was refused
LONGEST_LINE: Final = 8190  # bytes of a header, or of the line with the path
MOST_HEADERS: Final = 100
GOODBYE_SECONDS: Final = 5.0
SILENT: Final = logging.getLogger("greenscale.gateway.http")  # aiohttp's; its tracebacks may quote a request
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False
STARTED: Final = web.RequestKey("STARTED", bool)  # headers were sent
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(gateway: Gateway) -> web.Application:
    """Make the application of the table of routes."""
    gateway.document = write(document(ROUTES))
    gateway.page = page(document(ROUTES))
    app = web.Application(client_max_size=gateway.options.max_bytes + 1, middlewares=[_unrouted(gateway.metrics)])
    app.on_response_prepare.append(_add_headers)
    for route in ROUTES:
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            app.router.add_route(method, route.pattern or route.path, partial(_answer, gateway, route))
    return app


@asynccontextmanager
async def serving(gateway: Gateway, host: str, port: int) -> AsyncIterator[int]:
    """Serve until the block is left, then let those who wait go on for as long as the options say.

    Yields the port, which port 0 leaves to the system. Raises ConfigError if it cannot listen.
    """
    runner = web.AppRunner(
        build_app(gateway),
        access_log=None,
        logger=SILENT,
        handler_cancellation=True,
        auto_decompress=False,  # a few bytes may stand for gigabytes
        keepalive_timeout=IDLE_SECONDS,
        lingering_time=LINGER_SECONDS,
        max_line_size=LONGEST_LINE,
        max_field_size=LONGEST_LINE,
        max_headers=MOST_HEADERS,
        shutdown_timeout=gateway.options.drain + GOODBYE_SECONDS,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, backlog=1024).start()
        except OSError as error:
            reason = str(error.strerror).rpartition(": ")[2]  # asyncio puts the address before it
            where = f"GREENSCALE_GATEWAY_HOST and GREENSCALE_GATEWAY_PORT: cannot listen on {host} port {port}"
            raise ConfigError(f"{where}: {reason}; an address of this machine and a free port are accepted") from error
        if gateway.files is not None:
            gateway.notices.consumers.append(KeepsResponses(gateway, gateway.files))
        if gateway.webhooks is not None:
            gateway.notices.consumers.append(gateway.webhooks.events.told)
        async with upkeep(gateway):
            yield runner.addresses[0][1]
    finally:
        closing = asyncio.create_task(gateway.drain())
        await runner.cleanup()
        await gateway.aclose()
        await closing


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    request[STARTED] = True
    _give_up_on_silence(request)
    for name, value in request.get(LEFT, {}).items():
        response.headers.setdefault(name, value)  # a refusal tells of the limit that is reached
    response.headers.popall("Server", None)  # nobody need know which version to attack


def _give_up_on_silence(request: web.Request) -> None:
    """Let the system end the connection of a client that reads nothing for a minute: its answer takes memory."""
    peer = None if request.transport is None else request.transport.get_extra_info("socket")
    if peer is not None and hasattr(socket, "TCP_USER_TIMEOUT"):  # not on macOS
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(sse.WRITE_SECONDS * 1000))


async def _answer(gateway: Gateway, route: Route, request: web.Request) -> web.StreamResponse:
    """Answer a request of a route, whatever happens on the way."""
    with gateway.metrics.answering(route.name) as status:
        try:
            response = await _called(gateway, route, request)
        except Exception as error:
            if request.transport is None:  # the client has left
                raise
            problem = _problem_of(error, route)
            if STARTED in request:  # no other answer can be given
                request.transport.close()
                raise ConnectionResetError from error
            gateway.metrics.problem(problem.kind)
            response = problem.response()
            if problem.kind == "queue_unavailable":
                gateway.queue_is_away(str(error))
            if isinstance(error, FilesUnavailableError):
                gateway.files_are_away(str(error))
        else:
            if route.scope is not None:
                gateway.queue_is_back()
        status.append(response.status)
        return response


async def _called(gateway: Gateway, route: Route, request: web.Request) -> web.StreamResponse:
    if route.scope is None:
        return await route.handler(Call(gateway, request))
    caller = await _caller(gateway, route, request)
    if caller.account is None:
        return await _handled(gateway, route, request, caller)
    with request_of(caller.account) as of_requests:
        request[LEFT] = of_requests
        if route.scope == "submit":
            request[LEFT] = of_requests | await gateway.accounts.check_submission(caller.account)
        return await _handled(gateway, route, request, caller)


async def _caller(gateway: Gateway, route: Route, request: web.Request) -> Caller:
    """Return who calls. Raises Problem for a key that is wrong, or not for this route."""
    found = await gateway.keyring.find(request)
    if found is None:
        _check_host(request)
        return Caller()
    key_id, key = found
    if route.scope is not None and not key.may(route.scope):
        raise Problem("missing_scope", f"the key is for {', '.join(key.scopes)}; this needs {route.scope}")
    if route.whole and key.tenant is not None:
        raise Problem("missing_scope", "this is about the whole queue; it needs a key of no tenant")
    return Caller(key.tenant, key_id, gateway.accounts.of(key_id, key.limits, key.tenant))


async def _handled(gateway: Gateway, route: Route, request: web.Request, caller: Caller) -> web.StreamResponse:
    query = None
    if route.query is not None:
        try:
            query = route.query.model_validate(dict(request.query))
        except ValidationError as error:
            raise of_validation(error) from None
    elif request.query:
        name = next(iter(request.query))
        raise Problem("bad_field", f"{name[:200]}: this path takes no parameters", param=name[:200])
    return await route.handler(Call(gateway, request, caller, query))


def _check_host(request: web.Request) -> None:
    """Refuse what a page of the web makes a browser on this machine ask. Raises Problem.

    Such a page names itself in Origin; or in Host, if it has its own name resolve to this machine (DNS rebinding).
    """
    for name in ("Host", "Origin"):
        value = request.headers.get(name)
        if value is not None and not is_loopback(_host_of(value)):
            said = f"{name}: {value[:200]!r} is not this machine; expected without keys: 127.0.0.1 or localhost"
            raise Problem("foreign_host", said, param=name)


def _host_of(value: str) -> str:
    try:
        return urlsplit(value if "://" in value else f"//{value}").hostname or ""
    except ValueError:
        return ""


def _problem_of(error: Exception, route: Route) -> Problem:
    """Return the problem that an error is; one that nobody expected is logged, without its message."""
    if of_error(error) is None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
        log.error("gateway_error", route=route.name, error=type(error).__name__, where=where)
    return problem_of(error)


def _unrouted(metrics: GatewayMetrics) -> Any:
    """Return a middleware that answers what no route takes."""

    @web.middleware
    async def answer(request: web.Request, handler: Next) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            problem = Problem("method_not_allowed", f"{allowed} are accepted here", headers={"Allow": allowed})
        except web.HTTPException:
            problem = Problem("not_found", "there is no such path; /docs lists those that there are")
        metrics.problem(problem.kind)
        return problem.response()

    return answer
