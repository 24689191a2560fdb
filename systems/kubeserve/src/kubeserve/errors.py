"""What a request may be refused with. The API answers `{"error": message, "faults": [...]}` with the status."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: the `field` (or line, or row) where, and what is accepted there."""

    field: str
    message: str


class KubeServeError(Exception):
    """A refusal that a person can act on. `status` is that of HTTP, `code` a word that programs may rely on."""

    status = 400
    code = "bad_request"

    def __init__(self, message: str, *, code: str | None = None, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.faults = tuple(faults)
        if code is not None:
            self.code = code


class UnauthenticatedError(KubeServeError):
    """Nobody is known by what was sent: no token, or one that is wrong, expired or revoked."""

    status = 401
    code = "unauthenticated"


class ForbiddenError(KubeServeError):
    """The caller is known and may not do this, as a key that is for another deployment."""

    status = 403
    code = "forbidden"


class NotFoundError(KubeServeError):
    """There is no such thing, or it belongs to another user: the two cannot be told apart."""

    status = 404
    code = "not_found"


class ConflictError(KubeServeError):
    """What is asked does not fit the present state, such as a name that is taken. It is not done later by itself."""

    status = 409
    code = "conflict"


class TooLargeError(KubeServeError):
    """More bytes than are accepted."""

    status = 413
    code = "too_large"


class UnprocessableError(KubeServeError):
    """The request is well formed, and the model cannot be asked that."""

    status = 422
    code = "unprocessable"


class LimitedError(KubeServeError):
    """Too often, or more than the quota. `retry_after` is in seconds, None where waiting does not help."""

    status = 429
    code = "limited"

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class UnavailableError(KubeServeError):
    """Something that is needed does not answer. Sent again later, the request may succeed."""

    status = 503
    code = "unavailable"
