"""One table: what a status that is not a success says about the job, the endpoint and the way to it."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import orjson

from greenscale_worker.backends.retry_after import retry_after
from greenscale_worker.errors import PermanentError, TransientError

Fault = Literal["endpoint", "shut", "job", "final"]
"""endpoint: no job's fault, not counted. shut: the same, and pointless to go on. job: counted. final: failed."""

FAULTS: Final[Mapping[int, Fault]] = {
    401: "shut",
    402: "shut",  # no credit: what `insufficient_quota` says elsewhere
    403: "shut",
    405: "endpoint",  # the URL is not one that takes a POST: no job can be made right
    407: "shut",
    408: "job",
    409: "job",
    425: "job",
    429: "endpoint",
    502: "endpoint",
    503: "endpoint",
    504: "endpoint",
    529: "endpoint",
}
FAULTS_BY_CLASS: Final[Mapping[int, Fault]] = {3: "endpoint", 4: "final"}  # all others: job

QUOTA: Final = "insufficient_quota"
ADVICE: Final[Mapping[str, str]] = {
    "http_401": "the endpoint refuses the key; check that it is right, not expired, and belongs to this URL",
    "http_402": "the account has no credit; check its plan and billing",
    "http_403": "the endpoint forbids the call; check what the key may use: model, project, region, address",
    "http_404": "the endpoint knows no such model or path; check the model and the URL that are set",
    "http_405": "the URL takes no POST; check that it is the full one, ending in /chat/completions",
    "http_407": "the proxy refuses its credentials; check the user and the password in its URL",
    QUOTA: "the account's quota is used up; check its plan and billing",
}
MOVED: Final = (
    "the endpoint redirects elsewhere, which is not followed so that the key stays with its host; "
    "check the URL, the final address is expected"
)
SHORT: Final = 200
SECRET_LENGTH: Final = 8


def error_of(
    status: int, headers: Mapping[str, str], body: bytes, *, own_model: bool, secrets: Sequence[str] = ()
) -> TransientError | PermanentError:
    """Say what an answer with such a status means.

    `own_model`: the job itself named the model. The message is meant for the job's record: it may quote up to
    200 characters of what the endpoint says went wrong, less the `secrets`; that of a `shut` error quotes
    nothing and may be logged. `x-should-retry` overrules the table, except where the gate shuts.
    """
    said, kinds = _said(body, secrets)
    code = QUOTA if status == 429 and QUOTA in kinds else f"http_{status}"  # noqa: PLR2004  the status itself
    fault = "shut" if code == QUOTA else FAULTS.get(status) or FAULTS_BY_CLASS.get(status // 100, "job")
    if status == 404 and not own_model:  # noqa: PLR2004  the status itself
        fault = "endpoint"
    should_retry = headers.get("x-should-retry", "").lower()
    if should_retry == "false" and fault != "shut":
        fault = "final"
    elif should_retry == "true" and fault == "final":
        fault = "job"
    message = _message(status, code, fault, said)
    if fault == "final":
        return PermanentError(code, message)
    return TransientError(
        code,
        message,
        prior="unknown" if fault == "job" else "endpoint",
        retry_after=retry_after(headers),
        advice=message if fault == "shut" else None,
    )


def _message(status: int, code: str, fault: Fault, said: str) -> str:
    advice = MOVED if status // 100 == 3 else ADVICE.get(code) if fault in ("shut", "endpoint") else None  # noqa: PLR2004
    parts = [f"HTTP {status}", advice, said if fault != "shut" else None]
    return ": ".join(part for part in parts if part)


def _said(body: bytes, secrets: Sequence[str]) -> tuple[str, tuple[object, object]]:
    """Take the message, and code and type, out of `{"error": {…}}` or of what comes near to it."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", (None, None)
    error = answer.get("error", answer) if isinstance(answer, dict) else None
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        return "", (None, None)
    message = error.get("message")
    said = " ".join(message.split()) if isinstance(message, str) else ""
    for secret in secrets:
        if len(secret) >= SECRET_LENGTH:
            said = said.replace(secret, "[hidden]")
    return said[:SHORT], (error.get("code"), error.get("type"))
