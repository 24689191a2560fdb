"""Checks a job as the worker will, so that a mistake is raised at the producer."""

from datetime import UTC, datetime

from greenscale_worker.backends.request import request_of
from greenscale_worker.errors import BadInputError
from greenscale_worker.job import decode


def check(payload: bytes, *, max_bytes: int, chat: bool) -> str:
    """Return the job's id. `chat`: it is for an endpoint. Raises BadInputError for a job that no worker would run."""
    job = decode(payload, max_bytes=max_bytes)
    if job.deadline is not None and job.deadline <= datetime.now(UTC):
        told = f"deadline: {job.deadline.isoformat()} has passed; a time to come is expected"
        raise BadInputError("deadline_passed", told, job_id=job.job_id)
    if chat:
        try:
            request_of(job)
        except BadInputError as error:
            raise BadInputError(error.code, str(error), job_id=job.job_id) from None
    return job.job_id
