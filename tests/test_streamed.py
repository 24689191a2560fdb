"""Answers that come as a stream of events: put together as they would have come whole, wherever they are cut."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenscale_worker.backends import ChatOptions
from greenscale_worker.backends.chat import ChatBackend
from greenscale_worker.backends.completion import read_completion
from greenscale_worker.backends.streamed import read_stream
from greenscale_worker.errors import BadInputError, PermanentError, TransientError
from greenscale_worker.job import Job, Output, Usage, show_by
from tests.support.endpoint import Endpoint, Reply, completion

CHAT: Final = "/v1/chat/completions"
TEXT: Final = "/v1/completions"
USAGE: Final = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
HEAD: Final = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "llama"}
EVENTS: Final = {"Content-Type": "text/event-stream"}


def chunk(delta: Any = None, finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish_reason}
    return {**HEAD, "choices": [choice], **fields}


def event(data: Any) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(data)


ROLE: Final = chunk({"role": "assistant", "content": ""})
END: Final = chunk(finish_reason="stop")
SPENT: Final = {**HEAD, "choices": [], "usage": USAGE}
DONE: Final = b"data: [DONE]\n\n"


def stream(*chunks: Any, done: bool = True) -> bytes:
    return b"".join(map(event, chunks)) + (DONE if done else b"")


def said(*texts: str) -> list[dict[str, Any]]:
    return [chunk({"content": text}) for text in texts]


GOOD: Final = [ROLE, *said("Grüße, ", "\N{WAVING HAND SIGN}\n", "data: x"), END, SPENT]
WORDS: Final = ["Grüße, ", "\N{WAVING HAND SIGN}\n", "data: x"]


def judge(*_: Any, **__: Any) -> TransientError:
    return TransientError("judged", "")


async def cut(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        if piece:
            yield piece


async def follow(
    *pieces: bytes, path: Any = CHAT, most: int = 1_000_000, judge: Any = judge
) -> tuple[Output, list[str]]:
    shown: list[str] = []
    output = await read_stream(cut(pieces), path, judge, emit=shown.append, most=most)
    return output, [text for text in shown if text]


async def message(*chunks: Any) -> dict[str, Any]:
    """The message that these chunks are put together to."""
    output, _ = await follow(stream(*chunks))
    found: dict[str, Any] = orjson.loads(output.body)["choices"][0]["message"]
    return found


# --- put together ---


async def test_a_stream_is_the_answer_as_it_would_have_come_whole() -> None:
    output, shown = await follow(stream(*GOOD))
    text = "".join(WORDS)
    assert shown == WORDS
    assert (output.text, output.model, output.finish_reason, output.usage) == (text, "llama", "stop", Usage(5, 2, 7))
    assert orjson.loads(output.body) == {
        **HEAD,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    assert output == read_completion(output.body, judge)


@given(st.data())
async def test_it_may_be_cut_anywhere(data: st.DataObject) -> None:
    ending = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    raw = b": hello\n\n" + stream(*GOOD[:3], done=False) + b"event: message\nid: 7\n" + stream(*GOOD[3:])
    raw = raw.replace(b"\n", ending)
    places = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    pieces = [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True)]
    output, shown = await follow(*pieces)
    assert ("".join(shown), output.text, output.usage) == ("".join(WORDS), "".join(WORDS), Usage(5, 2, 7))


async def test_one_byte_at_a_time() -> None:
    raw = stream(*GOOD)
    output, shown = await follow(*(raw[at : at + 1] for at in range(len(raw))))
    assert (shown, output.text) == (WORDS, "".join(WORDS))


@pytest.mark.parametrize(
    "raw",
    [
        stream(*GOOD, done=False),
        stream(*GOOD, done=False).rstrip(),
        stream(*GOOD).rstrip(),
        b"\xef\xbb\xbf" + stream(*GOOD),
        b"\n\n : ping\n\n" + stream(*GOOD),
        stream(*GOOD).replace(b"data: {", b"data:{"),
        stream(*GOOD).replace(b"\n\n", b"\n"),
        stream(*GOOD) + stream(*said("after the end")),
        stream(*GOOD, done=False) + b"data: {half",
    ],
    ids=["no-done", "no-end", "done-without-end", "mark", "blank", "no-space", "no-blank-lines", "after", "half"],
)
async def test_a_server_may_be_careless(raw: bytes) -> None:
    output, shown = await follow(raw)
    assert ("".join(shown), output.text, output.usage) == ("".join(WORDS), "".join(WORDS), Usage(5, 2, 7))


async def test_usage_may_come_with_every_chunk() -> None:
    counts = [{**USAGE, "completion_tokens": number} for number in range(3)]
    output, _ = await follow(stream(*(chunk({"content": "x"}, usage=each) for each in counts), END))
    assert output.usage.completion_tokens == 2


async def test_only_the_first_choice_counts() -> None:
    other = {**HEAD, "choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}]}
    output, shown = await follow(stream(other, *said("4"), other, END))
    assert (shown, output.text, output.finish_reason) == (["4"], "4", "stop")


async def test_calls_of_tools_are_put_together_by_their_index() -> None:
    def call(index: int, arguments: str, **fields: Any) -> dict[str, Any]:
        return {"index": index, "function": {**fields.pop("function", {}), "arguments": arguments}, **fields}

    first = call(0, "", id="a", type="function", function={"name": "weather"})
    second = call(1, "{}", id="b", type="function", function={"name": "time"})
    deltas = [[first], [call(0, '{"city":')], [second, call(0, ' "Bern"}')]]
    chunks = [chunk({"tool_calls": calls}) for calls in deltas]
    output, shown = await follow(stream(ROLE, *chunks, chunk(finish_reason="tool_calls"), SPENT))
    calls = [
        {"function": {"name": "weather", "arguments": '{"city": "Bern"}'}, "id": "a", "type": "function"},
        {"function": {"name": "time", "arguments": "{}"}, "id": "b", "type": "function"},
    ]
    assert orjson.loads(output.text) == {"role": "assistant", "content": None, "tool_calls": calls}
    assert (shown, output.finish_reason) == ([], "tool_calls")


async def test_calls_of_tools_without_an_index_are_put_together_by_their_ids() -> None:
    calls = [
        {"id": "a", "function": {"name": "weather", "arguments": "{"}},
        {"function": {"arguments": "}"}},
        {"id": "b", "function": {"name": "time", "arguments": "{}"}},
    ]
    found = await message(*(chunk({"tool_calls": [each]}) for each in calls), chunk(finish_reason="tool_calls"))
    assert [(each["id"], each["function"]["arguments"]) for each in found["tool_calls"]] == [("a", "{}"), ("b", "{}")]


async def test_an_older_call_and_what_is_said_beside_the_text_are_put_together() -> None:
    deltas: list[dict[str, Any]] = [
        {"reasoning_content": "2 and ", "content": None},
        {"reasoning_content": "2"},
        {"content": [{"type": "text", "text": "4"}]},
        {"content": [{"type": "thinking", "thinking": []}]},
        {"content": " "},
        {"function_call": {"name": "f", "arguments": "{"}},
        {"function_call": {"arguments": "}"}},
    ]
    found = await message(*map(chunk, deltas), chunk(finish_reason="stop"))
    assert found == {
        "role": "assistant",
        "content": "4 ",
        "reasoning_content": "2 and 2",
        "function_call": {"name": "f", "arguments": "{}"},
    }


async def test_log_probabilities_are_put_together() -> None:
    chunks = said("a", "b")
    for number, each in enumerate(chunks):
        each["choices"][0]["logprobs"] = {"content": [{"token": "ab"[number], "logprob": -0.5}], "refusal": None}
    output, _ = await follow(stream(*chunks, END))
    found = orjson.loads(output.body)["choices"][0]["logprobs"]
    assert found == {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -0.5}], "refusal": None}


async def test_a_completion_is_put_together() -> None:
    head = {**HEAD, "object": "text_completion"}
    chunks = [{**head, "choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in (" fo", "ur")]
    end = {**head, "choices": [{"index": 0, "text": "", "finish_reason": "length", "logprobs": None}]}
    output, shown = await follow(stream(*chunks, end, {**SPENT, "object": "text_completion"}), path=TEXT)
    assert (shown, output.text, output.finish_reason, output.usage) == (
        [" fo", "ur"],
        " four",
        "length",
        Usage(5, 2, 7),
    )
    choice = {"index": 0, "text": " four", "finish_reason": "length", "logprobs": None}
    assert orjson.loads(output.body) == {**head, "choices": [choice], "usage": USAGE}


@pytest.mark.parametrize("start", [b"", b"\n ", b"\xef\xbb\xbf"])
async def test_an_answer_that_comes_whole_all_the_same(start: bytes) -> None:
    raw = start + orjson.dumps(completion())
    output, shown = await follow(raw[:2], raw[2:30], raw[30:])
    assert (shown, output.text, output.usage) == (["4"], "4", Usage(5, 1, 6))
    calls = completion(None, tool_calls=[{"id": "a", "function": {"name": "f", "arguments": "{}"}}])
    assert (await follow(orjson.dumps(calls)))[1] == []
    text = {"choices": [{"index": 0, "text": "four", "finish_reason": "stop"}]}
    assert (await follow(orjson.dumps(text), path=TEXT))[1] == ["four"]
    at_once = {**completion(), "object": "chat.completion.chunk"}
    assert (await follow(stream(at_once)))[1] == ["4"]


# --- what goes wrong ---


async def fault(raw: bytes, path: Any = CHAT, **options: Any) -> tuple[str, str]:
    """Ask a real endpoint, so that the real judge is asked. Return code and prior, or that it is permanent."""
    async with Endpoint(Reply(pieces=(raw,), headers=EVENTS, **options)) as endpoint:
        settings: dict[str, Any] = {"url": endpoint.url, "model": "llama", "max_response_bytes": 50_000}
        async with aclosing(ChatBackend(ChatOptions(**settings))) as backend:
            with pytest.raises((TransientError, PermanentError)) as caught:
                await backend.infer(Job(job_id="1", payload={"prompt": "?"}, tokens=True, path=path))
    assert isinstance(caught.value, TransientError | PermanentError)
    return caught.value.code, caught.value.prior if isinstance(caught.value, TransientError) else "permanent"


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([{"error": {"message": "Rate limit", "code": 429}}], ("http_429", "endpoint")),
        ([*said("4"), {"error": {"message": "Rate limit", "code": 429}}], ("http_429", "endpoint")),
        ([*said("4"), {"error": {"message": "The engine has died"}}], ("unfinished", "endpoint")),
        ([*said("4"), {"error": "The engine has died"}], ("unfinished", "endpoint")),
        ([{"error": {"message": "it is strange"}}], ("not_a_completion", "unknown")),
        ([*said("4"), chunk(finish_reason="abort")], ("unfinished", "endpoint")),
        ([*said("4"), chunk(finish_reason="content_filter")], ("content_filter", "permanent")),
        ([chunk({"refusal": "I "}), chunk({"refusal": "won't"}), END], ("refusal", "permanent")),
        ([chunk({"reasoning": "Hm"}), chunk(finish_reason="length")], ("no_content", "permanent")),
        ([chunk({"content": ""})], ("no_content", "unknown")),
        ([SPENT], ("not_a_completion", "unknown")),
        ([["a list"], *said("4"), END], ("not_a_completion", "unknown")),
        ([*said("x" * 60_000), END], ("response_too_large", "unknown")),
    ],
)
async def test_it_is_judged_as_an_answer_that_comes_whole(chunks: list[Any], expected: tuple[str, str]) -> None:
    assert await fault(stream(*chunks)) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (stream(ROLE, *said("4"), done=False), ("connection_cut", "unknown")),
        (stream(ROLE, *said("4"), done=False) + event(END)[:20], ("connection_cut", "unknown")),
        (stream(ROLE, *(chunk({"content": "4"}, "") for _ in "12"), done=False), ("connection_cut", "unknown")),
        (b": ping\n\n", ("connection_cut", "unknown")),
        (b"data: {half\n\n" + stream(*GOOD), ("not_a_completion", "unknown")),
        (b"data: " + b"x" * 60_000, ("response_too_large", "unknown")),
        (b"<html>", ("not_a_completion", "unknown")),
        (b'{"choices": [', ("not_a_completion", "unknown")),
        (b'{"x": "' + b"x" * 60_000, ("response_too_large", "unknown")),
        (b" \n", ("not_a_completion", "unknown")),
    ],
)
async def test_a_stream_that_breaks_off_is_no_answer(raw: bytes, expected: tuple[str, str]) -> None:
    assert await fault(raw) == expected


async def test_a_connection_that_is_cut_amid_a_stream() -> None:
    assert await fault(stream(*GOOD[:3], done=False), cut=True) == ("connection_cut", "unknown")


# --- the backend ---


async def test_a_job_with_tokens_asks_for_a_stream_and_shows_it() -> None:
    shown: list[str] = []
    payload = {"prompt": "?", "stream_options": {"include_obfuscation": False}}
    jobs = [
        Job(job_id="1", payload=payload, tokens=True),
        Job(job_id="2", payload={"prompt": "?"}, tokens=True, path=TEXT, verbatim=True),
    ]
    text = {**HEAD, "choices": [{"index": 0, "text": "4", "finish_reason": "stop"}]}
    script = [Reply(pieces=tuple(map(event, GOOD)), headers=EVENTS), Reply(pieces=(event(text), DONE), headers=EVENTS)]
    async with (
        Endpoint(*script) as endpoint,
        aclosing(ChatBackend(ChatOptions(url=endpoint.url, model="llama"))) as backend,
    ):
        for job in jobs:
            show_by(job, shown.append)
        outputs = [await backend.infer(job) for job in jobs]
    assert [output.text for output in outputs] == ["".join(WORDS), "4"]
    assert [text for text in shown if text] == [*WORDS, "4"]
    first, second = [sent.json for sent in endpoint.received]
    assert (first["stream"], first["stream_options"]) == (True, {"include_obfuscation": False, "include_usage": True})
    assert second == {
        "model": "llama",
        "prompt": "?",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert len({sent.peer for sent in endpoint.received}) == 1, "the connection is used again"


async def test_a_server_that_holds_the_connection_after_the_end_is_not_waited_for() -> None:
    pieces = (stream(*GOOD), b": ping\n\n", b": ping\n\n")
    async with (
        Endpoint(Reply(pieces=pieces, headers=EVENTS, pause=0.15)) as endpoint,
        aclosing(ChatBackend(ChatOptions(url=endpoint.url, model="llama"))) as backend,
    ):
        output = await backend.infer(Job(job_id="1", payload={"prompt": "?"}, tokens=True))
    assert output.text == "".join(WORDS)


async def test_a_job_must_not_ask_for_a_stream_itself() -> None:
    async with aclosing(ChatBackend(ChatOptions(url="http://127.0.0.1:1/v1/chat/completions", model="m"))) as backend:
        with pytest.raises(BadInputError, match=r"^stream: only false is accepted"):
            await backend.infer(Job(job_id="1", payload={"prompt": "?", "stream": True}, tokens=True))
