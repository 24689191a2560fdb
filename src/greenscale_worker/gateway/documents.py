"""`/`, `/openapi.json` and `/docs`: what the gateway says of itself."""

from typing import Final

from aiohttp import web

from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.page import at
from greenscale_worker.gateway.route import HTML, TEXT, Route

# The page has no script, and loads nothing.
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"

WHERE: Final = """\
This is the gateway of GreenScale.
/docs          its paths, for people
/openapi.json  the same, for machines
/v1            where they begin: the base_url of the `openai` client
"""


async def index(_call: Call) -> web.Response:
    """GET /: a browser goes on to /docs, and who reads by `curl` is told where to look."""
    return web.Response(text=WHERE, status=307, headers={"Location": "/docs"})


async def openapi(call: Call) -> web.Response:
    """GET /openapi.json."""
    return web.Response(body=call.gateway.document, content_type="application/json")


async def page(call: Call) -> web.Response:
    """GET /docs."""
    headers = {"Content-Security-Policy": POLICY}
    text = at(call.gateway.page, f"{call.request.scheme}://{call.request.host}")
    return web.Response(text=text, content_type=HTML, charset="utf-8", headers=headers)


ROUTES: Final = (
    Route(
        method="GET",
        path="/",
        handler=index,
        summary="Where to look: `/docs`.",
        scope=None,
        answers={307: TEXT},
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=openapi,
        summary="This API, as an OpenAPI 3.1 document.",
        scope=None,
        answers={200: "application/json"},
    ),
    Route(
        method="GET",
        path="/docs",
        handler=page,
        summary="This API, as a page for people.",
        scope=None,
        answers={200: HTML},
    ),
)
