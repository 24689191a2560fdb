"""Makes jobs of requests, and puts them into the queue once."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import uuid4

from greenscale_worker.client.ends import Record
from greenscale_worker.client.payload import check
from greenscale_worker.gateway.core import LEFT, Call
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.route import LONGEST_KEY
from greenscale_worker.queues import Attendance, JobClass
from greenscale_worker.wire_json import write


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that is in the queue. `record` is what is known of it."""

    queue_id: str
    record: Record


async def submit(  # noqa: PLR0913  how it is put
    call: Call,
    fields: dict[str, Any],
    *,
    digest: str,
    once: bool = False,
    job_class: JobClass = "standard",
    not_before: float | None = None,
    attendance: Attendance | None = None,
    prefix: str = "idem-",
    first: Callable[[], Awaitable[None]] | None = None,
    waits: bool = False,
) -> Submitted:
    """Put a job into the queue, unless it is there already. `digest` is that of the request, by `digest_of`.

    A job with an Idempotency-Key, or `once`, is put once, as long as there is a record of it; any other with a `job_id`
    again if it has failed or was cancelled. The id that a key makes begins with `prefix`. `first`
    is awaited before a job that is good is put. `waits`: somebody waits for its end, and is told to come again if the
    tenant's budget would keep it waiting. Raises BadInputError for a job that no worker would run, Problem if the
    key or the id belongs to a request with another body.
    """
    key = call.request.headers.get("Idempotency-Key")
    if key is not None:
        fields = {**fields, "job_id": _id_of(call, key, prefix, fields.get("job_id"))}
    job_id = fields.get("job_id")
    queue_id = call.caller.queue_id(job_id or uuid4().hex)
    tenant, options = call.caller.tenant or "", call.gateway.options
    try:
        payload = write({**fields, "job_id": queue_id, **({"tenant": tenant} if tenant else {})})
    except ValueError as error:
        raise Problem("bad_field", str(error)) from None
    check(payload, max_bytes=options.max_bytes, chat=options.chat)
    if waits and tenant:
        left = await call.gateway.budgets.check(tenant, queue_id)
        call.request[LEFT] = left | call.request.get(LEFT, {})
    if first is not None:
        await first()
    (put,) = await call.queue.put(
        [(queue_id, payload)],
        fold=not once and key is None,
        once=once or key is not None,
        job_class=job_class,
        not_before=not_before,
        tenant=tenant,
        digest=digest,
        attendance=attendance,
        notify=fields.get("notify") is True,
    )
    if call.caller.account is not None:
        call.caller.account.submitted(call.queue, queue_id)
    record = {"state": "waiting"} if put and once else await call.queue.record(queue_id)
    if record.get("digest", digest) != digest:
        if key is not None:
            raise Problem("idempotency_key_reuse", "the Idempotency-Key was sent with another body before")
        raise Problem("job_id_reuse", "the job_id was sent with another body before", param="job_id")
    return Submitted(queue_id, record or {"state": "waiting"})


def id_of_key(call: Call, key: str, prefix: str) -> str:
    """Return the id of the job with an Idempotency-Key. Raises Problem."""
    if not 0 < len(key) <= LONGEST_KEY:
        raise Problem(
            "bad_field", f"Idempotency-Key: 1 to {LONGEST_KEY} characters are accepted", param="Idempotency-Key"
        )
    return prefix + sha256(f"{call.caller.tenant or ''}\0{key}".encode(errors="surrogateescape")).hexdigest()


def digest_of(call: Call, raw: bytes) -> str:
    """Return what is equal for equal requests."""
    return sha256(call.request.path.encode() + b"\0" + raw).hexdigest()


def _id_of(call: Call, key: str, prefix: str, job_id: object) -> str:
    """Return the id that a key makes. Raises Problem if the request names another."""
    made = id_of_key(call, key, prefix)
    if job_id not in (None, made):
        said = "job_id: not beside an Idempotency-Key, which makes the id; one of the two is expected"
        raise Problem("bad_field", said, param="job_id")
    return made
