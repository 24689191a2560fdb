"""What is told of a job: the object made from its record."""

from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

from aiohttp import web

from greenscale_worker.client.ends import Record
from greenscale_worker.gateway.core import Caller
from greenscale_worker.queues import JobInfo
from greenscale_worker.queues.told import of_record
from greenscale_worker.wire_json import write

TIMES: Final = ("created_at", "submitted_at", "claimed_at", "due_at", "finished_at")
JSON: Final = "application/json"


def moment(seconds: float | None) -> str | None:
    """Return a time as RFC 3339, with milliseconds, in UTC; None for none, and for one that no calendar has."""
    try:
        told = None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return None
    return None if told is None else told.replace("+00:00", "Z")


def of_info(job: JobInfo, caller: Caller) -> dict[str, Any]:
    """Return a job object."""
    job_id = caller.public_id(job.job_id or "")
    self = f"/v1/jobs/{job_id}"
    counts = (job.prompt_tokens, job.completion_tokens, job.total_tokens)
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {
        "id": job_id,
        "object": "job",
        "state": job.state,
        "class": job.job_class,
        **({} if job.tenant is None else {"tenant": job.tenant}),
        **{name: moment(getattr(job, name)) for name in TIMES},
        "attempts": job.attempts,
        "crashes": job.crashes,
        "worker": job.worker,
        "model": job.model,
        "finish_reason": job.finish_reason,
        "usage": None if counts == (None, None, None) else dict(zip(names, counts, strict=True)),
        "metadata": job.metadata,
        "error": None if job.code is None else {"code": job.code, "message": job.message or ""},
        "links": {"self": self, "result": f"{self}/result", "events": f"{self}/events"},
    }


def of_job(queue_id: str, record: Record, caller: Caller, answer: bytes | None = None) -> dict[str, Any] | None:
    """Return a job object, with the answer if there is one; None if there is no record."""
    job = of_record(queue_id, record)
    if job is None:
        return None
    told = of_info(job, caller)
    if answer is not None:
        told["result"] = answer.decode(errors="replace")
    return told


def json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with JSON, and a line feed for terminals."""
    headers = {"Cache-Control": "no-store", **(headers or {}), "Content-Type": JSON}
    return web.Response(status=status, body=write(value) + b"\n", headers=headers)


def etag_of(body: bytes) -> str:
    """Return the ETag of a body."""
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'
