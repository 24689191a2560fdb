"""`/v1/batches`: batches of lines, as OpenAI's clients create, list, retrieve and cancel them; and what is ours."""

import asyncio
import re
import time
from contextlib import aclosing, suppress
from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from greenscale_worker.batches.creating import Alike
from greenscale_worker.batches.objects import Request, State, new_id, shown
from greenscale_worker.batches.reading import InputGoneError
from greenscale_worker.batches.resubmitting import failed_lines
from greenscale_worker.batches.store import Kind
from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.files.objects import FileObject
from greenscale_worker.gateway.batch_schemas import BatchesQuery, BatchList, BatchObject, BatchRequest, seconds_of
from greenscale_worker.gateway.core import Call, object_of
from greenscale_worker.gateway.errors import Problem, of_validation
from greenscale_worker.gateway.files import stream
from greenscale_worker.gateway.job_objects import json
from greenscale_worker.gateway.route import BINARY, LONGEST_KEY, Route

ID: Final = re.compile(r"batch_[0-9a-f]{24}")
RETRY: Final = "x-stainless-retry-count"


async def create_batch(call: Call) -> web.Response:
    """POST /v1/batches."""
    raw = await call.body()
    try:
        asked = BatchRequest.model_validate(object_of(raw))
    except ValidationError as error:
        raise of_validation(error) from None
    batching, now = call.batching, time.time()
    alike = _alike(call, raw)
    if (earlier := await batching.earlier(alike, now)) is None:
        await _check_limits(call)
        await _input(call, asked.input_file_id)
    request = earlier or Request(
        id=new_id(now),
        tenant=call.caller.tenant,
        created_at=int(now),
        expires_in=seconds_of(asked.completion_window),
        endpoint=asked.endpoint,
        input_file_id=asked.input_file_id,
        completion_window=asked.completion_window,
        job_class=asked.job_class,
        metadata=asked.metadata,
        output_expires_in=None if asked.output_expires_after is None else asked.output_expires_after.seconds,
    )
    return json(await _told(call, await _created(call, request, alike, now)))


async def list_batches(call: Call) -> web.Response:
    """GET /v1/batches."""
    query: BatchesQuery = call.query
    if query.after is not None and not ID.fullmatch(query.after):
        raise Problem("not_found", f"after: {query.after[:200]!r} is no batch", param="after")
    found = await call.batching.batches.page(call.caller.tenant, after=query.after, limit=query.limit + 1)
    data = await asyncio.gather(*(_told(call, request) for request in found[: query.limit]))
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    more = len(found) > query.limit
    return json({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more})


async def show_batch(call: Call) -> web.Response:
    """GET /v1/batches/{id}."""
    request = await _request(call)
    state, cancelling_at = await call.batching.batches.look(request)
    if not state.is_final:
        with suppress(QueueUnavailableError):  # it can be shown all the same
            await _put_again(call, request)
    return json(shown(request, state, cancelling_at))


async def cancel_batch(call: Call) -> web.Response:
    """POST /v1/batches/{id}/cancel."""
    request = await _request(call)
    if not (await call.batching.batches.state(request)).is_final:
        await _put_again(call, request)
        await call.batching.batches.cancel(request, int(time.time()))
    return json(await _told(call, request))


async def read_output(call: Call) -> web.StreamResponse:
    """GET /v1/batches/{id}/output."""
    return await _read(call, "output")


async def read_errors(call: Call) -> web.StreamResponse:
    """GET /v1/batches/{id}/errors."""
    return await _read(call, "errors")


async def resubmit_batch(call: Call) -> web.Response:
    """POST /v1/batches/{id}/resubmit."""
    batching, now = call.batching, time.time()
    before = await _request(call)
    state = await batching.batches.state(before)
    if not state.is_final:
        raise Problem("bad_request", "the batch has not ended yet; resubmit what has failed then", param="id")
    if not state.errors:
        raise Problem("bad_request", "no line of this batch has failed, so there is nothing to resubmit", param="id")
    alike = _alike(call, before.id.encode())
    request = await batching.earlier(alike, now)
    if request is None:
        await _check_limits(call)
        file = await _failed(call, before, state)
        request = before.model_copy(update={"id": new_id(now), "created_at": int(now), "input_file_id": file.id})
    return json(await _told(call, await _created(call, request, alike, now)))


async def _put_again(call: Call, request: Request) -> None:
    """Let a batch go on whose job was lost. Raises Problem `not_found` if it was deleted since it was read."""
    if not await call.batching.put_again(request):
        raise _no_such_batch(request.id)


async def _check_limits(call: Call) -> None:
    """Raise Problem if the key may not submit a batch now, whose output will be stored."""
    if call.caller.account is not None:
        await call.gateway.accounts.check_submission(call.caller.account)
        await call.stored.check(call.caller.account)


async def _created(call: Call, request: Request, alike: Alike, now: float) -> Request:
    """Make a batch, unless that was done of this request before; return it."""
    made = await call.batching.create(request, alike, now)
    if call.caller.account is not None:
        call.caller.account.submitted(call.batching.jobs, made.queue_id)
    return made


async def _failed(call: Call, before: Request, state: State) -> FileObject:
    """Make a file of the lines that have failed. Raises Problem if the input is gone."""
    objects, tenant, most = call.file_objects, call.caller.tenant, call.gateway.options.max_bytes
    file = await _input(call, before.input_file_id)
    lines = failed_lines(call.batching.batches, objects, before, state, file, max_bytes=most)
    try:
        async with aclosing(call.stored.counted(tenant, call.caller.account, lines)) as counted:
            content = await objects.store(tenant, counted)
    except InputGoneError:
        raise _no_input(before.input_file_id) from None
    return await objects.create(tenant, content, filename=f"{before.id}_failed.jsonl", purpose="batch")


async def _read(call: Call, kind: Kind) -> web.StreamResponse:
    """Answer with the lines that are there so far."""
    state = await call.batching.batches.state(await _request(call))
    parts = state.outputs if kind == "output" else state.errors
    headers = {"Content-Type": BINARY, "Cache-Control": "no-store"}
    return await stream(call, web.StreamResponse(headers=headers), call.batching.batches.content(parts))


async def _told(call: Call, request: Request) -> dict[str, Any]:
    return shown(request, *await call.batching.batches.look(request))


async def _request(call: Call) -> Request:
    """Return the batch in the path. Raises Problem `not_found`."""
    found = await call.batching.batches.request(call.caller.tenant, call.id) if ID.fullmatch(call.id) else None
    if found is None:
        raise _no_such_batch(call.id)
    return found


def _no_such_batch(batch_id: str) -> Problem:
    return Problem("not_found", f"there is no batch {batch_id[:200]!r}: unknown, or deleted", param="id")


async def _input(call: Call, file_id: str) -> FileObject:
    """Return an input file of the caller. Raises Problem."""
    file = await call.file_objects.get(call.caller.tenant, file_id)
    if file is None:
        raise _no_input(file_id)
    if file.purpose != "batch":
        said = f"input_file_id: its purpose is {file.purpose}; a file with the purpose batch is expected"
        raise Problem("bad_field", said, param="input_file_id")
    return file


def _no_input(file_id: str) -> Problem:
    said = f"input_file_id: there is no file {file_id[:200]!r}: unknown, expired or deleted"
    return Problem("bad_field", said, param="input_file_id")


def _alike(call: Call, asked: bytes) -> Alike:
    """Return by what this request is known again. Raises Problem."""
    key = call.request.headers.get("Idempotency-Key")
    if key is not None and not 0 < len(key) <= LONGEST_KEY:
        said = f"Idempotency-Key: 1 to {LONGEST_KEY} characters are accepted"
        raise Problem("bad_field", said, param="Idempotency-Key")
    is_retry = call.request.headers.get(RETRY, "0") not in {"", "0"}
    return Alike(call.caller.tenant, call.caller.key_id, call.request.path.encode() + b"\0" + asked, key, is_retry)


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/batches",
        handler=create_batch,
        summary="Run the lines of an uploaded file as jobs; their answers come in a file.",
        scope="batch",
        body=BatchRequest,
        headers=("Idempotency-Key",),
        answers={200: BatchObject},
    ),
    Route(
        method="GET",
        path="/v1/batches",
        handler=list_batches,
        summary="List batches, the latest first.",
        scope="batch",
        query=BatchesQuery,
        answers={200: BatchList},
    ),
    Route(
        method="GET",
        path="/v1/batches/{id}",
        handler=show_batch,
        summary="Show how a batch stands.",
        scope="batch",
        answers={200: BatchObject},
    ),
    Route(
        method="POST",
        path="/v1/batches/{id}/cancel",
        handler=cancel_batch,
        summary="Cancel a batch; answers that are there stay. One that has ended stays as it is.",
        scope="batch",
        answers={200: BatchObject},
    ),
    Route(
        method="GET",
        path="/v1/batches/{id}/output",
        handler=read_output,
        summary="Read the answers that are there so far.",
        scope="batch",
        answers={200: BINARY},
    ),
    Route(
        method="GET",
        path="/v1/batches/{id}/errors",
        handler=read_errors,
        summary="Read which lines have failed so far, and why.",
        scope="batch",
        answers={200: BINARY},
    ),
    Route(
        method="POST",
        path="/v1/batches/{id}/resubmit",
        handler=resubmit_batch,
        summary="Make a batch of the lines of this one that have failed.",
        scope="batch",
        headers=("Idempotency-Key",),
        answers={200: BatchObject},
    ),
)
