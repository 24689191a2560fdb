"""Numbers about a queue: its depth, its ledger and its live workers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Depth:
    """Jobs by state. `held` ones wait until another succeeds (docs/blame.md). `oldest_seconds` is None if unknown.

    `waiting` counts all classes; `interactive` and `background` are those of them that no worker has claimed yet.
    `scheduled` jobs are not due yet. `failing_seconds` ago a call failed as `failing_by` says, and none begun since has
    succeeded; None: no failure.
    """

    waiting: int
    running: int
    delayed: int
    dead: int
    oldest_seconds: float | None
    paused: bool
    held: int = 0
    failing_seconds: float | None = None
    failing_by: str | None = None
    interactive: int = 0
    background: int = 0
    scheduled: int = 0


@dataclass(frozen=True, slots=True)
class LedgerMinute:
    """What happened in one minute; `at` is when it began, in seconds since the epoch.

    `ended` counts jobs that succeeded, `failed` those that became dead letters, `cancelled` those that somebody
    cancelled, `retried` calls that failed and are made again. Tokens and `call_seconds` are those of the calls whose
    outcome was recorded; a call cut off by a crash or a drain is in no sum. `replica_seconds` is the time that workers
    were alive, `busy_lane_seconds` that of the jobs they held; `replicas_peak` is how many were alive at once.
    """

    at: float
    ended: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    call_seconds: float = 0.0
    replica_seconds: float = 0.0
    busy_lane_seconds: float = 0.0
    replicas_peak: int = 0


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A live worker process. It sent its last heartbeat `beat_seconds` ago.

    `why` says why it makes no calls now; None: it does, or it is of the previous version, which does not say. `lanes`
    is how many jobs it runs at once at most; None: it does not say, as those of the previous version.
    """

    name: str
    beat_seconds: float
    why: str | None = None
    lanes: int | None = None
