"""The protocol once more, in plain Python: what each script must answer, and what must lie in Redis afterwards.

Written from docs/queue-protocol.md, one method for each script. Ids are numbers here (`Setup.name`) and times are
milliseconds. Of a stream it knows the ids of entries that wait, what somebody has read past the workers (strays), and
entries of jobs that were replayed or have a class, and that the group has not come to (unseen). `added` are the ids
that Redis has given to the latter in the script that is looked at; `stopped`: a claim has read past as many as it may.
"""

import re
from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from greenscale_worker.job import DRAIN
from tests.support.entries import (
    AT_ONCE,
    BACKEND,
    BATCH,
    BEAT,
    BURIAL_MARGIN,
    CLASSES,
    LARGEST,
    LEASE,
    LIVE_SECONDS,
    MOST_NOTICES,
    NOTICES_MS,
    REMEMBERED_SECONDS,
    SCHEDULED_SECONDS,
    STEP,
    TURNS,
    Binding,
    Ending,
    Fault,
    Later,
    Letter,
    Open,
    Record,
    Return,
    Setup,
    began_of,
    number_of,
)
from tests.support.tenancy import Queue, Tenancy

TRY, KNOWN, ALONE = 1000, 1500, 120_000
OF_THE_JOB = {"submitted_ms", "class", "tenant", "digest", "drains"}  # in a record, whatever becomes of its runs
OF_THE_PAYLOAD = {"created_at", "metadata"}  # in a record, until a run writes it anew
OF_A_FAILURE = {"due_ms", "error_code", "error_message"}  # in a record; what is cancelled forgets it
UPGRADED = re.compile(r":2-[0-9a-f]+$")  # the end of a worker's name, where it knows format 2


@dataclass
class Taking:
    """What a claim has taken so far: jobs given, and bytes, with those of jobs that are too large to be given."""

    n: int
    max_bytes: int
    may_suspect: bool
    ids: list[int] = field(default_factory=list)
    size: int = 0
    queues: dict[str, Queue | None] = field(default_factory=dict)

    def goes_on(self, most: int) -> bool:
        """Say whether it may take another, up to `most` jobs."""
        return len(self.ids) < most and self.size < self.max_bytes


@dataclass
class Ledger:
    """What is true of a queue. Records and results of a foreign type are FOREIGN."""

    setup: Setup
    now: int = 1_800_000_000_000
    waiting: deque[bytes] = field(default_factory=deque)
    arrivals: deque[int] = field(default_factory=deque)
    listed: dict[str, deque[bytes]] = field(default_factory=lambda: {"interactive": deque(), "background": deque()})
    tenancy: Tenancy = field(default_factory=Tenancy)
    later: dict[str, Later] = field(default_factory=dict)
    added: deque[int] = field(default_factory=deque)
    stopped: bool = False
    strays: dict[int, bytes] = field(default_factory=dict)
    unseen: set[int] = field(default_factory=set)
    given_up: set[int] = field(default_factory=set)
    open: dict[int, Open] = field(default_factory=dict)
    dead: dict[int, Letter] = field(default_factory=dict)
    index: set[bytes] = field(default_factory=set)
    tidied: bool = False
    ended: list[bytes] = field(default_factory=list)
    bound: dict[str, int] = field(default_factory=dict)
    records: dict[str, Record | str] = field(default_factory=dict)
    recent: list[str] = field(default_factory=list)
    lifetimes: dict[str, int] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    tombstones: set[str] = field(default_factory=set)
    claims: dict[str, tuple[str, list[int], int]] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)
    idle: dict[str, int] = field(default_factory=dict)
    paused: bool = False
    format: str = ""
    clock: int = 0
    offset: int = 0
    amnesty: int = 0
    blamed: int = 0
    blamed_by: str = ""
    accused: int = 0
    answered: int = 0
    healed: int = 0
    blame: dict[str, tuple[int, int]] = field(default_factory=dict)
    held: bool = False
    back: int | None = None
    last: int | None = None
    counters: Counter[str] = field(default_factory=Counter)
    notify: set[str] = field(default_factory=set)
    notices: dict[int, str] = field(default_factory=dict)
    noticed: int = 0
    bells: list[str] = field(default_factory=list)
    buried: list[str] = field(default_factory=list)
    rare: Counter[str] = field(default_factory=Counter)

    @property
    def queue_now(self) -> int:
        """The queue's time, in which leases and delays end; it never goes back."""
        return self.now + self.offset

    def agree(self, version: str) -> str:
        self.format = self.format or version
        return self.format

    def claim(  # noqa: PLR0913  as claim.lua
        self, owner: str, nonce: str, n: int, max_crashes: int, *, may_suspect: bool, has_more: bool, lanes: int
    ) -> list[Any]:
        known, ids, _ = self.claims.get(owner, ("", [], 0))
        if known == nonce:
            still = [id_ for id_ in ids if self._held(id_, f"{nonce}:{ids.index(id_) + 1}")]
            for id_ in still:
                self.open[id_].until = self.queue_now + LEASE
            self.claims[owner] = (nonce, ids, self.now + 1000 * REMEMBERED_SECONDS)
            return [0, str(self.now), 0, self._given(still), [], "", 0, "", ""]
        classed, self.stopped = self._is_classed(), False
        self._tick()
        self.buried = buried = []
        reaped = self._reap(max_crashes)
        if self.paused or n == 0:
            if reaped:
                self.bells.append("ready")
            self._stand_up(owner)
            return [-2, str(self.now), reaped, [], buried, "", 0, "", ""]
        due = self._first("delayed", lambda job: job.until <= self.queue_now)
        for id_ in due:
            self._requeue(self.open[id_])
        unheld = self._unhold()
        ids, size = self._take(owner, nonce, n, may_suspect=may_suspect, classed=classed)
        if ids:
            self.claims[owner] = (nonce, ids, self.now + 1000 * REMEMBERED_SECONDS)
            self.counters["claimed"] += len(ids)
        if reaped or unheld:
            self.bells.append("ready")
        full = len(ids) < n and size >= self.setup.max_bytes
        if len(ids) == n or full:
            self._stand_up(owner)
            self._share(lanes)
        seated = (len(ids) < n or has_more) and self._sit_down(owner)
        at_once = BATCH in (reaped, len(due)) or full
        sleep = 0 if at_once else self._sleep() if seated else -1
        return [sleep, str(self.now), reaped, self._given(ids), buried, "", int(seated and not at_once), "", ""]

    def bind(self, items: Iterable[Binding], worker: str) -> list[str]:
        return [self._bind(item, worker) for item in items]

    def settle(self, items: Iterable[Ending]) -> list[str]:
        succeeded, answers = self.counters["succeeded"], []
        began: list[int] = [0]
        for item in items:
            answers.append(self._settle(item))
            if self.counters["succeeded"] > succeeded:
                succeeded = self.counters["succeeded"]
                began.append(began_of(item.spent))
        if self.held and len(began) > 1:
            self.back = (self.back or 0) + len(began) - 1
        if self.blamed and max(began) >= self.blamed:
            self.blamed, self.blamed_by = 0, ""
            self.rare["blame answered"] += 1
            if self.held:
                self.bells.append("ready")
        if self.accused and max(began) >= self.accused:
            self.accused, self.healed = 0, max(began)
        elif self.accused:
            self.answered = max(self.answered, *began)
        return answers

    def release(self, items: Iterable[Return]) -> list[str | int]:
        before = self.counters["released"]
        answers = [word for item in items for word in self._release(item)]
        if self.counters["released"] > before:
            self.bells.append("ready")
        return answers

    def retry(self, items: Iterable[Fault]) -> list[Any]:
        answers = [self._retry(item) for item in items]
        if {"DELAYED", "HELD"} & {verdict for verdict, *_ in answers}:
            self.bells.append("ready")
        return [word for answer in answers for word in answer]

    def beat(
        self, owner: str, max_crashes: int, held: Iterable[tuple[int, str]], *, last: bool, idle: bool
    ) -> list[Any]:
        self._tick()
        lost: list[str] = []
        has_notices = bool(self.notices)
        for id_, token in held:
            if self._held(id_, token):
                self.open[id_].until = self.queue_now + LEASE
            else:
                lost += [self.setup.name(id_), token, "taken" if id_ in self.open else "gone"]
        self.buried = []
        reaped = self._reap(max_crashes) if last else 0
        adopted = self._adopt() if last else 0
        if last:
            self.tenancy.mend(self.in_lines_flight())
        self.workers[owner] = self.now
        busy = {job.owner for job in self.open.values() if job.place == "lease" and self.setup.kind == "stream"}
        self.workers = {name: at for name, at in self.workers.items() if at > self.now - 2 * LEASE or name in busy}
        if reaped or adopted:
            self.bells.append("ready")
        jobs = self.open.values()
        claimable = sum(
            job.place in {"ready", "held"} or (job.place == "delayed" and job.until <= self.queue_now) for job in jobs
        )
        if self.format != "2" and all(UPGRADED.search(name) for name in self.workers):
            self.format = "2"
            self.rare["upgraded"] += 1
        self._unseat_silent()
        seated = idle and not self.paused and self._sit_down(owner)
        if last and not idle:
            self._stand_up(owner)
        claimable += self._claimable()
        due = self.due() if last else []
        dropped = self._drop_notices() if last and has_notices else 0
        return [reaped, 0 if self.paused else claimable, lost, self.buried, int(seated), due, dropped]

    def _drop_notices(self) -> int:
        """Drop notices that are too old, and the oldest of too many; return how many."""
        young = sorted(id_ for id_ in self.notices if id_ >= 1000 * (self.now - NOTICES_MS))
        kept = young[-MOST_NOTICES:]
        dropped = len(self.notices) - len(kept)
        self.rare["too old a notice"] += len(self.notices) > len(young)
        self.rare["too many notices"] += len(young) > len(kept)
        self.notices = {id_: self.notices[id_] for id_ in kept}
        return dropped

    def put(  # noqa: PLR0913  as put.lua
        self,
        jobs: Iterable[tuple[str, bytes]],
        skip: str,
        job_class: str,
        due: int,
        said: Iterable[Record],
        *,
        notify: bool = False,
    ) -> list[int]:
        """Append jobs, or keep them until they are due: milliseconds, 0 for now. `said` is for the records."""
        is_later = due > self.now
        if any(self.listed.values()):
            self.rare["put beside a class"] += 1
        answers, rings = [], False
        for (job_id, payload), own in zip(jobs, said, strict=True):
            bound, record = self._is_elsewhere(job_id, 0), self.records.get(job_id)
            state = record.get("state") if isinstance(record, dict) else None
            known = bound or job_id in self.later
            known = known or state not in ({None} if skip == "once" else {None, "failed", "cancelled"})
            answers.append(int(not (skip != "none" and known) and not (is_later and job_id in self.later)))
            if not answers[-1]:
                continue
            if is_later:
                self.later[job_id] = Later(due, job_class, payload)
                self.rare["scheduled"] += 1
            else:
                rings = self._append(job_class, payload, own.get("tenant", "")) or rings
            if notify:
                self.notify.add(job_id)
            if self.setup.ttl and not bound:
                self.records.pop(job_id, None)
                state = "cancelling" if job_id in self.tombstones else "waiting"
                fields = {"state": state, "submitted_ms": str(self.now)} | own
                if is_later:
                    fields |= {"state": "scheduled", "due_ms": str(due)}
                self._write(job_id, SCHEDULED_SECONDS if is_later else LIVE_SECONDS, fields)
        if rings:
            self.bells.append("ready")
        return answers

    def due(self) -> list[str]:
        """List what has become due, in order."""
        due = sorted((job.due, job_id) for job_id, job in self.later.items() if job.due <= self.now)
        return [job_id for _, job_id in due[:BATCH]]

    def promote(self, job_ids: Iterable[str]) -> list[Any]:
        promoted, rings = 0, False
        for job_id in job_ids:
            if job_id not in self.later or self.later[job_id].due > self.now:
                continue
            job = self.later.pop(job_id)
            record = self.records.get(job_id, {})
            tenant = "" if isinstance(record, str) else record.get("tenant", "")
            rings, promoted = self._append(job.job_class, job.payload, tenant) or rings, promoted + 1
            if self.setup.ttl and not self._is_elsewhere(job_id, 0):
                self._begin(job_id, OF_THE_JOB | OF_THE_PAYLOAD)
                state = "cancelling" if job_id in self.tombstones else "waiting"
                known = self.records.get(job_id, {})
                kept = {} if isinstance(known, str) else known
                self._write(job_id, LIVE_SECONDS, {"state": state, "submitted_ms": str(self.now)} | kept)
        if rings:
            self.bells.append("ready")
        self.rare["promoted"] += promoted
        return [promoted, self.due()]

    def _append(self, job_class: str, payload: bytes, tenant: str) -> bool:
        """Append a job; say whether workers are told."""
        if tenant in self.tenancy.entries:
            self.rare["put into a line"] += 1
            self.tenancy.push(job_class, tenant, payload, self.now)
            return True
        self.listed.get(job_class, self.waiting).append(payload)
        return job_class != "standard"

    def set_tenant(self, name: str, entry: tuple[int, int] | None) -> int:
        self.tenancy.set(name, entry)
        self.bells.append("ready")
        return 1

    def in_flight(self, tenant: str) -> int:
        return sum(job.tenant == tenant for job in self.open.values())

    def in_lines_flight(self) -> list[bytes]:
        """Give what Redis has of jobs from lines that were claimed and have not ended."""
        name = self.setup.name
        return [f"l|{job.tenant}|{name(id_)}".encode() for id_, job in self.open.items() if job.tenant]

    def cancel(self, job_id: str) -> str:
        id_, later = self.bound.get(job_id), self.later.pop(job_id, None)
        if later is not None:
            self.rare["cancelled before it was due"] += 1
            self.ended.append(later.payload)
            self.counters["cancelled"] += 1
        is_open = id_ in self.open
        if id_ in self.open:
            self._end(id_, "cancelled")
            self.bells.append(f"gone {self.setup.name(id_)}")
        if is_open or later is not None:
            self._leave_notice(job_id, "cancelled")
            self._write(job_id, self.setup.ttl, {"state": "cancelled", "finished_ms": str(self.now)})
            if isinstance(record := self.records.get(job_id), dict):
                self.records[job_id] = {name: record[name] for name in record.keys() - OF_A_FAILURE}
            return "CANCELLED"
        record = self.records.get(job_id)
        state = record.get("state") if isinstance(record, dict) else None
        if state in {"succeeded", "failed", "cancelled"}:
            return "FINISHED"
        self.tombstones.add(job_id)
        if state is None:
            return "UNKNOWN"
        self._write(job_id, LIVE_SECONDS, {"state": "cancelling"})
        return "LATER"

    def forget(self, job_ids: Iterable[str]) -> int:
        forgotten = 0
        for job_id in job_ids:
            record = self.records.get(job_id)
            ended = isinstance(record, dict) and record.get("state") in {"succeeded", "failed", "cancelled"}
            if ended and not self._is_elsewhere(job_id, 0) and job_id not in self.later:
                del self.records[job_id]
                self.results.pop(job_id, None)
                self.notify.discard(job_id)
                forgotten += 1
        return forgotten

    def uncancel(self, job_id: str) -> int:
        if job_id not in self.tombstones:
            return 0
        self.tombstones.discard(job_id)
        record = self.records.get(job_id)
        if isinstance(record, dict) and record.get("state") == "cancelling":
            self._write(job_id, LIVE_SECONDS, {"state": "waiting"})
        return 1

    def replay(self, id_: int, new: int) -> str:
        """Replay; the job goes on as `new`, which in a list it was already."""
        if id_ not in self.dead:
            return "GONE"
        letter = self._forget_letter(id_)
        job_id = "" if self._is_elsewhere(letter.header["job_id"], id_) else letter.header["job_id"]
        if job_id and letter.header.get("notify"):
            self.rare["replayed, with a notice to leave"] += 1
            self.notify.add(job_id)
        alias = (letter.header["job_id"] or self.setup.name(new)) if self.setup.kind == "stream" else ""
        job_class = letter.header.get("class", "standard")
        tenant = letter.header.get("tenant", "") if self.tenancy.flag else ""
        self.rare["replayed for its tenant"] += bool(tenant)
        self.rare["replayed in its class"] += job_class != "standard"
        self.open[new] = Open(
            letter.payload, self.now, job_id=job_id, alias=alias, format=self.format, job_class=job_class, tenant=tenant
        )
        if job_id:
            self.bound[job_id] = new
        if self.setup.kind == "stream":
            self.unseen.add(new)
        return self.setup.name(new)

    def chosen(self, code: str, *, latest: bool) -> list[int]:
        """List dead letters as the index has them: all, or those of a code."""
        prefix, members = self._members(code)
        ids = [number_of(member[len(prefix) + 17 :]) for member in members]
        return ids[::-1] if latest else ids

    def purge(self, code: str, leave: int | None, most: int) -> tuple[list[bytes], list[int]]:
        """Delete the oldest; gives their payloads, and what the script answers."""
        most = most if leave is None else min(most, len(self.dead) - leave)
        members = self._members(code)[1][: max(0, most)]
        ids = self.chosen(code, latest=False)[: max(0, most)]
        gone = [self._forget_letter(id_).payload for id_ in ids if id_ in self.dead]
        self.index -= set(members)
        self.counters["purged"] += len(gone)
        return gone, [len(gone), int(most > 0 and len(ids) == most)]

    def _members(self, code: str) -> tuple[bytes, list[bytes]]:
        """Give what the index has of all letters by time, or of those of a code, and how that begins."""
        prefix = b"c\0" + code.replace("\0", " ").encode() + b"\0" if code else b"t\0"
        return prefix, sorted(member for member in self.index if member.startswith(prefix))

    def tidy(self) -> None:
        """Bring dead letters and their index in line, unless their numbers agree."""
        indexed = sum(member.startswith(b"t\0") for member in self.index)
        if indexed == len(self.dead) and (self.tidied or not indexed or self.format != "2"):
            return
        self.index = set()
        for id_, letter in self.dead.items():
            self.index |= letter.members(self.setup.name(id_))
            letter.apart = letter.apart or self.format == "2"
        self.tidied = self.tidied or self.format == "2"
        self.rare["put in line"] += 1

    def _tick(self) -> None:
        went_back = self.now < self.clock - 1000
        if went_back and self.format == "2":
            self.offset += self.clock - self.now
        elif went_back:
            for job in self.open.values():
                if job.place == "lease":
                    job.until = min(job.until, self.now + LEASE)
                elif job.place == "delayed":
                    job.until -= self.clock - self.now
        if went_back:
            self.workers = {name: at for name, at in self.workers.items() if at <= self.now}
        if self.clock and (went_back or self.now - self.clock > 2 * BEAT):
            self.amnesty = self.queue_now + 2 * BEAT
        self.clock, self.blamed, self.accused = self.now, min(self.blamed, self.now), min(self.accused, self.now)
        self.healed, self.answered = min(self.healed, self.now), min(self.answered, self.now)

    def _reap(self, max_crashes: int) -> int:
        if self.queue_now < self.amnesty:
            return 0
        expired = self._first("lease", lambda job: job.until < self.queue_now)
        for id_ in expired:
            job = self.open[id_]
            job.crashes += 1
            if job.crashes >= max_crashes + BURIAL_MARGIN:
                self.rare["buried by Lua"] += 1
                self._bury_unsettled(id_, job.job_id, "crashed", f"the lease expired {job.crashes} times")
            else:
                self._requeue(job)
        self.counters["reaped"] += len(expired)
        return len(expired)

    def _adopt(self) -> int:
        """Take over the oldest of what somebody has read past the workers, and let lie."""
        found = sorted(self.given_up)[:BATCH]
        for id_ in found:
            self.open[id_] = job = Open(self.strays.pop(id_), self.now, alias=self.setup.name(id_))
            job.written(self.format)
        self.given_up.difference_update(found)
        self.rare["adopted"] += len(found)
        return len(found)

    def _take(self, owner: str, nonce: str, n: int, *, may_suspect: bool, classed: bool) -> tuple[list[int], int]:
        taking = Taking(n, self.setup.max_bytes, may_suspect)
        for job_class, most in self._turns(taking) if classed else [("", n)]:
            self._take_again(taking, job_class, most)
            self._take_in_turn(taking, job_class, most)
        if self.setup.kind == "list":
            self.last = self.last or 0
        for id_ in self._at("held"):
            if taking.goes_on(n):
                self.rare["held, and claimed"] += 1
                self._give(taking, id_)
        for index, id_ in enumerate(taking.ids, 1):
            job = self.open[id_]
            job.place, job.until, job.token, job.owner = "lease", self.queue_now + LEASE, f"{nonce}:{index}", owner
            job.written(self.format)
        return taking.ids, taking.size

    def _turns(self, taking: Taking) -> Iterator[tuple[str, int]]:
        """Give the classes in the order in which they are served, and how many jobs the claim has after each."""
        before, drained = self.counters["claimed"], set[str]()
        while taking.goes_on(taking.n) and drained != set(CLASSES):
            turn = (before + len(taking.ids)) % TURNS
            favoured = {4: "standard", 9: "background"}.get(turn, "")
            if favoured and favoured not in drained:
                self.rare[f"the turn of {favoured}"] += 1
                job_class, most = favoured, 1
            else:
                job_class = next(each for each in CLASSES if each not in drained)
                most = next(special - turn for special in (4, 9, 10) if special > turn)
            most = min(len(taking.ids) + most, taking.n)
            yield job_class, most
            if len(taking.ids) < most:
                drained.add(job_class)

    def _take_again(self, taking: Taking, job_class: str, most: int) -> None:
        for id_ in self._at("ready"):
            job = self.open[id_]
            if not taking.goes_on(most):
                return
            if job_class not in {"", job.job_class} or id_ in taking.ids or (job.suspect and not taking.may_suspect):
                continue
            taking.may_suspect = taking.may_suspect and not job.suspect
            self._give(taking, id_)

    def _take_in_turn(self, taking: Taking, job_class: str, most: int) -> None:
        """Add jobs that nobody has claimed before: of tenants in turn, if one has a line."""
        if taking.goes_on(most) and job_class not in taking.queues:
            taking.queues[job_class] = self.tenancy.begin(job_class)
        queue = taking.queues.get(job_class)
        if queue is None:
            self._take_unlined(taking, job_class, most)
            return
        while taking.goes_on(most) and (name := queue.next()) is not None:
            before = len(taking.ids)
            if name:
                taken = self._take_of_line(taking, job_class, name)
            else:
                alone = queue.times.keys() - queue.done == {""}
                self._take_unlined(taking, job_class, most if alone else before + 1)
                taken = len(taking.ids) > before
            if not taken:
                queue.done.add(name)
            if len(taking.ids) > before:
                self.tenancy.served(job_class, queue, name)

    def _take_of_line(self, taking: Taking, job_class: str, name: str) -> bool:
        line = self.tenancy.lines[job_class, name]
        if line and not self.tenancy.free(name, self.in_flight(name)):
            self.rare["a tenant with as many in flight as it may have"] += 1
        if not line or not self.tenancy.free(name, self.in_flight(name)):
            return False
        self._open_unlisted(taking, job_class, line.popleft()[1], name)
        return True

    def _take_unlined(self, taking: Taking, job_class: str, most: int) -> None:
        if job_class in self.listed:
            self._take_listed(taking, job_class, most)
        else:
            self._take_fresh(taking, most)

    def _take_fresh(self, taking: Taking, most: int) -> None:
        """Add jobs that nobody has claimed before."""
        while taking.goes_on(most):
            asked = min(AT_ONCE, most - len(taking.ids))
            found = self._read(asked)
            for id_ in found:
                self._give_first(taking, id_)
            if len(found) < asked:
                return

    def _take_listed(self, taking: Taking, job_class: str, most: int) -> None:
        listed = self.listed[job_class]
        while listed and taking.goes_on(most):
            self._open_unlisted(taking, job_class, listed.popleft(), "")

    def _open_unlisted(self, taking: Taking, job_class: str, payload: bytes, tenant: str) -> None:
        """Give a job that came by another way than the producers' list or stream."""
        id_ = self.added.popleft() if self.setup.kind == "stream" else self._next_id()
        alias = self.setup.name(id_) if self.setup.kind == "stream" else ""
        self.open[id_] = Open(payload, self.now, alias=alias, job_class=job_class, tenant=tenant)
        if self.setup.kind == "stream":
            self.unseen.add(id_)
        self._give_first(taking, id_)

    def _give_first(self, taking: Taking, id_: int) -> None:
        """Give a job to its first worker, unless it is too large to be read."""
        payload = self.open[id_].payload
        if len(payload) <= LARGEST:
            self._give(taking, id_)
            return
        self.rare["too large"] += 1
        message = f"{len(payload)} bytes; more than {LARGEST} are not even read"
        self._bury_unsettled(id_, self.open[id_].alias, "too_large", message)
        taking.size += len(payload)

    def _give(self, taking: Taking, id_: int) -> None:
        taking.ids.append(id_)
        taking.size += len(self.open[id_].payload)
        self.open[id_].place = "lease"

    def _read(self, asked: int) -> list[int]:
        """Open the oldest jobs that nobody has claimed; of a stream the group reads past those that have been."""
        if self.setup.kind == "list":
            return [self._next() for _ in range(min(asked, len(self.waiting)))]
        found, passed = list[int](), 0
        while True:
            wanted = asked - len(found)
            unread = sorted([*self.arrivals, *(self.unseen & self.open.keys())])[:wanted]
            for id_ in unread:
                if id_ in self.unseen:
                    passed += 1
                    self.unseen.remove(id_)
                else:
                    found.append(self._next())
            if len(unread) < wanted or len(found) == asked or passed >= BATCH:
                self.stopped = self.stopped or (len(unread) == wanted and len(found) < asked)
                return found

    def come_to(self, id_: int) -> None:
        """Learn that the group has come to this entry of the stream."""
        self.unseen = {each for each in self.unseen if each > id_}

    def _at(self, place: str) -> list[int]:
        return sorted((id_ for id_, job in self.open.items() if job.place == place), key=self.place_of)

    def place_of(self, id_: int) -> int:
        """Give a job's place among those that were claimed before: by class, then by age."""
        return id_ + STEP * (CLASSES.index(self.open[id_].job_class) - 1)

    def _is_classed(self) -> bool:
        return (
            bool(self.tenancy.flag)
            or any(self.listed.values())
            or any(job.job_class != "standard" for job in self.open.values())
        )

    def _unhold(self) -> bool:
        """Bring back the oldest job that is held, once somebody has succeeded; say whether there was one."""
        if not self.held or (self.blamed and not self.back):
            return False
        oldest = next(iter(self._at("held")), None)
        self.held = oldest is not None
        if oldest is None:
            self.back = None
        else:
            self.rare["held, and brought back amid failures" if self.blamed else "held, and brought back"] += 1
            if self.back:
                self.back -= 1
            self.open[oldest].place = "ready"
            self.open[oldest].written(self.format)
        return self.held

    def _requeue(self, job: Open) -> None:
        behind = self.format == "2" and job.runs and self.blamed and not job.suspect
        job.place = "held" if behind else "ready"
        self.held = self.held or job.place == "held"
        job.written(self.format)

    def _next(self) -> int:
        """Open the oldest job that nobody has claimed."""
        payload = self.waiting.popleft()
        if self.setup.kind == "stream":
            id_ = self.arrivals.popleft()
            self.open[id_] = Open(payload, self.now, alias=self.setup.name(id_))
            return id_
        self.open[id_ := self._next_id()] = Open(payload, self.now)
        return id_

    def _next_id(self) -> int:
        self.last = max((self.last or 0) + 1, self.now * 1000)
        return self.last

    def _bind(self, item: Binding, worker: str) -> str:
        id_, token, job_id, notify, fields = item
        if not self._held(id_, token):
            return "STALE"
        if self._is_elsewhere(job_id, id_):
            if self.open[self.bound[job_id]].payload != self.open[id_].payload:
                return "CONFLICT"
            self._end(id_, "duplicate")
            return "DUPLICATE"
        if notify:
            self.notify.add(job_id)
        if job_id in self.tombstones:
            self.tombstones.remove(job_id)
            self._end(id_, "cancelled")
            self._leave_notice(job_id, "cancelled")
            self._begin(job_id)
            self._write(job_id, self.setup.ttl, fields | {"state": "cancelled", "finished_ms": str(self.now)})
            return "CANCELLED"
        self.bound[job_id] = id_
        if (former := self.open[id_].job_id) != job_id:
            if self.bound.get(former) == id_:
                del self.bound[former]
            self.open[id_].job_id = job_id
            self.open[id_].written(self.format)
        self._begin(job_id)
        run = {"state": "running", "claimed_ms": str(self.now), "worker": worker, "backend": BACKEND}
        run |= self._run_of(self.open[id_]) | {"first_claimed_ms": str(self.open[id_].first)}
        foreign = self._write(job_id, LIVE_SECONDS, fields | run)
        return "BADTYPE" if foreign else "RUN"

    def _settle(self, item: Ending) -> str:
        job, clash = self.open.get(item.id), self._is_elsewhere(item.job_id, item.id)
        if job is None:
            return self._settle_late(item, clash=clash)
        if job.token != item.token:
            return "STALE"
        if item.state == "succeeded":
            self._end(item.id, "succeeded")
            self._leave_notice(item.job_id, "succeeded")
        else:
            code = "conflict" if clash else item.text
            self._bury(item.id, item.job_id, code, item.message, int(item.fields["attempts"]))
            if clash:
                return "OK"
            self.counters["failed"] += 1
        if job.job_id != item.job_id:
            self._begin(item.job_id)
        return self._record_end(item, self._run_of(job))

    def _settle_late(self, item: Ending, *, clash: bool) -> str:
        letter = self.dead.get(item.id)
        if letter is None or letter.header["token"] != item.token:
            return "GONE"
        if item.state == "failed":
            return "OK"
        self.rare["answer too late" if clash else "late answer"] += 1
        if clash:
            return "GONE"
        self.ended.append(self._forget_letter(item.id).payload)
        self.counters["succeeded"] += 1
        if letter.header.get("notify"):
            self.notify.add(item.job_id)
        self._leave_notice(item.job_id, "succeeded")
        self._begin(item.job_id)
        run = {"attempts": str(letter.header["tries"]), "crashes": str(letter.header["crashes"])}
        return self._record_end(item, run)

    @staticmethod
    def _run_of(job: Open) -> dict[str, str]:
        return {"attempts": str(job.runs + 1), "crashes": str(job.crashes)}

    def _record_end(self, item: Ending, run: dict[str, str]) -> str:
        if not item.job_id or not self.setup.ttl:
            return "OK"
        if item.state == "succeeded":
            self.results[item.job_id] = item.text
        fields = run | item.fields | {"state": item.state, "finished_ms": str(self.now)}
        return "BADTYPE" if self._write(item.job_id, self.setup.ttl, fields) else "OK"

    def _release(self, item: Return) -> tuple[str, int]:
        if item.id not in self.open:
            return "GONE", 0
        if not self._held(item.id, item.token):
            return "STALE", 0
        job, due = self.open[item.id], self.now + item.delay
        self._put_back(job, item.delay)
        self.counters["released"] += 1
        if not item.job_id or not self.setup.ttl:
            return "OK", 0
        fields = {"state": "delayed", "due_ms": str(due), "error_code": item.reason}
        word, drains = "BADTYPE" if self._write(item.job_id, LIVE_SECONDS, fields) else "OK", 0
        if item.reason == DRAIN:
            drains = int(self.records[item.job_id].get("drains", 0)) + 1
            self._write(item.job_id, LIVE_SECONDS, {"drains": str(drains)})
        return word, drains

    def _put_back(self, job: Open, delay: int) -> None:
        if delay:
            job.place, job.until = "delayed", self.queue_now + delay
            job.written(self.format)
        else:
            self._requeue(job)

    def _retry(self, item: Fault) -> tuple[str, int, int]:
        if item.id not in self.open:
            return "GONE", 0, 0
        if not self._held(item.id, item.token):
            return "STALE", 0, 0
        job, delay = self.open[item.id], item.delay
        job.runs += 1
        if item.prior == "job":
            verdict = self._judge(job, item.fingerprint, began_of(item.spent), item.most)
        else:
            used = item.used
            again = job.runs > 1
            if again and used < TRY and (item.prior == "unknown" or job.tries >= TRY) and self._alone(item.id):
                used, delay = TRY, max(delay, ALONE)
                self.rare["alone"] += 1
            job.tries += used
            verdict = "DEAD" if job.tries >= item.most else "DELAYED"
        if not self.blamed:
            self.blamed, self.blamed_by = self.now, f"{item.code}: {item.message}"
        runs, crashes, elsewhere = str(job.runs), str(job.crashes), self._is_elsewhere(item.job_id, item.id)
        fields = {"attempts": runs, "crashes": crashes, "error_code": item.code, "error_message": item.message}
        if verdict == "DEAD":
            self._bury(item.id, item.job_id, item.code, item.message, job.runs)
            self.counters["failed"] += 1
            lifetime, fields = self.setup.ttl, fields | {"state": "failed", "finished_ms": str(self.now)}
        else:
            job.place, job.until = "delayed", self.queue_now + delay
            job.written(self.format)
            self.counters["released"] += 1
            lifetime = LIVE_SECONDS
            fields |= {"state": verdict.lower(), "due_ms": str(self.now + delay)}
        if not item.job_id or (verdict == "DEAD" and elsewhere):
            return verdict, 0, delay
        return verdict, int(self._write(item.job_id, lifetime, fields)), delay

    def _judge(self, job: Open, fingerprint: str, began: int, most: int) -> str:
        """The job's own fault, as it seems: it is dead, unless others fail alike and nobody succeeds."""
        late = not self.accused and began <= self.healed
        self.rare["late failure"] += late
        answered, unsure = 1 << 60, False
        if self.accused or late:
            unsure = late or began < self.answered
            answered = self.answered if began >= self.answered else 0
        proven = 0 < job.failed <= answered
        if not self.accused and not late:
            self.answered, self.blame = self.now - 1, {}
        older, newer = self.blame.get(fingerprint, (0, 0))
        if not late:
            self.accused = job.failed = self.now
        spared = not proven and older > answered
        job.tries += TRY if spared and unsure else 0
        if spared and job.tries < most:
            return "HELD" if self.format == "2" else "DELAYED"
        self.rare["proven"] += bool(proven)
        self.blame[fingerprint] = newer, self.now
        return "DEAD"

    def _alone(self, id_: int) -> bool:
        others = [job for other, job in self.open.items() if other != id_]
        return (
            not self.waiting
            and not any(self.listed.values())
            and not self.tenancy.waiting()
            and len(others) < 256
            and all(job.tries >= KNOWN for job in others)
        )

    def _is_elsewhere(self, job_id: str, id_: int) -> bool:
        """Say whether another open job has this job id."""
        other = self.bound.get(job_id)
        return other != id_ and other in self.open

    def _held(self, id_: int, token: str) -> bool:
        return id_ in self.open and self.open[id_].place == "lease" and self.open[id_].token == token

    def _first(self, place: str, wanted: Any) -> list[int]:
        name = self.setup.name
        found = [(job.until, name(id_), id_) for id_, job in self.open.items() if job.place == place and wanted(job)]
        return [id_ for *_, id_ in sorted(found)[:BATCH]]

    def _given(self, ids: list[int]) -> list[list[Any]]:
        jobs = [(self.setup.name(id_), self.open[id_]) for id_ in ids]
        return [
            [name, job.token, job.tries, job.crashes, str(job.first), job.payload, job.alias, job.runs]
            for name, job in jobs
        ]

    def _seats(self) -> list[str]:
        """Those with a free lane; the first two have a seat."""
        return [name for name, _ in sorted(self.idle.items(), key=lambda each: (each[1], each[0]))]

    def _sit_down(self, owner: str) -> bool:
        self.idle.setdefault(owner, 1000 * self.now)
        return owner in self._seats()[:2]

    def _stand_up(self, *owners: str) -> None:
        had_one = self._seats()[:2]
        self.idle = {name: at for name, at in self.idle.items() if name not in owners}
        for heir in self._seats()[:2]:
            if heir not in had_one:
                self.rare["heir"] += 1
                self.bells.append(f"wake {heir}")

    def _unseat_silent(self) -> None:
        while silent := [name for name in self._seats()[:2] if abs(self.now - self.workers.get(name, 0)) > 2 * BEAT]:
            self.rare["unseated"] += 1
            self._stand_up(*silent)

    def _unclaimed(self) -> int:
        standard = len(self.waiting) + len(self.strays) if self.waiting or self.unseen & self.open.keys() else 0
        return standard + sum(map(len, self.listed.values()))

    def _claimable(self) -> int:
        return self._unclaimed() + self.tenancy.claimable(self.in_flight)

    def _share(self, lanes: int) -> None:
        ready = sum(job.place == "ready" and not job.suspect for job in self.open.values())
        waiting = self._claimable() + ready
        for owner in self._seats()[: min(-(-waiting // lanes), BATCH)]:
            self.rare["shared"] += 1
            self.bells.append(f"wake {owner}")

    def _sleep(self) -> int:
        due = [job.until for job in self.open.values() if job.place == "delayed"]
        expiries = [job.until for job in self.open.values() if job.place == "lease"]
        if expiries:
            due.append(max(min(expiries), self.amnesty))
        return max(10, min(due) + 1 - self.queue_now) if due else -1

    def _forget(self, id_: int) -> Open:
        job = self.open.pop(id_)
        if self.bound.get(job.job_id) == id_:
            del self.bound[job.job_id]
        return job

    def _end(self, id_: int, counter: str) -> None:
        self.ended.append(self._forget(id_).payload)
        self.counters[counter] += 1

    def _bury(self, id_: int, job_id: str, code: str, message: str, attempts: int | None = None) -> None:
        job = self._forget(id_)
        attempts = job.runs if attempts is None else attempts
        self.counters["dead"] += 1
        header = {"code": code, "message": message, "job_id": job_id, "token": job.token, "tries": attempts}
        header |= {"crashes": job.crashes, "first_claimed_ms": str(job.first), "died_ms": str(self.now)}
        if job.job_class != "standard":
            header["class"] = job.job_class
        if job.tenant:
            header["tenant"] = job.tenant
        if not self._is_elsewhere(job_id, id_) and self._leave_notice(job_id, "failed", code):
            header["notify"] = 1
        self.dead[id_] = letter = Letter(header, job.payload, apart=self.format == "2")
        self.index |= letter.members(self.setup.name(id_))

    def _leave_notice(self, job_id: str, state: str, code: str = "") -> bool:
        """Tell of the end of a job that asked for it, once; say whether it did."""
        if job_id not in self.notify:
            return False
        self.notify.remove(job_id)
        self.noticed = max(self.noticed + 1, 1000 * self.now)
        self.notices[self.noticed] = f"{self.noticed} {self.now} {state} {job_id} {code[:64]}"
        self.rare[f"a notice: {state}"] += 1
        return True

    def _bury_unsettled(self, id_: int, job_id: str, code: str, message: str) -> None:
        self._bury(id_, job_id, code, message)
        self.buried += [self.setup.name(id_), job_id, code]

    def _forget_letter(self, id_: int) -> Letter:
        letter = self.dead.pop(id_)
        self.index -= letter.members(self.setup.name(id_))
        return letter

    def _begin(self, job_id: str, kept: Container[str] = OF_THE_JOB) -> None:
        """Forget what a record tells of earlier runs."""
        record = self.records.get(job_id)
        if self.setup.ttl and isinstance(record, dict):
            self.records[job_id] = {name: value for name, value in record.items() if name in kept}

    def _write(self, job_id: str, lifetime: int, fields: Record) -> bool:
        """Say whether a foreign type was replaced."""
        if not self.setup.ttl:
            return False
        record = self.records.get(job_id, {})
        foreign = isinstance(record, str)
        self.records[job_id] = fields if isinstance(record, str) else record | fields
        self.lifetimes[job_id] = lifetime
        if "finished_ms" in fields:
            code = fields["error_code"][:64] if fields["state"] == "failed" else ""
            self.recent.insert(0, f"{self.now} {fields['state']} {job_id} {code}")
        return foreign
