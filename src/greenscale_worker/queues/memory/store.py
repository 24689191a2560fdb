"""Where the jobs of one process are, and how they move: every job is in exactly one place.

Nothing here awaits, so that each step is atomic on its event loop. It is not for several threads.
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

BURIAL_MARGIN: Final = 2


@dataclass(slots=True, eq=False)
class Entry:
    """One delivery. Ids are given in the order of arrival, which stays the order of redelivery."""

    id: int
    payload: bytes
    arrived: float
    first_claimed: float = 0.0
    tries: float = 0.0
    runs: int = 0
    failed: float | None = None  # when it last failed by a fault that seemed its own
    crashes: int = 0
    due: float = 0.0
    expires: float = 0.0
    bound_to: str | None = None
    lease: Lease | None = None

    @property
    def suspect(self) -> bool:
        """Whether its lease has expired so often that it may be what kills the workers."""
        return self.crashes >= SUSPECT_CRASHES


class Store:
    """All jobs, and the lanes that wait for one."""

    def __init__(self, options: QueueOptions, clock: Callable[[], float]) -> None:
        self.options = options
        self.clock = clock
        self.waiting: deque[Entry] = deque()
        self.open: dict[int, Entry] = {}  # claimed once and unsettled; each is in one of the next five
        self.ready: list[Entry] = []  # by id
        self.suspects: list[Entry] = []  # by id
        self.held: list[Entry] = []  # by id
        self.evidence = FleetEvidence()
        self.delayed: list[Entry] = []  # by due
        self.leased: dict[int, Entry] = {}  # by expires, because every lease is equally long
        self.dead: dict[str, tuple[DeadLetter, Entry]] = {}
        self.bound: dict[str, Entry] = {}
        self.records = Records(options, clock)
        self.tombstones: Expiring[str] = Expiring(clock)
        self.beats: dict[str, tuple[float, str | None]] = {}  # when, and why nothing is sent
        self.bells: dict[asyncio.Future[None], None] = {}
        self.paused = False
        self._ids = itertools.count(1)
        self._tokens = itertools.count(1)
        self._ticked = math.inf
        self._amnesty = -math.inf

    def new_bell(self) -> asyncio.Future[None]:
        """Something for a lane to wait for."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.bells[bell] = None
        return bell

    def ring(self, lanes: int | None = None) -> None:
        """Wake so many of the lanes that wait, or all."""
        asleep = (bell for bell in self.bells if not bell.done())
        for bell in list(itertools.islice(asleep, lanes)):
            bell.set_result(None)

    def append(self, payload: bytes) -> None:
        """Add a job at the end."""
        self.waiting.append(Entry(next(self._ids), payload, self.clock()))

    def tick(self) -> list[Entry]:
        """Let time do its work; the jobs returned have killed even the workers that would have buried them.

        Where nobody could have sent a heartbeat, because the process was stopped or had no worker, leases are
        given two more: silence then proves no death.
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
        """When the next delayed job is due. Leases that expire need no alarm: heartbeats look for them."""
        return self.delayed[0].due if self.delayed else None

    def take(self, *, suspect: bool) -> Lease | None:
        """Lease the oldest job: one that comes back before a new one, a suspect only where allowed, one held last.

        Held jobs come back one by one, as claim.lua says: a heap that failed again would be in the way.
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
        """Let a lease last its full length from now on."""
        self.leased.pop(entry.id, None)
        self.leased[entry.id] = entry
        entry.expires = self.clock() + self.options.lease

    def latest(self, lease: Lease) -> Entry | None:
        """Find the job, if this was its latest lease and it has not ended."""
        entry = self.open.get(int(lease.id))
        return entry if entry and entry.lease and entry.lease.token == lease.token else None

    def live(self, lease: Lease) -> Entry | None:
        """Find the job, if this lease of it holds."""
        entry = self.latest(lease)
        return entry if entry and entry.id in self.leased else None

    def requeue(self, entry: Entry) -> None:
        """Put a job to the head, in its old order; or behind, if its call failed and nobody has succeeded since."""
        self._withdraw(entry)
        is_held = entry.runs > 0 and self.evidence.since is not None
        place = self.suspects if entry.suspect else self.held if is_held else self.ready
        insort(place, entry, key=attrgetter("id"))
        self.ring(None if entry.suspect else 1)  # not every lane may take a suspect

    def alone(self, entry: Entry) -> bool:
        """Say whether there is no other job but those known to be ill."""
        return not self.waiting and all(other is entry or other.tries >= KNOWN for other in self.open.values())

    def delay(self, entry: Entry, due: float) -> None:
        """Put a job aside until it is due."""
        self._withdraw(entry)
        entry.due = due
        insort(self.delayed, entry, key=attrgetter("due"))
        self.ring(1)  # it sets its alarm

    def forget(self, entry: Entry) -> None:
        """Take a job out of everything."""
        self._withdraw(entry)
        self.open.pop(entry.id, None)
        if entry.bound_to is not None:
            self.bound.pop(entry.bound_to, None)
        if entry.suspect:
            self.ring()  # its worker may take the next one

    def replay(self, entry: Entry, job_id: str | None) -> None:
        """Put a dead job back to the head as if it were new; its id is bound, so that it can be cancelled."""
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
