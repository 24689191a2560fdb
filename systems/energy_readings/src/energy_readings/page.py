"""The page: its files, and `/api/…`, which passes on to the two APIs, so that a browser needs one address only."""

from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import Final

from aiohttp import ClientError, ClientPayloadError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, web
from yarl import URL

from energy_readings.http import application, body_of, problem
from energy_readings.settings import Settings

SCRIPTS: Final = ("api.js", "app.js", "chart.js", "form.js", "legend.js", "numbers.js", "site.js")
FILES: Final = {"/": "index.html", **{f"/{name}": name for name in (*SCRIPTS, "style.css")}}
KINDS: Final = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
PATIENCE: Final = ClientTimeout(total=10, connect=2)
LARGEST_ANSWER: Final = 4 * 1024 * 1024
PASSED_ON: Final = ("Content-Type", "Retry-After", "Cache-Control")
SAFE: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page(settings: Settings) -> web.Application:
    """Make the server of the page."""
    session: ClientSession

    async def passed_on(request: web.Request, url: str) -> web.Response:
        body = await body_of(request) if request.method == "POST" else None
        try:
            async with session.request(
                request.method, URL(url, encoded=True), data=body, allow_redirects=False
            ) as reply:
                headers = {name: reply.headers[name] for name in PASSED_ON if name in reply.headers}
                return web.Response(body=await _content(reply), status=reply.status, headers=headers)
        except (ClientError, OSError):  # TimeoutError is one
            api = "ingestion" if request.method == "POST" else "readings"
            return problem(503, f"the {api} API does not answer: try again later")

    async def post(request: web.Request) -> web.Response:
        return await passed_on(request, f"{settings.ingest}/readings")

    async def get(request: web.Request) -> web.Response:
        return await passed_on(request, settings.readings + request.rel_url.raw_path_qs.removeprefix("/api"))

    async def connected(_app: web.Application) -> AsyncIterator[None]:
        nonlocal session
        async with ClientSession(timeout=PATIENCE, cookie_jar=DummyCookieJar()) as session:
            yield

    files = [web.get(path, _file(name)) for path, name in FILES.items()]
    gets = [web.get(path, get) for path in ("/api/sites", "/api/sites/{site_id}/readings")]
    app = application(*files, *gets, web.post("/api/readings", post))
    app.cleanup_ctx.append(connected)
    return app


async def _content(reply: ClientResponse) -> bytes:
    """Read an answer. Raises ClientPayloadError where it is larger than those of our APIs."""
    content = bytearray()
    async for chunk in reply.content.iter_any():
        content += chunk
        if len(content) > LARGEST_ANSWER:
            raise ClientPayloadError
    return bytes(content)


def _file(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    body = resources.files("energy_readings").joinpath("static", name).read_bytes()
    kind = KINDS[name.rpartition(".")[2]]

    async def get(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=SAFE)

    return get
