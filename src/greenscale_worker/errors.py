"""What can go wrong, in five words. Everything foreign is mapped to one of them where it enters."""

from typing import Final

LONGEST_RETRY_AFTER: Final = 600.0


class GreenScaleError(Exception):
    """The root of every error this package raises on purpose."""


class ConfigError(GreenScaleError):
    """A setting, a key or the set-up of a server is wrong; said in one line, exit code 2."""


class QueueUnavailableError(GreenScaleError):
    """The queue's server cannot be asked right now; nothing is lost, ask again."""


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

    `counted` says whose fault it was: the job's (True: it uses up a try) or the endpoint's (False: the gate
    learns of it and the job keeps its tries). `retry_after` is the time in seconds that the endpoint asked
    for, 600 at most, None where it said nothing usable. `shut` closes the gate at once, without waiting for a series.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        counted: bool,
        retry_after: float | None = None,
        shut: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = str(code)
        self.counted = counted
        self.retry_after = (
            None if retry_after is None or not retry_after >= 0 else min(retry_after, LONGEST_RETRY_AFTER)
        )
        self.shut = shut


class PermanentError(GreenScaleError):
    """The call failed in a way that no further attempt will mend; `code` is one word for machines."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = str(code)
