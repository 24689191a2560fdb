"""The interfaces of a queue: `Queue` for workers (queue.py), `QueueClient` for producers and commands (client.py).

Adapters need not inherit them. The contract suite checks that they keep these promises.
"""

from greenscale_worker.queues.client import QueueClient
from greenscale_worker.queues.flow import HELD, Flow, Held, Observed
from greenscale_worker.queues.jobs import (
    ALIVE_SECONDS,
    ATTENDED_SECONDS,
    CLASSES,
    ENDED,
    OPEN,
    POSITION,
    PUT_ASIDE,
    STATES,
    TOKEN_SECONDS,
    TURNS,
    Attendance,
    Cancellation,
    Change,
    DeadFilter,
    DeadLetter,
    JobClass,
    JobFilter,
    JobInfo,
    Notice,
    Replay,
    State,
    TokenPiece,
    check_positions,
    token_seconds,
)
from greenscale_worker.queues.lease import LIVE_SECONDS, SUSPECT_CRASHES, Binding, Lease, Loss, Verdict
from greenscale_worker.queues.options import QueueOptions, RedisOptions
from greenscale_worker.queues.queue import Queue
from greenscale_worker.queues.stats import Depth, LedgerMinute, LiveWorker
from greenscale_worker.queues.tenants import MOST_OF_A_LIMIT, MOST_TENANTS, MOST_WEIGHT, TenantLimits, TenantStanding

__all__ = [
    "ALIVE_SECONDS",
    "ATTENDED_SECONDS",
    "CLASSES",
    "ENDED",
    "HELD",
    "LIVE_SECONDS",
    "MOST_OF_A_LIMIT",
    "MOST_TENANTS",
    "MOST_WEIGHT",
    "OPEN",
    "POSITION",
    "PUT_ASIDE",
    "STATES",
    "SUSPECT_CRASHES",
    "TOKEN_SECONDS",
    "TURNS",
    "Attendance",
    "Binding",
    "Cancellation",
    "Change",
    "DeadFilter",
    "DeadLetter",
    "Depth",
    "Flow",
    "Held",
    "JobClass",
    "JobFilter",
    "JobInfo",
    "Lease",
    "LedgerMinute",
    "LiveWorker",
    "Loss",
    "Notice",
    "Observed",
    "Queue",
    "QueueClient",
    "QueueOptions",
    "RedisOptions",
    "Replay",
    "State",
    "TenantLimits",
    "TenantStanding",
    "TokenPiece",
    "Verdict",
    "check_positions",
    "token_seconds",
]
