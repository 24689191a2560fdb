"""What can go wrong: every foreign exception is mapped to one of these where it enters."""

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from greenscale_worker.job import Usage

Prior = Literal["job", "endpoint", "unknown"]

LONGEST_RETRY_AFTER: Final = 600.0


class GreenScaleError(Exception):
    """The root of every error this package raises on purpose."""


class ConfigError(GreenScaleError):
    """A setting, a key or the set-up of a server is wrong; said in one line, exit code 2."""


class QueueUnavailableError(GreenScaleError):
    """The queue's server cannot be asked right now; nothing is lost, ask again.

    Raised by `submit` and its like, `job_ids` are those of the call, in order, and `job_id` is that of a single job:
    with it, the same call again hands nothing in twice. `undone`: nothing was done of what was asked, as no connection
    could be made, or the server has refused; otherwise the answer may have got lost.
    """

    job_ids: tuple[str, ...] = ()
    undone: bool = False

    @property
    def job_id(self) -> str | None:
        """The id, where there is exactly one."""
        return self.job_ids[0] if len(self.job_ids) == 1 else None


class QueueFullError(QueueUnavailableError):
    """The queue's server has no room left and takes no more jobs until there is some."""

    undone = True


class BadInputError(GreenScaleError):
    """A payload that no run can make right: it becomes a dead letter and costs no call.

    `code` is one word for machines, `job_id` the id where the payload has a usable one.
    """

    def __init__(self, code: str, message: str, *, job_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.job_id = job_id


class TransientError(GreenScaleError):
    """The call failed in a way that another attempt may mend.

    `prior` says at first sight whose fault it is: `job` (this request would fail again), `endpoint` (any request would
    fail now), or `unknown`. Who bears it is decided by what happens to other jobs (`greenscale_worker.blame`).
    `fingerprint` is equal for faults that are alike, such as `http_400 invalid_request_error`; by default it is `code`.
    `retry_after` is the time in seconds that the endpoint asked for, 600 at most, None where it said nothing usable.
    `overload`: the endpoint wants fewer calls at a time. `advice` says what an operator has to check; it is logged, so
    it quotes neither the endpoint nor the job. `counted` is the former spelling of `prior`: True for `unknown`, False
    for `endpoint`.
    """

    def __init__(  # noqa: PLR0913  what is known of a fault
        self,
        code: str,
        message: str,
        *,
        prior: Prior = "unknown",
        fingerprint: str | None = None,
        retry_after: float | None = None,
        overload: bool = False,
        advice: str | None = None,
        counted: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.code = str(code)
        self.prior: Prior = prior if counted is None else "unknown" if counted else "endpoint"
        self.fingerprint = fingerprint or self.code
        self.retry_after = (
            None if retry_after is None or not retry_after >= 0 else min(retry_after, LONGEST_RETRY_AFTER)
        )
        self.overload = overload
        self.advice = advice


class PermanentError(GreenScaleError):
    """The call failed in a way that no further attempt will mend; `code` is one word for machines.

    `usage` is what the call cost all the same, where the endpoint said so.
    """

    def __init__(self, code: str, message: str, *, usage: "Usage | None" = None) -> None:
        super().__init__(message)
        self.code = str(code)
        self.usage = usage


class JobFailed(GreenScaleError):  # noqa: N818  it says what has happened, as TimeoutError beside it does
    """A job that somebody waited for is a dead letter; `code` is one word for machines, the message says why."""

    def __init__(self, job_id: str, code: str, message: str) -> None:
        super().__init__(f"{job_id}: {code}: {message}")
        self.job_id = job_id
        self.code = code
        self.message = message


class JobCancelled(GreenScaleError):  # noqa: N818  likewise
    """A job that somebody waited for was cancelled by somebody who asked for it."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id} was cancelled")
        self.job_id = job_id


class JobGone(GreenScaleError):  # noqa: N818  likewise
    """Nothing is known any more of a job that somebody waited for: its record or its answer was kept no longer."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id}: its record and its answer are kept no longer (GREENSCALE_RESULT_TTL_SECONDS)")
        self.job_id = job_id
