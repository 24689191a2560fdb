"""The worker side of a queue: its interface."""

from typing import Protocol

from greenscale_worker.job import Failure, Job, Outcome
from greenscale_worker.queues.flow import Observed
from greenscale_worker.queues.lease import Binding, Lease, Verdict


class Queue(Protocol):
    """The worker side. Every call except `aclose` may be cancelled at any time without losing a job.

    While the queue's server is unavailable, calls wait for it. An adapter may also have `options: QueueOptions`, from
    which the worker takes the heartbeat and the number of crashes; otherwise the defaults apply.
    """

    @property
    def up(self) -> bool:
        """Whether the queue's server answered the last call."""
        ...

    async def lease(self, *, probe: bool = False) -> Lease:
        """Wait for a job and lease it, as soon as the limit and the budgets of all workers together allow it.

        With `probe` this worker's breaker is open: it gets a job only if no other worker has one by such a call.
        """
        ...

    async def bind(self, lease: Lease, job: Job) -> Binding:
        """Bind the job's id to this lease and write its record, before the job is run.

        `run`: run the job. `duplicate`: the same job is in flight already, and this one was folded into it.
        `conflict`: its id is in flight with another payload; settle it as failed. `cancelled`: a user cancelled it,
        and that has been recorded. `stale`: the lease was lost. Where it is to be run, the lease gets `job_id` and
        `keep`.
        """
        ...

    async def settle(self, lease: Lease, outcome: Outcome) -> bool:
        """Record the outcome and acknowledge the job in one atomic step. Return False if the lease was lost.

        If the lease's `keep` is `body`, the endpoint's whole answer is recorded in the same step.
        """
        ...

    async def write_tokens(self, lease: Lease, text: str, *, last: bool = False) -> bool:
        """Show a piece of the text of a job's run to those who follow it. Return False if the lease was lost.

        It lasts an hour or as long as a result, and after the `last` piece, which may be empty, as long as a result. A
        queue that keeps no results shows none. Raises QueueUnavailableError or ConfigError rather than wait; then the
        piece may have been written.
        """
        ...

    async def retry(self, lease: Lease, failure: Failure) -> Verdict:
        """Requeue a job whose call failed, or make it a dead letter, judged by the whole fleet (docs/blame.md).

        `delayed`: it runs again later. `held`: it runs again once another job has succeeded, or nothing else waits.
        `dead`: it is a dead letter. `stale`: the lease was lost.
        """
        ...

    async def beat(self, why: str | None = None, *, lanes: int | None = None, shut: bool = False) -> None:
        """Send a heartbeat: prolong all leases in one call, and `lose` those that we no longer own.

        `why` is one line on why this worker makes no calls until the next heartbeat; None: it makes calls. `lanes` is
        how many jobs it runs at once, for those who list workers. `shut`: its breaker is open.
        """
        ...

    async def observe(
        self, seconds: float, limit: int | None = None, *, calm: int = 0, why: str = ""
    ) -> Observed | None:
        """Lease the look at the engine for `seconds`, and store what it found. Return None if another worker has it.

        `limit` is how many calls the engine was found to bear; None: it was not looked at yet. Where the limit of
        `options` is `engine`, it is that of the fleet for a minute, and then 8 at most until somebody looks again.
        `calm` is stored for the worker that looks next; `why` says why the engine cannot be seen, empty: it is seen.
        Raises QueueUnavailableError or ConfigError rather than wait.
        """
        ...

    async def aclose(self) -> None:
        """Hand back jobs that were claimed but not yet given to a caller, and close every connection."""
        ...
