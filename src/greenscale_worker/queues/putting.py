"""Checks what is to be put into a queue, before anything is written, and reads what its record says of it."""

import math
from collections.abc import Sequence

import orjson

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import TENANT, Job, check_job_id, decode
from greenscale_worker.queues import CLASSES


def check_put(jobs: Sequence[tuple[str, bytes]], job_class: str, not_before: float | None) -> None:
    """Raise BadInputError for an invalid id, ValueError for an unknown class or a time that is not finite.

    TypeError for a time that is no number.
    """
    for job_id, _ in jobs:
        check_job_id(job_id)
    if job_class not in CLASSES:
        raise ValueError(f"job_class {job_class!r}: expected {', '.join(CLASSES)}")
    if not_before is not None and not isinstance(not_before, int | float):
        raise TypeError(f"not_before {not_before!r}: a datetime or seconds since the epoch are expected")
    if not_before is not None and not math.isfinite(not_before):
        raise ValueError(f"not_before {not_before}: seconds since the epoch are expected")


def check_tenant(name: str) -> None:
    """Raise BadInputError for a name that no job's tenant may have."""
    if TENANT.fullmatch(name) is None:
        raise BadInputError(
            "bad_field", f"tenant {name[:64]!r}: 1 to 32 of small letters, digits and -, not - first, are expected"
        )


def echoed(job: Job) -> dict[str, str]:
    """Return what a record says of a job in its producer's words: `created_at` and `metadata`, where it has them."""
    said = {} if job.created_at is None else {"created_at": job.created_at.isoformat()}
    return said | ({"metadata": orjson.dumps(job.metadata).decode()} if job.metadata else {})


def echoed_in(job_id: str, payload: bytes) -> dict[str, str]:
    """Return the same of a payload; nothing if no worker could read it. Most have neither, and are not parsed."""
    if b'"metadata"' not in payload and b'"created_at"' not in payload:
        return {}
    try:
        return echoed(decode(payload, max_bytes=len(payload), default_job_id=job_id))
    except BadInputError:
        return {}
