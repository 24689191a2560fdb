"""The backend `chat` against real servers on 127.0.0.1."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import orjson
import pytest

from greenscale_worker.backends import ChatOptions
from greenscale_worker.backends.chat import ChatBackend
from greenscale_worker.errors import ConfigError, PermanentError, TransientError
from greenscale_worker.job import Job, Output, Usage
from tests.support.endpoint import CERTIFICATE, OK, PATH, Endpoint, Reply, completion

KEY = "key-of-the-endpoint-0123456789"
PROMPT = "What is 2+2? Tell nobody."
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Listener = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def chat(url: str, **options: Any) -> AsyncIterator[ChatBackend]:
    settings: dict[str, Any] = {"url": url, "key": KEY, "model": "llama", "concurrency": 4} | options
    backend = ChatBackend(ChatOptions(**settings))
    try:
        yield backend
    finally:
        await backend.aclose()


async def ask(url: str, payload: dict[str, Any] | None = None, **options: Any) -> Output:
    async with chat(url, **options) as backend:
        return await backend.infer(job(payload))


async def fault(url: str, payload: dict[str, Any] | None = None, **options: Any) -> TransientError | PermanentError:
    with pytest.raises((TransientError, PermanentError)) as caught:
        await ask(url, payload, **options)
    assert KEY not in str(caught.value)
    assert PROMPT not in str(caught.value)
    assert isinstance(caught.value, TransientError | PermanentError)
    return caught.value


def job(payload: dict[str, Any] | None = None, **envelope: Any) -> Job:
    return Job(job_id="1", payload={"prompt": PROMPT} if payload is None else payload, **envelope)


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@asynccontextmanager
async def listening(accept: Listener) -> AsyncIterator[int]:
    """A server made of one function; every connection is closed, and waited for, at the end."""
    accepted: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        accepted.add(task)
        try:
            await accept(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    async with asyncio.timeout(5):
        await asyncio.gather(*accepted, return_exceptions=True)


async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """End the connection without a word."""


async def stall(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Say nothing until the other side goes."""
    await reader.read()


# --- what is sent ---


async def test_a_prompt_becomes_a_request_with_the_defaults() -> None:
    async with Endpoint() as endpoint:
        await ask(endpoint.url)
    (sent,) = endpoint.received
    assert (sent.method, sent.path) == ("POST", PATH)
    assert sent.json == {
        "model": "llama",
        "temperature": 0.7,
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": PROMPT}],
    }
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.headers["Content-Type"] == "application/json"
    assert "traceparent" not in sent.headers
    assert "Cookie" not in sent.headers


async def test_what_the_job_says_goes_before_the_defaults_and_the_rest_is_passed_on() -> None:
    said = {"model": "other", "temperature": 0, "max_tokens": 5, "top_p": 0.1, "seed": 7, "tools": [{"x": None}]}
    async with Endpoint() as endpoint:
        await ask(endpoint.url, {"messages": [{"role": "system", "content": "s"}], **said})
    assert endpoint.received[0].json == {"messages": [{"role": "system", "content": "s"}], **said}


async def test_max_completion_tokens_takes_the_place_of_max_tokens() -> None:
    async with Endpoint() as endpoint:
        await ask(endpoint.url, {"prompt": "?", "max_completion_tokens": 9})
    sent = endpoint.received[0].json
    assert sent["max_completion_tokens"] == 9
    assert "max_tokens" not in sent


async def test_null_stands_for_not_given() -> None:
    async with Endpoint() as endpoint:
        await ask(endpoint.url, {"prompt": "?", "messages": None, "max_tokens": None, "model": None, "seed": None})
    sent = endpoint.received[0].json
    assert (sent["max_tokens"], sent["model"]) == (1024, "llama")
    assert "seed" not in sent


async def test_no_temperature_where_the_options_have_none() -> None:
    async with Endpoint() as endpoint:
        await ask(endpoint.url, temperature=None)
    assert "temperature" not in endpoint.received[0].json


async def test_the_trace_context_goes_out_with_the_call() -> None:
    async with Endpoint() as endpoint, chat(endpoint.url) as backend:
        await backend.infer(job(traceparent=TRACE))
    assert endpoint.received[0].headers["traceparent"] == TRACE


@pytest.mark.parametrize("key", [None, ""])
async def test_an_endpoint_without_keys_gets_none(key: str | None) -> None:
    async with Endpoint() as endpoint:
        await ask(endpoint.url, key=key)
    assert "Authorization" not in endpoint.received[0].headers


async def test_extra_headers_are_sent_and_win() -> None:
    async with Endpoint() as endpoint:
        await ask(endpoint.url, headers={"api-key": "k", "authorization": "Basic eA=="})
    headers = endpoint.received[0].headers
    assert headers["api-key"] == "k"
    assert headers.getall("Authorization") == ["Basic eA=="]


async def test_a_user_in_the_url_stands_for_a_key() -> None:
    async with Endpoint() as endpoint:
        await ask(endpoint.url.replace("//", "//user:p%40ss@"), key=None)
    assert endpoint.received[0].headers["Authorization"] == "Basic dXNlcjpwQHNz"


async def test_nothing_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with closed_port() as port:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        async with Endpoint() as endpoint:
            await ask(endpoint.url, key=None)
    assert "Authorization" not in endpoint.received[0].headers


async def test_connections_are_kept_and_cookies_are_not() -> None:
    cookie = Reply(json=completion(), headers={"Set-Cookie": "a=b"})
    async with Endpoint(cookie) as endpoint, chat(endpoint.url.replace("127.0.0.1", "localhost")) as backend:
        await backend.infer(job())
        await backend.infer(job())
    first, second = endpoint.received
    assert first.peer == second.peer
    assert "Cookie" not in second.headers


async def test_as_many_calls_as_there_are_lanes_run_at_once() -> None:
    barrier = asyncio.Barrier(4)
    together = Endpoint(default=Reply(json=completion(), wait=barrier.wait))
    async with together as endpoint, chat(endpoint.url, concurrency=4) as backend, asyncio.timeout(5):
        await asyncio.gather(*(backend.infer(job()) for _ in range(4)))


async def test_a_cancelled_call_hangs_up() -> None:
    hung_up = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await stall(reader, writer)
        hung_up.set()

    arrived = asyncio.Event()
    async with listening(accept) as port, chat(f"http://127.0.0.1:{port}/") as backend, asyncio.timeout(5):
        call = asyncio.create_task(backend.infer(job()))
        await arrived.wait()
        call.cancel()
        await hung_up.wait()
        with pytest.raises(asyncio.CancelledError):
            await call


# --- bad input ---

BAD = {
    "nothing": {},
    "both": {"prompt": "?", "messages": [{"role": "user", "content": "?"}]},
    "prompt empty": {"prompt": ""},
    "prompt blank": {"prompt": " \n\t"},
    "prompt number": {"prompt": 1},
    "prompt null": {"prompt": None},
    "messages empty": {"messages": []},
    "messages object": {"messages": {"role": "user"}},
    "messages of text": {"messages": ["?"]},
    "message without role": {"messages": [{"role": "user", "content": "?"}, {"content": "?"}]},
    "role number": {"messages": [{"role": 1}]},
    "stream": {"prompt": "?", "stream": True},
    "stream number": {"prompt": "?", "stream": 0},
    "n above one": {"prompt": "?", "n": 2},
    "n zero": {"prompt": "?", "n": 0},
    "n true": {"prompt": "?", "n": True},
    "n text": {"prompt": "?", "n": "1"},
    "model number": {"prompt": "?", "model": 1},
    "model blank": {"prompt": "?", "model": " "},
    "not JSON": {"prompt": "?", "stop": {1, 2}},
    "surrogate": {"prompt": "\ud800"},
}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD)
async def test_bad_input_costs_no_call(payload: dict[str, Any]) -> None:
    async with Endpoint() as endpoint:
        error = await fault(endpoint.url, payload)
    assert isinstance(error, PermanentError)
    assert error.code == "bad_request"
    assert endpoint.received == []


@pytest.mark.parametrize("more", [{"stream": False}, {"stream": None}, {"n": 1}, {"n": None}])
async def test_what_says_no_more_than_the_default_is_accepted(more: dict[str, Any]) -> None:
    async with Endpoint() as endpoint:
        assert (await ask(endpoint.url, {"prompt": "?", **more})).text == "4"


# --- answers ---


async def test_the_answer_and_what_is_known_about_it() -> None:
    async with Endpoint() as endpoint:
        output = await ask(endpoint.url)
    assert output == Output("4", "llama", "stop", Usage(5, 1, 6), orjson.dumps(completion()))


async def test_tool_calls_are_answered_with_the_message() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    async with Endpoint(Reply(json=completion(None, tool_calls=calls))) as endpoint:
        output = await ask(endpoint.url)
    assert orjson.loads(output.text) == {"role": "assistant", "content": None, "tool_calls": calls}
    assert ", " not in output.text


async def test_content_in_parts_is_joined() -> None:
    parts: Any = [{"type": "text", "text": "2+2"}, {"type": "image"}, {"type": "text", "text": "=4"}]
    async with Endpoint(Reply(json=completion(parts))) as endpoint:
        assert (await ask(endpoint.url)).text == "2+2=4"


@pytest.mark.parametrize("usage", [None, 7, {}, {"prompt_tokens": "5", "total_tokens": True, "completion_tokens": -1}])
async def test_unreadable_usage_costs_no_answer(usage: Any) -> None:
    async with Endpoint(Reply(json=completion() | {"usage": usage, "model": 7})) as endpoint:
        output = await ask(endpoint.url)
    assert (output.text, output.model, output.usage) == ("4", None, Usage())


NOT_COMPLETIONS = {
    "HTML": b"<html><body>Welcome to the hotel</body></html>",
    "nothing": b"",
    "half JSON": orjson.dumps(completion())[:-20],
    "a list": b"[]",
    "a string": b'"choices"',
    "no choices": b'{"choices": []}',
    "choices null": b'{"choices": null}',
    "choices text": b'{"choices": "abc"}',
    "choices object": b'{"choices": {"0": 1}}',
    "choice text": b'{"choices": ["abc"]}',
    "no message": b'{"choices": [{}]}',
    "message list": b'{"choices": [{"message": []}]}',
    "error in a 200": b'{"error": {"message": "no"}}',
    "NaN": b'{"choices": [{"message": {"content": NaN}}]}',
    "invalid UTF-8": b'{"choices": [{"message": {"content": "\xff"}}]}',
}


@pytest.mark.parametrize("body", NOT_COMPLETIONS.values(), ids=NOT_COMPLETIONS)
async def test_a_200_that_is_no_completion_is_the_jobs_fault(body: bytes) -> None:
    async with Endpoint(Reply(pieces=(body,))) as endpoint:
        error = await fault(endpoint.url)
    assert isinstance(error, TransientError)
    assert (error.code, error.counted) == ("not_a_completion", True)


@pytest.mark.parametrize("content", ["", None, 7, []])
async def test_no_content_is_the_jobs_fault(content: Any) -> None:
    async with Endpoint(Reply(json=completion(content, tool_calls=[]))) as endpoint:
        error = await fault(endpoint.url)
    assert isinstance(error, TransientError)
    assert (error.code, error.counted) == ("no_content", True)


async def test_a_refusal_and_a_content_filter_are_final() -> None:
    filtered = completion("half an ans")
    filtered["choices"][0]["finish_reason"] = "content_filter"
    async with Endpoint(Reply(json=completion(None, refusal="I cannot")), Reply(json=filtered)) as endpoint:
        for code in ("refusal", "content_filter"):
            error = await fault(endpoint.url)
            assert isinstance(error, PermanentError)
            assert error.code == code
            assert "I cannot" not in str(error)


# --- statuses: the table ---

ENDPOINT_FAULTS = [301, 302, 307, 308, 405, 429, 502, 503, 504, 529]
SHUT = [401, 402, 403, 407]
JOB_FAULTS = [408, 409, 425, 500, 501, 505, 520, 599]
FINAL = [400, 406, 410, 413, 414, 415, 422, 431, 451]


def kind(error: TransientError | PermanentError) -> str:
    if isinstance(error, PermanentError):
        return "final"
    if error.shut:
        return "counted and shut" if error.counted else "shut"
    return "job" if error.counted else "endpoint"


TABLE = (
    [(status, "endpoint") for status in ENDPOINT_FAULTS]
    + [(status, "shut") for status in SHUT]
    + [(status, "job") for status in JOB_FAULTS]
    + [(status, "final") for status in FINAL]
)


@pytest.mark.parametrize(("status", "expected"), TABLE)
async def test_every_status_of_the_table(status: int, expected: str) -> None:
    async with Endpoint(Reply(status=status, json={"error": {"message": "It went wrong."}})) as endpoint:
        error = await fault(endpoint.url)
    assert kind(error) == expected
    assert error.code == f"http_{status}"
    assert str(status) in str(error)


@pytest.mark.parametrize(("model", "expected"), [("mine", "final"), (None, "endpoint")])
async def test_404_is_the_fault_of_whoever_named_the_model(model: str | None, expected: str) -> None:
    async with Endpoint(Reply(status=404, json={"detail": "Not Found"})) as endpoint:
        assert kind(await fault(endpoint.url, {"prompt": "?", "model": model})) == expected


@pytest.mark.parametrize("said", [{"code": "insufficient_quota"}, {"type": "insufficient_quota"}])
@pytest.mark.parametrize("headers", [{}, {"x-should-retry": "false"}])
async def test_an_empty_account_shuts_the_gate(said: dict[str, str], headers: dict[str, str]) -> None:
    async with Endpoint(Reply(status=429, json={"error": said}, headers=headers)) as endpoint:
        error = await fault(endpoint.url)
    assert (kind(error), error.code) == ("shut", "insufficient_quota")
    assert "billing" in str(error)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_says_what_to_check_and_quotes_nobody(status: int) -> None:
    said = {"error": {"message": f"Incorrect API key provided: {KEY[:9]}***"}}
    async with Endpoint(Reply(status=status, json=said, headers={"x-should-retry": "false"})) as endpoint:
        error = await fault(endpoint.url)
    assert kind(error) == "shut"
    assert "check" in str(error)
    assert "Incorrect" not in str(error)


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (500, "false", "final"),
        (429, "FALSE", "final"),
        (503, "false", "final"),
        (400, "true", "job"),
        (422, "True", "job"),
        (429, "true", "endpoint"),
        (500, "true", "job"),
        (400, "maybe", "final"),
        (503, "", "endpoint"),
    ],
)
async def test_x_should_retry_overrules_the_table(status: int, said: str, expected: str) -> None:
    async with Endpoint(Reply(status=status, headers={"x-should-retry": said})) as endpoint:
        assert kind(await fault(endpoint.url)) == expected


@pytest.mark.parametrize(
    "body",
    [b'{"error": {"message": "the  reason\\n why"}}', b'{"error": "the reason why"}', b'{"message": "the reason why"}'],
)
async def test_the_record_tells_what_the_endpoint_said(body: bytes) -> None:
    async with Endpoint(Reply(status=400, pieces=(body,))) as endpoint:
        assert "the reason why" in str(await fault(endpoint.url))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"7",
        b'{"error": 7}',
        b'{"error": {"message": 7}}',
        b'{"error": {"code": [1], "type": {}}}',
    ],
)
async def test_an_unreadable_error_keeps_its_status(body: bytes) -> None:
    async with Endpoint(Reply(status=429, pieces=(body,))) as endpoint:
        assert (await fault(endpoint.url)).code == "http_429"


async def test_what_the_endpoint_says_is_shortened_and_the_key_taken_out() -> None:
    said = f"Your headers were {KEY}, header-secret. " + "x" * 5000
    async with Endpoint(Reply(status=400, json={"error": {"message": said}})) as endpoint:
        message = str(await fault(endpoint.url, headers={"api-key": "header-secret"}))
    assert "[hidden], [hidden]" in message
    assert len(message) < 250


ENDLESS = {
    "slow": (0.05, Reply(status=503, pieces=(b"{",) * 1000, pause=0.02)),
    "long": (60.0, Reply(status=503, pieces=(b"x" * 100_000,) * 1000, pause=0.1)),
    "cut": (60.0, Reply(status=503, pieces=(b"{",), headers={"Content-Length": "100"}, cut=True)),
}


@pytest.mark.parametrize(("seconds", "reply"), ENDLESS.values(), ids=ENDLESS)
async def test_an_error_keeps_its_status_whatever_its_body(
    monkeypatch: pytest.MonkeyPatch, seconds: float, reply: Reply
) -> None:
    monkeypatch.setattr("greenscale_worker.backends.chat.ERROR_BODY_SECONDS", seconds)
    async with Endpoint(reply) as endpoint, asyncio.timeout(5):
        error = await fault(endpoint.url)
    assert (error.code, kind(error)) == ("http_503", "endpoint")


# --- how long to stay away ---


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"retry-after-ms": "0", "Retry-After": "7"}, 7.0),
        ({"Retry-After": "86400"}, 600.0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503, 500, 408])
async def test_the_time_the_endpoint_asks_for(status: int, headers: dict[str, str], expected: float | None) -> None:
    async with Endpoint(Reply(status=status, headers=headers)) as endpoint:
        error = await fault(endpoint.url)
    assert isinstance(error, TransientError)
    assert error.retry_after == expected


async def test_a_date_is_read_against_the_responses_own() -> None:
    there = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)  # a server whose clock is years behind
    then = there.replace(second=36)
    headers = {"Date": format_datetime(there, usegmt=True), "Retry-After": format_datetime(then, usegmt=True)}
    async with Endpoint(Reply(status=503, headers=headers)) as endpoint:
        error = await fault(endpoint.url)
    assert isinstance(error, TransientError)
    assert error.retry_after == 30.0


# --- connections ---


async def test_a_refused_connection_is_the_endpoints_fault() -> None:
    with closed_port() as port:
        error = await fault(f"http://127.0.0.1:{port}{PATH}")
    assert (kind(error), error.code) == ("endpoint", "unreachable")


async def test_an_unknown_host_is_the_endpoints_fault() -> None:
    error = await fault("http://no-such-host.invalid/", connect_timeout=1.0)
    assert (kind(error), error.code) == ("endpoint", "unreachable")


async def test_tls_that_fails_is_the_endpoints_fault() -> None:
    async with Endpoint() as plain, Endpoint(tls=True) as unknown, listening(hang_up) as port:
        for url in (plain.url.replace("http:", "https:"), unknown.url, f"https://127.0.0.1:{port}/"):
            error = await fault(url)
            assert (kind(error), error.code) == ("endpoint", "unreachable")
    assert plain.received == unknown.received == []


async def test_an_untrusted_certificate_is_named() -> None:
    async with Endpoint(tls=True) as endpoint:
        assert "certificate" in str(await fault(endpoint.url))


async def test_a_ca_file_makes_its_endpoint_trusted() -> None:
    async with Endpoint(tls=True) as endpoint:
        assert (await ask(endpoint.url, ca_file=str(CERTIFICATE))).text == "4"


async def test_a_handshake_that_hangs_is_the_endpoints_fault() -> None:
    async with listening(stall) as port, asyncio.timeout(5):
        error = await fault(f"https://127.0.0.1:{port}/", connect_timeout=0.1)
    assert (kind(error), error.code) == ("endpoint", "unreachable")


async def test_a_slow_answer_is_no_connect_timeout() -> None:
    async with Endpoint(Reply(json=completion(), wait=lambda: asyncio.sleep(0.5))) as endpoint:
        assert (await ask(endpoint.url, connect_timeout=0.3)).text == "4"


CUTS = {
    "before the first byte": Reply(cut=True),
    "in the head": Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Le"),
    "in a body of known length": Reply(pieces=(b'{"choices":',), headers={"Content-Length": "1000"}, cut=True),
    "in a body in chunks": Reply(raw=b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"cho'),
}


@pytest.mark.parametrize("reply", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("earlier", [0, 1])
async def test_a_connection_cut_after_the_request_is_the_jobs_fault(reply: Reply, earlier: int) -> None:
    async with Endpoint(*[OK] * earlier, reply) as endpoint, chat(endpoint.url) as backend:
        for _ in range(earlier):
            await backend.infer(job())
        with pytest.raises(TransientError) as caught:
            await backend.infer(job())
        assert (caught.value.code, caught.value.counted) == ("connection_cut", True)
        assert len(endpoint.received) == earlier + 1  # nothing was sent twice behind our back
        assert (await backend.infer(job())).text == "4"


GARBAGE = {
    "no HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "no chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n{}\r\n0\r\n\r\n",
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    "a head without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
}


@pytest.mark.parametrize("raw", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_is_the_jobs_fault(raw: bytes) -> None:
    async with Endpoint(Reply(raw=raw)) as endpoint:
        error = await fault(endpoint.url)
    assert kind(error) == "job"


async def test_the_cap_is_kept_while_reading() -> None:
    endless = Reply(pieces=(b"x" * 65_536,) * 10_000)
    async with Endpoint(endless) as endpoint, asyncio.timeout(5):
        error = await fault(endpoint.url, max_response_bytes=100_000)
    assert (kind(error), error.code) == ("job", "response_too_large")


async def test_the_cap_counts_what_was_decompressed() -> None:
    bomb = Reply(pieces=(gzip.compress(b" " * 5_000_000),), headers={"Content-Encoding": "gzip"})
    async with Endpoint(bomb) as endpoint:
        error = await fault(endpoint.url, max_response_bytes=1_000_000)
    assert (kind(error), error.code) == ("job", "response_too_large")


async def test_an_answer_of_just_the_cap_is_taken() -> None:
    size = len(orjson.dumps(completion()))
    async with Endpoint() as endpoint:
        assert (await ask(endpoint.url, max_response_bytes=size)).text == "4"
        assert (await fault(endpoint.url, max_response_bytes=size - 1)).code == "response_too_large"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_no_key_arrives_elsewhere(status: int) -> None:
    async with Endpoint() as elsewhere:
        moved = Reply(status=status, headers={"Location": elsewhere.url})
        async with Endpoint(moved) as endpoint:
            error = await fault(endpoint.url)
    assert kind(error) == "endpoint"
    assert "URL" in str(error)
    assert elsewhere.received == []


# --- a proxy on the way ---


async def test_a_proxy_is_used_where_one_is_set() -> None:
    async with Endpoint() as proxy:
        url = f"http://user:p%40ss@127.0.0.1:{proxy.port}"
        assert (await ask("http://llm.invalid/v1", proxy=url)).text == "4"
    (sent,) = proxy.received
    assert sent.headers["Host"] == "llm.invalid"
    assert sent.headers["Proxy-Authorization"] == "Basic dXNlcjpwQHNz"
    assert sent.headers["Authorization"] == f"Bearer {KEY}"  # for the endpoint behind it


async def test_a_proxy_that_refuses_to_connect_is_the_endpoints_fault_and_sees_no_key() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    heads: list[bytes] = []
    async with listening(refuse) as port:
        error = await fault("https://llm.invalid/v1", proxy=f"http://127.0.0.1:{port}")
    assert (kind(error), error.code) == ("endpoint", "unreachable")
    assert heads[0].startswith(b"CONNECT llm.invalid:443")
    assert KEY.encode() not in heads[0]


async def test_a_proxy_that_is_not_there_is_the_endpoints_fault() -> None:
    with closed_port() as port:
        error = await fault("http://llm.invalid/v1", proxy=f"http://user:password@127.0.0.1:{port}")
    assert (kind(error), error.code) == ("endpoint", "unreachable")
    assert "password" not in str(error)


# --- ready ---


async def test_ready_is_a_connection_to_the_host() -> None:
    async with Endpoint() as endpoint, chat(endpoint.url) as backend:
        assert await backend.ready()
        assert endpoint.received == []
    with closed_port() as port:
        async with chat(f"http://127.0.0.1:{port}/") as backend:
            assert not await backend.ready()
    async with chat("http://no-such-host.invalid/", connect_timeout=1.0) as backend:
        assert not await backend.ready()


async def test_ready_connects_to_the_proxy_where_there_is_one() -> None:
    async with Endpoint() as proxy, chat("https://llm.invalid/v1", proxy=proxy.url) as backend:
        assert await backend.ready()


@pytest.mark.parametrize(
    ("status", "expected"), [(200, True), (401, True), (404, True), (302, True), (500, False), (503, False)]
)
async def test_ready_asks_the_path_that_is_set(status: int, expected: bool) -> None:  # noqa: FBT001  a column of the table
    reply = Reply(status=status, headers={"Location": "http://127.0.0.1:1/"})
    async with Endpoint(reply) as endpoint, chat(endpoint.url, ready_path="/health?deep=1") as backend:
        assert await backend.ready() is expected
    assert (endpoint.received[0].method, endpoint.received[0].path) == ("GET", "/health")


async def test_ready_with_a_path_survives_whatever_comes() -> None:
    for reply in (Reply(cut=True), Reply(raw=b"nonsense\r\n\r\n"), Reply(wait=asyncio.Event().wait)):
        async with (
            Endpoint(default=reply) as endpoint,
            chat(endpoint.url, ready_path="/health", connect_timeout=0.1) as backend,
            asyncio.timeout(5),
        ):
            assert not await backend.ready()


async def test_ready_takes_no_connection_from_a_lane() -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        arrived.set()
        await release.wait()

    replies = [Reply(json=completion(), wait=hold), OK]
    async with Endpoint(*replies) as endpoint, chat(endpoint.url, concurrency=1, ready_path="/health") as backend:
        call = asyncio.create_task(backend.infer(job()))
        async with asyncio.timeout(5):
            await arrived.wait()
            assert await backend.ready()
            release.set()
            assert (await call).text == "4"


# --- options that cannot work ---


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"url": "llm.example/v1"}, "URL"),
        ({"url": "ftp://llm.example/v1"}, "URL"),
        ({"url": "https:///v1"}, "URL"),
        ({"url": "http://a..b/"}, "URL"),
        ({"url": "http://[::1/"}, "URL"),
        ({"url": "https://user:secret@llm.example/v1"}, "user"),
        ({"url": "https://user:secret@llm.example/v1", "key": None, "headers": {"authorization": "x"}}, "user"),
        ({"proxy": "http://user:se/cr@et@proxy"}, "proxy"),
        ({"key": "a\nb"}, "key"),
        ({"headers": {"X-Team": "a\r\nb"}}, "X-Team"),
        ({"ca_file": "/no/such/file.pem"}, "/no/such/file.pem"),
        ({"ca_file": __file__}, __file__),
        ({"ready_path": "health"}, "readiness"),
        ({"ready_path": "//elsewhere.example/"}, "readiness"),
    ],
)
def test_options_that_cannot_work_stop_the_start(options: dict[str, Any], named: str) -> None:
    settings: dict[str, Any] = {"url": "https://llm.example/v1", "key": KEY, "model": "llama"} | options
    with pytest.raises(ConfigError, match=named) as caught:
        ChatBackend(ChatOptions(**settings))
    assert "secret" not in str(caught.value)
    assert "se/cr" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_show_no_secrets() -> None:
    options = ChatOptions(
        url="https://llm.example/v1", key=KEY, model="llama", headers={"api-key": KEY}, proxy=f"http://u:{KEY}@p"
    )
    assert KEY not in repr(options)
