"""What holds jobs back in the queue within one process: the counterpart of flow.lua."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from greenscale_worker.engine_limit import CAUTIOUS
from greenscale_worker.job import Rates, Usage
from greenscale_worker.queues import Lease, QueueOptions

Why = Literal["limit", "requests", "tokens", "pause"]

LOOKED_SECONDS: Final = 60.0  # these are explained in flow.lua
TOLD_SECONDS: Final = 60.0
UNKNOWN_OUT: Final = 256.0
LEARNING: Final = 16
FOR_OTHERS: Final = 0.3
MOST_DEBT: Final = 60  # minutes
SPARE: Final = 1e-6


@dataclass(slots=True)
class Budget:
    """A rate by the minute.

    It holds half a second's worth, `whole` if that is more, and may go into debt, an hour's worth at most.
    """

    per_minute: float
    whole: float
    clock: Callable[[], float]
    level: float = math.inf
    at: float = 0.0
    told: tuple[float, float] = (math.inf, -math.inf)  # by the endpoint, and when

    def refill(self) -> float:
        """Bring it up to date. Return what it holds."""
        now, rate = self.clock(), self.rate
        self.level = min(max(rate / 120, self.whole), max(-MOST_DEBT * rate, self.level) + (now - self.at) * rate / 60)
        self.at = now
        return self.level

    @property
    def rate(self) -> float:
        """How much it gets in a minute; the endpoint may only lower that."""
        rate, at = self.told
        return min(self.per_minute, rate) if self.clock() - at <= TOLD_SECONDS else self.per_minute

    def add(self, amount: float) -> None:
        """Give back, or, below 0, take."""
        self.level = self.refill() + amount
        self.refill()

    def hear(self, limit: float | None, remaining: float | None) -> None:
        """Lower it to what the endpoint says."""
        if limit:
            self.told = limit, self.clock()
        if remaining:
            self.level = min(self.refill(), remaining)

    def lacks(self, wanted: float) -> float:
        """Return the seconds until it holds so much."""
        return max(0.0, wanted - self.refill()) * 60 / self.rate


class FlowControl:
    """Decides how many jobs may be claimed now. `clock` counts seconds."""

    def __init__(self, options: QueueOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        rates = {"requests": options.requests_per_minute, "tokens": options.tokens_per_minute}
        self._budgets = {
            name: Budget(rate, 1.0 if name == "requests" else 0.0, clock) for name, rate in rates.items() if rate
        }
        self.call_seconds: float | None = None
        self._out: float | None = None
        self._held_until = 0.0
        self._ramp: tuple[int, int] | None = None
        self._probe: tuple[float, str] | None = None  # until when, and the token of its lease
        self._shut: dict[str, float] = {}  # until when, by worker
        self._lanes = 0
        self._engine: int | None = None
        self._engine_at = -math.inf
        self.engine_calm = 0
        self.engine_unseen = ""  # why it cannot be seen
        self._looker: tuple[float, str] | None = None

    @property
    def limit(self) -> int | None:
        """How many calls may be open; None: no limit."""
        limit = self._options.limit
        if limit != "engine":
            return limit
        found, most = self._engine or CAUTIOUS, self._options.limit_most
        if self._clock() - self._engine_at > LOOKED_SECONDS:
            found = min(found, CAUTIOUS)
        return found if most is None else min(found, most)

    def bound(self, in_flight: int, *, probe: bool) -> tuple[Why | None, float]:
        """Return why no job may be claimed now, None if one may, and for how many seconds."""
        now, heartbeat = self._clock(), self._options.heartbeat
        until = max(self._held_until, self._probe[0] if probe and self._probe is not None else 0.0)
        if until > now:
            return "pause", until - now
        if self.limit is not None and in_flight >= self.limit:
            return "limit", heartbeat
        if self._ramp is not None and in_flight >= self._ramp[0]:
            return "pause", heartbeat
        requests, tokens = self._budgets.get("requests"), self._budgets.get("tokens")
        if requests is not None and (wait := requests.lacks(1 - SPARE)) > 0:
            return "requests", wait
        if tokens is not None and tokens.refill() <= 0:
            return "tokens", tokens.lacks(SPARE) + 0.001
        return None, 0.0

    def serves_background(self, in_flight: int) -> bool:
        """Return whether so few calls are open that jobs of the class `background` may be claimed."""
        bounds = [self.limit, self._ramp and self._ramp[0]]
        most = min((bound for bound in bounds if bound), default=None)
        return most is None or in_flight < math.ceil(most * (1 - FOR_OTHERS))

    def claimed(self, lease: Lease, *, probe: bool) -> None:
        """Charge a job, and note that it is a probe."""
        if probe:
            self._probe = self._clock() + self._options.lease, lease.token
        if not self._budgets:
            return
        lease.estimated = math.ceil(self._out or UNKNOWN_OUT)
        lease.charged = math.ceil(len(lease.payload) / 4) + lease.estimated
        self._give_back(-lease.charged, -1)

    def bound_job(self, lease: Lease, payload: Mapping[str, object]) -> None:
        """Give back what a job's answer was taken to cost beyond the limit that the job sets."""
        limits = [payload.get(name) for name in ("max_tokens", "max_completion_tokens")]
        most = min((limit for limit in limits if isinstance(limit, int)), default=lease.estimated)
        if lease.charged is not None and lease.estimated > most >= 0:
            self._give_back(lease.estimated - most)
            lease.charged -= lease.estimated - most
            lease.estimated = most

    @property
    def is_used(self) -> bool:
        """Whether anything bounds what may be claimed, so that the end of a job may make room."""
        return bool(self.limit is not None or self._budgets or self._ramp or self._probe)

    def dropped(self, lease: Lease) -> None:
        """Note the end of a job without a call: it gives back all."""
        self._end_probe(lease)
        if lease.charged is not None:
            self._give_back(lease.charged, 1)

    def ended(self, lease: Lease, usage: Usage | None = None, *, worker: str = "", succeeded: bool = False) -> None:
        """Note the end of a job: what its call cost beyond its charge, and that calls succeed."""
        if lease.began is None and not succeeded:
            self.dropped(lease)
            return
        counts = [usage.prompt_tokens, usage.completion_tokens] if usage else []
        if lease.charged is not None and (known := [count for count in counts if count is not None]):
            self._give_back(lease.charged - sum(known))
        if succeeded:
            self.call_seconds = _learned(self.call_seconds, lease.call_seconds or 0.0)
            self._out = _learned(self._out, (usage and usage.completion_tokens) or 0)
        was_probe = self._end_probe(lease)
        if was_probe and succeeded:
            goal = self._lanes if self.is_dark([*self._shut]) else 0
            self._shut.pop(worker, None)
            self._begin_ramp(goal)
        elif succeeded and self._ramp is not None and self._held_until <= self._clock():
            allowed, goal = self._ramp
            self._ramp = (allowed + 1, goal) if allowed + 1 < goal else None

    def hear(self, rates: Rates | None) -> None:
        """Lower the budgets to what the endpoint said of the rate it allows."""
        if rates is not None and (requests := self._budgets.get("requests")):
            requests.hear(rates.limit_requests, rates.remaining_requests)
        if rates is not None and (tokens := self._budgets.get("tokens")):
            tokens.hear(rates.limit_tokens, rates.remaining_tokens)

    def pause(self, seconds: float, in_flight: int) -> None:
        """Let the fleet make no call for a while, and then begin slowly."""
        self._held_until = max(self._held_until, self._clock() + seconds)
        self._begin_ramp(in_flight)

    def note_breaker(self, worker: str, *, shut: bool, alive: int, lanes: int) -> None:
        """Note for a lease whether a worker's breaker is open: `shut`."""
        self._shut.pop(worker, None)
        if shut:
            self._shut[worker] = self._clock() + self._options.lease
            self._lanes = alive * lanes

    def prolong(self, lease: Lease) -> None:
        """Prolong a probe that is still out."""
        if self._probe is not None and self._probe[1] == lease.token:
            self._probe = self._clock() + self._options.lease, lease.token

    def is_dark(self, alive: list[str]) -> bool:
        """Return whether the breakers of all these workers are open."""
        return bool(alive) and all(self._shut.get(worker, 0.0) > self._clock() for worker in alive)

    def observe(self, worker: str, seconds: float, limit: int | None, *, calm: int, why: str) -> bool:
        """Lease the look at the engine to a worker, and store what it found. Return False if another worker has it."""
        now = self._clock()
        if self._looker is not None and self._looker[0] > now and self._looker[1] != worker:
            return False
        self._looker = now + seconds, worker
        if limit is not None:
            self._engine, self.engine_calm, self.engine_unseen, self._engine_at = limit, calm, why, now
        return True

    @property
    def engine(self) -> int | None:
        """The limit that was found last; None: none yet."""
        return self._engine

    def _end_probe(self, lease: Lease) -> bool:
        was_probe = self._probe is not None and self._probe[1] == lease.token
        if was_probe:
            self._probe = None
        return was_probe

    def _begin_ramp(self, goal: int) -> None:
        goal = max(goal, self._ramp[1] if self._ramp else 0)
        self._ramp = (1, goal) if goal > 1 else None

    def _give_back(self, tokens: float, requests: int = 0) -> None:
        if "requests" in self._budgets:
            self._budgets["requests"].add(requests)
        if "tokens" in self._budgets:
            self._budgets["tokens"].add(tokens)


def _learned(before: float | None, number: float) -> float | None:
    """Return a running mean."""
    if number <= 0:
        return before
    return number if before is None else before + (number - before) / LEARNING
