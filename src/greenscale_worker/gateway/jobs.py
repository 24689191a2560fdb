"""`/v1/jobs`: submit, look, wait, read, list and cancel."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from greenscale_worker.client.ends import Ended, Record
from greenscale_worker.gateway.core import Call, no_such_job, object_of
from greenscale_worker.gateway.errors import Problem, of_validation
from greenscale_worker.gateway.events import events
from greenscale_worker.gateway.job_objects import JSON, etag_of, json, of_info, of_job
from greenscale_worker.gateway.route import EVENTS, TEXT, Route
from greenscale_worker.gateway.schemas import Include, JobList, JobObject, JobRequest, JobsQuery
from greenscale_worker.gateway.submitting import digest_of, submit
from greenscale_worker.queues import ENDED, JobFilter, JobInfo
from greenscale_worker.wire_json import write

LONGEST_WAIT: Final = 600
WAIT: Final = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=$|[,;])", re.IGNORECASE)
OF_THE_GATEWAY: Final = ("class", "not_before")  # fields of a request that are no part of its payload
SOON: Final = {"Retry-After": "1"}


async def submit_job(call: Call) -> web.Response:
    """POST /v1/jobs."""
    raw = await call.body()
    fields = object_of(raw)
    try:
        asked = JobRequest.model_validate(fields)
    except ValidationError as error:
        raise of_validation(error) from None
    if "tenant" in fields:
        raise Problem("bad_field", "tenant: is not the client's to set, it is that of the key", param="tenant")
    payload = {name: value for name, value in fields.items() if name not in OF_THE_GATEWAY}
    job = await submit(
        call, payload, digest=digest_of(call, raw), job_class=asked.job_class, not_before=asked.not_before
    )
    return await _answer(call, job.queue_id, job.record, submitted=True)


async def show_job(call: Call) -> web.Response:
    """GET /v1/jobs/{id}."""
    record = await _record(call)
    return await _answer(call, call.queue_id, record, include=call.query.include == "result")


async def show_result(call: Call) -> web.Response:
    """GET /v1/jobs/{id}/result."""
    record, answer = await _waited(call, call.queue_id, await _record(call))
    match record.get("state"):
        case "succeeded":
            return await _result(call, answer)
        case "failed":
            code, message = record.get("error_code", ""), record.get("error_message", "")
            raise Problem("job_failed", message or code or "the job has failed", code=code or None)
        case "cancelled":
            raise Problem("job_cancelled", "the job was cancelled")
    return _open(call, record)


async def _result(call: Call, answer: bytes | None) -> web.Response:
    """Answer with the text; with the endpoint's whole answer, if that was kept and is asked for."""
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    if JSON in call.request.headers.get("Accept", "") and (body := await call.queue.body(call.queue_id)):
        return web.Response(body=body, content_type=JSON, headers=headers)
    if answer is None:
        answer = await call.queue.result(call.queue_id)
    if answer is None:
        raise Problem("not_found", "the answer has expired", param="id")
    return web.Response(text=answer.decode(errors="replace"), content_type=TEXT, charset="utf-8", headers=headers)


async def cancel_job(call: Call) -> web.Response:
    """DELETE /v1/jobs/{id}."""
    await _record(call)
    done = await call.queue.cancel(call.queue_id)
    if done == "unknown":  # it has expired meanwhile; the cancellation must not end a job that comes by that id
        await call.queue.uncancel(call.queue_id)
        raise no_such_job(call.id)
    record = await _record(call)
    return json(_told(call, record), status=202 if done == "will_be_cancelled" else 200)


async def list_jobs(call: Call) -> web.Response:
    """GET /v1/jobs."""
    query: JobsQuery = call.query
    found, more = list[dict[str, Any]](), False
    async with aclosing(_listed(call, query)) as jobs:
        async for job in jobs:
            if len(found) == query.limit:
                more = True
                break
            found.append(of_info(job, call.caller))
    ids = [job["id"] for job in found]
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    return json({"object": "list", "data": found, "first_id": first, "last_id": last, "has_more": more})


async def _listed(call: Call, query: JobsQuery) -> AsyncGenerator[JobInfo, None]:
    """Yield the caller's jobs behind `after`. Raises Problem `not_found` if that is not in the list."""
    states = frozenset(query.state or ())
    which = JobFilter(state=next(iter(states)) if len(states) == 1 else None, code=query.code)
    behind = query.after is None
    async for job in call.queue.jobs(which):
        if job.job_id is None or not call.caller.owns(job.job_id) or (states and job.state not in states):
            continue
        if behind:
            yield job
        behind = behind or call.caller.public_id(job.job_id) == query.after
    if not behind:
        raise Problem("not_found", f"after: {query.after!r} is not in this list (any more); begin anew", param="after")


async def _record(call: Call) -> Record:
    """Read the record of the job in the path. Raises Problem `not_found`."""
    record = await call.queue.record(call.queue_id)
    if not record:
        raise no_such_job(call.id)
    return record


async def _waited(call: Call, queue_id: str, record: Record) -> tuple[Record, bytes | None]:
    """Wait as long as the request prefers. Return the record and the answer, if the job has ended meanwhile."""
    seconds = wait_of(call.request)
    if seconds is None or record.get("state") in ENDED:
        return record, None
    call.check_client()
    try:
        ended = await call.gateway.following.ended(queue_id, seconds)
    except Problem as problem:
        problem.headers["Location"] = f"/v1/jobs/{call.caller.public_id(queue_id)}"
        raise
    if isinstance(ended, Ended):
        return ended.record, ended.answer
    return await call.queue.record(queue_id) or record, None


async def _answer(
    call: Call, queue_id: str, record: Record, *, submitted: bool = False, include: bool = False
) -> web.Response:
    """Answer with a job object, after the time that the request prefers to wait."""
    seconds = wait_of(call.request)
    record, answer = await _waited(call, queue_id, record)
    ended = record.get("state") in ENDED
    if (include or seconds is not None) and answer is None and record.get("state") == "succeeded":
        answer = await call.queue.result(queue_id)
    told = of_job(queue_id, record, call.caller, answer if include or seconds is not None else None)
    if told is None:
        raise no_such_job(call.caller.public_id(queue_id))
    body = write(told)
    headers = {"ETag": etag_of(body)} if not submitted else {"Location": told["links"]["self"]}
    if seconds is not None:
        headers["Preference-Applied"] = f"wait={seconds}"
    if not submitted and headers["ETag"] in call.request.headers.get("If-None-Match", "").split(", "):
        return web.Response(status=304, headers=headers)
    return json(
        told, status=202 if submitted and not ended else 200, headers={**headers, **(SOON if not ended else {})}
    )


def _open(call: Call, record: Record) -> web.Response:
    """Answer that a job has not ended."""
    return json(_told(call, record), status=202, headers=dict(SOON))


def _told(call: Call, record: Record) -> dict[str, Any]:
    told = of_job(call.queue_id, record, call.caller)
    if told is None:
        raise no_such_job(call.id)
    return told


def wait_of(request: web.Request) -> int | None:
    """Return for how many seconds the client prefers to wait, None if it does not."""
    found = WAIT.search(", ".join(request.headers.getall("Prefer", [])))
    return None if found is None else min(LONGEST_WAIT, int(found[1]))


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/jobs",
        handler=submit_job,
        summary="Submit a job; with `Prefer: wait=N`, wait for its end.",
        scope="submit",
        body=JobRequest,
        headers=("Prefer", "Idempotency-Key"),
        answers={202: JobObject, 200: JobObject},
    ),
    Route(
        method="GET",
        path="/v1/jobs",
        handler=list_jobs,
        summary="List jobs: those that run, wait, are delayed and held, then the last 1,000 that ended.",
        scope="read",
        query=JobsQuery,
        answers={200: JobList},
    ),
    Route(
        method="GET",
        path="/v1/jobs/{id}",
        handler=show_job,
        summary="Show how a job stands.",
        scope="read",
        query=Include,
        headers=("Prefer", "If-None-Match"),
        answers={200: JobObject},
    ),
    Route(
        method="GET",
        path="/v1/jobs/{id}/result",
        handler=show_result,
        summary="Read a job's answer: 202 while there is none yet, 424 if it failed.",
        scope="read",
        headers=("Prefer", "Accept"),
        answers={200: TEXT, 202: JobObject},
        also=JSON,
    ),
    Route(
        method="GET",
        path="/v1/jobs/{id}/events",
        handler=events,
        summary="Follow a job: events `state`, `token`, `restart` and `end` (server-sent events).",
        scope="read",
        headers=("Last-Event-ID",),
        answers={200: EVENTS},
    ),
    Route(
        method="DELETE",
        path="/v1/jobs/{id}",
        handler=cancel_job,
        summary="Cancel a job: 202 if that is done when it comes up; what has ended stays as it is.",
        scope="cancel",
        answers={200: JobObject, 202: JobObject},
    ),
)
