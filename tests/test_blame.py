"""Blame by evidence: what one worker learns, what the fleet decides, and that no schedule breaks the promises."""

import math
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenscale_worker.blame import (
    ALIKE,
    BEGAN_SECONDS,
    FIRST_PAUSE,
    LEAST_ANSWERS,
    LONGEST_PAUSE,
    SHORT_PAUSE,
    Call,
    Evidence,
    FleetEvidence,
    decide,
)
from greenscale_worker.errors import TransientError
from greenscale_worker.job import Failure
from tests.blame_simulator import Answer, Endpoint, Simulated, Simulation, fault, ill_between, jobs, killer, some_ill

JITTER: Final = 1.1
AGE: Final = 86_400.0
FAULTS: Final[dict[str, TransientError]] = {
    "400": fault("http_400", "job"),
    "403": fault("http_403", "endpoint"),
    "429": fault("http_429", "endpoint", overload=True),
    "429, Retry-After": fault("http_429", "endpoint", overload=True, retry_after=20.0),
    "500": fault("http_500"),
    "502": fault("http_502", "endpoint"),
    "503": fault("http_503", "endpoint", overload=True),
    "cut": fault("connection_cut"),
    "timeout": fault("timeout"),
}


def call(job_id: object = "1", began: float = 0.0, **facts: Any) -> Call:
    return Call(str(job_id), facts.pop("peers", "m"), began, **facts)


def tripped(found: TransientError, lanes: int = 16) -> Evidence:
    evidence = Evidence(lanes)
    for number in range(ALIKE):
        evidence.failed(call(number), found, 0.0)
    assert evidence.is_open
    return evidence


# --- how much of a try a failure is ---


@pytest.mark.parametrize("found", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize(("successes", "used"), [(0, 0.0), (1, 0.25), (3, 0.5), (7, 0.75), (15, 1.0), (1000, 1.0)])
def test_a_failure_counts_for_as_much_of_a_try_as_it_is_a_surprise(
    found: TransientError, successes: int, used: float
) -> None:
    evidence = Evidence(16)
    for _ in range(successes):
        evidence.succeeded(call(), 1.0)
    assert evidence.failed(call(began=1.0), found, 2.0)[0] == pytest.approx(used)
    assert evidence.failed(call(began=1.0), found, 2.0)[0] == 0.0, "and the next one is none"


def row(evidence: Evidence, times: int = 15, *, began: float = 0.0, now: float = 0.0, peers: str = "m") -> None:
    for _ in range(times):
        evidence.succeeded(call(began=began, peers=peers), now)


def test_what_was_more_than_a_minute_ago_is_forgotten() -> None:
    evidence = Evidence(16)
    row(evidence)
    assert evidence.failed(call(), FAULTS["500"], 60.1)[0] == 0.0
    row(evidence, began=61.0, now=61.0)
    assert evidence.failed(call(), FAULTS["500"], 121.0)[0] == 1.0


def test_other_models_prove_nothing() -> None:
    evidence = Evidence(16)
    row(evidence, peers="other")
    assert evidence.failed(call(), FAULTS["500"], 1.0)[0] == 0.0
    assert evidence.failed(call(peers="other"), FAULTS["500"], 1.0)[0] == 1.0


def test_an_answer_to_a_call_that_began_before_the_failure_proves_nothing() -> None:
    evidence = Evidence(16)
    evidence.failed(call(), FAULTS["500"], 2.0)
    row(evidence, began=1.0, now=3.0)
    assert evidence.failed(call(), FAULTS["500"], 3.0)[0] == 0.0


def test_a_job_that_is_known_is_no_news() -> None:
    evidence = Evidence(16)
    row(evidence)
    assert evidence.failed(call(tries=1.5), FAULTS["500"], 1.0)[0] == 1.0
    assert evidence.failed(call(tries=1.4), FAULTS["500"], 1.0)[0] == 1.0
    assert evidence.failed(call(), FAULTS["500"], 1.0)[0] == 0.0


def test_peers_are_remembered_up_to_a_bound() -> None:
    evidence = Evidence(16)
    for number in range(3000):
        evidence.failed(call(number, peers=str(number)), fault("x", fingerprint=str(number)), 0.0)
    assert len(evidence._peers) <= 1024  # noqa: SLF001  memory cannot be seen from outside
    assert len(evidence._alike) <= 256  # noqa: SLF001


# --- when it is called again ---


@pytest.mark.parametrize("found", [FAULTS["500"], FAULTS["403"]])
def test_what_may_have_begun_an_outage_lets_others_go_first(found: TransientError) -> None:
    for successes, least in ((15, BEGAN_SECONDS), (4, BEGAN_SECONDS), (3, 0.0)):
        delays = []
        for _ in range(50):
            evidence = Evidence(16)
            row(evidence, successes)
            delays.append(evidence.failed(call(), found, 1.0)[1])
        assert (min(delays) >= BEGAN_SECONDS) is (least > 0)


@given(st.floats(0, 600), st.integers(0, 100), st.sampled_from(sorted(FAULTS)))
def test_nobody_is_called_before_the_time_that_was_named(seconds: float, runs: int, kind: str) -> None:
    found = fault("x", FAULTS[kind].prior, retry_after=seconds)
    _, delay = Evidence(16).failed(call(runs=runs), found, 0.0)
    assert seconds <= delay <= max(60.0, seconds * JITTER) + 1e-6


def test_a_time_is_the_jobs_own_until_half_of_the_last_answers_are_failures() -> None:
    evidence = Evidence(16)
    row(evidence, 16)
    for number in range(1, 8):
        _, delay = evidence.failed(call("same"), FAULTS["429, Retry-After"], 1.0)
        assert (evidence.wait(1.0), number) == (0.0, number)
        assert 20.0 <= delay <= 20 * JITTER
    evidence.failed(call("same"), FAULTS["429, Retry-After"], 1.0)
    assert 20.0 <= evidence.wait(1.0) <= 20 * JITTER


@pytest.mark.parametrize("lanes", [1, 2, LEAST_ANSWERS])
def test_the_first_of_few_lanes_to_be_told_a_time_holds_nobody(lanes: int) -> None:
    evidence = Evidence(lanes)
    for _ in range(LEAST_ANSWERS // 2 - 1):
        evidence.failed(call(), FAULTS["429, Retry-After"], 0.0)
    assert evidence.wait(0.0) == 0.0
    evidence.failed(call(), FAULTS["429, Retry-After"], 0.0)
    assert evidence.wait(0.0) >= 20.0


# --- the breaker ---


@pytest.mark.parametrize("found", FAULTS.values(), ids=FAULTS)
def test_five_jobs_that_fail_alike_open_it_whatever_the_prior(found: TransientError) -> None:
    evidence = Evidence(16)
    for number in [0, 0, 0, 1, 2, 3, 3]:
        evidence.failed(call(number), found, 0.0)
        evidence.failed(call(99), fault("another", found.prior), 0.0)
    assert not evidence.is_open
    evidence.failed(call(4), found, 0.0)
    assert evidence.is_open


def test_a_success_of_any_model_between_them_does_not_let_it_open() -> None:
    evidence = Evidence(16)
    for number in range(20):
        evidence.failed(call(number), FAULTS["500"], 0.0)
        if number % 4 == 3:
            evidence.succeeded(call(peers="other"), 0.0)
    assert not evidence.is_open


def pauses(found: TransientError, job_ids: list[int]) -> list[float]:
    evidence, now, found_pauses = tripped(found), 0.0, []
    for job_id in job_ids:
        found_pauses.append(evidence.wait(now))
        now += evidence.wait(now)
        evidence.failed(call(job_id, probe=True), found, now)
    return found_pauses


def test_pauses_double_to_fifteen_seconds() -> None:
    for expected, pause in zip([1, 2, 4, 8, 15, 15, 15], pauses(FAULTS["500"], list(range(10, 17))), strict=True):
        assert expected <= pause <= expected * JITTER


def test_they_stay_short_while_what_is_met_seems_at_fault_itself() -> None:
    assert all(SHORT_PAUSE <= pause <= SHORT_PAUSE * JITTER for pause in pauses(FAULTS["400"], list(range(10, 1010))))


def test_and_double_again_where_the_same_jobs_are_met_again() -> None:
    found = pauses(FAULTS["400"], [10, 11, 10, 11, 10, 12, 10])
    expected = [0.1, 0.1, 0.1, FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 0.1]
    for each, pause in zip(expected, found, strict=True):
        assert each <= pause <= each * JITTER


def test_late_failures_of_earlier_calls_do_not_lengthen_the_pause() -> None:
    evidence = tripped(FAULTS["500"])
    for number in range(20):
        evidence.failed(call(number), FAULTS["500"], 0.5)
    assert evidence.wait(0.0) <= FIRST_PAUSE * JITTER


@pytest.mark.parametrize("found", FAULTS.values(), ids=FAULTS)
def test_the_job_of_a_failed_probe_is_behind_the_next_one(found: TransientError) -> None:
    evidence, now = tripped(found), 0.0
    for number in range(50):
        now += evidence.wait(now)
        _, delay = evidence.failed(call(number % 7, probe=True), found, now)
        assert delay > evidence.wait(now)


def test_a_success_closes_it_and_lanes_come_back_by_doubling() -> None:
    evidence = tripped(FAULTS["500"])
    seen = []
    for _ in range(6):
        evidence.succeeded(call(began=1.0), 1.0)
        seen.append(evidence.allowed)
    assert seen == [1, 2, 4, 8, 16, 16]
    assert not evidence.is_open
    assert evidence.wait(1.0) == 0.0


# --- overload ---


def test_overload_takes_three_lanes_of_ten_once_per_round_trip() -> None:
    evidence = Evidence(100)
    for number in range(50):  # all were on their way when the first came back
        evidence.failed(call(number % 4), FAULTS["429"], 1.0)
    assert evidence.allowed == pytest.approx(70)
    evidence.failed(call(began=1.0), FAULTS["503"], 2.0)
    assert evidence.allowed == pytest.approx(49)


def test_lanes_come_back_by_one_a_round_where_they_were_cut() -> None:
    evidence = Evidence(100)
    evidence.failed(call(), FAULTS["429"], 1.0)
    for allowed in range(70, 100):
        for _ in range(allowed):
            evidence.succeeded(call(began=2.0), 2.0)
        assert allowed + 0.8 < evidence.allowed < allowed + 1.2
    row(evidence, 200, began=2.0, now=2.0)
    assert evidence.allowed == 100


def test_after_a_breaker_they_double_up_to_there_and_no_further() -> None:
    evidence = Evidence(100)
    evidence.failed(call(), FAULTS["429"], 1.0)
    for number in range(ALIKE):
        evidence.failed(call(number), FAULTS["500"], 1.0)
    seen = []
    for _ in range(9):
        evidence.succeeded(call(began=2.0), 2.0)
        seen.append(evidence.allowed)
    assert seen[:7] == [1, 2, 4, 8, 16, 32, 64]
    assert seen[8] - seen[7] < 0.02


def test_a_named_time_or_a_known_job_takes_no_lanes_and_one_is_always_left() -> None:
    evidence = Evidence(10)
    evidence.failed(call(), FAULTS["429, Retry-After"], 1.0)
    evidence.failed(call(tries=1.0), FAULTS["429"], 1.0)
    assert evidence.allowed == 10
    for now in range(2, 100):
        evidence.failed(call(began=now), FAULTS["429"], now)
    assert evidence.allowed == 1


# --- what the fleet decides ---


def judge(evidence: FleetEvidence, prior: Any, now: float, **of: Any) -> Any:
    facts = {"tries": 0.0, "runs": 1, "failed": None, "began": now, "alone": lambda: False} | of
    used = facts.pop("used", 0.0)
    most = facts.pop("max_tries", 5.0)
    fingerprint = facts.pop("fingerprint", "no")
    failure = Failure(code="no", message="", prior=prior, fingerprint=fingerprint, used=used, max_tries=most)
    return decide(failure, evidence, now=now, **facts)


def test_a_success_answers_only_what_failed_before_it_began() -> None:
    evidence = FleetEvidence()
    assert not evidence.succeeded(1.0)
    verdicts = [judge(evidence, "job", now).verdict for now in (2.0, 3.0, 4.0)]
    assert verdicts == ["dead", "dead", "held"]
    assert not evidence.succeeded(1.9)
    assert judge(evidence, "job", 5.0, failed=4.0).verdict == "held"
    assert evidence.succeeded(2.0)
    assert judge(evidence, "job", 6.0, failed=5.0).verdict == "dead"


def test_a_call_that_began_in_an_outage_and_fails_after_it_buries_no_third() -> None:
    evidence = FleetEvidence()
    assert [judge(evidence, "job", now).verdict for now in (5.0, 5.1, 5.2)] == ["dead", "dead", "held"]
    evidence.succeeded(30.0)
    late = judge(evidence, "job", 34.0, began=29.0)
    assert (late.verdict, late.failed) == ("held", None), "it is no news, and proves nothing of the next call"
    assert judge(evidence, "job", 34.1, began=29.0, fingerprint="another").verdict == "dead"
    assert [judge(evidence, "job", now).verdict for now in (40.0, 40.1, 40.2)] == ["dead", "dead", "held"]


def test_a_slow_job_that_is_ill_beside_others_is_spared_for_no_longer_than_its_tries() -> None:
    evidence, tries, failed, calls, now = FleetEvidence(), 0.0, None, 0, 0.0
    while calls < 100:
        began = now
        for _ in range(4):  # others, ill and well, while it runs
            judge(evidence, "job", now + 1.0, began=now + 0.9)
            judge(evidence, "job", now + 1.1, began=now + 1.0)
            evidence.succeeded(now + 1.2)
            now += 2.0
        judged = judge(evidence, "job", now, began=began, tries=tries, failed=failed, max_tries=5.0)
        tries, failed, calls = judged.tries, judged.failed, calls + 1
        if judged.verdict == "dead":
            break
    assert calls <= 5


def test_a_call_under_way_while_two_are_buried_is_no_third() -> None:
    evidence = FleetEvidence()
    assert [judge(evidence, "job", now, began=0.4).verdict for now in (5.3, 5.3)] == ["dead", "dead"]
    evidence.succeeded(5.35)
    assert judge(evidence, "job", 5.4, began=0.4).verdict == "held"


def test_a_failure_before_the_success_proves_the_next_one_and_one_after_it_does_not() -> None:
    evidence = FleetEvidence()
    for now in (1.0, 2.0):
        judge(evidence, "job", now)
    evidence.succeeded(3.0)
    for now in (4.0, 5.0):
        judge(evidence, "job", now)
    assert judge(evidence, "job", 6.0, failed=4.5).verdict == "held"
    assert judge(evidence, "job", 6.0, failed=2.5).verdict == "dead"


@pytest.mark.parametrize(
    ("prior", "tries", "used"), [("unknown", 0.0, 1.0), ("endpoint", 0.9, 0.0), ("endpoint", 1.0, 1.0)]
)
def test_a_job_alone_uses_up_a_try_every_two_minutes(prior: Any, tries: float, used: float) -> None:
    found = judge(FleetEvidence(), prior, 1.0, tries=tries, alone=lambda: True)
    assert found.tries == tries + used
    assert (found.delay >= 120.0) is (used > 0)


def test_the_first_failure_of_a_job_alone_uses_up_nothing_and_makes_nobody_wait_for_minutes() -> None:
    found = judge(FleetEvidence(), "unknown", 1.0, runs=0, alone=lambda: True)
    assert (found.verdict, found.tries, found.delay) == ("delayed", 0.0, 0.0)


# --- the promises, by a simulated clock ---


class World(NamedTuple):
    """What is drawn for a run."""

    seed: int
    workers: int
    lanes: int
    seconds: float

    def play(self, made: list[Simulated], endpoint: Endpoint, until: float = AGE) -> Simulation:
        random.seed(self.seed)
        return Simulation(made, endpoint, self.workers, self.lanes, until=until).run()

    def ideal(self, count: int) -> float:
        return (1 + count // (self.workers * self.lanes)) * self.seconds

    def takes(self, job: Simulated) -> float:
        """Give lanes that are not in step."""
        return self.seconds * (0.6 + 0.8 * ((job.number * 7919) % 100) / 100)


worlds = st.builds(
    World,
    seed=st.integers(0, 1000),
    workers=st.sampled_from([1, 5]),
    lanes=st.sampled_from([4, 16]),
    seconds=st.sampled_from([0.1, 0.5, 5.0]),
)
kinds = st.sampled_from(sorted(FAULTS))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(worlds, st.lists(kinds, min_size=1, max_size=ALIKE - 1), st.integers(0, 199), st.booleans())
def test_no_schedule_of_answers_of_a_healthy_endpoint_shuts_it_for_long(
    world: World,
    found: list[str],
    first: int,
    in_a_row: bool,  # noqa: FBT001  drawn
) -> None:
    """Some jobs fail, each in its way; all others are answered, as if there were no such jobs."""
    step = 1 if in_a_row else 17
    ill = {(first + step * index) % 200: FAULTS[kind] for index, kind in enumerate(found)}

    def endpoint(job: Simulated, _now: float, _open: int) -> Answer:
        return Answer(0.05, ill[job.number]) if job.number in ill else Answer(world.takes(job))

    run = world.play(jobs(200), endpoint, until=4000)
    healthy = [job for job in run.jobs if job.number not in ill]
    assert run.opened == 0
    assert {job.verdict for job in healthy} == {"ok"}
    assert run.answered_by() <= 1.4 * world.ideal(200) + 30, "one time that was named, at most"


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 9), kinds, st.floats(0, 30), st.booleans()), max_size=60), st.integers(1, 16))
def test_whatever_was_seen_the_next_probe_is_near_and_a_success_opens_the_way(
    seen: list[tuple[int, str, float, bool]], lanes: int
) -> None:
    evidence, now = Evidence(lanes), 0.0
    for job_id, kind, gap, succeeds in seen:
        now += gap
        if succeeds:
            evidence.succeeded(call(job_id, now, probe=evidence.is_open), now)
            assert not evidence.is_open
        else:
            _, delay = evidence.failed(call(job_id, now, probe=evidence.is_open), FAULTS[kind], now)
            assert delay <= 60 + 2 * LONGEST_PAUSE
        named = 20 * JITTER if any(kind.endswith("Retry-After") for _, kind, _, _ in seen) else 0.0
        assert evidence.wait(now) <= max(named, LONGEST_PAUSE * JITTER)
        assert 1 <= evidence.allowed <= lanes
    row(evidence, 40 * lanes, began=now, now=now)
    assert evidence.allowed == lanes


class Outage(NamedTuple):
    """When it begins, in parts of the time that all jobs take, how long it lasts, and how fast it answers."""

    kind: str
    begins: float
    lasts: float
    takes: float


outages = st.builds(
    Outage,
    kind=kinds,
    begins=st.floats(0, 1),
    lasts=st.sampled_from([1.0, 40.0, 600.0, 3000.0]),
    takes=st.sampled_from([0.02, 0.5, 5.0]),
)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(worlds, outages, st.integers(1, 150))
def test_no_outage_shorter_than_the_age_limit_buries_more_than_two_jobs_of_the_fleet(
    world: World, outage: Outage, count: int
) -> None:
    began = outage.begins * world.ideal(count) - 0.01
    ended = began + outage.lasts

    def endpoint(job: Simulated, now: float, _open: int) -> Answer:
        return Answer(outage.takes, FAULTS[outage.kind]) if began < now < ended else Answer(world.takes(job))

    run = world.play(jobs(count), endpoint)
    assert len(run.dead()) <= 2
    assert all(job.end is not None for job in run.jobs)
    healing = 2 * LONGEST_PAUSE + 120 + outage.takes  # the pause, backoff, and the wait of a job that was alone
    assert run.answered_by() <= max(ended, 0) + 2 * world.ideal(count) + healing + world.seconds * 10


@settings(deadline=None, max_examples=40, derandomize=True)
@given(worlds, kinds, st.floats(0, 0.5))
def test_a_poisoned_job_always_ends_while_others_succeed(world: World, kind: str, when: float) -> None:
    """It is one of many, and others are there for as long as it lives."""
    poisoned = int(200 * when)

    def endpoint(job: Simulated, _now: float, _open: int) -> Answer:
        return Answer(0.05, FAULTS[kind]) if job.number == poisoned else Answer(world.takes(job))

    count = max(400, int(900 / world.seconds) * world.workers * world.lanes // 8)
    run = world.play(jobs(min(count, 4000)), endpoint)
    bad = run.jobs[poisoned]
    assert bad.verdict == "dead"
    assert bad.end is not None
    assert bad.end <= world.ideal(poisoned) + 600
    assert run.dead() == [bad]


@settings(deadline=None, max_examples=8, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from([1, 5]), st.sampled_from([1, 16]), st.integers(100, 1000))
def test_a_thousand_bad_jobs_in_front_of_a_good_one_do_not_keep_it_for_longer_than_so_many_probes(
    seed: int, workers: int, lanes: int, bad: int
) -> None:
    world = World(seed, workers, lanes, 0.5)
    run = world.play(jobs(bad + 1), some_ill(set(range(bad)), FAULTS["400"]), until=400)
    good = run.jobs[bad]
    assert good.verdict == "ok"
    assert good.end is not None
    assert good.end <= bad * (SHORT_PAUSE * JITTER + 0.05) + 2
    assert all(job.calls <= 3 for job in run.dead())


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind != "400"])
def test_a_heap_of_jobs_that_fail_like_an_outage_does_not_stop_the_queue(kind: str) -> None:
    """Thirty in a row at the head of one worker's queue: each is met by one probe, and the good ones are reached."""
    ill = set(range(30))
    run = World(1, 1, 16, 0.5).play(jobs(230), some_ill(ill, FAULTS[kind]), until=4000)
    assert all(job.verdict == "ok" for job in run.jobs if job.number not in ill)


def test_what_fails_now_and_then_does_not_wait_until_nothing_else_does() -> None:
    """Of many slow calls some always fail, so that a failure is nearly always the latest news."""
    ended: dict[int, float] = {}

    def answer(job: Simulated, now: float, _open: int) -> Answer:
        if job.calls > 1 or job.number % 4:
            return Answer(7 + job.number * 7919 % 600 / 100)
        ended[job.number] = now
        return Answer(0.1, FAULTS["500"])

    run = World(1, 20, 16, 10.0).play(jobs(6000), answer, until=4000)
    waits = [(run.jobs[number].end or math.inf) - failed for number, failed in ended.items()]
    assert max(waits) < 60
    assert run.now > 180


# --- the grid ---


class Cell(NamedTuple):
    """Who is ill, and how: what is right."""

    who: str
    kind: str
    company: bool
    workers: int


ILL: Final = {"one job": {40}, "some": {0, 40, 41, 170}}
HEALED: Final = 43.0
CELLS: Final = [
    Cell(who, kind, company, workers)
    for who in ("one job", "some", "one model", "all")
    for kind in FAULTS
    for company in (True, False)
    for workers in (1, 5)
]


def answer_of(cell: Cell, is_ill: Callable[[Simulated, float], bool]) -> Endpoint:
    takes = 5.0 if cell.kind == "timeout" else 0.05
    found = FAULTS[cell.kind]
    if found.retry_after is not None:
        found = fault("http_429", "endpoint", overload=True, retry_after=4.0)
    return lambda job, now, _open: (
        Answer(takes, found) if is_ill(job, now) else Answer(0.3 + 0.4 * ((job.number * 7919) % 100) / 100)
    )


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.who}, {cell.kind}, {cell.company}, {cell.workers}")
def test_the_grid(cell: Cell) -> None:
    random.seed(3)
    if cell.who in ILL:
        some_are_ill(cell, ILL[cell.who] if cell.company else set(range(len(ILL[cell.who]))))
    else:
        an_outage(cell)


def some_are_ill(cell: Cell, ill: set[int]) -> None:
    count = 800 * cell.workers if cell.company else len(ill)
    endpoint = answer_of(cell, lambda job, _now: job.number in ill)
    run = Simulation(jobs(count), endpoint, cell.workers, until=3600).run()
    dead = run.dead(lambda job: job.number in ill)
    assert run.dead() == dead, "a well one died"
    last = max((job.end or math.inf for job in dead), default=0.0)
    if cell.company:
        ideal = count * 0.5 / (16 * cell.workers)
        assert run.answered_by() <= 1.3 * ideal + 2
        assert len(dead) == len(ill)
        assert last <= 600
    elif FAULTS[cell.kind].prior == "endpoint":
        assert dead == [], "there is nobody to compare it with: it waits, up to its age"
    elif cell.kind == "400":
        assert len(dead) == min(2, len(ill))
        assert last <= 2
    elif len(ill) == 1:
        assert len(dead) == 1
        assert 480 <= last <= 600
    else:
        assert dead == [], "all that there is fails: an outage, as it seems"


def an_outage(cell: Cell) -> None:
    whole = cell.who == "all"
    models = ("a",) if whole or not cell.company else ("a", "b")
    count = 800 * cell.workers if cell.company else 1 if whole else 12
    endpoint = answer_of(
        cell, lambda job, now: 3 < now + 3 * (not cell.company) < HEALED and (whole or job.model == "a")
    )
    run = Simulation(jobs(count, models=models), endpoint, cell.workers, until=3600).run()
    assert all(job.end is not None for job in run.jobs)
    if cell.kind == "400" and len(models) == 2:
        assert run.dead(lambda job: job.model == "b") == [], "others succeed: it is the jobs that are wrong"
        return
    assert len(run.dead()) <= 2
    ideal = count * 0.5 / (16 * cell.workers)
    alone = 120 if not cell.company else 0
    assert run.answered_by() <= 1.3 * ideal + HEALED + 2 * LONGEST_PAUSE + alone + 20


@pytest.mark.parametrize("workers", [1, 5])
def test_a_prompt_that_takes_its_server_down_ends_within_a_quarter_of_an_hour(workers: int) -> None:
    random.seed(5)
    run = Simulation(jobs(300 * workers), killer(30), workers).run()
    (dead,) = run.dead()
    assert dead.number == 30
    assert dead.end is not None
    assert dead.end <= 900
    assert all(job.verdict == "ok" for job in run.jobs if job is not dead)


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize("kind", ["500", "cut", "400", "503"])
def test_forty_seconds_of_illness_cost_at_most_two_of_a_thousand(kind: str, workers: int) -> None:
    random.seed(7)
    run = Simulation(jobs(1000), ill_between(3, 43, FAULTS[kind]), workers).run()
    assert len(run.dead()) <= 2
    assert run.answered_by() <= 43 + 1.3 * 1000 * 0.5 / (16 * workers) + 20


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize("seed", range(4))
def test_an_outage_amid_jobs_that_fail_by_their_own_fault_buries_two_of_the_others(workers: int, seed: int) -> None:
    """Calls that began after such a job had failed, and before the outage, succeed amid it and prove nothing of it."""
    random.seed(seed)
    ill = set(range(7, 1500, 50))
    found = fault("http_400", "job")

    def endpoint(job: Simulated, now: float, _open: int) -> Answer:
        if job.number in ill or 4 < now < 14:
            return Answer(0.02, found)
        return Answer(0.1 + 0.9 * ((job.number * 7919) % 100) / 100)

    run = Simulation(jobs(1500), endpoint, workers).run()
    assert len(run.dead(lambda job: job.number not in ill)) <= 2
    assert all(job.verdict == "dead" for job in run.jobs if job.number in ill)


def test_a_death_that_a_success_answers_makes_no_room_for_those_after_it_began() -> None:
    evidence = FleetEvidence()
    verdicts = [judge(evidence, "job", now).verdict for now in (1.0, 3.0)]  # one by its own fault; an outage begins
    evidence.succeeded(2.0)
    verdicts += [judge(evidence, "job", now).verdict for now in (4.0, 5.0)]
    assert verdicts == ["dead", "dead", "dead", "held"]
