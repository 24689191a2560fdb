"""The failure of a job as the answer to an OpenAI client, with the status that the endpoint would have given."""

import re
from typing import Final

from greenscale_worker.client.ends import Record
from greenscale_worker.gateway.errors import Problem

# It has been tried as often as the queue's rules say: a client's retry would do it all again.
FOR_GOOD: Final = {"x-should-retry": "false"}
STATUS: Final = re.compile(r"http_(\d{3})")
OF_THE_CLIENT: Final = (400, 404, 408, 413, 415, 422, 429)
BAD_GATEWAY: Final = 502
BY_CODE: Final = {
    "too_large": 413,
    "deadline_passed": 408,
    "insufficient_quota": 429,
    "timeout": 504,
    **dict.fromkeys(
        ("unreachable", "connection_cut", "not_http", "not_a_completion", "response_too_large", "unfinished"),
        BAD_GATEWAY,
    ),
    **dict.fromkeys(
        ("bad_request", "bad_field", "bad_job_id", "not_json", "not_an_object", "no_model", "path_not_served"), 400
    ),
    **dict.fromkeys(("refusal", "content_filter", "no_content"), 400),
}


def failure_of(record: Record) -> Problem:
    """Return the problem that a job is which has failed, or was cancelled."""
    if record.get("state") == "cancelled":
        return Problem("job_cancelled", "the job was cancelled", headers=FOR_GOOD)
    code = record.get("error_code", "")
    message = record.get("error_message") or code or "the job has failed"
    return Problem("job_failed", message, code=code or None, status=_status_of(code), headers=FOR_GOOD)


def _status_of(code: str) -> int:
    """Return the endpoint's own status where that is about the request; what concerns its operator is 502."""
    found = STATUS.fullmatch(code)
    if found is None:
        return BY_CODE.get(code, 500)
    status = int(found[1])
    if status in OF_THE_CLIENT:
        return status
    return 504 if status == 504 else BAD_GATEWAY  # noqa: PLR2004  the status itself
