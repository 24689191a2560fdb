"""Responses as the `openai` client finds them: unchanged, its models strict about every object and every event."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import aiohttp
import openai
import orjson
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from redis.asyncio import Redis

from greenscale_worker import Worker
from greenscale_worker.backends import ChatOptions, open_backend
from greenscale_worker.errors import PermanentError, TransientError
from greenscale_worker.files import Files
from greenscale_worker.files.objects import FileObjects
from greenscale_worker.files.store import open_files
from greenscale_worker.gateway import waiting
from greenscale_worker.gateway.core import GatewayOptions
from greenscale_worker.gateway.response_events import Shown
from greenscale_worker.gateway.response_files import KEPT_SECONDS, Ending, Kept, ResponseFiles
from greenscale_worker.job import Job, Output
from greenscale_worker.simulator import CHAT_PATH, SimulatorOptions, running
from harness.eventually import PATIENCE, eventually
from harness.tcp_proxy import TcpProxy, Trap
from tests.support.api import Api, a_gateway
from tests.support.endpoint import Endpoint, Reply, completion
from tests.support.front import a_front
from tests.support.front import client_of as a_client
from tests.test_gateway_keys import holder
from tests.test_openai_client import IS_OLDER, client_of, knows_all_of, strict

# What a stream that is cut off raises: an older client passes on the error of httpx.
CUT: Final = (openai.APIConnectionError, *((import_module("httpx").TransportError,) if IS_OLDER else ()))
EVENT: Final[Any] = TypeAdapter(ResponseStreamEvent)
TOOL: Final[Any] = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
PIECES: Final = [f"piece {number}, " for number in range(8)]


@dataclass
class Script:
    """Shows pieces of a text, in place of an endpoint: one for each permit of `go`; `act` decides how it ends."""

    runs: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    go: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    faults: list[Exception] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def infer(self, job: Job) -> Output:
        self.runs.append(job.job_id)
        self.bodies.append(job.payload)
        try:
            for piece in PIECES:
                await self.go.acquire()
                job.emit(piece)
                if self.faults and piece == PIECES[3]:
                    raise self.faults.pop()
        except asyncio.CancelledError:
            self.cut_off.append(job.job_id)
            raise
        return Output("".join(PIECES), body=orjson.dumps(completion("".join(PIECES))))

    async def ready(self) -> bool:
        return True

    async def aclose(self) -> None: ...

    def let(self, pieces: int = len(PIECES)) -> None:
        for _ in range(pieces):
            self.go.release()


@dataclass
class Played:
    """A gateway with its files, a worker and a client."""

    api: Api
    client: AsyncOpenAI
    script: Script
    files: Files

    async def ended(self, response_id: str) -> Response:
        """Poll until a response has ended."""
        async with asyncio.timeout(PATIENCE):
            while True:
                response = await self.client.responses.retrieve(response_id)
                strict(Response, response)
                if response.status not in ("queued", "in_progress"):
                    return response
                await asyncio.sleep(0.05)

    async def kept(self, response_id: str) -> None:
        """Wait until the end is kept in Files."""
        async with asyncio.timeout(PATIENCE):
            while await self.files.read(f"responses/_/{response_id}/response") is None:  # noqa: ASYNC110  a store
                await asyncio.sleep(0.02)


@asynccontextmanager
async def play(
    redis_url: str, backend: Any = None, *, kind: str = "list", worker: bool = True
) -> AsyncIterator[Played]:
    script = Script()
    async with AsyncExitStack() as stack:
        files = open_files("memory:")
        api = await stack.enter_async_context(
            a_gateway(redis_url, kind, GatewayOptions(queue="jobs", model="m"), files=files)
        )
        if worker:
            await stack.enter_async_context(Worker(api.worker, backend or script, drain=0))
        client = await stack.enter_async_context(client_of(api.url))
        yield Played(api, client, script, files)


@pytest.fixture
async def played(redis_url: str) -> AsyncIterator[Played]:
    async with play(redis_url) as played:
        yield played


@pytest.fixture(params=["list", "stream"])
async def simulated(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Played]:
    """With the simulator behind the worker."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(SimulatorOptions(per_token=0.01)))
        backend = open_backend("chat", ChatOptions(url=url + CHAT_PATH, model="m"))
        stack.push_async_callback(backend.aclose)
        yield await stack.enter_async_context(play(redis_url, backend, kind=request.param))


@asynccontextmanager
async def answered_by(redis_url: str, *answers: dict[str, Any]) -> AsyncIterator[tuple[Played, Endpoint]]:
    """With an endpoint that gives these answers."""
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(Endpoint(*(Reply(json=answer) for answer in answers)))
        backend = open_backend("chat", ChatOptions(url=endpoint.url, model="m"))
        stack.push_async_callback(backend.aclose)
        yield await stack.enter_async_context(play(redis_url, backend)), endpoint


async def events_of(stream: Any) -> list[Any]:
    """Read a stream to its end: each event is one of the SDK's, and they are numbered in order."""
    events = []
    async for event in stream:
        EVENT.validate_python(orjson.loads(event.model_dump_json(exclude_unset=True, by_alias=True)))
        if event.type != "response.function_call_arguments.done":  # its `name` is for older clients
            knows_all_of(type(event), event)
        if "response" in event.model_dump():
            strict(Response, event.response)
        events.append(event)
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    return events


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


async def test_a_response_is_answered(simulated: Played) -> None:
    response = await simulated.client.responses.create(
        model="m", instructions="Be brief.", input="What is 2+2?", metadata={"a": "b"}, temperature=0.5
    )
    strict(Response, response)
    assert (response.status, response.output_text, response.model) == ("completed", "4", "m")
    assert (response.instructions, response.metadata, response.temperature) == ("Be brief.", {"a": "b"}, 0.5)
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 0
    again = await simulated.client.responses.retrieve(response.id)
    assert again.to_dict() == response.to_dict()
    job = (await simulated.api.get(f"/v1/jobs/{response.id}")).json
    assert (job["state"], job["metadata"]) == ("succeeded", {"a": "b"})


async def test_the_client_that_waits_in_a_thread_is_answered_too(simulated: Played) -> None:
    with OpenAI(base_url=f"{simulated.api.url}/v1", api_key="unused") as client:
        response = await asyncio.to_thread(client.responses.create, model="m", input="What is 2+2?")
        assert response.output_text == "4"

        def follow() -> str:
            with client.responses.stream(model="m", input="Tell me something") as stream:
                stream.until_done()
                return stream.get_final_response().output_text

        assert (await asyncio.to_thread(follow)).startswith("This is a simulated answer")


async def test_a_response_is_streamed(simulated: Played) -> None:
    events = await events_of(await simulated.client.responses.create(model="m", input="Tell me more", stream=True))
    kinds = list(dict.fromkeys(event.type.removeprefix("response.") for event in events))
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert text_of(events) == events[-1].response.output_text != ""
    assert len([event for event in events if event.type == "response.output_text.delta"]) > 1
    async with simulated.client.responses.stream(model="m", input="Tell me more") as stream:
        final = await stream.get_final_response()
    assert final.output_text == text_of(events)


async def test_a_response_in_the_background_is_there_when_it_is_asked_for(simulated: Played) -> None:
    begun = await simulated.client.responses.create(model="m", input="What is 2+2?", background=True)
    strict(Response, begun)
    assert begun.status in ("queued", "in_progress", "completed")
    ended = await simulated.ended(begun.id)
    assert (ended.status, ended.output_text, ended.background) == ("completed", "4", True)
    assert ended.created_at == begun.created_at


async def test_a_parsed_response(redis_url: str) -> None:
    class Sum(BaseModel):
        result: int

    async with answered_by(redis_url, completion('{"result": 4}')) as (played, endpoint):
        response = await played.client.responses.parse(model="m", input="What is 2+2?", text_format=Sum)
        assert response.output_parsed == Sum(result=4)
        told = endpoint.received[0].json["response_format"]
        assert (told["type"], told["json_schema"]["name"], told["json_schema"]["strict"]) == (
            "json_schema",
            "Sum",
            True,
        )


async def test_a_call_of_a_tool_and_its_output(redis_url: str) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
    calls = completion(None, tool_calls=[call], reasoning_content="I need the weather.")
    async with answered_by(redis_url, calls, completion("It rains."), calls) as (played, endpoint):
        first = await played.client.responses.create(
            model="m", input="The weather in Bonn?", tools=[TOOL], tool_choice={"type": "function", "name": "weather"}
        )
        strict(Response, first)
        assert [item.type for item in first.output] == ["reasoning", "function_call"]
        sent = endpoint.received[0].json
        assert sent["tools"][0]["function"] == {name: TOOL[name] for name in TOOL if name != "type"}
        assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
        output = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
        turns: Any = [{"role": "user", "content": "The weather in Bonn?"}, *first.to_dict()["output"], output]  # type: ignore[misc]
        second = await played.client.responses.create(model="m", input=turns, tools=[TOOL])
        assert second.output_text == "It rains."
        assert endpoint.received[1].json["messages"] == [
            {"role": "user", "content": "The weather in Bonn?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ]
        events = await events_of(await played.client.responses.create(model="m", input="?", tools=[TOOL], stream=True))
        assert [event.type for event in events if "arguments" in event.type or "reasoning" in event.type] == [
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
        ]
        page = await played.client.responses.input_items.list(second.id, order="asc")
        strict(ResponseItemList, page) if isinstance(page, ResponseItemList) else None
        assert [item.type for item in page.data] == ["message", "reasoning", "function_call", "function_call_output"]
        latest = [item.id async for item in played.client.responses.input_items.list(second.id, limit=1)]
        assert latest == [item.id for item in reversed(page.data)]


async def test_what_is_passed_on(redis_url: str) -> None:
    async with answered_by(redis_url) as (played, endpoint):
        parts: Any = [
            {"type": "input_text", "text": "What is this?"},
            {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
        ]
        await played.client.responses.create(
            model="m",
            input=[{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}],
            max_output_tokens=9,
            reasoning={"effort": "low"},
            text={"verbosity": "low", "format": {"type": "json_object"}},
            top_p=0.5,
            user="me",
            extra_body={"top_k": 3},
        )
        assert endpoint.received[0].json == {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be kind."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this?"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                    ],
                },
            ],
            "max_tokens": 9,
            "reasoning_effort": "low",
            "verbosity": "low",
            "response_format": {"type": "json_object"},
            "top_p": 0.5,
            "user": "me",
            "top_k": 3,
        }


async def test_an_answer_that_was_cut_short_is_incomplete(simulated: Played) -> None:
    response = await simulated.client.responses.create(model="m", input="Tell me something", max_output_tokens=3)
    strict(Response, response)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    events = await events_of(
        await simulated.client.responses.create(model="m", input="Tell me", max_output_tokens=3, stream=True)
    )
    assert events[-1].type == "response.incomplete"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "name": 1}]}, "tools.0.name"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input.0.content.0.type"),
        ({"input": [{"role": "nobody", "content": "?"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": "?", "id": {"a": 1}}]}, "input.0.id"),
        ({"input": [{"role": "user", "content": "?", "status": 5}]}, "input.0.status"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"background": True, "store": False}, "store"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"truncation": "auto"}, "truncation"),
        ({"extra_body": {"messages": []}}, "messages"),
        ({"extra_body": {"n": 2}}, "n"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_its_name(played: Played, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await played.client.responses.create(**{"model": "m", "input": "?", **fields})
    assert raised.value.param == param
    assert str(raised.value.body["message"]).startswith(param)  # type: ignore[index]  its documented form
    assert played.script.runs == []
    assert await played.files.list("responses") == []


async def test_without_files_nothing_runs_in_the_background(redis_url: str) -> None:
    async with a_gateway(redis_url) as api, client_of(api.url, max_retries=0) as client:
        for fields in ({"background": True}, {"store": True}):
            with pytest.raises(openai.InternalServerError) as raised:
                await client.responses.create(model="m", input="?", **fields)  # type: ignore[call-overload]
            assert (raised.value.status_code, raised.value.code) == (501, "files_not_configured")
        with pytest.raises(openai.InternalServerError):
            await client.responses.retrieve(f"resp_{'0' * 32}")


async def test_a_failure_has_its_status_for_who_waits_and_its_reason_for_who_asks_later(redis_url: str) -> None:
    async with AsyncExitStack() as stack:
        refused = Reply(status=422, json={"error": {"message": "no such temperature", "code": "bad"}})
        endpoint = await stack.enter_async_context(Endpoint(default=refused))
        backend = open_backend("chat", ChatOptions(url=endpoint.url, model="m"))
        stack.push_async_callback(backend.aclose)
        played = await stack.enter_async_context(play(redis_url, backend))
        for stream in (False, True):
            with pytest.raises(openai.UnprocessableEntityError):
                await played.client.responses.create(model="m", input="?", stream=stream)
        begun = await played.client.responses.create(model="m", input="?", background=True)
        response = await played.ended(begun.id)
        assert response.status == "failed"
        assert response.error is not None
        assert (response.error.code, response.error.type) == ("invalid_prompt", "http_422")
        assert "no such temperature" in response.error.message
        stream = await played.client.responses.create(model="m", input="?", background=True, stream=True)
        events = await events_of(stream)
        assert [event.type for event in events] == [
            *("response.created", "response.queued", "response.in_progress", "response.failed"),
        ]


async def test_what_the_filter_stopped_is_incomplete(played: Played) -> None:
    played.script.faults.append(PermanentError("content_filter", "it was stopped"))
    played.script.let()
    response = await played.client.responses.create(model="m", input="?")
    strict(Response, response)
    assert response.incomplete_details is not None
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "content_filter")


async def test_cancelling(played: Played) -> None:
    running = await played.client.responses.create(model="m", input="?", background=True)
    await eventually(lambda: played.script.runs)
    response = await played.client.responses.cancel(running.id)
    strict(Response, response)
    assert response.status == "cancelled"
    await eventually(lambda: played.script.cut_off)
    assert (await played.client.responses.cancel(running.id)).status == "cancelled"
    assert (await played.client.responses.retrieve(running.id)).status == "cancelled"
    played.script.let(2 * len(PIECES))
    other = await played.client.responses.create(model="m", input="?", background=True)
    await played.ended(other.id)
    assert (await played.client.responses.cancel(other.id)).status == "completed", "it has ended"
    waited = await played.client.responses.create(model="m", input="?!", store=True, max_output_tokens=5)
    with pytest.raises(openai.BadRequestError):
        await played.client.responses.cancel(waited.id)


async def test_one_that_nobody_has_begun_is_cancelled_at_once_and_its_stream_ends(redis_url: str) -> None:
    async with play(redis_url, worker=False) as played:
        stream = await played.client.responses.create(model="m", input="?", background=True, stream=True)
        events = asyncio.create_task(events_of(stream))
        (job,) = (await played.api.get("/v1/jobs")).json["data"]
        assert (await played.client.responses.cancel(job["id"])).status == "cancelled"
        async with asyncio.timeout(PATIENCE):
            last = (await events)[-1]
        assert (last.type, last.response.status) == ("response.failed", "cancelled")
        assert (await played.client.responses.retrieve(job["id"])).status == "cancelled"


async def test_deleting(played: Played) -> None:
    begun = await played.client.responses.create(model="m", input="?", background=True)
    await eventually(lambda: played.script.runs)
    await played.client.responses.delete(begun.id)
    await eventually(lambda: played.script.cut_off)
    for call in (played.client.responses.retrieve, played.client.responses.cancel, played.client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            await call(begun.id)
    played.script.let()
    done = await played.client.responses.create(model="m", input="?", background=True)
    await played.kept(done.id)
    await played.client.responses.delete(done.id)
    assert await played.files.list("responses") == []


async def test_one_is_swept_30_days_after_its_creation() -> None:
    files, now = open_files("memory:"), int(time.time())
    kept_in = ResponseFiles(files, "")
    await kept_in.keep("resp_a", Kept({}, now, "digest"))
    await kept_in.end("resp_a", Ending({"output": []}, Shown()))
    await FileObjects(files, clock=lambda: now + KEPT_SECONDS).sweep()
    assert len(await files.list("responses")) == 2
    await FileObjects(files, clock=lambda: now + KEPT_SECONDS + 7200).sweep()
    assert await files.list("responses") == await files.list("expires") == []


async def test_one_that_is_deleted_while_its_end_is_kept_leaves_nothing() -> None:
    files = open_files("memory:")
    kept_in = ResponseFiles(files, "")
    await kept_in.keep("resp_a", Kept({}, int(time.time()), "digest"))
    await kept_in.delete("resp_a")
    await kept_in.end("resp_a", Ending({"output": []}, Shown()))
    assert await files.list("responses") == []


async def test_the_text_comes_while_it_is_made_and_is_told_again_from_any_event_on(redis_url: str) -> None:
    """As the job runs, after its end, and when the queue has forgotten it: always the same events."""
    async with play(redis_url) as played, Redis.from_url(redis_url) as redis:
        stream = await played.client.responses.create(model="m", input="?", background=True, stream=True)
        live = asyncio.create_task(events_of(stream))
        await eventually(lambda: played.script.runs)
        (response_id,) = played.script.runs
        for number in range(1, 4):
            played.script.let(1)
            await until_shown(played, response_id, number)
        late = await played.client.responses.retrieve(response_id, stream=True, starting_after=5)
        rest = asyncio.create_task(events_of(late))
        played.script.let()
        events = await live
        assert text_of(events) == "".join(PIECES) == events[-1].response.output_text
        assert (await rest) == events[6:]
        await played.kept(response_id)
        for forget in (False, True):
            if forget:
                await redis.flushdb()
            for after in (None, *range(len(events))):
                again = {} if after is None else {"starting_after": after}
                told = await events_of(await played.client.responses.retrieve(response_id, stream=True, **again))
                assert told == events[0 if after is None else after + 1 :]
        assert (await played.client.responses.retrieve(response_id)).output_text == "".join(PIECES)
        final = await played.client.responses.stream(response_id=response_id, starting_after=6).__aenter__()
        assert (await final.get_final_response()).output_text == "".join(PIECES)


async def until_shown(played: Played, response_id: str, pieces: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(await played.api.queue.read_tokens({response_id: ""}, wait=0)) < pieces:  # noqa: ASYNC110  Redis
            await asyncio.sleep(0.02)


async def test_nothing_is_glued_together_from_two_runs(played: Played) -> None:
    played.script.faults.append(TransientError("unreachable", "gone", prior="endpoint"))
    stream = await played.client.responses.create(model="m", input="?", background=True, stream=True)
    live = asyncio.create_task(events_of(stream))
    played.script.let(4)
    await eventually(lambda: len(played.script.runs) == 2)
    played.script.let(2)
    events = await live
    failed = events[-1]
    assert (failed.type, failed.response.error.type) == ("response.failed", "restarted")
    (response_id,) = set(played.script.runs)
    told = await events_of(await played.client.responses.retrieve(response_id, stream=True, starting_after=5))
    assert [event.type for event in told] == ["response.failed"]
    fresh = asyncio.create_task(events_of(await played.client.responses.retrieve(response_id, stream=True)))
    played.script.let()
    whole = await fresh
    assert text_of(whole) == whole[-1].response.output_text == "".join(PIECES)
    await played.kept(response_id)
    middle = whole[6].sequence_number
    assert middle > 1000
    assert (
        await events_of(await played.client.responses.retrieve(response_id, stream=True, starting_after=middle))
        == whole[7:]
    )
    told = await events_of(await played.client.responses.retrieve(response_id, stream=True, starting_after=5))
    assert [event.type for event in told] == ["response.failed"]


async def test_a_foreground_stream_that_begins_anew_has_failed(played: Played) -> None:
    played.script.faults.append(TransientError("unreachable", "gone", prior="endpoint"))
    stream = await played.client.responses.create(model="m", input="?", stream=True)
    live = asyncio.create_task(events_of(stream))
    played.script.let(6)
    events = await live
    assert (events[-1].type, events[-1].response.error.type) == ("response.failed", "restarted")


async def test_the_queue_loses_a_job_and_who_asks_for_it_has_it_run_again(played: Played, redis_url: str) -> None:
    begun = await played.client.responses.create(model="m", input="?", background=True)
    async with Redis.from_url(redis_url) as redis:
        await redis.flushdb()
    assert (await played.client.responses.retrieve(begun.id)).status == "queued"
    played.script.let(3 * len(PIECES))
    assert (await played.ended(begun.id)).status == "completed"


async def test_the_same_key_is_the_same_response_also_when_the_queue_has_forgotten_it(
    played: Played, redis_url: str
) -> None:
    played.script.let(2 * len(PIECES))
    headers = {"Idempotency-Key": "k1"}
    first = await played.client.responses.create(model="m", input="?", background=True, extra_headers=headers)
    await played.kept(first.id)
    async with Redis.from_url(redis_url) as redis:
        await redis.flushdb()
    again = await played.client.responses.create(model="m", input="?", background=True, extra_headers=headers)
    assert (again.id, again.status) == (first.id, "completed")
    assert played.script.runs == [first.id]
    with pytest.raises(openai.UnprocessableEntityError):
        await played.client.responses.create(model="m", input="other", background=True, extra_headers=headers)


@pytest.mark.parametrize("background", [False, True])
async def test_a_broken_connection_makes_no_second_response(played: Played, *, background: bool) -> None:
    played.script.let(1)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(TcpProxy(int(played.api.url.rpartition(":")[2])))
        client = await stack.enter_async_context(client_of(f"http://127.0.0.1:{proxy.port}"))
        proxy.set(Trap(b"POST "))
        call = asyncio.create_task(client.responses.create(model="m", input="?", background=background))
        await eventually(lambda: played.script.runs)
        played.script.let()
        response = await call
    ended = await played.ended(response.id)
    assert ended.output_text == "".join(PIECES)
    assert played.script.runs == [response.id]


async def test_who_leaves_a_foreground_response_cancels_it(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenscale_worker.gateway.attending.PATIENCE_SECONDS", 0.2)
    for stream in (False, True):
        call = asyncio.create_task(played.client.responses.create(model="m", input="?", stream=stream))
        await eventually(lambda: len(played.script.runs) > len(played.script.cut_off))
        call.cancel()
        await eventually(lambda: len(played.script.runs) == len(played.script.cut_off))


async def test_who_leaves_a_background_stream_does_not(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenscale_worker.gateway.attending.PATIENCE_SECONDS", 0.1)
    stream = await played.client.responses.create(model="m", input="?", background=True, stream=True)
    await eventually(lambda: played.script.runs)
    await stream.close()
    await eventually(lambda: not played.api.gateway.attending._jobs)  # noqa: SLF001  nobody else can tell
    played.script.let()
    assert (await played.ended(played.script.runs[0])).status == "completed"


async def test_headers_are_sent_and_comments_follow_while_it_waits(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "HELD_SECONDS", 0.1)
    monkeypatch.setattr(waiting, "BLANK_SECONDS", 0.05)
    body = {"input": "?", "stream": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{played.api.url}/v1/responses", json=body) as answer,
    ):
        assert await answer.content.readexactly(28) == 2 * b": keep-alive\n\n"
        played.script.let()
        assert (await answer.read()).rstrip().endswith(b"}")


async def test_a_tenant_sees_its_own_responses_only(redis_url: str) -> None:
    async with play(redis_url) as played, AsyncExitStack() as stack:
        played.script.let(100)
        clients = []
        for tenant in ("a", "b"):
            key = await holder(played.api, tenant=tenant)
            options: Any = {"default_headers": key.headers}
            clients.append(await stack.enter_async_context(client_of(played.api.url, **options)))
        mine, theirs = clients
        begun = await mine.responses.create(model="m", input="?", background=True)
        for call in (theirs.responses.retrieve, theirs.responses.cancel, theirs.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await call(begun.id)
        async with asyncio.timeout(PATIENCE):
            while await played.files.read(f"responses/a/{begun.id}/response") is None:  # noqa: ASYNC110  a store
                await asyncio.sleep(0.02)
        assert (await mine.responses.retrieve(begun.id)).output_text == "".join(PIECES)


AT: Final = (0, 40, 700, 2500, 4500, 5200, 6000, 7500, 9000)


@pytest.mark.parametrize("keep", AT)
async def test_a_stream_is_cut_at_any_stage_and_goes_on_behind_the_last_event_at_another_gateway(
    redis_url: str, keep: int
) -> None:
    async with play(redis_url) as played, AsyncExitStack() as stack:
        second = await stack.enter_async_context(a_gateway(redis_url, files=played.files))
        proxy = await stack.enter_async_context(TcpProxy(int(played.api.url.rpartition(":")[2])))
        proxy.set(Trap(b"POST /v1/responses", keep=keep))
        client = await stack.enter_async_context(client_of(f"http://127.0.0.1:{proxy.port}"))
        seen = list[Any]()
        feeding = asyncio.create_task(feed(played))
        try:
            async for event in await client.responses.create(model="m", input="?", background=True, stream=True):
                seen.append(event)
        except CUT:
            pass
        proxy.target = int(second.url.rpartition(":")[2])
        await eventually(lambda: played.script.runs)
        (response_id,) = set(played.script.runs)
        async with asyncio.timeout(PATIENCE):
            if not (seen and seen[-1].type == "response.completed"):
                after = {"starting_after": seen[-1].sequence_number} if seen else {}
                seen += await events_of(await client.responses.retrieve(response_id, stream=True, **after))
        await feeding
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        assert text_of(seen) == seen[-1].response.output_text == "".join(PIECES)
        assert len(played.script.runs) == 1


async def feed(played: Played) -> None:
    """Let the job show one piece after the other."""
    await eventually(lambda: played.script.runs)
    for number in range(1, len(PIECES) + 1):
        played.script.let(1)
        if number < len(PIECES):
            await until_shown(played, played.script.runs[0], number)


async def test_a_gateway_is_killed_and_another_one_answers(tmp_path: Path, redis_url: str) -> None:
    async with a_front(tmp_path, redis_url, ttft=1, per_token=0.05) as front:
        files = tmp_path / "files"
        first, second = [await front.gateway(GREENSCALE_FILES=files) for _ in range(2)]
        async with a_client(first.port) as client:
            begun = await client.responses.create(model="m", input="Tell me something", background=True, user="me")
        first.process.kill()
        front.worker()
        async with a_client(second.port) as client, asyncio.timeout(PATIENCE):
            stream = await client.responses.retrieve(begun.id, stream=True)
            events = await events_of(stream)
            assert events[-1].response.output_text.startswith("This is a simulated answer")
            kept = files / "responses" / "_" / begun.id / "response"
            await eventually(kept.exists)
        assert await front.calls(["me"]) == {1}
