"""Flow control: what bounds the calls of a fleet, and what holds jobs back."""

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

Held = Literal["", "limit", "requests", "tokens", "pause", "breaker", "paused"]  # why no job that waits is claimed
HELD: Final = tuple(filter(None, get_args(Held)))


@dataclass(frozen=True, slots=True)
class Observed:
    """What the worker that looks at the engine is told of the fleet.

    `limit` is how many calls the engine was last found to bear; None: nobody has looked yet. `in_flight` is how many
    calls are open. `calm` is what was given with that limit.
    """

    limit: int | None
    in_flight: int
    calm: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What holds a queue's jobs back, and how many are worth a worker's lane now.

    `limit` is how many calls the fleet may have open, `requests` and `tokens` how many it may make a minute; None: no
    bound. `waiting` jobs are claimed by nobody, `open` ones were claimed and have not ended, `in_flight` of them are
    leased. `held` names what keeps waiting jobs from being claimed, and `held_seconds` when that may end at the
    earliest. `shut`: the breakers of all live workers are open. `scaled_to_zero`: the queue is paused without a worker.
    `due_seconds` is when the next delayed or scheduled job is due; None: there is none. `workers` are those alive,
    `call_seconds` is the running mean of a call's time; None: none was made. `engine_unseen` says why the engine's
    metrics cannot be read, where they set the limit.
    """

    waiting: int = 0
    open: int = 0
    in_flight: int = 0
    limit: int | None = None
    requests: float | None = None
    tokens: float | None = None
    paused: bool = False
    scaled_to_zero: bool = False
    shut: bool = False
    held: Held = ""
    held_seconds: float = 0.0
    due_seconds: float | None = None
    workers: int = 0
    call_seconds: float | None = None
    engine_unseen: str = ""

    @property
    def room(self) -> int | None:
        """How many jobs the endpoint can work on at once; None: no bound is known.

        Paused or shut: those in flight, at least one, so that no worker is added and one is left; none if the queue is
        scaled to zero.
        """
        if self.scaled_to_zero:
            return 0
        if self.paused or self.shut:
            return max(1, self.in_flight)
        bounds = [] if self.limit is None else [self.limit]
        if self.requests is not None and self.call_seconds is not None:
            bounds.append(max(1, math.ceil(self.requests / 60 * self.call_seconds)))
        return min(bounds) if bounds else None

    def work(self, start_seconds: float = 0.0) -> int:
        """How many jobs are worth a lane, by Little's law: one more if one is due within a worker's start."""
        soon = self.due_seconds is not None and self.due_seconds <= start_seconds
        work = self.waiting + self.open + soon
        return work if self.room is None else min(work, self.room)
