"""The gateway as the `openai` client finds it: unchanged, its retries on, its own models strict about every answer."""

import asyncio
import gc
import re
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import openai
import orjson
import pytest
from openai import AsyncOpenAI
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from greenscale_worker import Worker
from greenscale_worker.backends import ChatOptions, open_backend
from greenscale_worker.config import load
from greenscale_worker.errors import PermanentError, QueueUnavailableError
from greenscale_worker.gateway import attending, sse, waiting
from greenscale_worker.gateway.core import GatewayOptions
from greenscale_worker.job import Job, Output, Usage
from greenscale_worker.simulator import CHAT_PATH, Faults, SimulatorOptions, running
from greenscale_worker.up import services
from harness.checkout import ROOT
from harness.eventually import PATIENCE, eventually
from harness.tcp_proxy import TcpProxy, Trap
from tests.support.api import Api, a_gateway

HELLO: Final[Any] = [{"role": "user", "content": "What is 2+2?"}]
LONGER: Final[Any] = [{"role": "user", "content": "Tell me something"}]
KINDS: Final = ("list", "stream")
IS_OLDER: Final = openai.__version__.startswith("2.")


def strict(model: type[Any], answer: Any) -> None:
    """Fail unless an answer is one of this model to the letter; the client itself checks nothing."""
    model.model_validate(orjson.loads(answer.model_dump_json(exclude_unset=True)), strict=False)
    knows_all_of(model, answer)


def knows_all_of(model: type[Any], answer: Any) -> None:
    """Fail if there is a field that the model does not know; a client of last year passes over newer ones."""
    assert IS_OLDER or not set(answer.model_dump()) - set(model.model_fields)


@dataclass
class Handler:
    """Answers as the test says, in place of an endpoint; `runs` are the jobs that were run."""

    runs: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    act: Callable[[Job], Awaitable[Output]] | None = None

    async def infer(self, job: Job) -> Output:
        self.runs.append(job.job_id)
        try:
            if self.act is not None:
                return await self.act(job)
            await self.go.wait()
        except asyncio.CancelledError:
            self.cut_off.append(job.job_id)
            raise
        return Output("the answer", model="m", finish_reason="stop", usage=Usage(3, 2, 5))

    async def ready(self) -> bool:
        return True

    async def aclose(self) -> None: ...


@dataclass
class Played:
    """A gateway, its worker and a client."""

    api: Api
    client: AsyncOpenAI
    handler: Handler


def client_of(url: str, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", **options)


@asynccontextmanager
async def play(redis_url: str, kind: str = "list", options: GatewayOptions | None = None) -> AsyncIterator[Played]:
    handler = Handler()
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(a_gateway(redis_url, kind, options))
        await stack.enter_async_context(Worker(api.worker, handler, drain=0))
        client = await stack.enter_async_context(client_of(api.url))
        yield Played(api, client, handler)


@pytest.fixture(params=KINDS)
async def simulated(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Played]:
    """With the simulator behind the worker."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(SimulatorOptions()))
        backend = open_backend("chat", ChatOptions(url=url + CHAT_PATH, model="m"))
        stack.push_async_callback(backend.aclose)
        listed = getattr(backend, "models")  # noqa: B009  of the backend chat only
        options = GatewayOptions(queue="jobs", model="m", list_models=listed)
        api = await stack.enter_async_context(a_gateway(redis_url, request.param, options))
        await stack.enter_async_context(Worker(api.worker, backend))
        client = await stack.enter_async_context(client_of(api.url))
        yield Played(api, client, Handler())


@pytest.fixture
async def played(redis_url: str) -> AsyncIterator[Played]:
    async with play(redis_url) as played:
        yield played


async def test_a_chat_is_answered(simulated: Played) -> None:
    answer = await simulated.client.chat.completions.create(model="m", messages=HELLO)
    strict(ChatCompletion, answer)
    assert answer.choices[0].message.content == "4"
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0
    job = (await simulated.api.get(f"/v1/jobs/{answer._request_id}")).json  # noqa: SLF001  its documented name
    assert (job["state"], job["usage"]["total_tokens"]) == ("succeeded", answer.usage.total_tokens)


async def test_a_chat_is_streamed(simulated: Played) -> None:
    options: Any = {"include_usage": True}
    stream = await simulated.client.chat.completions.create(
        model="m", messages=LONGER, stream=True, stream_options=options
    )
    chunks = [chunk async for chunk in stream]
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text.startswith("This is a simulated answer")
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-1].choices == []
    whole = await simulated.client.chat.completions.create(model="m", messages=LONGER)
    assert whole.choices[0].message.content == text


async def test_completions_whole_and_streamed(simulated: Played) -> None:
    whole = await simulated.client.completions.create(model="m", prompt="Tell me something")
    strict(Completion, whole)
    stream = await simulated.client.completions.create(model="m", prompt="Tell me something", stream=True)
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1), "as OpenAI's are"
    for chunk in chunks:
        chunk.choices[0].finish_reason = chunks[-1].choices[0].finish_reason  # its model knows no other chunk
        strict(Completion, chunk)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_embeddings(simulated: Played) -> None:
    answer = await simulated.client.embeddings.create(model="m", input=["a", "b"])
    strict(CreateEmbeddingResponse, answer)
    assert [each.index for each in answer.data] == [0, 1]
    floats = await simulated.client.embeddings.create(model="m", input="a", encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-5)


async def test_models(simulated: Played) -> None:
    (model,) = [model async for model in simulated.client.models.list()]
    assert (await simulated.client.models.retrieve(model.id)).id == model.id
    with pytest.raises(openai.NotFoundError):
        await simulated.client.models.retrieve("no/such")


async def test_the_configured_model_is_listed_where_the_endpoint_lists_none(redis_url: str) -> None:
    async def nothing() -> bytes | None:
        return None

    for listing in (None, nothing):
        async with play(redis_url, options=GatewayOptions(queue="jobs", model="m", list_models=listing)) as played:
            assert [model.id async for model in played.client.models.list()] == ["m"]
    async with play(redis_url) as played:
        assert [model.id async for model in played.client.models.list()] == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
    ],
)
async def test_a_bad_request_is_one_at_once(played: Played, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await played.client.chat.completions.create(**{"model": "m", "messages": HELLO, **fields})
    assert raised.value.param == param
    assert played.handler.runs == []


@pytest.mark.parametrize(
    ("code", "error", "status"),
    [
        ("content_filter", openai.BadRequestError, 400),
        ("http_400", openai.BadRequestError, 400),
        ("http_404", openai.NotFoundError, 404),
        ("http_422", openai.UnprocessableEntityError, 422),
        ("insufficient_quota", openai.RateLimitError, 429),
        ("http_401", openai.InternalServerError, 502),
        ("http_503", openai.InternalServerError, 502),
        ("timeout", openai.InternalServerError, 504),
        ("of_a_backend", openai.InternalServerError, 500),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_job_that_fails_is_an_error_with_a_status_and_is_not_tried_again(
    played: Played, code: str, error: type[openai.APIStatusError], status: int, *, stream: bool
) -> None:
    async def fail(_job: Job) -> Output:
        raise PermanentError(code, "so it is")

    played.handler.act = fail
    with pytest.raises(error) as raised:
        await played.client.chat.completions.create(model="m", messages=HELLO, stream=stream)
    assert (raised.value.status_code, raised.value.code) == (status, code)
    assert "so it is" in raised.value.message
    assert len(played.handler.runs) == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No header is held back for long."""
    monkeypatch.setattr(waiting, "HELD_SECONDS", 0.1)
    monkeypatch.setattr(waiting, "BLANK_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
async def test_who_waits_for_long_gets_blank_lines_and_then_the_answer(played: Played) -> None:
    async def later() -> None:
        await asyncio.sleep(0.5)
        played.handler.go.set()

    task = asyncio.create_task(later())
    async with played.api.session.post(
        f"{played.api.url}{CHAT_PATH}", json={"model": "m", "messages": HELLO}
    ) as response:
        assert not played.handler.go.is_set(), "the headers came before"
        body = await response.read()
    await task
    assert body.startswith(b"\n\n")
    assert orjson.loads(body)["choices"][0]["message"]["content"] == "the answer"
    played.handler.go.clear()
    task = asyncio.create_task(later())
    answer = await played.client.chat.completions.create(model="m", messages=HELLO)
    strict(ChatCompletion, answer)
    await task
    played.handler.go.clear()
    task = asyncio.create_task(later())
    stream = await played.client.chat.completions.create(model="m", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "the answer"
    await task


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_after_the_headers_is_an_error_all_the_same(played: Played, *, stream: bool) -> None:
    async def fail(_job: Job) -> Output:
        await asyncio.sleep(0.4)
        raise PermanentError("content_filter", "so it is")

    played.handler.act = fail
    with pytest.raises(openai.APIError, match="so it is") as raised:  # noqa: PT012  a stream fails where it is read
        answer = await played.client.chat.completions.create(model="m", messages=HELLO, stream=stream)
        async for _ in answer:
            pass
    assert raised.value.code == "content_filter"
    assert len(played.handler.runs) == 1, "the client's retry is told of the same job"


async def test_service_tiers_are_classes(played: Played) -> None:
    await played.api.queue.pause()
    tiers = ("auto", "default", "flex", None)
    calls = [
        asyncio.create_task(played.client.chat.completions.create(model="m", messages=HELLO, service_tier=tier))
        for tier in tiers
    ]
    depth: dict[str, int] = {}

    async def read() -> None:
        async with asyncio.timeout(PATIENCE):
            while (await played.api.queue.depth()).waiting < len(tiers):  # noqa: ASYNC110  it is in Redis
                await asyncio.sleep(0.01)
        found = await played.api.queue.depth()
        depth.update(interactive=found.interactive, background=found.background, waiting=found.waiting)

    await read()
    assert depth == {"interactive": 2, "background": 1, "waiting": 4}
    played.handler.go.set()
    await played.api.queue.resume()
    await asyncio.gather(*calls)


async def test_pieces_come_as_they_are_shown(played: Played) -> None:
    shown = asyncio.Event()

    async def speak(job: Job) -> Output:
        job.emit("one ")
        await shown.wait()
        job.emit("two ")
        return Output("one two three", model="m", finish_reason="length", usage=Usage(3, 2, 5))

    played.handler.act = speak
    stream = await played.client.chat.completions.create(model="m", messages=HELLO, stream=True)
    texts = list[str]()
    async for chunk in stream:
        texts += [chunk.choices[0].delta.content or ""]
        if "".join(texts) == "one ":
            shown.set()
        last = chunk
    assert "".join(texts) == "one two three"
    assert last.choices[0].finish_reason == "length"


async def test_what_pieces_do_not_have_comes_from_the_whole_answer(played: Played) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": None, "reasoning_content": "Call it.", "tool_calls": [call]}
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }

    async def use_a_tool(_job: Job) -> Output:
        return Output("", model="m", finish_reason="tool_calls", usage=Usage(1, 2, 3), body=orjson.dumps(body))

    played.handler.act = use_a_tool
    stream = await played.client.chat.completions.create(model="m", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk)
    reasoned = [getattr(chunk.choices[0].delta, "reasoning_content", None) for chunk in chunks if chunk.choices]
    assert list(filter(None, reasoned)) == ["Call it."]
    (called,) = [tool for chunk in chunks for tool in chunk.choices[0].delta.tool_calls or ()]
    assert called.function is not None
    assert (called.index, called.id, called.function.arguments) == (0, "call_1", '{"a": 1}')
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_a_run_that_begins_anew_after_text_was_sent_is_an_error(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attending, "PATIENCE_SECONDS", 0.1)
    read = asyncio.Event()

    async def break_off(job: Job) -> Output:
        if job.attempt == 1:
            job.emit("one ")
            await read.wait()
            raise RuntimeError
        job.emit("another ")
        await asyncio.Event().wait()
        raise AssertionError

    played.handler.act = break_off
    stream = await played.client.chat.completions.create(model="m", messages=HELLO, stream=True)
    texts = list[str]()
    with pytest.raises(openai.APIError, match="runs again") as raised:  # noqa: PT012  as above
        async for chunk in stream:
            texts += [chunk.choices[0].delta.content or ""]
            if texts[-1]:
                read.set()
    assert raised.value.code == "restarted"
    assert "".join(texts) == "one ", "nothing is glued together"
    await eventually(lambda: played.handler.cut_off)


async def test_who_leaves_cancels_the_job_after_a_while(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "PATIENCE_SECONDS", 0.3)
    for stream in (False, True):
        call = asyncio.create_task(played.client.chat.completions.create(model="m", messages=HELLO, stream=stream))
        before = len(played.handler.runs)
        await eventually(lambda before=before: len(played.handler.runs) > before)  # type: ignore[misc]  a default
        call.cancel()
        await eventually(lambda: set(played.handler.cut_off) == set(played.handler.runs))
    states = [(await played.api.queue.record(job_id))["state"] for job_id in played.handler.runs]
    assert states == ["cancelled", "cancelled"]


async def test_who_leaves_with_an_idempotency_key_cancels_nothing_and_may_come_again(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attending, "PATIENCE_SECONDS", 0.05)

    def ask(text: str = "x") -> Any:
        return played.client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": text}],
            extra_headers={"Idempotency-Key": "order 17"},
        )

    call = asyncio.create_task(ask())
    await eventually(lambda: played.handler.runs)
    call.cancel()
    await asyncio.sleep(0.3)
    played.handler.go.set()
    for _ in range(2):
        assert (await ask()).choices[0].message.content == "the answer"
    assert len(played.handler.runs) == 1
    with pytest.raises(openai.UnprocessableEntityError):
        await ask("y")


@pytest.mark.parametrize(("keep", "stream"), [(0, False), (20, False), (300, False), (0, True), (20, True)])
async def test_a_connection_that_is_cut_at_any_stage_runs_nothing_twice(
    played: Played, keep: int, *, stream: bool
) -> None:
    """The client's retry is answered by the job of its first request, that runs or has ended."""
    async with TcpProxy(int(played.api.url.rpartition(":")[2])) as proxy:
        trap = Trap(b"POST /v1/chat", keep=keep)
        proxy.set(trap)
        async with client_of(f"http://127.0.0.1:{proxy.port}") as client:
            played.handler.go.set()
            request = {"model": "m", "messages": HELLO, "stream": stream}
            answer = await client.chat.completions.create(**request)
            if stream:
                texts = [chunk.choices[0].delta.content or "" async for chunk in answer]
            else:
                texts = [answer.choices[0].message.content]
        assert "".join(texts) == "the answer"
        assert trap.sprung.is_set()
    assert len(played.handler.runs) == 1


async def test_a_connection_that_is_cut_while_its_job_runs_is_joined(played: Played) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(TcpProxy(int(played.api.url.rpartition(":")[2])))
        client = await stack.enter_async_context(client_of(f"http://127.0.0.1:{proxy.port}", max_retries=5))
        create = client.chat.completions.create
        calls = [asyncio.create_task(create(model="m", messages=HELLO, user=str(number))) for number in range(10)]
        alike = [asyncio.create_task(create(model="m", messages=HELLO)) for _ in range(5)]
        await eventually(lambda: len(played.handler.runs) == 15)
        for _ in range(2):
            proxy.cut()
            await eventually(lambda: proxy.connected == 15)
        played.handler.go.set()
        for answer in await asyncio.gather(*calls, *alike):
            assert answer.choices[0].message.content == "the answer"
    assert len(played.handler.runs) == 15


async def test_equal_requests_that_are_no_retries_are_jobs_of_their_own(played: Played) -> None:
    played.handler.go.set()
    for _ in range(2):
        await asyncio.gather(*(played.client.chat.completions.create(model="m", messages=HELLO) for _ in range(5)))
    assert len(set(played.handler.runs)) == 10


async def test_what_is_answered_is_forgotten(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "DELIVERED_SECONDS", 0.05)
    played.handler.go.set()
    for _ in range(2):
        answer = await played.client.chat.completions.create(
            model="m", messages=HELLO, extra_headers={"x-stainless-retry-count": "1"}
        )
        assert answer.choices[0].message.content == "the answer"
        await eventually(lambda: not played.api.gateway.attending._jobs)  # noqa: SLF001  nobody is left in it
    assert len(set(played.handler.runs)) == 2


async def test_a_slow_reader_of_a_stream_is_cut_off_and_holds_up_nobody(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "WRITE_SECONDS", 0.3)
    monkeypatch.setattr(attending, "PATIENCE_SECONDS", 0.1)

    async def flood(job: Job) -> Output:
        while True:
            job.emit("x" * 200_000)
            await asyncio.sleep(0.01)

    played.handler.act = flood
    reader, writer = await asyncio.open_connection("127.0.0.1", int(played.api.url.rpartition(":")[2]), limit=1024)
    body = orjson.dumps({"model": "m", "messages": HELLO, "stream": True})
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await eventually(lambda: played.handler.cut_off)
    assert (await played.api.get("/v1/jobs")).status == 200
    assert reader is not None
    writer.close()


async def test_an_ill_endpoint_is_the_workers_to_bear(redis_url: str) -> None:
    faults = Faults(rate_cut=0.4)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(SimulatorOptions(faults=faults)))
        backend = open_backend("chat", ChatOptions(url=url + CHAT_PATH, model="m"))
        stack.push_async_callback(backend.aclose)
        api = await stack.enter_async_context(a_gateway(redis_url))
        await stack.enter_async_context(Worker(api.worker, backend))
        client = await stack.enter_async_context(client_of(api.url, max_retries=0))
        calls = (client.chat.completions.create(model="m", messages=HELLO, user=str(number)) for number in range(5))
        for answer in await asyncio.gather(*calls):
            assert answer.choices[0].message.content == "4"


@pytest.mark.parametrize(("page", "expected"), [("README.md", "4"), ("docs/gateway.md", "4|4")])
async def test_the_pages_print_programs_that_work(simulated: Played, page: str, expected: str) -> None:
    text, printed = (ROOT / page).read_text(), list[str]()
    (program,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "OpenAI(" in code)
    assert "http://127.0.0.1:8400/v1" in program

    def say(*words: object, **_options: object) -> None:
        printed.extend(map(str, words))

    code = compile(program.replace("http://127.0.0.1:8400", simulated.api.url), page, "exec")
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # its client is never closed
        await asyncio.to_thread(exec, code, {"print": say})
        gc.collect()
    assert expected in "|".join(filter(None, printed))


async def test_up_gives_the_gateway_the_endpoint(tmp_path: Path) -> None:
    settings = load({"GREENSCALE_GATEWAY_PORT": "18400"})
    programs = {each.name: each for each in services.services(settings, tmp_path, tmp_path, None, None)}
    for name in ("NEYSA_API_URL", "NEYSA_API_KEY"):
        assert programs["gateway"].environment[name] == programs["worker"].environment[name]


@pytest.mark.parametrize("held", [25.0, 0.0])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_queue_that_is_away_when_the_answer_is_to_be_read_makes_nothing_run_twice(
    played: Played, monkeypatch: pytest.MonkeyPatch, held: float, *, stream: bool
) -> None:
    monkeypatch.setattr(waiting, "HELD_SECONDS", held)
    body, away = played.api.queue.body, list[str]()

    async def once_away(job_id: str) -> bytes | None:
        if not away:
            away.append(job_id)
            raise QueueUnavailableError("away")
        return await body(job_id)

    monkeypatch.setattr(played.api.queue, "body", once_away)
    played.handler.go.set()
    request: Any = {"model": "m", "messages": HELLO, "stream": stream}
    if stream and held == 0.0:  # a stream that has begun is not asked for again
        with pytest.raises(openai.APIError, match="does not answer"):
            async for _ in await played.client.chat.completions.create(**request):
                pass
    else:
        answer = await played.client.chat.completions.create(**request)
        if stream:
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in answer]) == "the answer"
        else:
            assert answer.choices[0].message.content == "the answer"
    assert (len(away), len(played.handler.runs)) == (1, 1)


async def test_a_fault_after_the_headers_cuts_the_connection(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_job_id: str) -> bytes | None:
        raise RuntimeError

    monkeypatch.setattr(waiting, "HELD_SECONDS", 0.0)
    monkeypatch.setattr(played.api.queue, "body", broken)
    played.handler.go.set()
    with pytest.raises(openai.APIConnectionError):
        await played.client.with_options(max_retries=0).chat.completions.create(model="m", messages=HELLO)
