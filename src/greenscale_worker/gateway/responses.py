"""`/v1/responses`: as OpenAI's clients call them, through the queue. Those in the background outlast it."""

from functools import partial
from time import time
from typing import Final

from aiohttp import web

from greenscale_worker.client.ends import Ended
from greenscale_worker.gateway import sse
from greenscale_worker.gateway.attending import Attended
from greenscale_worker.gateway.core import Call, object_of
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.failures import failure_of
from greenscale_worker.gateway.job_objects import json
from greenscale_worker.gateway.response import Response, files_of, found
from greenscale_worker.gateway.response_ends import shown_pieces
from greenscale_worker.gateway.response_events import Events, Shown, replayed
from greenscale_worker.gateway.response_files import Ending, Kept
from greenscale_worker.gateway.response_items import items_of, page_of
from greenscale_worker.gateway.response_objects import PREFIX, cancelled
from greenscale_worker.gateway.response_requests import Asked, ResponseRequest
from greenscale_worker.gateway.response_schemas import (
    InputItemsQuery,
    ItemList,
    ResponseDeleted,
    ResponseObject,
    ResponseQuery,
)
from greenscale_worker.gateway.response_stream import ResponseStream
from greenscale_worker.gateway.route import EVENTS, Route
from greenscale_worker.gateway.submitting import digest_of, id_of_key
from greenscale_worker.gateway.waiting import Waiting, attended, whole
from greenscale_worker.queues import OPEN
from greenscale_worker.wire_json import write


async def respond(call: Call) -> web.StreamResponse:
    """POST /v1/responses."""
    raw = await call.body()
    asked = Asked.of(object_of(raw), call.gateway.options.max_tokens_parameter)
    if asked.background or asked.store:
        files_of(call)
    return await attended(call, raw, PREFIX, partial(_respond, call, asked, raw), goes_on=asked.background)


async def _respond(call: Call, asked: Asked, raw: bytes, attended: Attended | None) -> web.StreamResponse:
    """Put the job, unless it is there, and answer as was asked for."""
    if attended is None:
        response_id = id_of_key(call, call.request.headers["Idempotency-Key"], PREFIX)
    else:
        response_id = call.caller.public_id(attended.attendance.job_id)
    kept_in = None if asked.store is False or call.gateway.files is None else files_of(call)
    kept = Kept(asked.request, int(time()), digest_of(call, raw))
    response = Response(call, response_id, asked, kept, kept_in)
    if attended is None and (ending := await response.known()) is not None:
        return await _told(response, ending)
    job = await response.put(attended)
    waiting = Waiting(call, attended, job.queue_id, response_id)
    try:
        if asked.stream:
            return await _streamed(ResponseStream(waiting, response, held=not asked.background))
        if not asked.background:
            return await whole(waiting, partial(_answer, response))
        told, _ = await response.look()
        return json(told, headers=waiting.headers)
    except Problem as problem:
        raise waiting.located(problem) from None


async def _answer(response: Response, ended: Ended) -> bytes:
    """Return the object of a response that somebody waits for. Raises Problem if its job has failed."""
    ending = await response.ended(ended.record, ended.answer)
    if ending is None or ending.response["status"] in ("failed", "cancelled"):
        raise failure_of(ended.record)
    return write(ending.response)


async def _streamed(stream: ResponseStream) -> web.StreamResponse:
    await stream.follow()
    return await stream.begin()


async def _told(response: Response, ending: Ending, *, after: int = -1) -> web.StreamResponse:
    """Answer with a response that has ended."""
    call = response.call
    if not (call.query.stream if isinstance(call.query, ResponseQuery) else response.asked.stream):
        return json(ending.response)
    begun = await sse.begin(call.request)
    if call.request.method != "HEAD" and (data := _replay(response, ending, after)):
        await sse.put(begun, data)
    return begun


def _replay(response: Response, ending: Ending, after: int) -> bytes:
    return replayed(Events(response.base, after=after), ending.response, ending.shown)


async def retrieve(call: Call) -> web.StreamResponse:
    """GET /v1/responses/{id}."""
    query: ResponseQuery = call.query
    response = await found(call)
    after = -1 if query.starting_after is None else query.starting_after
    told, ending = await response.look()
    if ending is not None:
        return await _told(response, ending, after=after)
    if not query.stream:
        return json(told)
    if call.request.method == "HEAD":
        return await sse.begin(call.request)
    call.check_client()
    waiting = Waiting(call, None, response.queue_id, response.id)
    return await _streamed(ResponseStream(waiting, response, after=after))


async def cancel_response(call: Call) -> web.StreamResponse:
    """POST /v1/responses/{id}/cancel."""
    response = await found(call)
    if not response.asked.background:
        said = "only a response that runs in the background can be cancelled; who waits for another one leaves"
        raise Problem("bad_request", said, param="id")
    told, ending = await response.look()
    if ending is None and await call.queue.cancel(response.queue_id) != "finished":
        pieces = await shown_pieces(call.queue, response.queue_id)
        ending = Ending(cancelled(response.base), Shown.of(pieces))
        await files_of(call).end(response.id, ending)
    told, _ = await response.look()
    return json(told)


async def delete_response(call: Call) -> web.StreamResponse:
    """DELETE /v1/responses/{id}."""
    response = await found(call)
    if (await call.queue.record(response.queue_id)).get("state") in OPEN:
        await call.queue.cancel(response.queue_id)
    await files_of(call).delete(response.id)
    await call.queue.forget([response.queue_id])
    return json({"id": response.id, "object": "response", "deleted": True})


async def list_input_items(call: Call) -> web.StreamResponse:
    """GET /v1/responses/{id}/input_items."""
    query: InputItemsQuery = call.query
    response = await found(call)
    items = items_of(response.id, response.kept.request["input"])
    ordered = items if query.order == "asc" else items[::-1]
    return json(page_of(ordered, after=query.after, limit=query.limit))


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/responses",
        handler=respond,
        summary="A response, whole or as a stream, through the queue; with `background`, it goes on by itself.",
        scope="submit",
        body=ResponseRequest,
        headers=("Idempotency-Key",),
        answers={200: ResponseObject},
        also=EVENTS,
    ),
    Route(
        method="GET",
        path="/v1/responses/{id}",
        handler=retrieve,
        summary="Show how a response stands, or tell its events; 30 days long.",
        scope="read",
        query=ResponseQuery,
        answers={200: ResponseObject},
        also=EVENTS,
    ),
    Route(
        method="POST",
        path="/v1/responses/{id}/cancel",
        handler=cancel_response,
        summary="Cancel a response that runs in the background; one that has ended stays as it is.",
        scope="cancel",
        answers={200: ResponseObject},
    ),
    Route(
        method="DELETE",
        path="/v1/responses/{id}",
        handler=delete_response,
        summary="Delete a response; one that runs is cancelled.",
        scope="cancel",
        answers={200: ResponseDeleted},
    ),
    Route(
        method="GET",
        path="/v1/responses/{id}/input_items",
        handler=list_input_items,
        summary="List what was asked for.",
        scope="read",
        query=InputItemsQuery,
        answers={200: ItemList},
    ),
)
