"""The account: does everything that Redis took end, once, and is every second execution explained by a fault?"""

import bisect
import signal
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from chaos.facts import Disturbance, Execution, Facts, Letter, Push, Verdict
from chaos.schedule import KILL, LEASE

CANCELLED: Final = {"cancelled", "will_be_cancelled"}
REACH: Final = 2 * LEASE + 5.0  # seconds: a lease, its discovery, and what a command may wait for its answer
ENDPOINT: Final = {"429", "5xx", "hang", "cut", "malformed"}


def judge(facts: Facts) -> Verdict:
    """Draw up the account."""
    verdict = Verdict()
    _accepted(facts, verdict)
    _endings(facts, verdict)
    _order(facts, verdict)
    _executions(facts, verdict)
    _exits(facts, verdict)
    for part, count in facts.left.items():
        if count:
            _breach(verdict, "left over", f"{count} in {part}")
    verdict.recoveries = recoveries(facts)
    return verdict


def _breach(verdict: Verdict, promise: str, what: str) -> None:
    verdict.counts[promise] += 1
    verdict.breaches.append(f"{promise}: {what}")


def _accepted(facts: Facts, verdict: Verdict) -> None:
    """What a producer was told is in the journal."""
    told = Counter(push.payload for push in facts.pushes if push.told)
    for payload, count in told.items():
        if facts.journal.get(payload, 0) < count:
            _breach(verdict, "lost", f"accepted {count} times, in Redis' journal {facts.journal.get(payload, 0)}")
    verdict.counts["jobs"] = sum(facts.journal.get(payload, 0) for payload in {push.payload for push in facts.pushes})


def _endings(facts: Facts, verdict: Verdict) -> None:
    """Every job that the journal holds has ended as it had to."""
    letters = defaultdict(list)
    for letter in facts.letters:
        letters[letter.payload].append(letter)
    by_id: defaultdict[str, dict[bytes, Push]] = defaultdict(dict)
    for push in facts.pushes:
        by_id[push.job_id][push.payload] = push
    answers = defaultdict(set)
    for execution in facts.executions:
        answers[execution.job].add(execution.answer)
    for job_id, pushes in by_id.items():
        times = {payload: facts.journal.get(payload, 0) for payload in pushes}
        found = [letter for payload in times for letter in letters.pop(payload, [])]
        if (code := next(iter(pushes.values())).code) != "":
            _buried(job_id, code, sum(times.values()), found, facts, verdict)
        elif sum(times.values()):
            _ended(job_id, times, found, facts, verdict)
            if foreign := set(facts.written.get(job_id, ())) - answers[job_id]:
                _breach(verdict, "answer of nobody", f"{job_id}: {sorted(foreign)}")
    for payload in letters:
        _breach(verdict, "dead letter of nobody", repr(payload[:100]))


def _buried(job_id: str, code: str, times: int, found: list[Letter], facts: Facts, verdict: Verdict) -> None:
    """It could not be run: each became a dead letter."""
    verdict.counts["malformed"] += times
    if len(found) != times:
        _breach(verdict, "lost" if len(found) < times else "recorded twice", f"{job_id}: {len(found)} of {times}")
    if {letter.code for letter in found} - {code} or job_id in facts.written:
        _breach(verdict, "wrong ending", f"{job_id}: {found}, not {code}")


def _ended(job_id: str, times: dict[bytes, int], found: list[Letter], facts: Facts, verdict: Verdict) -> None:
    """It has an answer for each time it was pushed, less those folded into it, refused as `conflict`, or cancelled."""
    written, pushed = facts.written.get(job_id, ()), sum(times.values())
    conflicts = sum(letter.code == "conflict" for letter in found)
    verdict.counts["conflicts"] += conflicts
    state = facts.records.get(job_id, {}).get("state", "")
    cancellation = facts.cancellations.get(job_id, "")
    if len(found) > conflicts:
        _breach(verdict, "wrong ending", f"{job_id}: {[letter.code for letter in found]}")
    if cancellation in CANCELLED or (cancellation == "unknown" and state == "cancelled"):
        verdict.counts["cancelled"] += 1
        if written or state != "cancelled" or found:
            _breach(verdict, "cancelled in vain", f"{job_id}: {state}, {len(written)} results")
        return
    least = pushed if len([n for n in times.values() if n]) > 1 else 1
    if len(written) + conflicts < least or not written:
        _breach(verdict, "lost", f"{job_id}: pushed {pushed} times, {len(written)} results, {conflicts} conflicts")
    elif len(written) + conflicts > pushed:
        _breach(verdict, "recorded twice", f"{job_id}: pushed {pushed} times, {list(written)}")
    elif facts.results.get(job_id) != written[-1] or state != "succeeded":
        _breach(verdict, "changed", f"{job_id}: {state}, {facts.results.get(job_id)!r} after {list(written)}")
    verdict.counts["answered"] += bool(written)
    verdict.counts["duplicates"] += pushed - 1


def _order(facts: Facts, verdict: Verdict) -> None:
    """First deliveries are in the order of the pushes; what was pushed twice or with an unknown outcome has no place."""
    pushed = Counter(push.job_id for push in facts.pushes)
    last: dict[int, tuple[int, str]] = {}
    for push in facts.pushes:
        first = facts.records.get(push.job_id, {}).get("first_claimed_ms")
        if first is None or push.code or not push.told or pushed[push.job_id] > 1:
            continue
        before, whose = last.get(push.producer, (0, ""))
        if int(first) < before:
            _breach(verdict, "out of order", f"{push.job_id} {before - int(first)} ms before {whose}")
        last[push.producer] = int(first), push.job_id


def _executions(facts: Facts, verdict: Verdict) -> None:
    """One execution, and one more only where a fault explains it: of the endpoint, or of whoever ran it."""
    by_job = defaultdict(list)
    for execution in sorted(facts.executions, key=lambda each: each.began):
        by_job[execution.job].append(execution)
    pushed: Counter[str] = Counter()
    for push in facts.pushes:
        pushed[push.job_id] += 1
    starts, disturbances = _by_start(facts.disturbances)
    verdict.counts["executions"] = len(facts.executions)
    for job, executions in by_job.items():
        verdict.counts["executed again"] += len(executions) - 1
        verdict.counts["answered twice by the endpoint"] += sum(each.fate == "ok" for each in executions) > 1
        if pushed[job] > 1:
            continue
        for before, after in pairwise(executions):
            if before.fate in ENDPOINT:
                continue
            at = bisect.bisect_right(starts, after.began)
            if not any(_explains(each, before, after) for each in disturbances[:at]):
                _breach(verdict, "executed again for no reason", f"{before} and {after}")


def _by_start(disturbances: Sequence[Disturbance]) -> tuple[list[float], list[Disturbance]]:
    ordered = sorted(disturbances, key=lambda each: each.began)
    return [each.began for each in ordered], ordered


def _explains(disturbance: Disturbance, before: Execution, after: Execution) -> bool:
    reaches = disturbance.ended + REACH >= before.began
    return reaches and disturbance.worker in {None, before.worker, after.worker}


def _exits(facts: Facts, verdict: Verdict) -> None:
    """A worker ends only when it is told to, and says nothing to stderr.

    SIGTERM may kill it while Python still starts; not once it has begun to work.
    """
    worked = {execution.worker for execution in facts.executions}
    for end in facts.exits:
        verdict.counts[f"ended by {end.asked or 'nobody'} with {end.code}"] += 1
        early = end.code == -signal.SIGTERM and end.worker not in worked
        if not end.asked or end.stderr or not (early or end.code in {-signal.SIGKILL, 0, 1}):
            _breach(verdict, "worker broken", f"{end.worker}: {end.code}, told by {end.asked!r}: {end.stderr[-300:]}")


def recoveries(facts: Facts) -> list[float]:
    """Seconds from each kill until the last of the calls that it cut off was made anew."""
    by_worker, by_job = defaultdict(list), defaultdict(list)
    for execution in sorted(facts.executions, key=lambda each: each.began):
        by_worker[execution.worker].append(execution)
        by_job[execution.job].append(execution.began)
    found = []
    for kill in facts.disturbances:
        if kill.kind != KILL:
            continue
        cut = (each for each in by_worker[kill.worker or ""] if each.ended is None or each.ended >= kill.began)
        again = [next((at for at in by_job[each.job] if at > kill.began), None) for each in cut]
        if waits := [at - kill.began for at in again if at is not None]:
            found.append(round(max(waits), 3))
    return found
