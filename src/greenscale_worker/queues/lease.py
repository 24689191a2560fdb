"""The right of a worker to run a job, and what becomes of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Literal

from greenscale_worker.job import Keep

Binding = Literal["run", "duplicate", "conflict", "cancelled", "stale"]
Verdict = Literal["delayed", "held", "dead", "stale"]
Loss = Literal["taken", "gone"]
SUSPECT_CRASHES: Final = 2  # a worker holds at most one job with so many or more; as in prelude.lua
LIVE_SECONDS: Final = 7 * 86_400  # lifetime of an open job's record, and of a cancellation that waits for its job


@dataclass(slots=True, eq=False)
class Lease:
    """The right to run one job until it is settled, or until the queue reports the lease lost.

    `claimed_at` and `first_claimed_at` are seconds since the epoch by the queue's clock; `received` is when the claim
    arrived, by this process' monotonic clock. `runs` counts failed calls, `tries` the tries they used up, `crashes`
    expired leases, `attempts` runs including this one (0: not run). `began` is when its call began, by the monotonic
    clock, `call_seconds` how long it took; None: no call was made. The outcome is recorded under `job_id`; None: there
    is no usable id. The ledger counts it for `tenant`, too, and `keep` is what the job says of its answer.
    `default_job_id` is the queue's id for a payload that has none, if the queue provides one. `due_in` is when a job
    that `retry` has put off is due, in seconds; None: as its failure says. `drains` is how many drains have cut the job
    off, known once one has released it where records are kept. The fleet's budget was charged a request and `charged`
    tokens, `estimated` of them for the answer; None: it was charged nothing.
    """

    id: str
    token: str
    payload: bytes
    tries: float
    crashes: int
    claimed_at: float
    first_claimed_at: float
    runs: int = 0
    job_id: str | None = None
    default_job_id: str | None = None
    charged: int | None = None
    estimated: int = 0
    keep: Keep = "text"
    attempts: int = 0
    began: float | None = None
    call_seconds: float | None = None
    tenant: str | None = None
    due_in: float | None = None
    drains: int = 0
    received: float = field(default_factory=monotonic)
    lost: Loss | None = None
    on_lost: Callable[[], None] | None = None

    def lose(self, loss: Loss) -> None:
        """Mark the lease as lost: `taken` by another worker, or `gone` (cancelled, settled)."""
        if self.lost is None:
            self.lost = loss
            if self.on_lost is not None:
                self.on_lost()
