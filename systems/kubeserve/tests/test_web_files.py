"""The pages and their files as they are served: who may frame them, what may run in them, what a browser may keep."""

import platform
import re
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from kubeserve.intake import usual_packages
from kubeserve.web import add_pages
from kubeserve.web.pages import PAGES

LOGGED_IN = {"kubeserve": "a token"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
Client = TestClient[web.Request, web.Application]
PATHS = [re.sub(r"\{.*?\}", "00000000-0000-0000-0000-000000000000", path) for path in PAGES]


async def served(grafana_url: str | None) -> AsyncIterator[Client]:
    app = web.Application()
    add_pages(app, grafana_url=grafana_url)
    async with TestClient(TestServer(app), cookies=LOGGED_IN) as client:
        yield client


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async for client in served(None):
        yield client


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_runs_only_what_comes_from_here(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert answer.status == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-src" not in policy
    html = await answer.text()
    assert not re.search(
        r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|<style|javascript:|https?://(?!www\.w3\.org/)", html
    )
    assert "<iframe" not in html
    for found in set(re.findall(r'(?:src|href)="(/static/[^"]+)"', html)):
        file = await client.get(found)
        assert file.status == 200, found
        assert file.headers["Cache-Control"] == "public, max-age=31536000, immutable"


async def test_a_page_is_asked_for_again_and_sent_only_if_it_has_changed(client: Client) -> None:
    first = await client.get("/")
    assert first.headers["Cache-Control"] == "no-cache"
    again = await client.get("/", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status == 304
    assert await again.read() == b""
    other = await client.get("/", headers={"If-None-Match": '"of another content"'})
    assert other.status == 200


async def test_whoever_is_not_logged_in_is_sent_to_the_login(client: Client) -> None:
    client.session.cookie_jar.clear()
    for path in PATHS:
        answer = await client.get(path, allow_redirects=False)
        if path in {"/architecture", "/login", "/register"}:
            assert answer.status == 200
            assert "who.js" not in await answer.text(), "nobody is asked for"
        else:
            assert answer.status == 302
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Location"] in {"/login", f"/login?next={path.replace('/', '%2F')}"}


async def test_a_browser_gets_a_page_where_there_is_none_and_programs_do_not(client: Client) -> None:
    answer = await client.get("/nope", headers=BROWSER)
    assert (answer.status, answer.content_type) == (404, "text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "There is no page at this address" in await answer.text()
    again = await client.get("/nope", headers=BROWSER | {"If-None-Match": answer.headers["ETag"]})
    assert again.status == 404
    for method, path, headers in (
        ("GET", "/nope", {}),
        ("GET", "/api/v1/nope", BROWSER),
        ("POST", "/nope", BROWSER),
    ):
        answer = await client.request(method, path, headers=headers)
        assert answer.status == 404
        assert answer.content_type != "text/html"


async def test_forms_cannot_be_sent_before_their_module_is_there(client: Client) -> None:
    """The browser itself would put what is in them into the address."""
    for path in PATHS:
        html = await (await client.get(path)).text()
        for form in re.findall(r"<form(?! method=\"dialog\").*?</form>", html, re.DOTALL):
            assert re.findall(r"<button(?! type=\"button\")[^>]*>", form) == ["<button disabled>"]


async def test_the_upload_names_what_a_model_is_proved_with(client: Client) -> None:
    html = await (await client.get("/versions/some")).text()
    assert f"Python {platform.python_version()}, scikit-learn {usual_packages()['scikit-learn']}" in html


async def test_every_module_that_a_module_imports_is_served(client: Client) -> None:
    html = await (await client.get("/")).text()
    root = re.findall(r'src="(/static/\w+)/models.js"', html)[0]
    unread, read = {"models.js", "model.js", "version.js", "deployments.js", "deployment.js", "all-keys.js"}, set[str]()
    while unread:
        name = unread.pop()
        read.add(name)
        answer = await client.get(f"{root}/{name}")
        assert answer.status == 200, name
        assert answer.content_type == "text/javascript"
        text = await answer.text()
        assert text.count("\n") < 200, f"{name} is too long to be read at once"
        unread |= {found for found in re.findall(r'(?:from|import) "\./([\w.-]+)"', text) if found not in read}
    assert "transfer.js" in read


async def test_graphs_are_framed_only_from_the_grafana_that_is_set() -> None:
    async for client in served("https://graphs.example.org/grafana/"):
        answer = await client.get("/deployments/some")
        assert answer.headers["Content-Security-Policy"].endswith("; frame-src https://graphs.example.org")
        assert 'data-url="https://graphs.example.org/grafana/d/kubeserve-deployment' in await answer.text()
