"""Tenants with an entry: their lines, budgets and turns, within one process (turns.lua and fairness.lua)."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from greenscale_worker.job import Usage
from greenscale_worker.queues import CLASSES, JobClass, TenantLimits, TenantStanding

if TYPE_CHECKING:
    from greenscale_worker.queues.memory.store import Entry

BURST_SECONDS: Final = 10.0  # a budget holds what comes in so long, or one
MINUTE: Final = 60.0
MOST_DEBT: Final = 60  # minutes
MOST_MEAN: Final = 1_000_000  # tokens of an answer
NO_USAGE: Final = Usage()
NOBODY: Final = ""  # the tenant of all jobs in no line


@dataclass(slots=True)
class Budget:
    """So many a minute. It may be overdrawn; below 0, nothing may begin."""

    per_minute: int
    level: float
    at: float

    def left(self, now: float) -> float:
        """Return what it holds."""
        filled = max(-MOST_DEBT * self.per_minute, self.level) + (now - self.at) * self.per_minute / MINUTE
        self.level, self.at = min(self.most, filled), now
        return self.level

    def seconds(self, now: float) -> float:
        """Return in how many seconds it holds something."""
        return max(0.0, -self.left(now)) * MINUTE / self.per_minute

    @property
    def most(self) -> float:
        """How much it holds at most."""
        return max(1.0, self.per_minute * BURST_SECONDS / MINUTE)


@dataclass(slots=True)
class Tenant:
    """One tenant. Without `limits` its entry was deleted, and its line is served until it is empty."""

    limits: TenantLimits | None
    lines: "dict[JobClass, deque[Entry]]" = field(default_factory=lambda: {each: deque() for each in CLASSES})
    requests: Budget | None = None
    tokens: Budget | None = None
    mean: int = 0  # of its answers' tokens

    @property
    def waiting(self) -> int:
        """How many of its jobs nobody has claimed."""
        return sum(map(len, self.lines.values()))


class Tenants:
    """The tenants of a store. `in_flight` counts a tenant's jobs that were claimed and have not ended."""

    def __init__(self, clock: Callable[[], float], in_flight: Callable[[str], int]) -> None:
        self._clock = clock
        self._in_flight = in_flight
        self._tenants: dict[str, Tenant] = {}
        self._times: dict[tuple[JobClass, str], float] = {}
        self._class_times: dict[JobClass, float] = {}

    def __len__(self) -> int:
        return sum(tenant.limits is not None for tenant in self._tenants.values())

    def has(self, name: str) -> bool:
        """Return whether a tenant has an entry."""
        tenant = self._tenants.get(name)
        return tenant is not None and tenant.limits is not None

    def set(self, name: str, limits: TenantLimits | None) -> None:
        """Give a tenant an entry, or take it away."""
        tenant, now = self._tenants.setdefault(name, Tenant(None)), self._clock()
        tenant.limits, tenant.requests, tenant.tokens = limits, None, None
        if limits is not None and limits.requests_per_minute:
            tenant.requests = _full(limits.requests_per_minute, now)
        if limits is not None and limits.tokens_per_minute:
            tenant.tokens = _full(limits.tokens_per_minute, now)
        self._drop_idle(name)

    def line(self, job_class: JobClass, name: str) -> "deque[Entry] | None":
        """Return the line for a job of a tenant; None: it has no entry."""
        return self._tenants[name].lines[job_class] if self.has(name) else None

    def waiting(self, job_class: JobClass | None = None) -> "list[Entry]":
        """Return the jobs in lines, class by class."""
        classes = CLASSES if job_class is None else (job_class,)
        return [entry for each in classes for tenant in self._tenants.values() for entry in tenant.lines[each]]

    def take(self, job_class: JobClass, unlined: "deque[Entry]") -> "Entry | None":
        """Take the next job of a class that was never claimed: of the tenant whose turn it is."""
        lines = {name: tenant.lines[job_class] for name, tenant in self._tenants.items() if tenant.lines[job_class]}
        free = {name: line for name, line in lines.items() if not self._held(name)[0]}
        if unlined and not free:
            return unlined.popleft()
        if unlined:
            free[NOBODY] = unlined
        if not free:
            return None
        start = self._class_times.get(job_class, 0.0)
        times = {name: min(start + 1, max(start, self._times.get((job_class, name), start))) for name in sorted(free)}
        name = min(times, key=lambda each: times[each])
        tenant = self._tenants.get(name)
        weight = tenant.limits.weight if tenant is not None and tenant.limits is not None else 1
        self._class_times[job_class] = times[name]
        self._times[job_class, name] = times[name] + 1 / weight
        entry = free[name].popleft()
        self._drop_idle(name)
        return entry

    def begins(self, entry: "Entry") -> None:
        """Charge a job's tenant for a call that is about to be made."""
        if (tenant := self._tenants.get(entry.tenant)) is not None:
            entry.charged = int(len(entry.payload) / 4 + tenant.mean)
            if (budget := tenant.tokens) is not None:  # what a debt forgets is not given back either
                most = int(budget.left(self._clock())) + MOST_DEBT * budget.per_minute
                entry.charged = max(0, min(entry.charged, most))
            self._charge(tenant, 1, entry.charged)

    def ends(self, entry: "Entry", usage: Usage = NO_USAGE, *, called: bool = False, again: bool = False) -> None:
        """Put that right once the call has ended. `again`: it failed, and the next one is charged for itself."""
        if (tenant := self._tenants.get(entry.tenant)) is None:
            return
        completion = usage.completion_tokens or 0
        used = (usage.prompt_tokens or 0) + completion
        called = called or used > 0
        if used:
            mean = math.ceil(0.9 * tenant.mean + 0.1 * completion) if tenant.mean else completion
            tenant.mean = mean if mean <= MOST_MEAN else 0
        tokens = used - entry.charged if used else -entry.charged if again or not called else 0
        self._charge(tenant, 0 if called else -1, tokens)

    def _charge(self, tenant: Tenant, requests: int, tokens: int) -> None:
        now = self._clock()
        for budget, number in ((tenant.requests, requests), (tenant.tokens, tokens)):
            if budget is not None:
                budget.level = budget.left(now) - number

    def next_free(self) -> float:
        """Return when a budget that holds jobs back holds something again; inf: none does."""
        waits = [self._held(name)[1] for name, tenant in self._tenants.items() if tenant.waiting]
        return self._clock() + min((seconds for seconds in waits if seconds), default=math.inf)

    def standings(self, wanted: str | None) -> list[TenantStanding]:
        """Tell how tenants stand, or one."""
        for name in list(self._tenants):
            self._drop_idle(name)
        return [self._standing(name) for name in sorted(self._tenants) if wanted in (None, name)]

    def _standing(self, name: str) -> TenantStanding:
        tenant, now = self._tenants[name], self._clock()
        held, seconds = self._held(name) if tenant.waiting else ("", 0.0)
        came = [line[0].arrived for line in tenant.lines.values() if line]
        return TenantStanding(
            name=name,
            limits=tenant.limits,
            waiting=tenant.waiting,
            interactive=len(tenant.lines["interactive"]),
            in_flight=self._in_flight(name),
            oldest_seconds=now - min(came) if came else None,
            held=held,
            held_seconds=seconds,
            requests_left=None if tenant.requests is None else tenant.requests.left(now),
            tokens_left=None if tenant.tokens is None else tenant.tokens.left(now),
        )

    def _held(self, name: str) -> tuple[Literal["", "in_flight", "requests", "tokens"], float]:
        """Return what holds a tenant back, and for how many seconds if that is known."""
        tenant, now = self._tenants[name], self._clock()
        if tenant.requests is not None and tenant.requests.left(now) <= 0:
            return "requests", tenant.requests.seconds(now) + 0.001
        if tenant.tokens is not None and tenant.tokens.left(now) <= 0:
            return "tokens", tenant.tokens.seconds(now) + 0.001
        most = None if tenant.limits is None else tenant.limits.in_flight
        return ("in_flight", 0.0) if most is not None and self._in_flight(name) >= most else ("", 0.0)

    def _drop_idle(self, name: str) -> None:
        """Forget a tenant that has neither an entry nor a job."""
        tenant = self._tenants.get(name)
        if tenant is not None and tenant.limits is None and not tenant.waiting and not self._in_flight(name):
            del self._tenants[name]


def _full(per_minute: int, now: float) -> Budget:
    budget = Budget(per_minute, 0.0, now)
    budget.level = budget.most
    return budget
