"""What a backend promises."""

from typing import Protocol

from greenscale_worker.job import Job, Output


class Backend(Protocol):
    """Whatever answers a job: an endpoint, a model of one's own, a function."""

    async def infer(self, job: Job) -> Output:
        """Answer. May be cancelled at any time.

        Raises TransientError or PermanentError; any other exception counts as `backend_error`.
        """
        ...

    async def ready(self) -> bool:
        """Say whether a job sent now would find somebody to answer it. Raises nothing."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
