"""What no client of HTTP sends: requests in requests, headers that are no text, and callers that say nothing."""

import asyncio

import pytest

from kubeserve.api import app, build_app, serving
from kubeserve.domain import Spec
from people import make_ready
from stack import Stack

HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"\r\n0\r\n\r\n" + HIDDEN
SMUGGLED = {  # what follows the first headers of a request, one that two servers may read differently
    "a length and chunks": b"Content-Length: 5\r\n" + CHUNKED + END,
    "chunks and a length": CHUNKED + b"Content-Length: 5\r\n" + END,
    "two lengths": b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}" + HIDDEN,
    "a length with a sign": b"Content-Length: +2\r\n\r\n{}" + HIDDEN,
    "another encoding": b"Transfer-Encoding: xchunked\r\n" + END,
    "chunks of chunks": b"Transfer-Encoding: chunked, chunked\r\n" + END,
    "a space before the colon": b"Transfer-Encoding : chunked\r\n" + END,
    "a vertical tab": b"Transfer-Encoding:\x0bchunked\r\n" + END,
    "a folded line": b"X: a\r\n Content-Length: 2\r\n\r\n{}" + HIDDEN,
    "a bare return": b"X: a\rTransfer-Encoding: chunked\r\n" + END,
    "a bare newline": b"X: a\nTransfer-Encoding: chunked\r\n" + END,
    "a zero byte": b"X: a\0b\r\n" + CHUNKED + END,
    "an extension of a chunk": CHUNKED + b"\r\n2;\nxx\r\n{}" + END,
    "two hosts": b"Host: y\r\n" + CHUNKED + END,
    "many headers": b"A: b\r\n" * 100 + CHUNKED + END,
    "a long header": b"A: " + b"b" * 20_000 + b"\r\n" + CHUNKED + END,
}
ODD = (  # headers that are no UTF-8
    b"Upload-Identity", b"Content-Range: bytes", b"Prefer: wait=", b"Cookie: kubeserve=", b"Authorization: Bearer",
    b"X-Forwarded-For", b"X-Forwarded-Proto", b"Origin", b"Sec-Fetch-Site", b"If-None-Match", b"Content-Type",
    b"Content-Type: multipart/form-data; boundary=", b"Content-Type: text/plain; charset=", b"Accept", b"Expect",
)  # fmt: skip


async def answered(url: str, sent: bytes) -> bytes:
    """All that comes back until the server closes the connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("what", SMUGGLED)
async def test_a_request_that_hides_another_is_refused_with_it(doorless: Stack, what: str) -> None:
    head = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\n"
    told = await answered(doorless.url, head + SMUGGLED[what])
    assert told.startswith(b"HTTP/1.0 400 ")
    assert told.count(b"HTTP/1.") == 1, told


async def test_headers_that_are_no_text_are_refused_or_ignored(doorless: Stack) -> None:
    anna = await doorless.person()
    model, version = await make_ready(doorless.plane.registry, anna.id)
    draft = await doorless.plane.registry.create_version(anna.id, model.id, "draft")
    deployment = await doorless.plane.deployments.create(anna.id, model.id, "d", Spec(version.id))
    lines = (
        f"PUT /api/v1/versions/{draft.id}/files/a.pkl", f"POST /api/v1/versions/{draft.id}/upload", "GET /api/v1/me",
        f"GET /api/v1/deployments/{deployment.id}", f"POST /api/v1/predict/{deployment.id}",
        "POST /api/v1/auth/login", "POST /api/v1/models",
    )  # fmt: skip
    token = f"Authorization: Bearer {anna.token}\r\n".encode()
    for odd in ODD:
        for line in lines:
            known = b"" if odd.startswith((b"Cookie", b"Authorization")) else token
            head = line.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n" + known
            told = await answered(doorless.url, head + odd + (b"" if b":" in odd else b":") + b" \xff\xfe\r\n\r\n{}")
            assert told.startswith((b"HTTP/1.1 2", b"HTTP/1.1 4", b"HTTP/1.0 4")), (odd, line, told[:200])


async def test_who_says_nothing_or_little_is_let_go(doorless: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "IDLE_SECONDS", 0.5)
    async with serving(build_app(doorless.plane), "127.0.0.1", 0) as port:
        for sent in (b"", b"GET /healthz HTTP/1.1\r\nHost:"):
            assert await answered(f"http://127.0.0.1:{port}", sent) == b""
