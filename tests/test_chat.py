"""The backend `chat` against real servers on 127.0.0.1."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from greenscale_worker.backends import ChatOptions
from greenscale_worker.backends.chat import IDLE_SECONDS, ChatBackend
from greenscale_worker.errors import BadInputError, ConfigError, PermanentError, TransientError
from greenscale_worker.job import Job, Output, Usage, decode
from tests.support.endpoint import CERTIFICATE, OK, PATH, Endpoint, Reply, completion
from tests.support.strict_tls import be_strict

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


async def fault(
    url: str, payload: dict[str, Any] | None = None, **options: Any
) -> TransientError | PermanentError | BadInputError:
    with pytest.raises((TransientError, PermanentError, BadInputError)) as caught:
        await ask(url, payload, **options)
    assert KEY not in str(caught.value)
    assert PROMPT not in str(caught.value)
    assert isinstance(caught.value, TransientError | PermanentError | BadInputError)
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


async def test_null_is_not_sent() -> None:
    """A parameter that is null is not sent, not even the default one; but a model there must be."""
    nothing = dict.fromkeys(("messages", "max_tokens", "temperature", "model", "seed"))
    async with Endpoint() as endpoint:
        await ask(endpoint.url, {"prompt": "?", **nothing})
    assert endpoint.received[0].json == {"model": "llama", "messages": [{"role": "user", "content": "?"}]}


async def test_no_default_is_sent_where_the_options_have_none() -> None:
    async with Endpoint() as endpoint:
        await ask(endpoint.url, temperature=None, max_tokens=None)
    assert endpoint.received[0].json.keys() == {"model", "messages"}


async def test_the_limit_goes_by_the_name_that_is_set() -> None:
    async with Endpoint() as endpoint, chat(endpoint.url, max_tokens_parameter="max_completion_tokens") as backend:
        await backend.infer(job())
        await backend.infer(job({"prompt": "?", "max_tokens": 5}))
    first, second = (sent.json for sent in endpoint.received)
    assert (first["max_completion_tokens"], first.get("max_tokens")) == (1024, None)
    assert (second["max_tokens"], second.get("max_completion_tokens")) == (5, None)


async def test_a_whole_request_is_sent_as_it_is() -> None:
    body = {"messages": [{"role": "user", "content": "?"}], "metadata": {"team": "search"}, "store": True}
    async with Endpoint() as endpoint, chat(endpoint.url) as backend:
        await backend.infer(Job(job_id="1", payload=body, verbatim=True))
        await backend.infer(Job(job_id="2", payload={**body, "model": "mine", "temperature": None}, verbatim=True))
    first, second = (sent.json for sent in endpoint.received)
    assert first == {**body, "model": "llama"}
    assert second == {**body, "model": "mine"}


EMBEDDINGS: dict[str, Any] = {
    "object": "list",
    "model": "bge",
    "data": [{"object": "embedding", "index": number, "embedding": [0.5, -1]} for number in range(2)],
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
}
TEXT: dict[str, Any] = {
    "object": "text_completion",
    "model": "llama",
    "choices": [{"index": 0, "text": " 4", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}


async def test_each_path_is_asked_beside_that_of_chats_with_the_defaults_it_knows() -> None:
    jobs = [
        job({"prompt": "2+2="}, path="/v1/completions"),
        job({"prompt": [[1, 2]]}, path="/v1/completions"),
        job({"input": ["a", "b"]}, path="/v1/embeddings"),
        job({"input": "a", "dimensions": 2}, path="/v1/embeddings", verbatim=True),
    ]
    one = {**EMBEDDINGS, "data": EMBEDDINGS["data"][:1]}
    script = [Reply(json=answer) for answer in (TEXT, TEXT, EMBEDDINGS, one)]
    async with (
        Endpoint(*script) as endpoint,
        chat(f"{endpoint.url}?api-version=1", max_tokens_parameter="max_completion_tokens") as backend,
    ):
        text, _, embeddings, _ = [await backend.infer(each) for each in jobs]
        assert len({backend.peers(each) for each in [*jobs, job()]}) == 3
    assert [sent.path for sent in endpoint.received] == ["/v1/completions"] * 2 + ["/v1/embeddings"] * 2
    defaults = {"model": "llama", "temperature": 0.7, "max_tokens": 1024}
    assert [sent.json for sent in endpoint.received] == [
        {**defaults, "prompt": "2+2="},
        {**defaults, "prompt": [[1, 2]]},
        {"model": "llama", "input": ["a", "b"]},
        {"model": "llama", "input": "a", "dimensions": 2},
    ]
    assert text == Output(" 4", "llama", "stop", Usage(5, 1, 6), orjson.dumps(TEXT))
    assert embeddings == Output(
        orjson.dumps(EMBEDDINGS).decode(), "bge", None, Usage(4, None, 4), orjson.dumps(EMBEDDINGS)
    )


async def test_another_url_serves_chats_and_says_that_it_cannot_serve_the_rest() -> None:
    async with Endpoint() as endpoint, chat(endpoint.url.replace("/v1/chat/completions", "/generate")) as backend:
        await backend.infer(job())
        with pytest.raises(BadInputError, match=r"^/v1/embeddings .*does not end in /chat/completions$") as caught:
            await backend.infer(job({"input": "a"}, path="/v1/embeddings"))
    assert caught.value.code == "path_not_served"
    assert [sent.path for sent in endpoint.received] == ["/generate"]


@pytest.mark.parametrize(
    ("path", "answer", "code"),
    [
        ("/v1/completions", completion(), "not_a_completion"),
        ("/v1/completions", {"choices": []}, "not_a_completion"),
        ("/v1/completions", {"choices": [{"text": None}]}, "not_a_completion"),
        ("/v1/completions", {"choices": [{"text": "", "finish_reason": "length"}]}, "no_content"),
        ("/v1/completions", {"choices": [{"text": "4", "finish_reason": "abort"}]}, "unfinished"),
        ("/v1/completions", {"choices": [{"text": "4", "finish_reason": "content_filter"}]}, "content_filter"),
        ("/v1/completions", {"error": {"message": "busy", "code": 503}}, "http_503"),
        ("/v1/embeddings", completion(), "not_a_completion"),
        ("/v1/embeddings", {"data": []}, "not_a_completion"),
        ("/v1/embeddings", {"data": EMBEDDINGS["data"][:1]}, "not_a_completion"),
        ("/v1/embeddings", {"data": [{"embedding": [0.5]}, {"embedding": []}]}, "not_a_completion"),
        ("/v1/embeddings", {"data": [{"embedding": [0.5]}, {"embedding": [0.5, None]}]}, "not_a_completion"),
        ("/v1/embeddings", {"data": [{"embedding": [0.5]}, {"embedding": ""}]}, "not_a_completion"),
        ("/v1/embeddings", {"error": {"message": "busy", "code": 503}}, "http_503"),
    ],
)
async def test_an_answer_of_another_path_is_read_as_strictly(path: Any, answer: dict[str, Any], code: str) -> None:
    payload = {"prompt": PROMPT} if path == "/v1/completions" else {"input": ["a", "b"]}
    async with Endpoint(Reply(json=answer)) as endpoint, chat(endpoint.url) as backend:
        with pytest.raises((TransientError, PermanentError)) as caught:
            await backend.infer(job(payload, path=path))
    assert caught.value.code == code


async def test_an_embedding_in_base64_is_one() -> None:
    answer = {"data": [{"embedding": "AACAPwAAAEA="}]}
    async with Endpoint(Reply(json=answer)) as endpoint, chat(endpoint.url) as backend:
        output = await backend.infer(job({"input": [1, 2, 3], "encoding_format": "base64"}, path="/v1/embeddings"))
    assert orjson.loads(output.text) == answer


@pytest.mark.parametrize("seed", [2**63, 2**64, 2**70, -(2**63) - 1, -(2**70), 10**400])
async def test_a_whole_number_of_any_size_arrives_as_it_was_written(seed: int) -> None:
    raw = b'{"job_id":"1","prompt":"?","seed":%d,"top_p":1e-1}' % seed
    async with Endpoint() as endpoint, chat(endpoint.url) as backend:
        await backend.infer(decode(raw, max_bytes=10_000))
    assert b'"seed":%d' % seed in endpoint.received[0].body
    assert b'"top_p":0.1' in endpoint.received[0].body


async def test_without_a_model_nothing_is_asked() -> None:
    async with Endpoint() as endpoint:
        error = await fault(endpoint.url, model=None)
        assert isinstance(error, BadInputError)
        assert (error.code, endpoint.received) == ("no_model", [])
        assert (await ask(endpoint.url, {"prompt": "?", "model": "mine"}, model=None)).text == "4"


async def test_peers_are_those_of_the_same_url_and_model() -> None:
    url = "https://user:secret@llm.example/v1/chat/completions?key=secret"
    async with chat(url, key=None) as backend, chat(url + "&a=b", key=None) as other:
        mine = {"prompt": "?", "model": "mine"}
        assert backend.peers(job()) == backend.peers(job({"prompt": "other"})) == other.peers(job())
        assert len({backend.peers(job()), backend.peers(job(mine))}) == 2
        assert "secret" not in backend.peers(job(mine))
    async with chat(url.replace("/v1/", "/v2/"), key=None) as elsewhere:
        assert elsewhere.peers(job()) != backend.peers(job())


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
    assert isinstance(error, BadInputError)
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
    "events": b'data: {"choices": [{"delta": {}}]}\n\ndata: [DONE]\n\n',
    "a piece of a stream": b'{"choices": [{"delta": {"content": "4"}}]}',
    "a plain completion": b'{"choices": [{"text": "4", "finish_reason": "stop"}]}',
    "text": b"OK",
    "message text": b'{"choices": [{"message": "4"}]}',
    "another API": b'{"model": "llama", "message": {"role": "assistant", "content": "4"}, "done": true}',
}
SAID_TO_BE = {
    "HTML": "a page of HTML",
    "nothing": "nothing",
    "half JSON": "half JSON",
    "no choices": "JSON without choices",
    "choice text": "JSON whose first choice is no object",
    "events": "a stream of events",
    "a piece of a stream": "a piece of a stream",
    "a plain completion": "/chat/completions is expected",
    "text": "text that is not JSON",
}


@pytest.mark.parametrize("name", NOT_COMPLETIONS)
async def test_a_200_that_is_no_completion_is_said_to_be_what_it_is(name: str) -> None:
    async with Endpoint(Reply(pieces=(NOT_COMPLETIONS[name],))) as endpoint:
        error = await fault(endpoint.url)
    assert (kind(error), error.code) == ("unknown", "not_a_completion")
    assert SAID_TO_BE.get(name, "") in str(error)


@pytest.mark.parametrize("content", ["", None, []])
async def test_an_empty_answer_is_an_answer(content: Any) -> None:
    async with Endpoint(Reply(json=completion(content, tool_calls=[]))) as endpoint:
        output = await ask(endpoint.url)
    assert (output.text, output.finish_reason, output.usage) == ("", "stop", Usage(5, 1, 6))


@pytest.mark.parametrize(("content", "ended"), [("", None), (None, "tool_calls"), (None, "function_call"), (7, "stop")])
async def test_no_content_without_an_end_is_tried_again(content: Any, ended: Any) -> None:
    async with Endpoint(Reply(json=ends(completion(content), ended))) as endpoint:
        error = await fault(endpoint.url)
    assert (kind(error), error.code) == ("unknown", "no_content")


def ends(said: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    said["choices"][0]["finish_reason"] = finish_reason
    return said


CERTAIN = {
    "refusal": completion(None, refusal="I cannot"),
    "content_filter": ends(completion("half an ans"), "content_filter"),
    "no_content": ends(completion(""), "length"),
}


@pytest.mark.parametrize("code", CERTAIN)
async def test_what_would_come_out_the_same_way_again_is_final_and_its_cost_is_known(code: str) -> None:
    async with Endpoint(Reply(json=CERTAIN[code])) as endpoint:
        error = await fault(endpoint.url)
    assert isinstance(error, PermanentError)
    assert (error.code, error.usage) == (code, Usage(5, 1, 6))
    assert "I cannot" not in str(error)


@pytest.mark.parametrize("ended", ["error", "abort", "insufficient_system_resource"])
@pytest.mark.parametrize("content", ["half an ans", "", None])
async def test_an_answer_that_broke_off_is_none(content: Any, ended: str) -> None:
    async with Endpoint(Reply(json=ends(completion(content), ended))) as endpoint:
        error = await fault(endpoint.url)
    assert (kind(error), error.code) == ("endpoint", "unfinished")
    assert ended in str(error)
    assert "half" not in str(error)


# --- statuses: the table ---

STATUSES = {
    "endpoint": [424, 429, 502, 503, 504, 521, 522, 523, 525, 526, 529, 530],
    "mend": [301, 302, 307, 308, 401, 402, 403, 404, 405, 407],
    "unknown": [408, 409, 425, 500, 501, 505, 520, 524, 599],
    "job": [400, 406, 410, 414, 415, 431, 451],
    "certain": [413, 422],
}


def kind(error: TransientError | PermanentError | BadInputError) -> str:
    """The prior; `mend` where an operator is told what to check, `certain` where nothing will mend it."""
    if isinstance(error, PermanentError):
        return "certain"
    if error.advice is not None:
        assert error.prior == "endpoint"
        assert "check" in error.advice or "sends" in error.advice
        assert error.advice in str(error)
        return "mend"
    return error.prior


TABLE = [(status, expected) for expected, statuses in STATUSES.items() for status in statuses]


@pytest.mark.parametrize(("status", "expected"), TABLE)
async def test_every_status_of_the_table(status: int, expected: str) -> None:
    async with Endpoint(Reply(status=status, json={"error": {"message": "It went wrong."}})) as endpoint:
        error = await fault(endpoint.url)
    assert kind(error) == expected
    assert error.code == f"http_{status}"
    assert str(status) in str(error)
    assert "It went wrong." in str(error)
    if isinstance(error, TransientError):
        assert error.overload == (status in {429, 503, 529})


@pytest.mark.parametrize(
    ("model", "said", "expected"),
    [
        ("mine", {"error": {"message": "The model `mine` does not exist.", "code": 404}}, "job"),
        ("mine", {}, "job"),
        ("mine", {"detail": "Not Found"}, "mend"),  # FastAPI knows no such path
        (None, {"error": {"message": "The model `llama` does not exist."}}, "mend"),
        (None, {"detail": "Not Found"}, "mend"),
    ],
)
async def test_404_is_the_fault_of_whoever_named_the_model(model: str | None, said: Any, expected: str) -> None:
    async with Endpoint(Reply(status=404, json=said)) as endpoint:
        assert kind(await fault(endpoint.url, {"prompt": "?", "model": model})) == expected


@pytest.mark.parametrize("said", [{"code": "insufficient_quota"}, {"type": "insufficient_quota"}])
@pytest.mark.parametrize("headers", [{}, {"x-should-retry": "false"}])
async def test_an_empty_account_shuts_the_gate(said: dict[str, str], headers: dict[str, str]) -> None:
    async with Endpoint(Reply(status=429, json={"error": said}, headers=headers)) as endpoint:
        error = await fault(endpoint.url)
    assert (kind(error), error.code) == ("mend", "insufficient_quota")
    assert "billing" in str(error)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_says_what_to_check_and_only_the_record_quotes(status: int) -> None:
    said = {"error": {"message": f"Incorrect API key provided: {KEY[:9]}***"}}
    async with Endpoint(Reply(status=status, json=said, headers={"x-should-retry": "false"})) as endpoint:
        error = await fault(endpoint.url)
    assert isinstance(error, TransientError)
    assert kind(error) == "mend"
    assert error.advice is not None
    assert "check" in error.advice
    assert "Incorrect" not in error.advice
    assert str(error).endswith("***")


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (500, "false", "job"),
        (409, "FALSE", "job"),
        (429, "FALSE", "endpoint"),
        (503, "false", "endpoint"),
        (401, "false", "mend"),
        (422, "false", "certain"),
        (400, "true", "unknown"),
        (422, "True", "unknown"),
        (429, "true", "endpoint"),
        (500, "true", "unknown"),
        (400, "maybe", "job"),
        (503, "", "endpoint"),
    ],
)
async def test_x_should_retry_ends_nothing_that_waiting_mends(status: int, said: str, expected: str) -> None:
    headers = {"x-should-retry": said}
    async with Endpoint(Reply(status=status, headers=headers)) as endpoint:
        assert kind(await fault(endpoint.url)) == expected
    async with Endpoint(Reply(status=500, headers={**headers, "Retry-After": "9"})) as endpoint:
        assert kind(await fault(endpoint.url)) == "unknown"


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "the  reason\\n why"}}',
        b'{"error": "the reason why"}',
        b'{"message": "the reason why"}',
        b'{"detail": "the reason why"}',
        b'{"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "the reason why", "input": {}}]}',
        b'{"error": "the reason why", "error_type": "generation"}',
        b'[{"error": {"code": 400, "message": "the reason why", "status": "INVALID_ARGUMENT"}}]',
        b'{"errors": ["the reason why"]}',
        b'{"errors": [{"code": 7003, "message": "the reason why"}], "success": false}',
        b'{"object": "error", "message": {"detail": [{"loc": ["body"], "msg": "the reason why"}]}}',
        b'{"title": "the reason why", "status": 400}',
        b"<html><head><title>the reason why</title></head></html>",
        b"the reason why",
        b'{"error": {"message": "the reason why \\ud83d"}}',
    ],
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
        b'{"detail": [7, {"loc": 7, "msg": []}]}',
        b'{"errors": [], "error": {"details": 7, "innererror": [7]}}',
        b'{"message":' * 1000 + b"7" + b"}" * 1000,
        b"\xff\x00",
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


async def test_an_authority_made_by_plain_openssl_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has no key usage and its certificates no identifiers, which Python 3.13 asks for by default."""
    old = CERTIFICATE.with_name("old_cluster.pem")  # key and certificate of a server, then its authority
    authority = tmp_path / "ca.crt"
    authority.write_text("".join(old.read_text().rpartition("-----BEGIN CERTIFICATE-----")[1:]))
    be_strict(monkeypatch)
    monkeypatch.setattr("tests.support.endpoint.CERTIFICATE", old)
    async with Endpoint(tls=True) as endpoint:
        assert (await ask(endpoint.url, ca_file=str(authority))).text == "4"


@pytest.mark.parametrize("separate", [False, True])
async def test_an_endpoint_that_wants_a_certificate_is_shown_ours(tmp_path: Path, separate: bool) -> None:  # noqa: FBT001  a column of the table
    options = {"ca_file": str(CERTIFICATE), "cert_file": str(CERTIFICATE)}
    if separate:
        begin = "-----BEGIN CERTIFICATE-----"
        key, _, certificate = CERTIFICATE.read_text().partition(begin)
        for name, text in (("key_file", key), ("cert_file", begin + certificate)):
            (tmp_path / name).write_text(text)
            options[name] = str(tmp_path / name)
    async with Endpoint(clients=CERTIFICATE) as endpoint:
        assert (await ask(endpoint.url, **options)).text == "4"
        assert isinstance(await fault(endpoint.url, ca_file=str(CERTIFICATE)), TransientError)
    assert len(endpoint.received) == 1


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
async def test_a_connection_cut_after_the_request_may_be_the_jobs_fault(reply: Reply, earlier: int) -> None:
    async with Endpoint(*[OK] * earlier, reply) as endpoint, chat(endpoint.url) as backend:
        for _ in range(earlier):
            await backend.infer(job())
        with pytest.raises(TransientError) as caught:
            await backend.infer(job())
        assert (caught.value.code, caught.value.prior) == ("connection_cut", "unknown")
        assert len(endpoint.received) == earlier + 1  # nothing was sent twice behind our back
        assert (await backend.infer(job())).text == "4"


@pytest.mark.parametrize(
    "headers", [{"X": "x" * 9000}, {"X": "x" * 60_000}, {f"X-{number}": "x" * 800 for number in range(150)}]
)
async def test_an_answer_may_have_many_and_long_headers(headers: dict[str, str]) -> None:
    async with Endpoint(Reply(json=completion(), headers=headers)) as endpoint:
        assert (await ask(endpoint.url)).text == "4"


async def test_an_idle_connection_is_given_up_before_servers_close_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers on uvicorn close them after 5 s; a request that is sent just then is lost."""
    assert IDLE_SECONDS < 5
    monkeypatch.setattr("greenscale_worker.backends.chat.IDLE_SECONDS", 0.05)
    async with Endpoint() as endpoint, chat(endpoint.url) as backend:
        for _ in range(2):
            await backend.infer(job())
            await asyncio.sleep(0.2)
    first, second = endpoint.received
    assert first.peer != second.peer


GARBAGE = {
    "no HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "no chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n{}\r\n0\r\n\r\n",
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    "a head without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
}


@pytest.mark.parametrize("raw", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_may_be_the_jobs_fault(raw: bytes) -> None:
    async with Endpoint(Reply(raw=raw)) as endpoint:
        error = await fault(endpoint.url)
    assert (kind(error), error.code) in {("unknown", "not_http"), ("unknown", "connection_cut")}


async def test_the_cap_is_kept_while_reading() -> None:
    endless = Reply(pieces=(b"x" * 65_536,) * 10_000)
    async with Endpoint(endless) as endpoint, asyncio.timeout(5):
        error = await fault(endpoint.url, max_response_bytes=100_000)
    assert (kind(error), error.code) == ("unknown", "response_too_large")


async def test_the_cap_counts_what_was_decompressed() -> None:
    bomb = Reply(pieces=(gzip.compress(b" " * 5_000_000),), headers={"Content-Encoding": "gzip"})
    async with Endpoint(bomb) as endpoint:
        error = await fault(endpoint.url, max_response_bytes=1_000_000)
    assert (kind(error), error.code) == ("unknown", "response_too_large")


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
    assert kind(error) == "mend"
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
        assert backend.why_not_ready == ""
    with closed_port() as port:
        async with chat(f"http://user:secret@127.0.0.1:{port}/v1?key=secret", key=None) as backend:
            assert not await backend.ready()
            why = backend.why_not_ready
            assert why.startswith(f"http://127.0.0.1:{port}")
            assert why.endswith(": Connection refused")
            assert "secret" not in why
    async with chat("http://no-such-host.invalid/", connect_timeout=1.0) as backend:
        assert not await backend.ready()
        assert "no-such-host.invalid" in backend.why_not_ready


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
        assert backend.why_not_ready == ("" if expected else f"{endpoint.url.removesuffix(PATH)}/health: HTTP {status}")
    assert (endpoint.received[0].method, endpoint.received[0].path) == ("GET", "/health")


async def test_ready_with_a_path_survives_whatever_comes() -> None:
    for reply in (Reply(cut=True), Reply(raw=b"nonsense\r\n\r\n"), Reply(wait=asyncio.Event().wait)):
        async with (
            Endpoint(default=reply) as endpoint,
            chat(endpoint.url, ready_path="/health", connect_timeout=0.1) as backend,
            asyncio.timeout(5),
        ):
            assert not await backend.ready()
            assert "/health: " in backend.why_not_ready
            assert "\n" not in backend.why_not_ready
    async with Endpoint() as endpoint, chat(endpoint.url) as backend:
        backend.why_not_ready = "as it was a moment ago"
        assert await backend.ready()
        assert backend.why_not_ready == ""


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
        ({"cert_file": str(CERTIFICATE.with_name("with_password.key"))}, "with_password.key"),
        ({"cert_file": str(CERTIFICATE), "key_file": str(CERTIFICATE.with_name("with_password.key"))}, "a password"),
        ({"key_file": str(CERTIFICATE)}, "certificate is missing"),
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
