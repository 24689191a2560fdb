"""Where a job's time goes: the worker's by package, Redis' by command. `python -m bench.where`.

A profiler makes Python's calls dearer than they are, so shares are what to read, not times.
"""

import pstats
import signal
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.measuring import expect, settle
from bench.scenarios import PATIENCE, PROMPT, PUSH_EVERY
from bench.stage import Stage, stage
from harness import environments
from harness.systems import GREENSCALE

JOBS: Final = 5000
PUSHES: Final = 100
MOST: Final = 12
STOP_SECONDS: Final = 30.0
OTHERS: Final = "Python itself"
BUILT_IN: Final = "~"  # what a profile has for the file of a built-in function


@dataclass(frozen=True, slots=True)
class Cost:
    """How often Redis ran a command, and how long for (µs). That of a script holds that of the commands it calls."""

    calls: int
    micros: int


def commands(here: Stage) -> dict[str, Cost]:
    """Read what each command has cost Redis so far."""
    stats = here.redis.info("commandstats").items()
    return {name.removeprefix("cmdstat_"): Cost(stat["calls"], stat["usec"]) for name, stat in stats}


def say_commands(title: str, before: Mapping[str, Cost], after: Mapping[str, Cost], jobs: int) -> None:
    """Print what a job costs Redis between two readings."""
    rows = [(name, cost, before.get(name, Cost(0, 0))) for name, cost in after.items() if name != "info"]
    costs = [(name, (cost.calls - old.calls) / jobs, (cost.micros - old.micros) / jobs) for name, cost, old in rows]
    print(f"{title}: {sum(calls for _, calls, _ in costs):.1f} commands a job")
    for name, calls, micros in sorted(costs, key=lambda cost: -cost[1])[:MOST]:
        print(f"  {name:<14} {calls:6.2f} times {micros:7.1f} µs")


def under_load(latency_ms: float, jobs: int) -> None:
    """Print what a job costs Redis with 100 lanes that are busy."""
    with stage(GREENSCALE, lanes=100, latency_ms=latency_ms) as here:
        here.producer().push(1, jobs, PROMPT)
        here.worker()
        expect(here, jobs // 10, PATIENCE)
        first, before = here.endpoint.count(), commands(here)
        expect(here, jobs, PATIENCE)
        say_commands(f"100 lanes, {latency_ms:g} ms", before, commands(here), here.endpoint.count() - first)


def idle() -> None:
    """Print what a job costs Redis that comes alone to an idle worker."""
    with stage(GREENSCALE, lanes=16) as here:
        producer, worker = here.producer(), here.worker()
        producer.push(9_000_000, 1)
        expect(here, 1, PATIENCE)
        settle([worker])
        before = commands(here)
        for number in range(1, PUSHES + 1):
            producer.push(number, 1)
            time.sleep(PUSH_EVERY)
        expect(here, PUSHES + 1, PATIENCE)
        say_commands("a push every 50 ms", before, commands(here), PUSHES)


def package(file: str) -> str:
    """Name what a profiled function belongs to."""
    if "site-packages/" in file:
        return file.rpartition("site-packages/")[2].partition("/")[0].removesuffix(".py")
    return "asyncio" if "/asyncio/" in file else OTHERS


def profile() -> None:
    """Print by package what the worker's time is spent on, 100 lanes at 0 ms; a built-in counts for who calls it."""
    with stage(GREENSCALE, lanes=100) as here:
        output = here.folder / "profile"
        here.system = replace(
            GREENSCALE, worker=lambda _: ("-m", "cProfile", "-o", str(output), "-m", "greenscale_worker")
        )
        here.producer().push(1, JOBS, PROMPT)
        worker = here.worker()
        expect(here, JOBS, 4 * PATIENCE)
        worker.signal(signal.SIGTERM)
        worker.popen.wait(STOP_SECONDS)
        spent = shares(output)
    whole = sum(spent.values())
    print("the worker's time, 100 lanes at 0 ms:")
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1])[:MOST]:
        print(f"  {name:<24} {seconds / whole:5.1%}")


def shares(output: Path) -> dict[str, float]:
    """Sum up seconds by package, without those that wait for events."""
    spent: defaultdict[str, float] = defaultdict(float)
    functions: dict[Any, Any] = vars(pstats.Stats(str(output)))["stats"]
    for (file, _, name), (_, _, own, _, callers) in functions.items():
        if "poll" in name:
            continue
        if file != BUILT_IN:
            spent[package(file)] += own
            continue
        for (caller, _, _), (_, _, theirs, _) in callers.items():
            spent[package(caller)] += theirs
    return spent


def main() -> None:
    environments.make(GREENSCALE.environment)
    profile()
    under_load(0, JOBS)
    under_load(200, 3000)
    idle()


if __name__ == "__main__":
    main()
