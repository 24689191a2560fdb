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
from typing import Final

from greenscale_worker.blame import KNOWN, FleetEvidence
from greenscale_worker.queues import SUSPECT_CRASHES, DeadLetter, Lease, QueueOptions
from greenscale_worker.queues.memory.records import Expiring, Records
from greenscale_worker.queues.memory.tokens import Tokens

BURIAL_MARGIN: Final = 2


@dataclass(slots=True, eq=False)
class Entry:
    """One job as it was pushed. Ids follow the order of arrival, which is also the order of redelivery."""

    id: int
    payload: bytes
    arrived: float
    first_claimed: float = 0.0
    tries: float = 0.0
    runs: int = 0
    failed: float | None = None  # when it last failed by what seemed its own fault
    crashes: int = 0
    due: float = 0.0
    expires: float = 0.0
    bound_to: str | None = None
    lease: Lease | None = None

    @property
    def suspect(self) -> bool:
        """Whether its lease has expired so often that the job may be killing the workers."""
        return self.crashes >= SUSPECT_CRASHES


class Store:
    """Holds all jobs, and the lanes that wait for one."""

    def __init__(self, options: QueueOptions, clock: Callable[[], float]) -> None:
        self.options = options
        self.clock = clock
        self.waiting: deque[Entry] = deque()
        self.open: dict[int, Entry] = {}  # claimed, not settled; each is in one of the next five, too
        self.ready: list[Entry] = []  # by id
        self.suspects: list[Entry] = []  # by id
        self.held: list[Entry] = []  # by id
        self.evidence = FleetEvidence()
        self.delayed: list[Entry] = []  # by due
        self.leased: dict[int, Entry] = {}  # by expires, because every lease is equally long
        self.dead: dict[str, tuple[DeadLetter, Entry]] = {}
        self.bound: dict[str, Entry] = {}
        self.records = Records(options, clock)
        self.tokens = Tokens(clock)
        self.tombstones: Expiring[str] = Expiring(clock)
        self.beats: dict[str, tuple[float, str | None]] = {}  # when, and why the worker makes no calls
        self.bells: dict[asyncio.Future[None], None] = {}
        self.paused = False
        self._ids = itertools.count(1)
        self._tokens = itertools.count(1)
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

    def append(self, payload: bytes) -> None:
        """Add a job at the end."""
        self.waiting.append(Entry(next(self._ids), payload, self.clock()))

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
        """Return when the next delayed job is due. Expired leases need no timer: heartbeats find them."""
        return self.delayed[0].due if self.delayed else None

    def take(self, *, suspect: bool) -> Lease | None:
        """Lease the oldest job: redeliveries before new ones, held ones last; a suspect only if allowed.

        Held jobs come back one by one, as in claim.lua: many that fail again at once would block the queue.
        """
        now = self.clock()
        if not self.held:
            self.evidence.back = 0
        elif self.evidence.brings_back():
            insort(self.ready, self.held.pop(0), key=attrgetter("id"))
            self.ring(1)
        places = [place for place in (self.ready, self.suspects if suspect else []) if place]
        if places:
            entry = min(places, key=lambda place: place[0].id).pop(0)
        elif self.waiting:
            entry = self.waiting.popleft()
            entry.first_claimed = now
            self.open[entry.id] = entry
        elif self.held:
            entry = self.held.pop(0)
        else:
            return None
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
        return entry.lease

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
        insort(place, entry, key=attrgetter("id"))
        self.ring(None if entry.suspect else 1)  # not every lane may take a suspect

    def alone(self, entry: Entry) -> bool:
        """Return whether all other jobs are known to be at fault themselves."""
        return not self.waiting and all(other is entry or other.tries >= KNOWN for other in self.open.values())

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
        if entry.suspect:
            self.ring()  # its worker may take the next suspect

    def replay(self, entry: Entry, job_id: str | None) -> None:
        """Put a dead job back to the head with fresh counters; its id is bound, so that it can be cancelled."""
        fresh = Entry(entry.id, entry.payload, entry.arrived, first_claimed=self.clock())
        if job_id is not None and job_id not in self.bound:
            self.bound[job_id] = fresh
            fresh.bound_to = job_id
            self.records.replayed(job_id)
        self.open[fresh.id] = fresh
        self.requeue(fresh)

    def _withdraw(self, entry: Entry) -> None:
        if self.leased.pop(entry.id, None) is None:
            for place in (self.ready, self.suspects, self.delayed, self.held):
                if entry in place:
                    place.remove(entry)
