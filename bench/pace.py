"""Compares a worker of 256 lanes with a client of 256 lanes and no queue: `python -m bench.pace`.

The endpoint is simulated: it answers as an engine does, at the ends of steps of 25 ms, a token for every request in a
step, and computes nothing. So it takes no processor from the worker, and only lanes that idle cost answers. With a real
engine (`bench.real_engine --only pace`) all share the processors: the CPU time of each is printed, and the ratio that
follows if processors are all that is short. The two take turns, also in who is first.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from bench.engine_stage import Stage, stage
from harness import machine
from harness.endpoint import Endpoint
from harness.processes import cpu_seconds_of

WIDE: Final = 256
JOBS: Final = 3000
ROUNDS: Final = 5
STEP_MS: Final = 25.0  # of vLLM with a tiny model and 256 requests, on two cores


@dataclass(frozen=True, slots=True)
class Turn:
    """Answers per second between a tenth and nine tenths of the jobs, and ms of CPU for each by process."""

    rate: float
    engine: float
    redis: float
    own: float

    def __str__(self) -> str:
        return (
            f"{self.rate:.1f} answers/s, ms of CPU: engine {self.engine:.2f}, Redis {self.redis:.2f}, "
            f"own {self.own:.2f}"
        )


def compare(url: str, engine_cpu: Callable[[], float], *, jobs: int, rounds: int) -> float:
    """Print every round and the median ratio of worker to client.

    Return the ratio that follows if an answer takes CPU time alone: as both sides take the same for the engine's part.
    """
    ratios, shares = [], []
    for number in range(rounds):
        order = (_client, _worker) if number % 2 == 0 else (_worker, _client)
        turns = {run: _turn(run, url, engine_cpu, jobs) for run in order}
        client, worker = turns[_client], turns[_worker]
        engine = (client.engine + worker.engine) / 2
        ratios.append(worker.rate / client.rate)
        shares.append((engine + client.own) / (engine + worker.own + worker.redis))
        print(f"client: {client}\nworker: {worker}, ratio {ratios[-1]:.3f}", flush=True)
    print(f"{WIDE} lanes: median ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    return statistics.median(shares)


def _turn(
    run: Callable[[Stage, str], tuple[list[float], float]], url: str, engine_cpu: Callable[[], float], jobs: int
) -> Turn:
    with stage(url, GREENSCALE_CONCURRENCY=WIDE) as here:
        here.push(jobs)
        engine, redis = engine_cpu(), _redis_cpu(here)
        ends, own = run(here, url)
        first, last = jobs // 10, jobs * 9 // 10
        rate = (last - first) / (ends[last] - ends[first])
        spent = (engine_cpu() - engine, _redis_cpu(here) - redis, own)
        return Turn(rate, *(seconds / jobs * 1000 for seconds in spent))


def _client(here: Stage, url: str) -> tuple[list[float], float]:
    task = {"url": f"{url}/v1/chat/completions", "lanes": WIDE, "bodies": here.bodies()}
    command, before = [sys.executable, "-m", "bench.bare_client"], os.times()
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=True)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(done.stdout), spent


def _worker(here: Stage, _: str) -> tuple[list[float], float]:
    worker = here.fleet.start()
    if not here.done():
        raise SystemExit("the worker is not done in time")
    ends = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in worker.log("job")]
    return ends, cpu_seconds_of([worker.pid])


def _redis_cpu(here: Stage) -> float:
    used = here.redis.info("cpu")
    return float(used["used_cpu_sys"] + used["used_cpu_user"])


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all started processes are ended
    print(f"{machine.now()}, {machine.commit()}, {machine.describe()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pace-") as name:
        endpoint = Endpoint(Path(name), 0, STEP_MS)
        with endpoint.process as process:
            url = endpoint.url.removesuffix("/v1/chat/completions")
            compare(url, lambda: cpu_seconds_of([process.popen.pid]), jobs=JOBS, rounds=ROUNDS)


if __name__ == "__main__":
    main()
