"""What can go wrong: exceptions of libraries are mapped to these where they enter."""

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from greenscale_worker.job import Rates, Usage

Prior = Literal["job", "endpoint", "unknown"]

LONGEST_RETRY_AFTER: Final = 600.0
LONGEST_SNOOZE: Final = 86_400.0  # well below the lifetime of an open job's record


class GreenScaleError(Exception):
    """The base class of every error this package raises on purpose."""


class ConfigError(GreenScaleError):
    """A setting, a key or the set-up of a server is wrong. The message is one line, the exit code 2."""


class QueueUnavailableError(GreenScaleError):
    """The queue's server does not answer right now. Nothing is lost: retry.

    From `submit`, `submit_many` and `ask`, it has the `job_ids` of the call, in order, and `job_id` for a single job:
    the same call with that id submits nothing twice. `undone`: nothing was done, as no connection could be made or the
    server refused; otherwise the reply may have been lost.
    """

    job_ids: tuple[str, ...] = ()
    undone: bool = False

    @property
    def job_id(self) -> str | None:
        """The id if there is exactly one."""
        return self.job_ids[0] if len(self.job_ids) == 1 else None


class QueueFullError(QueueUnavailableError):
    """The queue's server has no room left and refuses jobs until there is some."""

    undone = True


class FilesUnavailableError(GreenScaleError):
    """The store of files does not answer right now, refuses our credentials, or is `full`. Nothing is lost: retry."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class BadInputError(GreenScaleError):
    """The payload is wrong, and no retry can help: it becomes a dead letter and costs no call.

    `code` is one word for machines, `job_id` the id where the payload has a usable one.
    """

    def __init__(self, code: str, message: str, *, job_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.job_id = job_id


class TransientError(GreenScaleError):
    """The call failed, and another attempt may succeed.

    `prior` is a first guess at whose fault it is: `job` (this request would fail again), `endpoint` (any request would
    fail now), or `unknown`. How other jobs fare decides (`greenscale_worker.blame`).
    `fingerprint` is equal for faults that are alike, such as `http_400 invalid_request_error`; by default it is `code`.
    `retry_after` is the wait in seconds that the endpoint asked for, 600 at most, None where it said nothing usable.
    `overload`: the endpoint wants fewer calls at a time. `advice` says what an operator has to check; it is logged, so
    it must quote neither the endpoint nor the job. `counted` is the former spelling of `prior`: True for `unknown`,
    False for `endpoint`. `full`: the endpoint works, and only has no room for this call. `rates` is what it said of the
    rate it allows.
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
        full: bool = False,
        rates: "Rates | None" = None,
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
        self.full = full
        self.rates = rates


class PermanentError(GreenScaleError):
    """The call failed, and no further attempt can succeed; `code` is one word for machines.

    `usage` is what the call cost all the same, where the endpoint said so.
    """

    def __init__(self, code: str, message: str, *, usage: "Usage | None" = None) -> None:
        super().__init__(message)
        self.code = str(code)
        self.usage = usage


class Snooze(GreenScaleError):  # noqa: N818  a handler's wish, not a fault
    """Raised by a handler: the job goes on later. It goes back to the queue and runs again, `delay` seconds from now.

    No try is used up, and it counts neither as a failure nor as a success. Crashes of earlier runs are forgiven: this
    one has come through. A delay is a day at most. Raises ValueError for a negative one, or one that is no number.
    """

    def __init__(self, delay: float = 0.0) -> None:
        if not delay >= 0:  # nor NaN
            raise ValueError(f"delay: seconds from 0 up are expected, not {delay!r}")
        self.delay = min(float(delay), LONGEST_SNOOZE)
        super().__init__(f"again in {self.delay:g} s")


class JobFailed(GreenScaleError):  # noqa: N818  it names what happened to the job, not a fault of the caller
    """The job waited for is a dead letter; `code` is one word for machines, the message says why."""

    def __init__(self, job_id: str, code: str, message: str) -> None:
        super().__init__(f"{job_id}: {code}: {message}")
        self.job_id = job_id
        self.code = code
        self.message = message


class JobCancelled(GreenScaleError):  # noqa: N818  as above
    """The job waited for was cancelled by a client or an operator."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id} was cancelled")
        self.job_id = job_id


class JobGone(GreenScaleError):  # noqa: N818  as above
    """The job waited for is no longer known: its record or its answer has expired."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id}: its record and its answer are kept no longer (GREENSCALE_RESULT_TTL_SECONDS)")
        self.job_id = job_id
