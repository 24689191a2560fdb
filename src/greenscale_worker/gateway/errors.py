"""What goes wrong, as HTTP: problem details (RFC 9457) with OpenAI's `error` beside them."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from aiohttp import web
from pydantic import ValidationError

from greenscale_worker.errors import (
    BadInputError,
    ConfigError,
    FilesUnavailableError,
    QueueFullError,
    QueueUnavailableError,
)
from greenscale_worker.wire_json import write

MEDIA_TYPE: Final = "application/problem+json"
AGAIN_SECONDS: Final = 2  # while the queue's server is away
FULL_SECONDS: Final = 10


class Kind(NamedTuple):
    """A kind of problem: its status, its title, and what OpenAI calls its type."""

    status: int
    title: str
    type: str = "invalid_request_error"


PROBLEMS: Final[Mapping[str, Kind]] = {
    "bad_request": Kind(400, "The request is not one that can be answered"),
    "not_json": Kind(400, "The body is not JSON"),
    "not_an_object": Kind(400, "The body is not a JSON object"),
    "bad_field": Kind(400, "A field or a parameter is not accepted"),
    "bad_job_id": Kind(400, "No job can have this id"),
    "deadline_passed": Kind(400, "The deadline has passed already"),
    "invalid_api_key": Kind(401, "The key is missing, or not one that is accepted", "authentication_error"),
    "missing_scope": Kind(403, "The key is not for this", "permission_error"),
    "foreign_host": Kind(403, "A gateway without keys answers this machine only"),
    "not_found": Kind(404, "There is no such thing"),
    "method_not_allowed": Kind(405, "The path takes other methods"),
    "request_timeout": Kind(408, "The body did not arrive in time"),
    "payload_lost": Kind(410, "There is nothing left to run"),
    "compressed": Kind(415, "The body is compressed"),
    "too_large": Kind(413, "The body is larger than is accepted"),
    "range_not_satisfiable": Kind(416, "The file has no such bytes"),
    "idempotency_key_reuse": Kind(422, "The Idempotency-Key belongs to another request"),
    "job_id_reuse": Kind(422, "The job_id belongs to another request"),
    "job_failed": Kind(424, "The job has failed"),
    "restarted": Kind(503, "The answer begins anew", "server_error"),
    "receiver_unreachable": Kind(424, "The receiver of webhooks cannot be reached"),
    "job_cancelled": Kind(424, "The job was cancelled"),
    "rate_limit_exceeded": Kind(429, "A limit of the key is reached", "rate_limit_error"),
    "insufficient_quota": Kind(429, "The files take as much room as the key allows", "insufficient_quota"),
    "no_answer": Kind(502, "The backend gave no such answer", "server_error"),
    "internal_error": Kind(500, "The gateway has a fault", "server_error"),
    "queue_unavailable": Kind(503, "The queue does not answer", "server_error"),
    "queue_full": Kind(503, "The queue takes no more jobs", "server_error"),
    "files_unavailable": Kind(503, "The store of files does not answer", "server_error"),
    "files_full": Kind(507, "The store of files is full", "server_error"),
    "files_not_configured": Kind(501, "The gateway keeps no files", "server_error"),
    "shutting_down": Kind(503, "The gateway is being stopped", "server_error"),
}


class Problem(Exception):  # noqa: N818  RFC 9457 calls it so
    """An answer that says what went wrong. `kind` is a key of PROBLEMS; `code` says more, such as why a job failed."""

    def __init__(  # noqa: PLR0913  what is known of a problem
        self,
        kind: str,
        detail: str,
        *,
        code: str | None = None,
        param: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status or PROBLEMS[kind].status
        self.kind = kind
        self.detail = _writable(detail)
        self.code = code or kind
        self.param = None if param is None else _writable(param)
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """Return the body, as an object."""
        kind = PROBLEMS[self.kind]
        return {
            "type": f"/docs#{self.kind}",
            "title": kind.title,
            "status": self.status,
            "detail": self.detail,
            "error": self.openai(),
        }

    def openai(self) -> dict[str, Any]:
        """Return what OpenAI's clients read."""
        kind = PROBLEMS[self.kind].type if self.status == PROBLEMS[self.kind].status else _type_of(self.status)
        return {"message": self.detail, "type": kind, "param": self.param, "code": self.code}

    def response(self) -> web.Response:
        """Return the answer."""
        headers = {"Cache-Control": "no-store", **self.headers, "Content-Type": MEDIA_TYPE}
        return web.Response(status=self.status, body=write(self.document()), headers=headers)


def of_error(error: Exception) -> Problem | None:  # noqa: PLR0911  one for each kind of error
    """Return the problem that an error of this package is, None for any other error."""
    match error:
        case Problem():
            return error
        case QueueFullError():
            return Problem("queue_full", "the queue is full; try again later", headers=_after(FULL_SECONDS))
        case QueueUnavailableError():
            said = "the queue does not answer; nothing that it has accepted is lost, try again"
            return Problem("queue_unavailable", said, headers=_after(AGAIN_SECONDS))
        case ConfigError():  # an access rule, a password that has changed: our message is for operators
            said = "the queue refuses the gateway; its operator has to look"
            return Problem("queue_unavailable", said, headers=_after(AGAIN_SECONDS))
        case FilesUnavailableError():
            return _of_files(error)
        case BadInputError():
            kind = error.code if error.code in PROBLEMS else "bad_request"
            return Problem(kind, str(error), param=_field(str(error)))
    return None


def _of_files(error: FilesUnavailableError) -> Problem:
    if error.full:
        return Problem("files_full", "the store of files is full; try again later", headers=_after(FULL_SECONDS))
    said = "the store of files does not answer; nothing that it has is lost, try again"
    return Problem("files_unavailable", said, headers=_after(AGAIN_SECONDS))


def problem_of(error: Exception) -> Problem:
    """Return the problem that an error is; one that nobody expected is a fault of the gateway."""
    problem = of_error(error) or Problem("internal_error", "the gateway has a fault; its log says where")
    problem.__traceback__ = None  # its frames hold the request, and those of the caller the problem: a cycle
    return problem


def of_validation(error: ValidationError) -> Problem:
    """Return the problem of the first field that is wrong."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    said = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        said = "there is no such one"
    return Problem("bad_field", f"{where}: {said}" if where else said, param=where or None)


def _type_of(status: int) -> str:
    """Return what OpenAI calls the type of an error with this status."""
    if status == web.HTTPTooManyRequests.status_code:
        return "rate_limit_error"
    return "invalid_request_error" if status < web.HTTPInternalServerError.status_code else "server_error"


def _field(message: str) -> str | None:
    """Return the field that a message of ours begins with."""
    name, colon, _ = message.partition(": ")
    return name if colon and name.replace(".", "").replace("_", "").isalnum() else None


def _writable(text: str) -> str:
    """Return a text, which may quote a request, without half surrogate pairs: aiohttp makes some of broken UTF-8."""
    return text.encode(errors="replace").decode()


def _after(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}
