"""`/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`: as OpenAI's clients call them, through the queue.

A call is a job, and waits for it. For a while no header is sent, so that an error has its status; then blank lines, or
comments of a stream, hold the connection, and an error can only be said in the body.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from aiohttp import web

from greenscale_worker.client.ends import Ended
from greenscale_worker.gateway.attending import Attended
from greenscale_worker.gateway.chunks import Chunks, made_of
from greenscale_worker.gateway.core import Call, Handler, object_of
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.failures import FOR_GOOD, failure_of
from greenscale_worker.gateway.route import EVENTS, Route
from greenscale_worker.gateway.schemas import ChatRequest, CompletionRequest, EmbeddingRequest, Passed
from greenscale_worker.gateway.submitting import digest_of, submit
from greenscale_worker.gateway.waiting import (
    Streamed,
    Waiting,
    attended,
    job_class_of,
    model_of,
    restarted,
    streamed,
    whole,
)
from greenscale_worker.job import CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH, Path
from greenscale_worker.queues import JobClass
from greenscale_worker.wire_json import read, write


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
        job_class = job_class_of(body.pop("service_tier", None))
        usage = (options or {}).get("include_usage") is True
        return cls(path, body, raw, job_class, bool(stream), usage)

    def fields(self) -> dict[str, Any]:
        """Return the job, a line of OpenAI's Batch. Log probabilities come whole, and their text with them."""
        tokens = {"tokens": True} if self.stream and not self.body.get("logprobs") else {}
        return {"url": self.path, "body": self.body, "keep": "body", **tokens}


async def answer(path: Path, call: Call) -> web.StreamResponse:
    """POST: make a job of the request, or join that of an earlier one, and answer with its end."""
    asked = Asked.of(path, await call.body())
    return await attended(call, asked.raw, "chat-", partial(_answer, call, asked))


async def _answer(call: Call, asked: Asked, attended: Attended | None) -> web.StreamResponse:
    """Put the job, unless it is there, and answer with its end."""
    attendance = None if attended is None else attended.attendance
    named = {"job_id": call.caller.public_id(attendance.job_id)} if attendance else {}
    job = await submit(
        call,
        {**named, **asked.fields()},
        digest=digest_of(call, asked.raw),
        once=True,
        job_class=asked.job_class,
        attendance=attendance,
        waits=True,
    )
    waiting = Waiting(call, attended, job.queue_id, call.caller.public_id(job.queue_id))
    try:
        if asked.stream:
            return await streamed(Stream(waiting, asked))
        return await whole(waiting, partial(_whole_answer, waiting, asked))
    except Problem as problem:
        raise waiting.located(problem) from None


async def _whole_answer(waiting: Waiting, asked: Asked, ended: Ended) -> bytes:
    """Return the whole answer. Raises Problem if there is none."""
    if ended.record.get("state") != "succeeded":
        raise failure_of(ended.record)
    body = await waiting.call.queue.body(waiting.queue_id)
    if body:
        return body
    if asked.path == EMBEDDINGS_PATH:
        raise Problem("no_answer", "the backend of the workers makes no embeddings", headers=FOR_GOOD)
    if ended.answer is None:
        raise Problem("no_answer", "the answer has expired", headers=FOR_GOOD)
    text = ended.answer.decode(errors="replace")
    return write(made_of(ended.record, text, asked.path, waiting.job_id))


class Stream(Streamed):
    """What was sent of an answer so far."""

    def __init__(self, waiting: Waiting, asked: Asked) -> None:
        super().__init__(waiting)
        model = model_of(asked.body, waiting.call.gateway.options.model)
        self._asked = asked
        self._chunks = Chunks(asked.path, waiting.job_id, model, asked.usage)
        self._attempt: int | None = None
        self._sent: list[str] = []

    async def piece(self, attempt: int, text: str) -> None:
        """Write a piece of the text. Raises Problem if it is of another run than the one before."""
        if self._sent and attempt != self._attempt:
            raise restarted()
        self._attempt = attempt
        if text:
            await self.write(self._first() + self._chunks.text(text))
            self._sent.append(text)

    async def finish(self, ended: Ended) -> None:
        """Write what the pieces do not have. Raises Problem."""
        answer = read(await _whole_answer(self.waiting, self._asked, ended))
        rest = self._chunks.rest(answer, "".join(self._sent)) if isinstance(answer, dict) else None
        if rest is None:
            raise restarted()
        await self.write(self._first() + b"".join(rest))

    async def broken_off(self, problem: Problem) -> None:
        """Make OpenAI's clients raise an APIError."""
        await self.write(self._chunks.error(problem.openai()))

    def _first(self) -> bytes:
        return b"" if self._sent else self._chunks.begin()


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
