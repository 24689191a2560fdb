"""The jobs of one process and their places; every job is in exactly one place.

Nothing here awaits, so each step is atomic on its event loop. It is not thread-safe.
"""

import asyncio
import itertools
import math
from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, NamedTuple

from greenscale_worker.blame import KNOWN, FleetEvidence
from greenscale_worker.queues import (
    CLASSES,
    SUSPECT_CRASHES,
    TURNS,
    DeadLetter,
    Flow,
    Held,
    JobClass,
    Lease,
    QueueOptions,
)
from greenscale_worker.queues.memory.attending import Attending
from greenscale_worker.queues.memory.flow import FlowControl
from greenscale_worker.queues.memory.ledger import Ledger
from greenscale_worker.queues.memory.notices import Notices
from greenscale_worker.queues.memory.records import Expiring, Records
from greenscale_worker.queues.memory.tenants import Tenants
from greenscale_worker.queues.memory.tokens import Tokens

BURIAL_MARGIN: Final = 2


@dataclass(slots=True, eq=False)
class Entry:
    """One job as it was pushed. Ids follow the order of arrival, which is also the order of redelivery."""

    id: int
    payload: bytes
    arrived: float
    job_class: JobClass = "standard"
    first_claimed: float = 0.0
    tries: float = 0.0
    runs: int = 0
    failed: float | None = None  # when it last failed by what seemed its own fault
    crashes: int = 0
    due: float = 0.0
    expires: float = 0.0
    bound_to: str | None = None
    lease: Lease | None = None
    tenant: str = ""  # from whose line it came
    charged: int = 0  # tokens, to its tenant
    notify: bool = False  # of a dead one: whether its end has left a notice, as the next will

    @property
    def place(self) -> tuple[int, int]:
        """Its place among jobs that were claimed before: by class, then by age."""
        return CLASSES.index(self.job_class), self.id

    @property
    def suspect(self) -> bool:
        """Whether its lease has expired so often that the job may be killing the workers."""
        return self.crashes >= SUSPECT_CRASHES


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A job that is not due yet. `due` is seconds since the epoch."""

    payload: bytes
    job_class: JobClass
    due: float
    tenant: str = ""


class Beat(NamedTuple):
    """A worker's last heartbeat: when it came, and what it said."""

    at: float
    why: str | None = None
    lanes: int | None = None


class Store:
    """Holds all jobs, and the lanes that wait for one."""

    def __init__(self, options: QueueOptions, clock: Callable[[], float]) -> None:
        self.options = options
        self.clock = clock
        self.waiting: deque[Entry] = deque()  # of the class `standard`
        self.unclaimed: dict[JobClass, deque[Entry]] = {each: deque() for each in CLASSES} | {"standard": self.waiting}
        self.tenants = Tenants(clock, self._in_flight)
        self.later: dict[str, Scheduled] = {}  # by job id
        self.api_keys: dict[str, bytes] = {}
        self.attending = Attending(clock)
        self.open: dict[int, Entry] = {}  # claimed, not settled; each is in one of the next five, too
        self.ready: list[Entry] = []  # by place
        self.suspects: list[Entry] = []  # by place
        self.held: list[Entry] = []  # by place
        self.evidence = FleetEvidence()
        self.delayed: list[Entry] = []  # by due
        self.leased: dict[int, Entry] = {}  # by expires, because every lease is equally long
        self.dead: dict[str, tuple[DeadLetter, Entry]] = {}
        self.bound: dict[str, Entry] = {}
        self.records = Records(options, clock)
        self.tokens = Tokens(clock)
        self.notices = Notices(clock)
        self.ledger = Ledger(options.ledger_days, clock)
        self.flow_control = FlowControl(options, clock)
        self.tombstones: Expiring[str] = Expiring(clock)
        self.beats: dict[str, Beat] = {}  # by worker
        self.bells: dict[asyncio.Future[None], None] = {}
        self.paused = self.scaled_to_zero = False
        self._ids = itertools.count(1)
        self._tokens = itertools.count(1)
        self._claimed = 0
        self._ticked = math.inf
        self._amnesty = -math.inf

    def new_bell(self) -> asyncio.Future[None]:
        """Return a future for a lane to wait for."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.bells[bell] = None
        return bell

    def ring(self, lanes: int | None = None) -> None:
        """Wake `lanes` of the waiting lanes, or all."""
        asleep = (bell for bell in self.bells if not bell.done())
        for bell in list(itertools.islice(asleep, lanes)):
            bell.set_result(None)

    def append(self, payload: bytes, job_class: JobClass = "standard", tenant: str = "") -> None:
        """Add a job at the end of its class, or of its tenant's line there."""
        entry, line = Entry(next(self._ids), payload, self.clock(), job_class), self.tenants.line(job_class, tenant)
        if line is None:
            self.unclaimed[job_class].append(entry)
        else:
            entry.tenant = tenant
            line.append(entry)

    def promote(self) -> int:
        """Append jobs that have become due to their class, and return how many."""
        due = sorted((job.due, job_id) for job_id, job in self.later.items() if job.due <= self.clock())
        for _, job_id in due:
            job = self.later.pop(job_id)
            self.append(job.payload, job.job_class, job.tenant)
            if job_id not in self.bound:
                self.records.promoted(job_id, cancelled=self.tombstones.get(job_id) is not None)
        self.ring(len(due))
        return len(due)

    def tick(self) -> list[Entry]:
        """Requeue jobs that are due or whose lease has expired. Return those to bury: crashed beyond the margin.

        If no heartbeat could be sent, because the process was stopped or had no worker, leases last two heartbeats
        more: silence then does not prove a crash.
        """
        now, grace = self.clock(), 2 * self.options.heartbeat
        if now - self._ticked > grace:
            self._amnesty = now + grace
        self._ticked = now
        while self.delayed and self.delayed[0].due <= now:
            self.requeue(self.delayed[0])
        if now < self._amnesty:
            return []
        expired = list(itertools.takewhile(lambda entry: entry.expires < now, self.leased.values()))
        for entry in expired:
            entry.crashes += 1
            self.requeue(entry)
        return [entry for entry in expired if entry.crashes >= self.options.max_crashes + BURIAL_MARGIN]

    def next_due(self) -> float | None:
        """Return when the next delayed job is due, or a budget holds something again.

        Expired leases need no timer: heartbeats find them.
        """
        due, free = self.delayed[0].due if self.delayed else math.inf, self.tenants.next_free()
        return None if math.isinf(next_at := min(due, free)) else next_at

    def alive(self) -> list[str]:
        """Return the workers that have sent a heartbeat within the time of two."""
        now, most = self.clock(), 2 * self.options.heartbeat
        return [worker for worker, beat in self.beats.items() if now - beat.at <= most]

    def flow(self) -> Flow:
        """Tell what holds jobs back."""
        now, unclaimed = self.clock(), sum(map(len, self.unclaimed.values())) + len(self.tenants.waiting())
        dues = [*(job.due for job in self.later.values()), *(entry.due for entry in self.delayed[:1])]
        alive = self.alive()
        shut = self.flow_control.is_dark(alive)
        claimable = unclaimed + len(self.ready) + len(self.suspects) + len(self.held)
        why, seconds = self.flow_control.bound(len(self.leased), probe=False)
        held: Held = "" if not claimable else "paused" if self.paused else "breaker" if shut else why or ""
        return Flow(
            waiting=unclaimed,
            open=len(self.open),
            in_flight=len(self.leased),
            limit=self.flow_control.limit,
            requests=self.options.requests_per_minute,
            tokens=self.options.tokens_per_minute,
            paused=self.paused,
            scaled_to_zero=self.paused and self.scaled_to_zero,
            shut=shut,
            held=held,
            held_seconds=seconds if held in {"requests", "tokens", "pause"} else 0.0,
            due_seconds=max(0.0, min(dues) - now) if dues else None,
            workers=len(alive),
            call_seconds=self.flow_control.call_seconds,
            engine_unseen=self.flow_control.engine_unseen if self.options.limit == "engine" else "",
        )

    def take(self, *, suspect: bool, probe: bool = False) -> Lease | None:
        """Lease a job, class by class: redeliveries before new ones, held ones last; a suspect only if allowed.

        Held jobs come back one by one, as in claim.lua: many that fail again at once would block the queue.
        """
        now = self.clock()
        if self.flow_control.bound(len(self.leased), probe=probe)[0] is not None:
            return None
        if not self.held:
            self.evidence.back = 0
        elif self.evidence.brings_back():
            insort(self.ready, self.held.pop(0), key=attrgetter("place"))
            self.ring(1)
        turns = (self._oldest(job_class, suspect=suspect) for job_class in self._turns())
        entry = next((each for each in turns if each is not None), None)
        if entry is None and self.held:
            entry = self.held.pop(0)
        if entry is None:
            return None
        if entry.id not in self.open:
            entry.first_claimed = now
            self.open[entry.id] = entry
        self._claimed += 1
        self.tenants.begins(entry)
        entry.lease = Lease(
            id=str(entry.id),
            token=str(next(self._tokens)),
            payload=entry.payload,
            tries=entry.tries,
            runs=entry.runs,
            crashes=entry.crashes,
            claimed_at=now,
            first_claimed_at=entry.first_claimed,
        )
        self.prolong(entry)
        self.flow_control.claimed(entry.lease, probe=probe)
        return entry.lease

    def _turns(self) -> tuple[JobClass, ...]:
        """Return in which order the classes are asked for the next job, as claim.lua does."""
        favoured: dict[int, tuple[JobClass, ...]] = {TURNS - 1: ("background",), TURNS // 2 - 1: ("standard",)}
        order = (*favoured.get(self._claimed % TURNS, ()), *CLASSES)
        if self.flow_control.serves_background(len(self.leased)):
            return order
        return tuple(each for each in order if each != "background")

    def _oldest(self, job_class: JobClass, *, suspect: bool) -> Entry | None:
        """Take the next job of a class, unless it is held."""
        places = [self.ready, self.suspects] if suspect else [self.ready]
        firsts = [next((entry for entry in place if entry.job_class == job_class), None) for place in places]
        if again := [entry for entry in firsts if entry is not None]:
            entry = min(again, key=attrgetter("id"))
            self._withdraw(entry)
            return entry
        return self.tenants.take(job_class, self.unclaimed[job_class])

    def _in_flight(self, tenant: str) -> int:
        return sum(entry.tenant == tenant for entry in self.open.values())

    def prolong(self, entry: Entry) -> None:
        """Prolong a lease to its full length from now on."""
        self.leased.pop(entry.id, None)
        self.leased[entry.id] = entry
        entry.expires = self.clock() + self.options.lease

    def latest(self, lease: Lease) -> Entry | None:
        """Return the job if this is its latest lease and it has not ended."""
        entry = self.open.get(int(lease.id))
        return entry if entry and entry.lease and entry.lease.token == lease.token else None

    def live(self, lease: Lease) -> Entry | None:
        """Return the job if this lease of it is alive."""
        entry = self.latest(lease)
        return entry if entry and entry.id in self.leased else None

    def requeue(self, entry: Entry) -> None:
        """Put a job back to the head, in its old order; hold it if its call failed and no job has succeeded since."""
        self._withdraw(entry)
        is_held = entry.runs > 0 and self.evidence.since is not None
        place = self.suspects if entry.suspect else self.held if is_held else self.ready
        insort(place, entry, key=attrgetter("place"))
        self.ring(None if entry.suspect else 1)  # not every lane may take a suspect

    def alone(self, entry: Entry) -> bool:
        """Return whether all other jobs are known to be at fault themselves."""
        return (
            not any(self.unclaimed.values())
            and not self.tenants.waiting()
            and all(other is entry or other.tries >= KNOWN for other in self.open.values())
        )

    def delay(self, entry: Entry, due: float) -> None:
        """Put a job aside until it is due."""
        self._withdraw(entry)
        entry.due = due
        insort(self.delayed, entry, key=attrgetter("due"))
        self.ring(1)  # that lane sets its timer

    def forget(self, entry: Entry) -> None:
        """Remove a job from every place."""
        self._withdraw(entry)
        self.open.pop(entry.id, None)
        if entry.bound_to is not None:
            self.bound.pop(entry.bound_to, None)
        if entry.tenant:
            self.ring(1)  # its tenant may have one more
        if entry.suspect:
            self.ring()  # its worker may take the next suspect
        elif self.flow_control.is_used:
            self.ring()

    def replay(self, entry: Entry, job_id: str | None) -> None:
        """Put a dead job back to the head with fresh counters; its id is bound, so that it can be cancelled."""
        fresh = Entry(entry.id, entry.payload, entry.arrived, entry.job_class, first_claimed=self.clock())
        fresh.tenant = entry.tenant
        if job_id is not None and job_id not in self.bound:
            self.bound[job_id] = fresh
            fresh.bound_to = job_id
            if entry.notify:
                self.notices.ask(job_id)
            self.records.replayed(job_id)
        self.open[fresh.id] = fresh
        self.requeue(fresh)

    def _withdraw(self, entry: Entry) -> None:
        if self.leased.pop(entry.id, None) is None:
            for place in (self.ready, self.suspects, self.delayed, self.held):
                if entry in place:
                    place.remove(entry)
