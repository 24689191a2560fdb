"""Reads counters and waits for measurements, independent of scenarios."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.stage import Stage
from harness.endpoint import wait
from harness.processes import Process, cpu_seconds

SCRIPTS: Final = ("eval", "evalsha", "fcall")
STORED_SECONDS: Final = 0.3  # after the last call, for the last results to be stored
QUIET_SECONDS: Final = 0.5
QUIET_SHARE: Final = 0.1  # of one core, and
QUIET_SHARE_EACH: Final = 0.01

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one time."""

    calls: int
    cpu_seconds: float
    redis_cpu_seconds: float
    commands: int
    scripts: int


def read(stage: Stage, workers: Sequence[Process]) -> Reading:
    """Read all counters. Commands called by scripts count as commands, too: they are work of Redis."""
    calls = stage.endpoint.count()
    cpu = cpu_seconds(workers)
    redis_cpu = stage.redis.info("cpu")
    stats = {name.removeprefix("cmdstat_"): stat for name, stat in stage.redis.info("commandstats").items()}
    return Reading(
        calls=calls,
        cpu_seconds=cpu,
        redis_cpu_seconds=redis_cpu["used_cpu_sys"] + redis_cpu["used_cpu_user"],
        commands=sum(stat["calls"] for name, stat in stats.items() if name != "info"),
        scripts=sum(stats[name]["calls"] for name in SCRIPTS if name in stats),
    )


@dataclass(frozen=True, slots=True)
class RedisReading:
    """Counters of Redis at one time, by the monotonic clock."""

    at: float
    scripts: int
    cpu_seconds: float
    sent: int


def read_redis(stage: Stage) -> RedisReading:
    """Read Redis' counters; `sent` is bytes."""
    info = stage.redis.info("everything")
    scripts = (info.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in SCRIPTS)
    cpu_seconds = info["used_cpu_sys"] + info["used_cpu_user"]
    return RedisReading(time.monotonic(), sum(scripts), cpu_seconds, info["total_net_output_bytes"])


def costs(before: Reading, after: Reading) -> Figures:
    """Return the cost of the jobs between two readings."""
    jobs = after.calls - before.calls
    return {
        "calls": after.calls,
        "cpu_per_1000": (after.cpu_seconds - before.cpu_seconds) / jobs * 1000,
        "redis_cpu_per_1000": (after.redis_cpu_seconds - before.redis_cpu_seconds) / jobs * 1000,
        "commands_per_job": (after.commands - before.commands) / jobs,
        "scripts_per_job": (after.scripts - before.scripts) / jobs,
    }


def work_off(stage: Stage, workers: Sequence[Process], *, jobs: int, seconds: float) -> Figures:
    """Wait for the jobs, for `seconds` at most; return rate and costs from a tenth of the jobs on.

    So a start is not counted. Raises RuntimeError if nothing was done.
    """
    wait(lambda: stage.endpoint.count() >= jobs // 10, seconds)
    before = read(stage, workers)
    finished = wait(lambda: stage.endpoint.count() >= jobs, seconds)
    if finished:
        time.sleep(STORED_SECONDS)
    after = read(stage, workers)
    done = after.calls - before.calls
    if done < 2:
        raise RuntimeError(f"{before.calls} of {jobs} jobs in {seconds:g} s")
    calls = stage.endpoint.calls()
    elapsed = (calls[after.calls - 1].at - calls[before.calls].at) / 1e9
    return {"jobs_per_second": done / elapsed, **costs(before, after)}


def share_of_ideal(stage: Stage, workers: Sequence[Process], *, jobs: int, lanes: int, seconds: float) -> Figures:
    """Return the rate of calls as a share of lanes / latency, without the first and last call of every lane.

    Calls come in waves: time is measured from the head of the second wave to the head of the last one.

    Raises RuntimeError if too few calls were made.
    """
    wait(lambda: stage.endpoint.count() >= lanes, seconds)
    before = read(stage, workers)
    wait(lambda: stage.endpoint.count() >= jobs, seconds)
    after = read(stage, workers)
    calls = stage.endpoint.calls()
    inner = len(calls) - 2 * lanes
    if inner < 1:
        raise RuntimeError(f"{len(calls)} of {jobs} jobs in {seconds:g} s")
    rate = inner / (calls[-lanes].at - calls[lanes].at) * 1e9
    return {"jobs_per_second": rate, "share": rate * stage.latency / lanes, **costs(before, after)}


def expect(stage: Stage, calls: int, seconds: float) -> None:
    """Wait for that many calls.

    Raises RuntimeError if they do not come in time.
    """
    if not wait(lambda: stage.endpoint.count() >= calls, seconds):
        raise RuntimeError(f"{stage.endpoint.count()} of {calls} calls in {seconds:g} s")


def settle(workers: Sequence[Process], seconds: float = 20) -> None:
    """Wait until the workers are idle, for `seconds` at most."""
    ends = time.monotonic() + seconds
    quiet = QUIET_SECONDS * (QUIET_SHARE + QUIET_SHARE_EACH * len(workers))
    used = quiet
    while used >= quiet and time.monotonic() < ends:
        before = cpu_seconds(workers)
        time.sleep(QUIET_SECONDS)
        used = cpu_seconds(workers) - before
