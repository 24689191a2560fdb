"""The invariants of the protocol (docs/queue-protocol.md), checked by what was seen from outside."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.entries import CLASSES, FOREIGN, LEASE, TURNS, number_of
from tests.support.ledger import Ledger
from tests.support.tenancy import TENANTS


@dataclass
class Witness:
    """What producers pushed and what Redis told the workers.

    `order` is in which order jobs came to their class, or their tenant's line there, `shares` how much more one tenant
    has got than another, by weight, while both had jobs waiting; `passed_over` how many jobs of others were given in a
    row while some of a class waited; `alive_at` is when a holder last showed that it lives.
    """

    pushed: list[bytes] = field(default_factory=list)
    order: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)
    tenant: dict[int, str] = field(default_factory=dict)
    shares: dict[tuple[str, str, str], float] = field(default_factory=lambda: defaultdict(float))
    job_class: dict[int, str] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)
    purged: list[bytes] = field(default_factory=list)
    payload: dict[int, bytes] = field(default_factory=dict)
    token: dict[int, str] = field(default_factory=dict)
    settled: dict[int, str] = field(default_factory=dict)
    alive_at: dict[int, int] = field(default_factory=dict)
    running: dict[int, str] = field(default_factory=dict)
    renamed: set[int] = field(default_factory=set)
    aside: set[int] = field(default_factory=set)
    failed_over: bool = False

    def claimed(  # noqa: PLR0913  all that is seen of a claim
        self,
        jobs: list[list[Any]],
        unread: dict[int, bytes],
        now: int,
        most_crashes: int,
        *,
        classes: Mapping[int, str],
        waiting: Collection[str],
        tenants: Mapping[int, str],
    ) -> set[int]:
        """Hear what a claim gave; `unread` was buried for its size on the way. Gives the ids never seen before.

        `classes` are those of the jobs, `waiting` those of which some still wait.
        """
        ids = [number_of(job[0]) for job in jobs]
        repeated = all(self.token.get(id_) == job[1].decode() for id_, job in zip(ids, jobs, strict=True))
        came = unread | {id_: job[5] for id_, job in zip(ids, jobs, strict=True)}
        fresh = sorted(came.keys() - self.payload.keys())
        self.job_class |= {id_: classes[id_] for id_ in came}
        self.tenant |= {id_: tenants[id_] for id_ in came if id_ not in self.payload}
        for job_class in CLASSES:
            mine = [id_ for id_ in ids if classes[id_] == job_class]
            assert repeated or self._in_turn(mine), "invariant 5: redeliveries do not come first, or not by age"
        for job_class, tenant in self.order:
            of_it = (job_class, tenant)
            first = [id_ for id_ in fresh if (classes[id_], tenants[id_]) == of_it]
            before = {id_ for id_ in self.payload if self._line_of(id_) == of_it} - self.renamed
            assert not first or first[0] > max(before, default=0), "invariant 5: ids are not in the order of delivery"
            in_order = self.order[of_it][len(before) : len(before) + len(first)]
            assert [came[id_] for id_ in first] == in_order, "invariant 5: first deliveries are not in order of arrival"
        if not repeated:
            self._check_turns([classes[id_] for id_ in ids], waiting)
        self.payload |= {id_: came[id_] for id_ in fresh}
        for id_, (_, token, _, crashes, _, payload, *_) in zip(ids, jobs, strict=True):
            assert self.payload[id_] == payload, "a payload has changed"
            assert crashes < most_crashes, "a job comes up too often"
            self.token[id_] = token.decode()
            self.alive_at[id_] = now
        return set(fresh)

    def _in_turn(self, ids: list[int]) -> bool:
        """Say whether these of one class were given in turn: redeliveries by age, fresh ones, then those held."""
        known = [id_ for id_ in ids if id_ in self.payload]
        last = next((at for at, id_ in enumerate(ids[::-1]) if id_ not in self.aside), len(ids))
        return any(
            ids == sorted(set(known) - set(held)) + [id_ for id_ in ids if id_ not in known] + sorted(held)
            for held in (ids[len(ids) - n :] for n in range(last + 1))
        )

    def _line_of(self, id_: int) -> tuple[str, str]:
        return self.job_class.get(id_, "standard"), self.tenant.get(id_, "")

    def served_in_turn(self, ids: list[int], fresh: Collection[int], ledger: Ledger) -> None:
        """Hear what a claim gave: none had more in flight than it may, none got more than its share and one job."""
        tenancy = ledger.tenancy
        for name in {self.tenant[id_] for id_ in fresh if id_ in ledger.open} - {""}:
            most = tenancy.entries.get(name, (1, 0))[1]
            assert not most or ledger.in_flight(name) <= most, f"{name} has more jobs in flight than {most}"
        for job_class in CLASSES:
            unlined = ledger.listed.get(job_class, ledger.waiting)
            wait = {name for (each, name), line in tenancy.lines.items() if each == job_class and line}
            wait = {name for name in wait if tenancy.free(name, ledger.in_flight(name))} | ({""} if unlined else set())
            given = [self.tenant.get(id_, "") for id_ in ids if id_ in fresh and self.job_class[id_] == job_class]
            for one, other in itertools.combinations(("", *TENANTS), 2):
                key = (job_class, one, other)
                if not {one, other} <= wait:
                    self.shares[key] = 0.0
                    continue
                weights = [tenancy.entries.get(name, (1, 0))[0] for name in (one, other)]
                for name in given:
                    self.shares[key] += (name == one) / weights[0] - (name == other) / weights[1]
                most_apart = sum(1 / weight for weight in weights)
                assert abs(self.shares[key]) <= most_apart + 1e-6, (
                    f"{job_class}: {one!r} and {other!r} have no fair shares"
                )

    def shares_changed(self) -> None:
        """Hear that a weight or a limit has changed."""
        self.shares.clear()

    def _check_turns(self, given: list[str], waiting: Collection[str]) -> None:
        for job_class in CLASSES[1:]:
            if job_class not in waiting:
                self.passed_over[job_class] = 0
                continue
            for each in given:
                self.passed_over[job_class] = 0 if each == job_class else self.passed_over[job_class] + 1
                assert self.passed_over[job_class] < TURNS, f"invariant 5: {job_class} is passed over too often"

    def replayed(self, old: int, new: int) -> None:
        """Hear that a dead letter goes on, in a stream as another entry."""
        self.running.pop(old, None)
        if new not in self.payload:
            self.payload[new] = self.payload[old]
            self.job_class[new] = self.job_class.get(old, "standard")
            self.tenant[new] = self.tenant.get(old, "")
            self.renamed.add(new)

    def strayed(self, jobs: dict[int, bytes]) -> None:
        """Hear that somebody has read the oldest jobs past the workers."""
        self.payload |= jobs

    def beaten(self, ids: Iterable[int], now: int) -> None:
        for id_ in ids:
            self.alive_at[id_] = now

    def ended(self, id_: int, token: str, state: str) -> None:
        assert self.token[id_] == token, "invariant 4: somebody settled a job whose last claim was not his"
        assert id_ not in self.settled, "invariant 4: a job that had succeeded was settled again"
        if state == "succeeded":
            self.settled[id_] = token

    def folded(self, id_: int, others: Iterable[bytes]) -> None:
        """`others`: the payloads of the jobs that were open; one of the same group may have been cancelled since."""
        assert self.payload[id_] in others, "a job was folded into one with another payload"

    def clock_went_back(self, now: int, by: int) -> None:
        """Leases go back with the clock; those that had expired before have no promise."""
        for id_, at in self.alive_at.items():
            self.alive_at[id_] = at - by if now - at < LEASE else at - LEASE - by

    def check(self, ledger: Ledger, held: Iterable[tuple[int, str]]) -> None:
        """Raise AssertionError unless the state that Redis was found in keeps the promises."""
        left = [*ledger.waiting, *ledger.strays.values(), *(job.payload for job in ledger.open.values())]
        left += [payload for listed in ledger.listed.values() for payload in listed]
        left += ledger.tenancy.waiting()
        left += [job.payload for job in ledger.later.values()]
        gone = [*ledger.ended, *self.purged, *(letter.payload for letter in ledger.dead.values())]
        assert Counter(left + gone) == Counter(self.pushed), "invariant 2: a payload is lost, doubled or changed"
        assert len(left) == len(self.pushed) - len(gone), "invariant 7: what KEDA counts is not what is left to do"
        assert not ledger.open.keys() & self.settled.keys(), "invariant 4: a job that has succeeded is open"
        for id_, token in held:
            job, silent = ledger.open.get(id_), ledger.now - self.alive_at.get(id_, 0)
            if job is not None and job.token == token == self.token[id_] and 0 <= silent < LEASE:
                assert job.place == "lease", "invariant 6: a lease was reaped before its time"
        assert set(ledger.bound.values()) <= ledger.open.keys(), "an id is bound to a job that has ended"
        for id_ in self.running.keys() & ledger.open.keys():
            job_id = self.running[id_]
            assert ledger.bound[job_id] == id_, "another delivery of an id runs beside the one that is bound"
            record = ledger.records.get(job_id, FOREIGN)
            of_it = isinstance(record, str) or record["state"] in {"running", "delayed", "held"}
            assert of_it or self.failed_over, "a record is not that of the job in flight"
        answers = {f"answer {token}" for token in self.settled.values()}
        results = {text for text in ledger.results.values() if text != FOREIGN}
        assert results <= answers, "a result was written by somebody who did not settle"
