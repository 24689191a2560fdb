"""What every call that waits for its job shares: who attends it, whole answers that are held back, and streams.

For a while no header is sent, so that an error has its status; then blank lines, or comments of a stream, hold the
connection, and an error can only be said in the body.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

from aiohttp import web

from greenscale_worker.client.ends import Ended, Record
from greenscale_worker.errors import GreenScaleError, QueueUnavailableError
from greenscale_worker.gateway import sse
from greenscale_worker.gateway.attending import Attended
from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.errors import Problem, problem_of
from greenscale_worker.gateway.following import Watched
from greenscale_worker.gateway.tokens import Feed
from greenscale_worker.queues import JobClass
from greenscale_worker.wire_json import write

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


def job_class_of(tier: object) -> JobClass:
    """Return the class of a job that was asked for with this `service_tier`. Raises Problem."""
    if not isinstance(tier, str | None) or tier not in TIERS:
        said = f"service_tier: {', '.join(str(each) for each in TIERS if each)} are expected"
        raise Problem("bad_field", said, param="service_tier")
    return TIERS[tier]


@dataclass(slots=True)
class Waiting:
    """A call that waits for its job."""

    call: Call
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

    def located(self, problem: Problem) -> Problem:
        """Return the problem with the job's id; one that is for now only says where to look."""
        problem.headers |= self.headers
        if problem.kind == "shutting_down":
            problem.headers["Location"] = f"/v1/jobs/{self.job_id}"
        return problem


async def attended(
    call: Call,
    raw: bytes,
    prefix: str,
    answer: Callable[[Attended | None], Awaitable[web.StreamResponse]],
    *,
    goes_on: bool = False,
) -> web.StreamResponse:
    """Answer for a new job, whose id begins with `prefix`, or for that of an equal request whose client has gone.

    Where the client leaves, a retry finds the job; without one it is cancelled, unless it `goes_on`. A request with an
    Idempotency-Key is not attended, as a retry finds its job by that at any time.
    """
    if "Idempotency-Key" in call.request.headers:
        return await answer(None)
    attending, job = call.gateway.attending, await _begun(call, raw, prefix)
    try:
        response = await answer(job)
    except BaseException as error:
        has_left = isinstance(error, asyncio.CancelledError | ConnectionError) or call.request.transport is None
        if has_left or isinstance(error, QueueUnavailableError):  # it may run: a retry is to find it
            attending.left(job, cancel=not goes_on)
        elif isinstance(error, Problem) and error.kind == "shutting_down":
            attending.left(job, cancel=False)
        else:
            attending.answered(job)
        raise
    if job.transport is not None:  # it was not given up on the way
        attending.answered(job)
    return response


async def _begun(call: Call, raw: bytes, prefix: str) -> Attended:
    words = (call.caller.key_id, call.caller.tenant or "", call.request.path, sha256(raw).hexdigest())
    alike = sha256("\0".join(words).encode()).hexdigest()[:32]
    transport, attending = call.request.transport, call.gateway.attending
    joined = None
    if call.request.headers.get(RETRY, "0") not in ("", "0"):
        joined = await attending.join(alike, transport)
    return joined or attending.begin(alike, call.caller.queue_id(f"{prefix}{uuid4().hex}"), transport)


async def whole(waiting: Waiting, answer: Callable[[Ended], Awaitable[bytes]]) -> web.StreamResponse:
    """Answer with what `answer` makes of the end, as JSON."""
    ended = await waiting.ended(HELD_SECONDS)
    if ended is not None:
        body = await answer(ended)
        return web.Response(body=body, content_type="application/json", headers=waiting.headers)
    response = web.StreamResponse(headers={**waiting.headers, "Content-Type": "application/json"})
    await response.prepare(waiting.call.request)
    try:
        while ended is None:
            await sse.put(response, b"\n")
            ended = await waiting.ended(BLANK_SECONDS)
        await sse.put(response, await answer(ended))
    except (Problem, GreenScaleError) as error:
        # Who would take it for an answer finds it cut off: OpenAI's clients ask again, and are told with a status.
        problem = problem_of(error)
        waiting.call.gateway.metrics.problem(problem.kind)
        await sse.put(response, write(problem.document()))
        waiting.call.hang_up()
    return response


class Streamed:
    """An answer that is sent as events, while its job runs. Headers are sent with the first of them.

    `exact`: it is to have all pieces one by one, also those that were shown just before the end. `goes_on`: the job
    is not cancelled where its text begins anew.
    """

    exact = False
    goes_on = False

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting
        self.response: web.StreamResponse | None = None

    async def begin(self) -> web.StreamResponse:
        """Send the headers, if that was not done yet."""
        if self.response is None:
            self.waiting.call.check_client()
            self.response = web.StreamResponse(headers={**sse.HEADERS, **self.waiting.headers})
            await self.response.prepare(self.waiting.call.request)
        return self.response

    async def write(self, data: bytes) -> None:
        """Write to the client. Raises ConnectionError."""
        await sse.put(await self.begin(), data)

    async def keep_alive(self) -> None:
        """Show that the connection is alive."""
        await sse.keep_alive(await self.begin())

    async def see(self, record: Record) -> bool:  # noqa: ARG002  what it may say matters to some streams only
        """Take in how the open job stands. Return whether nothing more is to be said."""
        return False

    async def piece(self, attempt: int, text: str) -> None:
        """Write a piece of the text. Raises Problem if it is of another run than the one before."""
        raise NotImplementedError

    async def finish(self, ended: Ended) -> None:
        """Write what the pieces do not have. Raises Problem."""
        raise NotImplementedError

    async def broken_off(self, problem: Problem) -> None:
        """Say what went wrong, after the headers were sent."""
        raise NotImplementedError


async def streamed(stream: Streamed, *, after: str = "") -> web.StreamResponse:
    """Answer with what the stream makes of the job's pieces behind position `after`, and of its end."""
    waiting, news = stream.waiting, asyncio.Event()
    gateway = waiting.call.gateway
    try:
        with (
            gateway.following.watching(waiting.queue_id, news) as watched,
            gateway.tokens.follow(waiting.queue_id, news, after=after) as feed,
        ):
            await _pass_on(stream, feed, watched, news)
    except (Problem, GreenScaleError) as error:
        if stream.response is None:
            raise
        problem = problem_of(error)
        gateway.metrics.problem(problem.kind)
        await stream.broken_off(problem)
        if problem.kind == "restarted" and waiting.attended is not None:  # nobody waits for the other run
            gateway.attending.left(waiting.attended, cancel=not stream.goes_on)
    return await stream.begin()


async def _pass_on(stream: Streamed, feed: Feed, watched: Watched, news: asyncio.Event) -> None:
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
        ended = watched.ended(patient=True)
        if ended is not None and stream.exact:
            await _catch_up(stream.waiting, feed)
        for piece in feed.take():
            await stream.piece(piece.attempt, piece.text)
            quiet_until = clock() + BLANK_SECONDS
        if ended is not None:
            await stream.finish(ended)
            return
        record = watched.latest()
        if record is not None and await stream.see(record):
            return


async def _catch_up(waiting: Waiting, feed: Feed) -> None:
    """Read all pieces, so that every reader is told the same ones."""
    while pieces := await waiting.call.queue.read_tokens({waiting.queue_id: feed.position}, wait=0):
        for piece in pieces:
            feed.put(piece)


def restarted() -> Problem:
    """Return what is said where a job runs again after a part of its text was sent."""
    said = "the job runs again after a part of its answer was sent; what was sent does not count"
    return Problem("restarted", said, headers={"Retry-After": "1"})


def model_of(body: Mapping[str, Any], default: str | None) -> str:
    """Return the model that a request names, else the default one."""
    model = body.get("model")
    return model if isinstance(model, str) else default or ""
