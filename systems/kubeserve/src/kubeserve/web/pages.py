"""Serves the pages, which are the same for all, and their files, whose paths change with their content."""

import hashlib
from collections.abc import Awaitable, Callable
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import ETag, web
from jinja2 import Environment, PackageLoader, StrictUndefined

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
KINDS: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOREVER: Final = "public, max-age=31536000, immutable"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
DASHBOARD: Final = "/d/kubeserve-deployment/kubeserve-deployment"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_pages(app: web.Application, *, grafana_url: str | None = None) -> None:
    """Add the pages and their files to the application of the API.

    With `grafana_url` the page of a deployment shows its dashboard, in a frame from there.
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
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": _policy(grafana_url)}
    dashboard = f"{grafana_url.rstrip('/')}{DASHBOARD}" if grafana_url else ""
    for path, name in PAGES.items():
        html = templates.get_template(f"{name}.html").render(page=name, root=root, dashboard=dashboard)
        app.router.add_get(path, _file(html.encode(), "text/html", headers))


def _policy(grafana_url: str | None) -> str:
    if not grafana_url:
        return POLICY
    url = urlsplit(grafana_url)
    return f"{POLICY}; frame-src {url.scheme}://{url.netloc.rpartition('@')[2]}"


def _file(content: bytes, kind: str, headers: dict[str, str]) -> Handler:
    tag = ETag(_digest(content))

    async def get(request: web.Request) -> web.Response:
        held = request.if_none_match or ()
        if any(each.value in {tag.value, "*"} for each in held):
            response = web.Response(status=304, headers=headers)
        else:
            response = web.Response(body=content, content_type=kind, charset="utf-8", headers=headers)
        response.etag = tag
        return response

    return get


def _folder() -> Traversable:
    return resources.files("kubeserve.web").joinpath("static")


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
