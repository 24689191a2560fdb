"""Serves the pages, which are the same for all, and their files, whose paths change with their content."""

import hashlib
import platform
from http import HTTPStatus
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final
from urllib.parse import quote, urlsplit

from aiohttp import ETag, web
from aiohttp.typedefs import Handler, Middleware
from jinja2 import Environment, PackageLoader, StrictUndefined

from kubeserve.domain import COOKIE
from kubeserve.intake import usual_packages

PAGES: Final = {
    "/": "models",
    "/architecture": "architecture",
    "/deployments": "deployments",
    "/deployments/{deployment_id}": "deployment",
    "/keys": "keys",
    "/login": "login",
    "/models/{model_id}": "model",
    "/register": "register",
    "/versions/{version_id}": "version",
}
OPEN: Final = frozenset({"architecture", "login", "register"})  # to those who are not logged in, too
KINDS: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
NAMED: Final = ("scikit-learn", "numpy", "scipy", "pandas", "joblib", "skops", "onnxruntime")
FOREVER: Final = "public, max-age=31536000, immutable"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
DASHBOARD: Final = "/d/kubeserve-deployment/kubeserve-deployment"


def add_pages(app: web.Application, *, grafana_url: str | None = None) -> None:
    """Add the pages and their files to the application of the API.

    With `grafana_url` the page of a deployment shows its dashboard, in a frame from there. Whoever is not logged in is
    sent to the page for that. A browser that asks for a page that there is not gets one that says so.
    """
    files = {each.name: each.read_bytes() for each in _folder().iterdir() if _suffix(each.name) in KINDS}
    root = f"/static/{_digest(b''.join(files[name] for name in sorted(files)))}"
    for name, content in files.items():
        app.router.add_get(f"{root}/{name}", _file(content, KINDS[_suffix(name)], {"Cache-Control": FOREVER}))
    templates = Environment(
        loader=PackageLoader("kubeserve.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": _policy(grafana_url), "Vary": "Cookie"}
    told = {
        "root": root,
        "dashboard": f"{grafana_url.rstrip('/')}{DASHBOARD}" if grafana_url else "",
        "base": _base(),
        "python": platform.python_version(),
    }

    def page(name: str, *, known: bool, status: int = 200) -> Handler:
        html = templates.get_template(f"{name}.html").render(page=name, known=known, **told)
        return _file(html.encode(), "text/html", headers, status)

    for path, name in PAGES.items():
        stranger = page(name, known=False) if name in OPEN else _to_login
        app.router.add_get(path, _by_login(page(name, known=True), stranger))
    missing = (page("missing", known=known, status=404) for known in (True, False))
    app.middlewares.append(_say_missing(_by_login(*missing)))


def _base() -> dict[str, str]:
    """Return the names of the packages that people know of every environment of models, with their versions."""
    pins = usual_packages()
    return {name: pins[name] for name in NAMED if name in pins}


def _by_login(known: Handler, stranger: Handler) -> Handler:
    async def get(request: web.Request) -> web.StreamResponse:  # whether the cookie is good the API says
        return await (known if request.cookies.get(COOKIE) else stranger)(request)

    return get


async def _to_login(request: web.Request) -> web.Response:
    query = "" if request.path == "/" else f"?next={quote(request.path, safe='')}"
    return web.Response(status=302, headers={"Location": f"/login{query}", "Cache-Control": "no-store"})


def _say_missing(page: Handler) -> Middleware:
    """Answer a browser with a page where there is none; programs, and all below /api, get JSON."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPNotFound:
            read = request.method in {"GET", "HEAD"} and "text/html" in request.headers.get("Accept", "")
            if not read or request.path.startswith("/api/"):
                raise
            return await page(request)

    return middleware


def _policy(grafana_url: str | None) -> str:
    if not grafana_url:
        return POLICY
    url = urlsplit(grafana_url)
    return f"{POLICY}; frame-src {url.scheme}://{url.netloc.rpartition('@')[2]}"


def _file(content: bytes, kind: str, headers: dict[str, str], status: int = 200) -> Handler:
    tag = ETag(_digest(content))

    async def get(request: web.Request) -> web.Response:
        held = request.if_none_match or ()
        if status == HTTPStatus.OK and any(each.value in {tag.value, "*"} for each in held):
            response = web.Response(status=304, headers=headers)
        else:
            response = web.Response(status=status, body=content, content_type=kind, charset="utf-8", headers=headers)
        response.etag = tag
        return response

    return get


def _folder() -> Traversable:
    return resources.files("kubeserve.web").joinpath("static")


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
