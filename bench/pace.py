"""Compares a worker of 256 lanes with a client of 256 lanes and no queue: `python -m bench.pace`.

The endpoint is simulated: it answers as an engine does, at the ends of steps of 25 ms, a token for every request in a
step, and computes nothing. So it takes no processor from the worker, and only lanes that idle cost answers. With a real
engine (`bench.real_engine --only pace`) all share the processors: the CPU time of each is printed, the ratio that
follows if processors are all that is short, and the requests in a step: how full each keeps the engine, however fast it
is. The two take turns, also in who is first.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from bench.engine_stage import Stage, stage
from harness import machine
from harness.endpoint import Endpoint
from harness.processes import cpu_seconds, cpu_seconds_of

WIDE: Final = 256
JOBS: Final = 3000
ROUNDS: Final = 5
STEP_MS: Final = 25.0  # of vLLM with a tiny model and 256 requests, on two cores


@dataclass(frozen=True, slots=True)
class Turn:
    """Answers per second without the first and last of every lane, and ms of CPU for each by process.

    `batch` is the mean number of requests in a step, from the first job to the last; 0 where steps are not counted.
    """

    rate: float
    batch: float
    engine: float
    redis: float
    own: float

    def __str__(self) -> str:
        costs = f"engine {self.engine:.2f}, Redis {self.redis:.2f}, own {self.own:.2f}"
        steps = f"{self.batch:.1f} in a step, " if self.batch else ""
        return f"{self.rate:.1f} answers/s, {steps}ms of CPU: {costs}"


@dataclass(frozen=True, slots=True)
class Engine:
    """Where it is, and what it has spent so far: seconds of CPU, and steps in which it computed."""

    url: str
    cpu_seconds: Callable[[], float]
    steps: Callable[[], float] = lambda: 0.0


def compare(engine: Engine, *, jobs: int, rounds: int) -> float:
    """Print every round and the median ratios of worker to client.

    Return the ratio that follows if an answer takes CPU time alone: both sides take the same for the engine's part.
    """
    ratios, batches, predicted = [], [], []
    for number in range(rounds):
        order = (_client, _worker) if number % 2 == 0 else (_worker, _client)
        turns = {run: _turn(run, engine, jobs) for run in order}
        client, worker = turns[_client], turns[_worker]
        shared = (client.engine + worker.engine) / 2
        ratios.append(worker.rate / client.rate)
        batches += [worker.batch / client.batch] if client.batch else []
        predicted.append((shared + client.own) / (shared + worker.own + worker.redis))
        print(f"client: {client}\nworker: {worker}; ratio {ratios[-1]:.3f}", flush=True)
    for name, values in (("answers", ratios), ("requests in a step", batches)):
        if values:
            median = statistics.median(values)
            print(f"{WIDE} lanes, {name}: median ratio {median:.3f} ({min(values):.3f} to {max(values):.3f})")
    return statistics.median(predicted)


def _turn(run: Callable[[Stage, str], tuple[list[float], float]], engine: Engine, jobs: int) -> Turn:
    with stage(engine.url, GREENSCALE_CONCURRENCY=WIDE) as here:
        here.push(jobs)
        spent, steps, redis = engine.cpu_seconds(), engine.steps(), _redis_cpu(here)
        ends, own = run(here, engine.url)
        rate = (jobs - 2 * WIDE) / (ends[-WIDE] - ends[WIDE])  # while no lane is without a job
        steps = engine.steps() - steps
        batch = here.tokens() / steps if steps else 0.0
        costs = (engine.cpu_seconds() - spent, _redis_cpu(here) - redis, own)
        return Turn(rate, batch, *(seconds / jobs * 1000 for seconds in costs))


def _lanes_in_use(lines: Sequence[Mapping[str, Any]], began: float, ended: float) -> float:
    """Return the mean number of jobs between claim and answer in that window, as the worker's log tells it."""
    answered = [
        (datetime.fromisoformat(line["timestamp"]).timestamp() - line["record_seconds"], line) for line in lines
    ]
    spans = (min(end, ended) - max(end - line["run_seconds"], began) for end, line in answered)
    return sum(span for span in spans if span > 0) / (ended - began)


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
    lines = worker.log("job")
    ends = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines]
    used = _lanes_in_use(lines, ends[WIDE], ends[-WIDE])
    print(f"the worker's lanes in use while jobs wait: {used:.1f} of {WIDE}", flush=True)
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
            engine = Engine(url, lambda: cpu_seconds([process]))
            compare(engine, jobs=JOBS, rounds=ROUNDS)


if __name__ == "__main__":
    main()
