"""What a measurement reads, and the waiting around it. Nothing here knows a scenario."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.processes import Process
from bench.stage import Stage, wait

SCRIPTS: Final = ("eval", "evalsha", "fcall")
STORED_SECONDS: Final = 0.3  # after the last call, for the last results to be stored
QUIET_SECONDS: Final = 0.5
QUIET_SHARE: Final = 0.1  # of one core
MIB: Final = 2**20

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one time."""

    calls: int
    cpu_seconds: float
    redis_cpu_seconds: float
    commands: int
    scripts: int
    script_seconds: float


def read(stage: Stage, workers: Sequence[Process]) -> Reading:
    """Read them. Commands that scripts call count as commands too: they are work of Redis."""
    calls = stage.endpoint.count()
    cpu = sum(worker.cpu_seconds() for worker in workers)
    redis_cpu = stage.redis.info("cpu")
    stats = {name.removeprefix("cmdstat_"): stat for name, stat in stage.redis.info("commandstats").items()}
    scripts = [stats[name] for name in SCRIPTS if name in stats]
    return Reading(
        calls=calls,
        cpu_seconds=cpu,
        redis_cpu_seconds=redis_cpu["used_cpu_sys"] + redis_cpu["used_cpu_user"],
        commands=sum(stat["calls"] for name, stat in stats.items() if name != "info"),
        scripts=sum(stat["calls"] for stat in scripts),
        script_seconds=sum(stat["usec"] for stat in scripts) / 1e6,
    )


def work_off(stage: Stage, workers: Sequence[Process], *, jobs: int, seconds: float) -> Figures:
    """Let them work, and tell rate and costs between a tenth of the jobs and all of them, or those of the time given.

    A start is thus not counted. Raises RuntimeError where nothing was done.
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
    return {
        "jobs_done": after.calls,
        "jobs_per_second": done / elapsed,
        "cpu_per_1000": (after.cpu_seconds - before.cpu_seconds) / done * 1000,
        "redis_cpu_per_1000": (after.redis_cpu_seconds - before.redis_cpu_seconds) / done * 1000,
        "commands_per_job": (after.commands - before.commands) / done,
        "scripts_per_job": (after.scripts - before.scripts) / done,
    }


def share_of_ideal(stage: Stage, *, jobs: int, lanes: int, seconds: float) -> Figures:
    """Tell the rate of calls as a share of lanes / latency, without the first call and the last of every lane."""
    wait(lambda: stage.endpoint.count() >= jobs, seconds)
    calls = stage.endpoint.calls()
    inner = calls[lanes:-lanes]
    if len(inner) < 2:
        raise RuntimeError(f"{len(calls)} of {jobs} jobs in {seconds:g} s")
    rate = (len(inner) - 1) / (inner[-1].at - inner[0].at) * 1e9
    return {"jobs_done": len(calls), "jobs_per_second": rate, "share": rate * stage.latency / lanes}


def expect(stage: Stage, calls: int, seconds: float) -> None:
    """Wait for that many calls.

    Raises RuntimeError where they do not come in time.
    """
    if not wait(lambda: stage.endpoint.count() >= calls, seconds):
        raise RuntimeError(f"{stage.endpoint.count()} of {calls} calls in {seconds:g} s")


def settle(workers: Sequence[Process], seconds: float = 20) -> None:
    """Wait until they are idle, but not for longer than that."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        before = sum(worker.cpu_seconds() for worker in workers)
        time.sleep(QUIET_SECONDS)
        used = sum(worker.cpu_seconds() for worker in workers) - before
        if used < QUIET_SECONDS * QUIET_SHARE:
            return


def memory_mib(workers: Sequence[Process]) -> float:
    """Resident memory of all of them."""
    return sum(worker.memory() for worker in workers) / MIB
