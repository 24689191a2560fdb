"""`/v1/jobs/{id}/events`: a job followed until its end."""

import asyncio
import re
from typing import Any, Final

from aiohttp import web

from greenscale_worker.client.ends import Ended, Record
from greenscale_worker.gateway import sse
from greenscale_worker.gateway.core import Call, no_such_job
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.job_objects import of_job
from greenscale_worker.queues import TokenPiece

EVENT_ID: Final = re.compile(r"([0-9]{1,9})\.([0-9]{1,16}-[0-9]{1,16})")


async def events(call: Call) -> web.StreamResponse:
    """GET /v1/jobs/{id}/events."""
    record = await call.queue.record(call.queue_id)
    told = of_job(call.queue_id, record, call.caller)
    if told is None:
        raise no_such_job(call.id)
    call.check_client()
    response = await sse.begin(call.request)
    if call.request.method == "HEAD":
        return response
    followed = Followed(response, told)
    try:
        await _follow(call, followed)
    except Problem:  # the gateway is being stopped: a client that connects again goes on with another one
        await sse.put(followed.response, b": shutting down\n\n")
    return followed.response


class Followed:
    """What was told of a job so far. An event's id is the attempt and the position of the last piece of text."""

    def __init__(self, response: web.StreamResponse, told: dict[str, Any]) -> None:
        self.response = response
        self._told = told
        self._attempt: int | None = None
        self._position = ""

    def go_on(self, event_id: str) -> None:
        """Go on behind an event that the client has received; an id that is none of ours means from the start."""
        if (found := EVENT_ID.fullmatch(event_id)) is not None:
            self._attempt, self._position = int(found[1]), found[2]

    @property
    def position(self) -> str:
        """The position of the last piece that was told, empty for none."""
        return self._position

    async def state(self, call: Call, record: Record) -> None:
        """Tell how the job stands, if that has changed."""
        told = of_job(call.queue_id, record, call.caller)
        if told is not None and told != self._told:
            self._told = told
            await sse.send(self.response, "state", told)

    async def first(self) -> None:
        """Tell how the job stands."""
        await sse.send(self.response, "state", self._told)

    async def piece(self, piece: TokenPiece) -> None:
        """Tell a piece of the text, and before it that the text begins anew, if it is of another run."""
        event_id = f"{piece.attempt}.{piece.position}"
        if self._attempt not in (None, piece.attempt):
            await sse.send(self.response, "restart", {"attempt": piece.attempt}, event_id=event_id)
        self._attempt, self._position = piece.attempt, piece.position
        if piece.text:
            await sse.send(self.response, "token", {"text": piece.text}, event_id=event_id)

    async def end(self) -> None:
        """Tell that the job has ended, and how."""
        await sse.send(self.response, "end", self._told)


async def _follow(call: Call, followed: Followed) -> None:
    """Tell states and pieces until the end. Raises Problem if the gateway is being stopped."""
    followed.go_on(call.request.headers.get("Last-Event-ID", ""))
    await followed.first()
    news, ended = asyncio.Event(), None
    with (
        call.gateway.following.watching(call.queue_id, news) as watched,
        call.gateway.tokens.follow(call.queue_id, news, after=followed.position) as feed,
    ):
        while ended is None:
            try:
                async with asyncio.timeout(sse.QUIET_SECONDS):
                    await news.wait()
            except TimeoutError:
                await sse.keep_alive(followed.response)
            news.clear()
            ended = watched.ended()
            if ended is not None:  # what was shown last may not have been read yet
                for piece in await call.queue.read_tokens({call.queue_id: feed.position}, wait=0):
                    feed.put(piece)
            for piece in feed.take():
                await followed.piece(piece)
            record = ended.record if isinstance(ended, Ended) else watched.latest()
            if record is not None:
                await followed.state(call, record)
    await followed.end()
