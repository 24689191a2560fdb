"""Decides who caused a failed call: the job, or the endpoint, by how other jobs fare (docs/blame.md).

The more surprising a failure is, the more of a try it uses up: a whole one after fifteen successes, nothing while no
call succeeds. Nothing here waits, sends or reads a clock: times are passed in as seconds, so that a simulator can run
this code too (`tests/blame_simulator.py`).
"""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from greenscale_worker.errors import TransientError
from greenscale_worker.job import Failure

CERTAIN_AFTER: Final = 16  # the failure after fifteen successes in a row is a full try
FORGOTTEN_AFTER: Final = 60.0  # seconds since the last success of peers
KNOWN: Final = 1.5  # tries used up: the job is known to be bad, and its failures are no surprise
ALIKE: Final = 5  # different jobs that fail alike open the breaker
ALONE_SECONDS: Final = 120.0  # between two tries of a job that is alone in its queue: five take eight minutes
BEGAN_SECONDS: Final = 2.0  # delay after a failure that may have begun an outage: other jobs go first
FIRST_BACKOFF: Final = 1.0
LONGEST_BACKOFF: Final = 60.0
FIRST_PAUSE: Final = 1.0  # of the breaker
SHORT_PAUSE: Final = 0.1  # where the probing job seems to be at fault: the next one may be good
LONGEST_PAUSE: Final = 15.0
LEAST_ANSWERS: Final = 8  # looked at, at least: a `retry_after` holds all lanes only if half of them failed
KEPT_BY_OVERLOAD: Final = 0.7  # share of the lanes, cut once per round trip
MOST_PEERS: Final = 1024  # kinds of jobs remembered
MOST_MET: Final = 100_000  # and jobs that probed an open breaker
MOST_FINGERPRINTS: Final = 256  # and kinds of faults


def jittered(seconds: float) -> float:
    """Lengthen a wait by up to a tenth, so that processes told the same time do not come back together."""
    return seconds * (1 + random.random() / 10)  # noqa: S311  spread, not secrecy


# What the queue decides, for the fleet. In Redis, `retry.lua` and the end of `settle.lua` do the same.


@dataclass(slots=True)
class FleetEvidence:
    """When a call first failed since the last success (`since`), and its error (`by`).

    `buried` is when the last two jobs died of each fingerprint: a success answers those before its call began.
    `accused` is when a job last seemed to be at fault itself, None if a success answered that. `answered` is when the
    latest call began that succeeded meanwhile, `healed` when the call began whose success answered `accused`.
    """

    since: float | None = None
    by: str = ""
    buried: dict[str, tuple[float, float]] = field(default_factory=dict)
    accused: float | None = None
    answered: float = -math.inf
    healed: float = -math.inf
    back: int = 0

    def brings_back(self) -> bool:
        """Return whether a held job comes back now, and count it as back."""
        back, self.back = self.back, max(0, self.back - 1)
        return self.since is None or back > 0

    def succeeded(self, began: float, *, held: bool = False) -> bool:
        """Record a success of a call that began then. Return whether it came after the failures, and so answers them.

        `held`: there are held jobs, and one more of them may come back.
        """
        self.back += held
        if self.accused is not None and began >= self.accused:
            self.accused, self.healed = None, began
        elif self.accused is not None:
            self.answered = max(self.answered, began)
        if self.since is None or began < self.since:
            return False
        self.since, self.by = None, ""
        return True


@dataclass(frozen=True, slots=True)
class Judgement:
    """A decision about a job: `tries` it has used up by now, `failed`: when it last seemed to be at fault itself."""

    verdict: Literal["delayed", "held", "dead"]
    delay: float
    tries: float
    failed: float | None


def decide(  # noqa: PLR0913  what is known of the job
    failure: Failure,
    evidence: FleetEvidence,
    *,
    now: float,
    tries: float,
    runs: int,
    failed: float | None,
    began: float,
    alone: Callable[[], bool],
) -> Judgement:
    """Decide about a job whose call, which began then, has failed, and record it in `evidence`.

    `tries`, `runs` (those that failed before) and `failed` are the job's so far. `alone` returns whether all other jobs
    of the queue are known to be bad.
    """
    if evidence.since is None:
        evidence.since, evidence.by = now, f"{failure.code}: {failure.message}"
    if failure.prior != "job":
        used, delay = failure.used, failure.delay
        again = runs > 0  # a lone job's first failure proves nothing, and a client may be waiting for it
        if again and used < 1 and (failure.prior == "unknown" or tries >= 1) and alone():
            used, delay = 1.0, max(delay, ALONE_SECONDS)
        tries += used
        return Judgement("dead" if tries >= failure.max_tries else "delayed", delay, tries, failed)
    late = evidence.accused is None and began <= evidence.healed  # it belongs to the outage that a success has ended
    answered, unsure = math.inf, False
    if late or evidence.accused is not None:
        unsure = late or began < evidence.answered  # whether a success came between that call and others that failed
        answered = evidence.answered if began >= evidence.answered else -math.inf
    proven = failed is not None and failed <= answered
    if evidence.accused is None and not late:  # what failed before this is answered
        evidence.buried.clear()
        evidence.answered = math.nextafter(now, -math.inf)
    older, newer = evidence.buried.get(failure.fingerprint, (-math.inf, -math.inf))
    if not late:
        evidence.accused = failed = now
    if not proven and older > answered:
        tries += unsure  # or else a slow bad job would be spared for ever beside other bad ones
        if tries < failure.max_tries:
            return Judgement("held", failure.delay, tries, failed)
    evidence.buried[failure.fingerprint] = newer, now
    return Judgement("dead", 0.0, tries, failed)


# What one worker knows: its own calls.


class Call(NamedTuple):  # made for every job: in a quarter of a frozen dataclass' time
    """A call that has ended. `peers` names the jobs with the same URL, path and model; `began` is seconds."""

    job_id: str
    peers: str
    began: float
    tries: float = 0.0
    runs: int = 0
    probe: bool = False


@dataclass(slots=True)
class _Peers:
    """Successes in a row, when the last one came, and when a failure last ended the row."""

    row: int = 0
    succeeded: float = -math.inf
    failed: float = -math.inf


class Evidence:
    """What one worker has seen of its endpoint; decides how much of a try a failure is, and whether to send now.

    `allowed` is how many of `lanes` may call at the same time, `is_open` whether the breaker is open: then one call at
    a time is made, as a probe.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.allowed = self._top = float(lanes)
        self.is_open = False
        self.held_until = 0.0
        self.next_probe = -math.inf
        self._pause = FIRST_PAUSE
        self._peers: dict[str, _Peers] = {}
        self._alike: dict[str, set[str]] = {}
        self._first_failure = math.inf
        self._met: set[str] = set()
        self._failures = deque([False] * max(lanes, LEAST_ANSWERS), max(lanes, LEAST_ANSWERS))  # of the last answers
        self._cut_at = -math.inf

    def succeeded(self, call: Call, now: float) -> None:
        """Record an answer. It adds to the next failure's surprise only if it began after its peers last failed."""
        peers = self._of(call.peers)
        if call.began >= peers.failed:
            peers.row += 1
            peers.succeeded = now
        self._failures.append(False)
        if self._alike:
            self._alike.clear()
        if self.is_open:
            self.is_open, self.allowed = False, 1.0
            self._met.clear()
        elif self.allowed < self.lanes:
            more = min(2 * self.allowed, self._top) if self.allowed < self._top else self.allowed + 1 / self.allowed
            self.allowed = min(self.lanes, more)

    def failed(self, call: Call, fault: TransientError, now: float) -> tuple[float, float]:
        """Record a fault. Return how much of a try it uses up, and the seconds until the job may be called again."""
        used = self._surprise(call, now)
        self._failures.append(True)
        if fault.overload and fault.retry_after is None and call.tries < 1:
            self._cut(call, now)
        # Full jitter (Brooker, "Exponential Backoff And Jitter", 2015). A job that may be held waits for others anyway.
        longest = LONGEST_PAUSE if fault.prior == "job" else LONGEST_BACKOFF
        delay = random.uniform(0, min(longest, FIRST_BACKOFF * 2 ** min(call.runs, 10)))  # noqa: S311  spread
        if used > 1 / 2:
            delay = max(delay, BEGAN_SECONDS)
        if fault.retry_after is not None:
            wait = jittered(fault.retry_after)
            delay = max(delay, wait)
            if 2 * sum(self._failures) >= len(self._failures):
                self.held_until = max(self.held_until, now + wait)
        if self.is_open or not fault.full:  # a queue limit is no outage
            self._break(call, fault, now)
        if self.is_open:  # after the next probe, which another job makes if there is one
            delay = max(delay, self.wait(now) + self._pause / 2 + FIRST_PAUSE / 2)
        return used, delay

    def wait(self, now: float) -> float:
        """Seconds until a call may be made, however many lanes are busy."""
        return max(0.0, self.held_until - now, self.next_probe - now if self.is_open else 0.0)

    def failing_for(self, now: float) -> float:
        """Seconds since the first failure that no success has answered."""
        return now - self._first_failure if self._alike else 0.0

    def _surprise(self, call: Call, now: float) -> float:
        peers = self._of(call.peers)
        row = peers.row if now - peers.succeeded <= FORGOTTEN_AFTER else 0
        if call.tries < KNOWN:
            peers.row, peers.failed = 0, now
        return min(1.0, math.log(row + 1) / math.log(CERTAIN_AFTER))

    def _of(self, name: str) -> _Peers:
        peers = self._peers.get(name)
        if peers is None:
            if len(self._peers) >= MOST_PEERS:
                del self._peers[next(iter(self._peers))]
            peers = self._peers[name] = _Peers()
        return peers

    def _cut(self, call: Call, now: float) -> None:
        """Allow fewer lanes, unless the call began before the last cut."""
        if call.began >= self._cut_at:
            self._top = self.allowed = max(1.0, self.allowed * KEPT_BY_OVERLOAD)
            self._cut_at = now

    def _break(self, call: Call, fault: TransientError, now: float) -> None:
        if not self._alike:
            self._first_failure = now
        if len(self._alike) >= MOST_FINGERPRINTS:
            self._alike.clear()
        jobs = self._alike.setdefault(fault.fingerprint, set())
        if len(jobs) < ALIKE:
            jobs.add(call.job_id)
        if not self.is_open and len(jobs) >= ALIKE:
            self.is_open, self._pause = True, FIRST_PAUSE / 2
        elif not self.is_open or not call.probe:
            return
        elif fault.overload:  # one call alone is too many: the cuts did not measure what it bears
            self._top = float(self.lanes)
        if fault.prior == "job" and call.job_id not in self._met:
            self._pause = SHORT_PAUSE
        else:
            self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
        if len(self._met) < MOST_MET:
            self._met.add(call.job_id)
        self.next_probe = now + jittered(self._pause)
