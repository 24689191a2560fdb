"""Makes jobs of requests, and puts them into the queue once."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

from greenscale_worker.client.ends import Record
from greenscale_worker.client.payload import check
from greenscale_worker.errors import BadInputError
from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.schemas import JobClass
from greenscale_worker.wire_json import write

LONGEST_KEY: Final = 255  # characters of an Idempotency-Key


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that is in the queue. `record` is what is known of it."""

    queue_id: str
    record: Record


async def submit(
    call: Call,
    fields: dict[str, Any],
    *,
    raw: bytes,
    job_class: JobClass = "standard",
    not_before: float | None = None,
) -> Submitted:
    """Put a job into the queue; with an Idempotency-Key only if it is not there yet. `raw` is the request's body.

    Raises BadInputError for a job that no worker would run, Problem for an Idempotency-Key of another body.
    """
    key = call.request.headers.get("Idempotency-Key")
    if key is not None:
        fields = {**fields, "job_id": _id_of_key(call, key, fields.get("job_id"))}
    job_id = fields.get("job_id")
    if job_id is not None and not isinstance(job_id, str):
        raise BadInputError("bad_job_id", "job_id: a string is expected")
    queue_id = call.caller.queue_id(job_id or uuid4().hex)
    payload = write({**fields, "job_id": queue_id})
    options = call.gateway.options
    check(payload, max_bytes=options.max_bytes, chat=options.chat)
    del raw, job_class, not_before  # until the queue takes them
    await call.queue.put([(queue_id, payload)], fold=True)
    record = await call.queue.record(queue_id)
    return Submitted(queue_id, record or {"state": "waiting"})


def _id_of_key(call: Call, key: str, job_id: object) -> str:
    """Return the id of the job with an Idempotency-Key. Raises Problem."""
    if not 0 < len(key) <= LONGEST_KEY:
        raise Problem(
            "bad_field", f"Idempotency-Key: 1 to {LONGEST_KEY} characters are accepted", param="Idempotency-Key"
        )
    if job_id is not None:
        said = "job_id: not beside an Idempotency-Key, which makes the id; one of the two is expected"
        raise Problem("bad_field", said, param="job_id")
    return "idem-" + sha256(f"{call.caller.tenant or ''}\0{key}".encode()).hexdigest()
