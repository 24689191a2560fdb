"""The account: every job that Redis accepted ends exactly once, and a fault explains every further execution."""

import bisect
import math
import signal
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from chaos.answers import judge_answers
from chaos.batch_account import judge_batches
from chaos.endpoint import CUT, ILL, POISONED
from chaos.facts import Disturbance, Execution, Facts, Letter, Push, Verdict
from chaos.schedule import ALL_ILL, FILES_AWAY, GATEWAY, ILLNESSES, KILL, LATE, LEASE

CANCELLED: Final = {"cancelled", "will_be_cancelled"}
SLACK: Final = 0.5  # seconds between a request to the endpoint to change its behaviour and the change
REACH: Final = 2 * LEASE + 5.0  # seconds: a lease, the discovery of its expiry, and a command's timeout
ENDPOINT: Final = {"429", "5xx", "hang", "cut", "malformed", POISONED, *(ILL + how for how in ILLNESSES)}
CODES: Final = {how: f"http_{how}" for how in ILLNESSES} | {"hang": "timeout", CUT: "connection_cut"}
SEEMS_AT_FAULT: Final = "http_400"  # the only illness that makes the job seem at fault
MOST_BURIED: Final = 2  # by one illness of the whole endpoint
FAILURES: Final = frozenset({*CODES.values(), "http_429", "http_502", "not_a_completion"})
CLOCKS: Final = 0.05  # seconds that two clocks of this machine may differ by
# These undo no work.
EVERYBODYS: Final = ("endpoint", "Redis", "CLIENT", "DEBUG", "queue", "dead letters", FILES_AWAY, GATEWAY)


def judge(facts: Facts) -> Verdict:
    """Check all promises of a run."""
    audit = _Audit(facts)
    audit.acceptances()
    audit.endings()
    audit.order()
    audit.executions()
    audit.exits()
    judge_answers(facts, audit.breach, audit.verdict.counts)
    judge_batches(facts, audit.breach, audit.verdict.counts, audit.may_bury, FAILURES)
    for part, count in facts.left.items():
        if count:
            audit.breach("left over", f"{count} in {part}")
    audit.verdict.recoveries = recoveries(facts)
    return audit.verdict


class _Audit:
    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.verdict = Verdict()
        self._count = self.verdict.counts
        self._pushed = Counter(push.job_id for push in facts.pushes)
        self._executions = _by(facts.executions, "job")
        self._buried = Counter[float]()

    def breach(self, promise: str, what: str) -> None:
        self._count[promise] += 1
        self.verdict.breaches.append(f"{promise}: {what}")

    def acceptances(self) -> None:
        """Check that the journal has every payload accepted, none that was refused, and none twice that must not be."""
        journal = self.facts.journal
        for payload in journal.keys() - {push.payload for push in self.facts.pushes}:
            self.breach("refused and run", f"in Redis' journal, and nobody was told that it may be: {payload[:100]!r}")
        for push in self.facts.pushes:
            if push.once and (self._pushed[push.job_id] > 1 or journal.get(push.payload, 0) > 1):
                self.breach("put twice", f"{push.job_id}: {push.payload[:100]!r}")
        for payload, told in Counter(push.payload for push in self.facts.pushes if push.told).items():
            if (found := journal.get(payload, 0)) < told:
                self.breach("lost", f"accepted {told} times, {found} times in Redis' journal: {payload[:100]!r}")
        self._count["jobs"] = sum(journal.get(payload, 0) for payload in {push.payload for push in self.facts.pushes})

    def endings(self) -> None:
        """Check that every job in the journal ended as it should."""
        letters: defaultdict[bytes, list[Letter]] = defaultdict(list)
        for letter in self.facts.letters:
            letters[letter.payload].append(letter)
        by_id: defaultdict[str, dict[bytes, Push]] = defaultdict(dict)
        for push in self.facts.pushes:
            by_id[push.job_id][push.payload] = push
        for job_id, pushes in by_id.items():
            times = {payload: self.facts.journal.get(payload, 0) for payload in pushes}
            found = [letter for payload in times for letter in letters.pop(payload, [])]
            push = next(iter(pushes.values()))
            if push.code:
                self._hopeless(push, sum(times.values()), found)
            elif any(times.values()):
                self._job(job_id, times, found)
        for payload in letters:
            self.breach("dead letter of nobody", repr(payload[:100]))
        self._answers()

    def _hopeless(self, push: Push, times: int, found: Sequence[Letter]) -> None:
        """Check a malformed or poisoned job: every push is a dead letter; a poisoned one may have a fault's code."""
        self._count[POISONED if push.poisoned else "malformed"] += times
        if len(found) != times:
            self.breach("lost" if len(found) < times else "recorded twice", f"{push.job_id}: {len(found)} of {times}")
        codes = {push.code} | (FAILURES if push.poisoned else frozenset())
        if {letter.code for letter in found} - codes or self.facts.written.get(push.job_id):
            self.breach("wrong ending", f"{push.job_id}: {found}, not {push.code}")

    def _job(self, job_id: str, times: Mapping[bytes, int], found: Sequence[Letter]) -> None:
        """Check a good job: one answer for each push, except those folded, in conflict, buried or cancelled."""
        written, pushed = self.facts.written.get(job_id, ()), sum(times.values())
        conflicts = sum(letter.code == "conflict" for letter in found)
        state = self.facts.records.get(job_id, {}).get("state", "")
        cancellation = self.facts.cancellations.get(job_id, "")
        buried = [letter for letter in found if letter.code != "conflict"]
        self._count["conflicts"] += conflicts
        self._count["duplicates"] += pushed - 1
        for letter in buried:
            if not self.may_bury(job_id, letter):
                self.breach("wrong ending", f"{job_id}: {letter.code}, {self._executions[job_id]}")
        if cancellation in CANCELLED or (cancellation == "unknown" and state == "cancelled"):
            self._count["cancelled"] += 1
            if written or state != "cancelled" or found:
                self.breach("cancelled in vain", f"{job_id}: {state}, {len(written)} results")
            return
        least = pushed if sum(map(bool, times.values())) > 1 else 1  # only equal payloads may be folded
        ends = f"{job_id}: pushed {pushed} times, {conflicts} conflicts, {len(buried)} buried, results {list(written)}"
        if len(written) + len(found) < least or not (written or buried):
            self.breach("lost", ends)
        elif len(written) + len(found) > pushed:
            self.breach("recorded twice", ends)
        elif not written:
            return
        elif self.facts.results.get(job_id) != written[-1] or not self._told_as_ended(job_id, buried):
            self.breach("changed", f"{ends}; found {state}, {self.facts.results.get(job_id)!r}")
        self._count["answered"] += bool(written)

    def _told_as_ended(self, job_id: str, buried: Sequence[Letter]) -> bool:
        """Return whether the record of a job with a result says how it ended; pushed again, it may have been buried."""
        record = self.facts.records.get(job_id, {})
        state, codes = record.get("state"), {letter.code for letter in buried}
        return state == "succeeded" or (state == "failed" and record.get("error_code") in codes)

    def may_bury(self, job_id: str, letter: Letter) -> bool:
        """Return whether it is one of two jobs that an illness of the whole endpoint may bury, or met two illnesses.

        A job that seems at fault, by a 400, twice, with another job answered in between, is dead, however many such
        jobs there are (docs/blame.md, "What it cannot tell apart"). Other failures only use up tries.
        """
        calls = [call for call in self._executions.get(job_id, []) if CODES.get(_illness(call)) == letter.code]
        for call in reversed(calls):
            if not (illness := self._of_all(call)):
                continue
            earlier = [before for before in calls if before.began < illness.began and letter.code == SEEMS_AT_FAULT]
            if any(self._answered_between(before, call) for before in earlier):
                self._count["buried by two illnesses"] += 1
                return True
            self._buried[illness.began] += 1
            self._count["buried by an illness"] += 1
            return self._buried[illness.began] <= MOST_BURIED
        return False

    def _of_all(self, call: Execution) -> Disturbance | None:
        """Return the illness of the whole endpoint that the call met."""
        kind = f"{ALL_ILL}: {_illness(call)}"
        return next(
            (
                illness
                for illness in self.facts.disturbances
                if illness.kind == kind and illness.began - SLACK <= call.began <= illness.ended + SLACK
            ),
            None,
        )

    def _answered_between(self, before: Execution, after: Execution) -> bool:
        """Return whether the endpoint answered a call that began after `before` and ended before `after` began."""
        return any(
            call.fate == "ok" and call.began > before.began and (call.ended or math.inf) < after.began
            for call in self.facts.executions
        )

    def _answers(self) -> None:
        """Check that every result is an answer that the endpoint gave to that job."""
        given = {(execution.job, execution.answer) for execution in self.facts.executions}
        for job_id, written in self.facts.written.items():
            if foreign := [answer for answer in written if (job_id, answer) not in given]:
                self.breach("answer of nobody", f"{job_id}: {foreign}")

    def order(self) -> None:
        """Check that first deliveries are in the order of pushes, leaving out malformed jobs and any pushed twice."""
        last: dict[int, tuple[int, str]] = {}
        for push in self.facts.pushes:
            first = self.facts.records.get(push.job_id, {}).get("first_claimed_ms")
            told = push.told and not push.code and self._pushed[push.job_id] == 1
            if any(call.fate.startswith(ILL) for call in self._executions.get(push.job_id, ())):
                continue  # an illness may have buried it, and a replay begins anew
            if first is None or push.producer is None or not told:
                continue
            before, whose = last.get(push.producer, (0, ""))
            if int(first) < before:
                self.breach("out of order", f"{push.job_id} {before - int(first)} ms before {whose}")
            last[push.producer] = int(first), push.job_id

    def executions(self) -> None:
        """Check that each job ran once, or again only after a fault of the endpoint or of a worker that ran it."""
        reasons = (each for each in self.facts.disturbances if not each.kind.startswith(EVERYBODYS))
        disturbances = sorted(reasons, key=lambda each: each.began)
        starts = [each.began for each in disturbances]
        self._count["executions"] = len(self.facts.executions)
        self._count["late heartbeats"] = sum(each.kind == LATE for each in disturbances)
        for push in self.facts.pushes:
            if any(call.began < push.due - CLOCKS for call in self._executions.get(push.job_id, ())):
                self.breach("too early", f"{push.job_id}: due {push.due}, {self._executions[push.job_id]}")
        for job, executions in self._executions.items():
            self._count["executed again"] += len(executions) - 1
            self._count["answered twice by the endpoint"] += sum(each.fate == "ok" for each in executions) > 1
            puts = self._pushed[job] + self.facts.lines.get(job, 0)
            for before, after in pairwise(executions if puts == 1 else ()):
                reached = disturbances[: bisect.bisect_right(starts, after.began)]
                if before.fate not in ENDPOINT and not any(_explains(each, before, after) for each in reached):
                    self.breach("executed again for no reason", f"{before}, {after}")

    def exits(self) -> None:
        """Check that workers and gateways ended only when told to, and wrote nothing to stderr.

        SIGTERM may kill one while Python still starts, but not once it works. Gateways have no work to leave undone.
        """
        worked = {execution.worker for execution in self.facts.executions}
        worked |= {request.gateway for request in self.facts.requests if request.status}
        for end in self.facts.exits:
            is_gateway = end.worker.startswith("gateway")
            whose = "a gateway ended" if is_gateway else "ended"
            self._count[f"{whose} by {end.asked or 'nobody'} with {end.code}"] += 1
            early = end.code == -signal.SIGTERM and end.worker not in worked
            allowed = {-signal.SIGKILL, 0} if is_gateway else {-signal.SIGKILL, 0, 1}
            if not end.asked or end.stderr or not (early or end.code in allowed):
                told = f"told by {end.asked or 'nobody'}"
                self.breach("worker broken", f"{end.worker}: {end.code}, {told}: {end.stderr[-300:]}")


def recoveries(facts: Facts) -> list[float]:
    """Return seconds from each kill until the last of the calls it cut off was repeated."""
    by_worker, by_job = _by(facts.executions, "worker"), _by(facts.executions, "job")
    found = []
    for kill in facts.disturbances:
        if kill.kind == KILL:
            calls = by_worker.get(kill.worker or "", [])
            cut = (call for call in calls if call.ended is None or call.ended >= kill.began)
            again = [[each.began for each in by_job[call.job] if each.began > kill.began] for call in cut]
            if waits := [min(begun) - kill.began for begun in again if begun]:
                found.append(round(max(waits), 3))
    return found


def _by(executions: Sequence[Execution], what: str) -> dict[str, list[Execution]]:
    """Group executions, each group in order of time."""
    groups = defaultdict(list)
    for execution in sorted(executions, key=lambda each: each.began):
        groups[getattr(execution, what)].append(execution)
    return groups


def _illness(call: Execution) -> str:
    """Return the illness that the call met, or an empty string."""
    return call.fate.removeprefix(ILL) if call.fate.startswith(ILL) else ""


def _explains(disturbance: Disturbance, before: Execution, after: Execution) -> bool:
    reaches = disturbance.ended + REACH >= before.began
    return reaches and disturbance.worker in {None, before.worker, after.worker}
