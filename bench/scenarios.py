"""The scenarios. Each runs one system once, on a stage of its own, and returns its figures by name."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from bench.measuring import Figures, expect, read, read_redis, settle, share_of_ideal, work_off
from bench.stage import Stage, stage
from harness.endpoint import wait
from harness.processes import Process, Producer, memory_mib
from harness.systems import GREENSCALE, System

PROMPT: Final = 150  # bytes, unless a scenario says otherwise
PUSH_EVERY: Final = 0.05
FLEET_PUSHES: Final = 20
FLEET_LATENCY_MS: Final = 300.0
REFUSED_ONCE: Final = 6_000_000  # numbers of jobs that the stub refuses once
PATIENCE: Final = 15.0  # seconds that a system may take for its jobs; a slower one is rated by what it did until then
Waits = dict[str, float | list[float]]


def throughput(system: System, *, jobs: int, lanes: int, size: int = PROMPT) -> Figures:
    """Measure jobs that wait when the worker starts; the endpoint answers at once."""
    with stage(system, lanes=lanes) as here:
        here.producer().push(1, jobs, size)
        return work_off(here, [here.worker()], jobs=jobs, seconds=PATIENCE)


def io_bound(system: System, *, jobs: int, lanes: int, latency_ms: float) -> Figures:
    """Measure against a slow endpoint: overhead of the worker shows as fewer calls in flight."""
    with stage(system, lanes=lanes, latency_ms=latency_ms) as here:
        here.producer().push(1, jobs, PROMPT)
        ideal = jobs * here.latency / lanes
        return share_of_ideal(here, [here.worker()], jobs=jobs, lanes=lanes, seconds=ideal + PATIENCE / 2)


def pickup(system: System, *, pushes: int, workers: int) -> Waits:
    """Push to idle workers every 50 ms and measure the time (ms) until each call reaches the endpoint."""
    with stage(system, lanes=16) as here:
        crew = _idle(here, workers)
        return {"waits_ms": _push_and_wait(here, crew, pushes)}


def start(system: System) -> Figures:
    """Measure the time from process start to the first call, with a job waiting, and memory when idle again."""
    with stage(system, lanes=100) as here:
        here.producer().push(1, 1)
        began = time.monotonic_ns()
        worker = here.worker()
        expect(here, 1, PATIENCE)
        settle([worker])
        return {"start_ms": (here.endpoint.calls()[0].at - began) / 1e6, "idle_mib": memory_mib([worker])}


def memory_in_flight(system: System, *, lanes: int) -> Figures:
    """Measure memory while every lane waits for the endpoint."""
    with stage(system, lanes=lanes, latency_ms=60_000) as here:
        here.producer().push(1, lanes)
        worker = here.worker()
        expect(here, lanes, PATIENCE)
        settle([worker])
        return {"mib": memory_mib([worker])}


def leak(system: System, *, jobs: int) -> Figures:
    """Measure memory after a twentieth of the jobs, and after all of them."""
    with stage(system, lanes=100) as here:
        producer, worker = here.producer(), here.worker()
        occupied = []
        for first, count in ((1, jobs // 20), (jobs // 20 + 1, jobs - jobs // 20)):
            producer.push(first, count)
            expect(here, first + count - 1, jobs / 500)
            settle([worker])
            occupied.append(memory_mib([worker]))
        return {"early_mib": occupied[0], "late_mib": occupied[1], "growth_mib": occupied[1] - occupied[0]}


def scale(system: System, *, workers: int, jobs_each: int) -> Figures:
    """Measure workers that share a Redis: 100 lanes each, an endpoint of 200 ms."""
    with stage(system, lanes=100, latency_ms=200) as here:
        crew = [here.worker() for _ in range(workers)]
        settle(crew)
        jobs, lanes = jobs_each * workers, 100 * workers
        here.producer().push(1, jobs)
        return share_of_ideal(here, crew, jobs=jobs, lanes=lanes, seconds=PATIENCE)


def depth(system: System, *, waiting: int, jobs: int) -> Figures:
    """Run the first jobs of a queue that is `waiting` deep: a claim should cost the same at any depth."""
    with stage(system, lanes=100) as here:
        here.fill(waiting, PROMPT)
        return work_off(here, [here.worker()], jobs=min(jobs, waiting), seconds=PATIENCE)


def idle_crowd(system: System, *, workers: int, seconds: float) -> Waits:
    """Measure many idle processes on one Redis: their cost while idle, and how soon one picks up a job."""
    with stage(system, lanes=16) as here:
        crew = _idle(here, workers)
        before = read(here, crew)
        time.sleep(seconds)
        after = read(here, crew)
        return {
            "commands_per_second": (after.commands - before.commands) / seconds,
            "redis_cpu_percent": (after.redis_cpu_seconds - before.redis_cpu_seconds) / seconds * 100,
            "cpu_percent_each": (after.cpu_seconds - before.cpu_seconds) / seconds / workers * 100,
            "mib_each": memory_mib(crew) / workers,
            "waits_ms": _push_and_wait(here, crew, 40),
        }


def fleet(system: System, *, workers: int) -> Figures:
    """Measure workers of 16 free lanes each: Redis' cost of a job of 150 bytes and of 1 MB, less their cost when idle.

    `retried_…` is the cost of a job that the endpoint refuses once; `burst_ms` is the time from a push of as many jobs
    as there are lanes until all are called.
    """
    with stage(system, lanes=16, latency_ms=FLEET_LATENCY_MS) as here:
        crew, producer = _idle(here, workers), here.producer()
        push = partial(_cost_of_a_push, here, crew, producer)
        costs = {"": push(PROMPT), "mb_": push(1_000_000)}
        if system is GREENSCALE:  # a bare loop tries once
            pair = push(PROMPT, refused=True)
            costs["retried_"] = {name: cost - costs[""][name] for name, cost in pair.items()}
        time.sleep(2 * here.latency)  # until every lane is free
        jobs = 16 * workers
        before = len(here.endpoint.calls())
        pushed = producer.push(7_000_000, jobs)
        expect(here, before + jobs, PATIENCE + workers)
        calls = here.endpoint.calls()[before:]
        figures = {prefix + name: value for prefix, cost in costs.items() for name, value in cost.items()}
        return figures | {"burst_ms": (max(call.at for call in calls) - pushed) / 1e6}


def _cost_of_a_push(
    here: Stage, crew: Sequence[Process], producer: Producer, size: int, *, refused: bool = False
) -> Figures:
    """Push jobs one by one, then idle for as long. `refused`: with each job, push one that is refused once."""
    first, readings = here.endpoint.count(), [read_redis(here)]
    for number in range(first, first + FLEET_PUSHES):
        producer.push(number, 1, size)
        if refused:
            producer.push(REFUSED_ONCE + number, 1, size)
        time.sleep(PUSH_EVERY)
    expect(here, first + (3 if refused else 1) * FLEET_PUSHES, PATIENCE)
    time.sleep(2 * here.latency)  # the last answer is recorded
    readings.append(read_redis(here))
    settle(crew, PATIENCE)
    readings.append(read_redis(here))
    lasted = readings[1].at - readings[0].at
    time.sleep(lasted)
    readings.append(read_redis(here))
    idle_share = lasted / (readings[3].at - readings[2].at)

    def cost(name: str) -> float:
        begin, end, still, later = (getattr(reading, name) for reading in readings)
        return float((end - begin - (later - still) * idle_share) / FLEET_PUSHES)

    return {"scripts": cost("scripts"), "redis_ms": 1000 * cost("cpu_seconds"), "sent_kb": cost("sent") / 1000}


def _idle(here: Stage, workers: int) -> list[Process]:
    """Start workers, and wait until all are idle."""
    crew = [here.worker() for _ in range(workers)]
    here.producer().push(9_000_000, 10)
    expect(here, 10, PATIENCE + workers)
    settle(crew, PATIENCE + workers)
    return crew


def _push_and_wait(here: Stage, crew: Sequence[Process], pushes: int) -> list[float]:
    producer, pushed = here.producer(), {}
    producer.push(8_000_000, 1)
    settle(crew, 5)
    due, expected = time.monotonic(), here.endpoint.count() + pushes
    for number in range(1, pushes + 1):
        pushed[f"job-{number:07d}"] = producer.push(number, 1)
        due += PUSH_EVERY
        time.sleep(max(0.0, due - time.monotonic()))
    wait(lambda: here.endpoint.count() >= expected, 2)
    arrived = {call.job_id: call.at for call in reversed(here.endpoint.calls())}
    return sorted(round((arrived[job_id] - at) / 1e6, 3) for job_id, at in pushed.items() if job_id in arrived)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A scenario, its repetitions, and who takes part."""

    run: Callable[[System], Figures | Waits]
    repeats: int = 3
    peers: bool = False
    """Whether the peers take part, too, or only the bare loop and GreenScale."""


DEPTHS: Final = (1_000, 10_000, 100_000, 1_000_000)
LANES: Final = {1: 1000, 8: 2000, 16: 3000, 32: 3000, 64: 5000, 100: 5000, 200: 5000, 400: 5000}
SIZES: Final = {200: 3000, 10_000: 2000, 100_000: 500, 1_000_000: 100}
CREWS: Final = (1, 2, 4, 8)
FLEETS: Final = (1, 8, 100)

SCENARIOS: Final[dict[str, Scenario]] = {
    "throughput": Scenario(run=partial(throughput, jobs=5000, lanes=100), peers=True),
    "io_200": Scenario(run=partial(io_bound, jobs=3000, lanes=100, latency_ms=200), peers=True),
    "io_1000": Scenario(run=partial(io_bound, jobs=10_000, lanes=500, latency_ms=1000)),
    "pickup": Scenario(run=partial(pickup, pushes=120, workers=1), peers=True),
    "pickup_8": Scenario(run=partial(pickup, pushes=120, workers=8)),
    "start": Scenario(run=start, peers=True),
    **{f"memory_{lanes}": Scenario(run=partial(memory_in_flight, lanes=lanes)) for lanes in (100, 1000)},
    "leak": Scenario(run=partial(leak, jobs=100_000), repeats=1),
    **{f"scale_{count}": Scenario(run=partial(scale, workers=count, jobs_each=1500)) for count in CREWS},
    **{f"depth_{waiting}": Scenario(run=partial(depth, waiting=waiting, jobs=5000)) for waiting in DEPTHS},
    **{f"lanes_{lanes}": Scenario(run=partial(throughput, jobs=n, lanes=lanes)) for lanes, n in LANES.items()},
    **{f"size_{size}": Scenario(run=partial(throughput, jobs=n, lanes=100, size=size)) for size, n in SIZES.items()},
    **{f"fleet_{count}": Scenario(run=partial(fleet, workers=count), repeats=1) for count in FLEETS},
    "idle_50": Scenario(run=partial(idle_crowd, workers=50, seconds=10.0), repeats=1),
}
QUICK: Final[dict[str, Scenario]] = {
    "throughput": Scenario(run=partial(throughput, jobs=5000, lanes=100), peers=True),
    "pickup": Scenario(run=partial(pickup, pushes=60, workers=1), peers=True),
    "start": Scenario(run=start, peers=True),
}
