"""`/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`: as OpenAI's clients call them, through the queue.

A call is a job, and waits for it. For a while no header is sent, so that an error has its status; then blank lines, or
comments of a stream, hold the connection, and an error can only be said in the body.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

from aiohttp import web

from greenscale_worker.client.ends import Ended
from greenscale_worker.errors import GreenScaleError, QueueUnavailableError
from greenscale_worker.gateway import sse
from greenscale_worker.gateway.attending import Attended
from greenscale_worker.gateway.chunks import Chunks, made_of
from greenscale_worker.gateway.core import Call, Handler, object_of
from greenscale_worker.gateway.errors import Problem, problem_of
from greenscale_worker.gateway.failures import FOR_GOOD, failure_of
from greenscale_worker.gateway.following import Watched
from greenscale_worker.gateway.route import EVENTS, Route
from greenscale_worker.gateway.schemas import ChatRequest, CompletionRequest, EmbeddingRequest, Passed
from greenscale_worker.gateway.submitting import submit
from greenscale_worker.gateway.tokens import Feed
from greenscale_worker.job import CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH, Path
from greenscale_worker.queues import JobClass
from greenscale_worker.wire_json import read, write

HELD_SECONDS: Final = 25.0  # without headers; proxies hang up after 30 s or a minute
BLANK_SECONDS: Final = 5.0
RETRY: Final = "x-stainless-retry-count"
TIERS: Final[Mapping[object, JobClass]] = {
    None: "interactive",
    "auto": "interactive",
    "priority": "interactive",
    "default": "standard",
    "flex": "background",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, less what is for the gateway: `body` goes to the endpoint as it is."""

    path: Path
    body: dict[str, Any]
    raw: bytes
    job_class: JobClass
    stream: bool
    usage: bool

    @classmethod
    def of(cls, path: Path, raw: bytes) -> "Asked":
        """Read a request. Raises Problem."""
        body = object_of(raw)
        stream, options = body.pop("stream", None), body.pop("stream_options", None)
        if not isinstance(stream, bool | None) or (stream and path == EMBEDDINGS_PATH):
            raise Problem("bad_field", "stream: true or false is expected, for embeddings false", param="stream")
        if options is not None and not (stream and isinstance(options, dict)):
            said = "stream_options: an object is expected, and only beside a stream"
            raise Problem("bad_field", said, param="stream_options")
        tier = body.pop("service_tier", None)
        if not isinstance(tier, str | None) or tier not in TIERS:
            said = f"service_tier: {', '.join(str(each) for each in TIERS if each)} are expected"
            raise Problem("bad_field", said, param="service_tier")
        usage = (options or {}).get("include_usage") is True
        return cls(path, body, raw, TIERS[tier], bool(stream), usage)

    def fields(self) -> dict[str, Any]:
        """Return the job, a line of OpenAI's Batch. Log probabilities come whole, and their text with them."""
        tokens = {"tokens": True} if self.stream and not self.body.get("logprobs") else {}
        return {"url": self.path, "body": self.body, "keep": "body", **tokens}


@dataclass(slots=True)
class Waiting:
    """A call that waits for its job."""

    call: Call
    asked: Asked
    attended: Attended | None
    queue_id: str
    job_id: str
    headers: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.headers = {"x-request-id": self.job_id, "Cache-Control": "no-store"}

    async def ended(self, seconds: float) -> Ended | None:
        """Wait for the end. Return None after so many seconds. Raises Problem, ConnectionResetError."""
        self.call.check_client()
        return await self.call.gateway.following.ended(self.queue_id, seconds)

    async def answer(self, ended: Ended) -> bytes:
        """Return the whole answer. Raises Problem if there is none."""
        if ended.record.get("state") != "succeeded":
            raise failure_of(ended.record)
        body = await self.call.queue.body(self.queue_id)
        if body:
            return body
        if self.asked.path == EMBEDDINGS_PATH:
            raise Problem("no_answer", "the backend of the workers makes no embeddings", headers=FOR_GOOD)
        if ended.answer is None:
            raise Problem("no_answer", "the answer has expired", headers=FOR_GOOD)
        text = ended.answer.decode(errors="replace")
        return write(made_of(ended.record, text, self.asked.path, self.job_id))

    def located(self, problem: Problem) -> Problem:
        """Return the problem with the job's id; one that is for now only says where to look."""
        problem.headers |= self.headers
        if problem.kind == "shutting_down":
            problem.headers["Location"] = f"/v1/jobs/{self.job_id}"
        return problem


async def answer(path: Path, call: Call) -> web.StreamResponse:
    """POST: make a job of the request, or join that of an earlier one, and answer with its end."""
    asked = Asked.of(path, await call.body())
    if "Idempotency-Key" in call.request.headers:  # by which a retry finds the job, at any time
        return await _answer(call, asked, None)
    attending, attended = call.gateway.attending, await _attended(call, asked)
    try:
        response = await _answer(call, asked, attended)
    except BaseException as error:
        has_left = isinstance(error, asyncio.CancelledError | ConnectionError) or call.request.transport is None
        if has_left or isinstance(error, QueueUnavailableError):  # it may run: a retry is to find it
            attending.left(attended)
        elif isinstance(error, Problem) and error.kind == "shutting_down":
            attending.left(attended, cancel=False)
        else:
            attending.answered(attended)
        raise
    if attended.transport is not None:  # it was not given up on the way
        attending.answered(attended)
    return response


async def _attended(call: Call, asked: Asked) -> Attended:
    """Return a new job; if this is a retry, that of an equal request whose client has gone."""
    words = (call.caller.key_id, call.caller.tenant or "", asked.path, sha256(asked.raw).hexdigest())
    alike = sha256("\0".join(words).encode()).hexdigest()[:32]
    transport, attending = call.request.transport, call.gateway.attending
    joined = None
    if call.request.headers.get(RETRY, "0") not in ("", "0"):
        joined = await attending.join(alike, transport)
    return joined or attending.begin(alike, call.caller.queue_id(f"chat-{uuid4().hex}"), transport)


async def _answer(call: Call, asked: Asked, attended: Attended | None) -> web.StreamResponse:
    """Put the job, unless it is there, and answer with its end."""
    attendance = None if attended is None else attended.attendance
    named = {"job_id": call.caller.public_id(attendance.job_id)} if attendance else {}
    job = await submit(
        call,
        {**named, **asked.fields()},
        raw=asked.raw,
        once=True,
        job_class=asked.job_class,
        attendance=attendance,
    )
    waiting = Waiting(call, asked, attended, job.queue_id, call.caller.public_id(job.queue_id))
    try:
        return await (_stream(waiting) if asked.stream else _whole(waiting))
    except Problem as problem:
        raise waiting.located(problem) from None


async def _whole(waiting: Waiting) -> web.StreamResponse:
    """Answer with the whole answer."""
    ended = await waiting.ended(HELD_SECONDS)
    if ended is not None:
        body = await waiting.answer(ended)
        return web.Response(body=body, content_type="application/json", headers=waiting.headers)
    response = web.StreamResponse(headers={**waiting.headers, "Content-Type": "application/json"})
    await response.prepare(waiting.call.request)
    try:
        while ended is None:
            await sse.put(response, b"\n")
            ended = await waiting.ended(BLANK_SECONDS)
        await sse.put(response, await waiting.answer(ended))
    except (Problem, GreenScaleError) as error:
        # Who would take it for an answer finds it cut off: OpenAI's clients ask again, and are told with a status.
        problem = problem_of(error)
        waiting.call.gateway.metrics.problem(problem.kind)
        await sse.put(response, write(problem.document()))
        waiting.call.hang_up()
    return response


async def _stream(waiting: Waiting) -> web.StreamResponse:
    """Answer with chunks, as the text comes."""
    news, stream, gateway = asyncio.Event(), Stream(waiting), waiting.call.gateway
    try:
        with (
            gateway.following.watching(waiting.queue_id, news) as watched,
            gateway.tokens.follow(waiting.queue_id, news) as feed,
        ):
            await _pass_on(stream, feed, watched, news)
    except (Problem, GreenScaleError) as error:
        if stream.response is None:
            raise
        problem = problem_of(error)
        gateway.metrics.problem(problem.kind)
        await stream.write(stream.chunks.error(problem.openai()))
        if problem.kind == "restarted" and waiting.attended is not None:  # nobody waits for the other run
            gateway.attending.left(waiting.attended)
    return await stream.begin()


async def _pass_on(stream: "Stream", feed: Feed, watched: Watched, news: asyncio.Event) -> None:
    """Write pieces until the job has ended, then the rest. Raises Problem."""
    clock = asyncio.get_running_loop().time
    quiet_until = clock() + HELD_SECONDS
    while True:
        try:
            async with asyncio.timeout_at(quiet_until):
                await news.wait()
        except TimeoutError:
            await stream.keep_alive()
            quiet_until = clock() + BLANK_SECONDS
        news.clear()
        for piece in feed.take():
            await stream.piece(piece.attempt, piece.text)
            quiet_until = clock() + BLANK_SECONDS
        if (ended := watched.ended(patient=True)) is not None:
            await stream.finish(ended)
            return


class Stream:
    """What was sent of an answer so far."""

    def __init__(self, waiting: Waiting) -> None:
        self.response: web.StreamResponse | None = None
        asked, options = waiting.asked, waiting.call.gateway.options
        model = asked.body.get("model")
        model = model if isinstance(model, str) else options.model or ""
        self.chunks = Chunks(asked.path, waiting.job_id, model, asked.usage)
        self._waiting = waiting
        self._attempt: int | None = None
        self._sent: list[str] = []

    async def begin(self) -> web.StreamResponse:
        """Send the headers, if that was not done yet."""
        if self.response is None:
            self._waiting.call.check_client()
            self.response = web.StreamResponse(headers={**sse.HEADERS, **self._waiting.headers})
            await self.response.prepare(self._waiting.call.request)
        return self.response

    async def write(self, data: bytes) -> None:
        """Write to the client. Raises ConnectionError."""
        await sse.put(await self.begin(), data)

    async def keep_alive(self) -> None:
        """Show that the connection is alive."""
        await sse.keep_alive(await self.begin())

    async def piece(self, attempt: int, text: str) -> None:
        """Write a piece of the text. Raises Problem if it is of another run than the one before."""
        if self._sent and attempt != self._attempt:
            raise _restarted()
        self._attempt = attempt
        if text:
            await self.write(self._first() + self.chunks.text(text))
            self._sent.append(text)

    async def finish(self, ended: Ended) -> None:
        """Write what the pieces do not have. Raises Problem."""
        answer = read(await self._waiting.answer(ended))
        rest = self.chunks.rest(answer, "".join(self._sent)) if isinstance(answer, dict) else None
        if rest is None:
            raise _restarted()
        await self.write(self._first() + b"".join(rest))

    def _first(self) -> bytes:
        return b"" if self._sent else self.chunks.begin()


def _restarted() -> Problem:
    said = "the job runs again after a part of its answer was sent; what was sent does not count"
    return Problem("restarted", said, headers={"Retry-After": "1"})


def _handler(path: Path, name: str) -> Handler:
    handler: Any = partial(answer, path)
    handler.__name__ = name
    return handler  # type: ignore[no-any-return]  # a partial has the call of its function


ROUTES: Final = (
    Route(
        method="POST",
        path=CHAT_PATH,
        handler=_handler(CHAT_PATH, "chat"),
        summary="A chat completion, whole or as a stream, through the queue.",
        scope="submit",
        body=ChatRequest,
        headers=("Idempotency-Key",),
        answers={200: Passed},
        also=EVENTS,
    ),
    Route(
        method="POST",
        path=COMPLETIONS_PATH,
        handler=_handler(COMPLETIONS_PATH, "complete"),
        summary="A completion, whole or as a stream, through the queue.",
        scope="submit",
        body=CompletionRequest,
        headers=("Idempotency-Key",),
        answers={200: Passed},
        also=EVENTS,
    ),
    Route(
        method="POST",
        path=EMBEDDINGS_PATH,
        handler=_handler(EMBEDDINGS_PATH, "embed"),
        summary="Embeddings, through the queue.",
        scope="submit",
        body=EmbeddingRequest,
        headers=("Idempotency-Key",),
        answers={200: Passed},
    ),
)
