"""Instructions that a job costs, of a worker and of Redis, by callgrind: no neighbour on the machine changes them.

`python -m bench.instructions [TREE…]` counts them for source trees, such as another worktree of this repository;
without one, for this one. A job is an entry of 150 bytes in a list, 100 lanes take it, the endpoint answers at once.
Its cost is the difference between a large and a small number of jobs, so that start and end do not count. How jobs fall
into groups is left to chance, so that one count says little: compare some, by turns. Needs valgrind and redis-server.
"""

import re
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal

from redis import Redis
from redis.exceptions import RedisError

from bench.stage import PAYLOAD
from harness import environments
from harness.endpoint import Endpoint
from harness.environments import ROOT, python
from harness.job import prompt
from harness.processes import Process
from harness.redis_server import free_port, until
from harness.systems import GREENSCALE, Place

Who = Literal["worker", "Redis"]

LANES: Final = 100
JOBS: Final[dict[Who, tuple[int, int]]] = {"worker": (500, 3500), "Redis": (500, 6500)}
BYTES: Final = 150
COUNTED: Final = re.compile(r"Collected : (\d+)")
POLL_SECONDS: Final = 0.2
END_SECONDS: Final = 120


def count(tree: Path, who: Who, jobs: int) -> int:
    """Let a worker of this tree do so many jobs; gives the instructions that it, or its Redis, took from start to end.

    Raises RuntimeError where they could not be counted.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        valgrind = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'counted'}")
        place = Place(redis_port=free_port(), url="", lanes=LANES)
        server = ("redis-server", "--port", str(place.redis_port), "--bind", "127.0.0.1", "--save", "")
        redis = Process((*valgrind, *server) if who == "Redis" else server, {}, folder / "redis.log")
        client = Redis(port=place.redis_port, socket_timeout=END_SECONDS)
        stack.enter_context(redis)
        stack.enter_context(client)
        until(lambda: _answers(client))
        text = prompt("job-0000000", BYTES).removeprefix("job-0000000")
        client.lpush("jobs", *(PAYLOAD % (number, number, text) for number in range(jobs)))
        endpoint = Endpoint(folder, 0)
        stack.enter_context(endpoint.process)
        variables = place.variables() | GREENSCALE.variables(place)
        variables |= {"NEYSA_API_URL": endpoint.url, "PYTHONPATH": str(tree / "src")}
        command = (str(python(GREENSCALE.environment)), *GREENSCALE.worker(LANES))
        worker = Process((*valgrind, *command) if who == "worker" else command, variables, folder / "worker.log")
        stack.enter_context(worker)
        while client.exists("{jobs}:open", "jobs") and worker.alive:
            time.sleep(POLL_SECONDS)
        for process in (worker, redis):
            process.signal(signal.SIGTERM)
            process.popen.wait(END_SECONDS)
        log = (worker if who == "worker" else redis).log.read_text(errors="replace")
        found = COUNTED.search(log)
        if found is None:
            raise RuntimeError(f"{who} of {tree} was not counted: {log[-500:]}")
        return int(found[1])


def cost(tree: Path, who: Who) -> float:
    """Instructions per job."""
    few, many = JOBS[who]
    return (count(tree, who, many) - count(tree, who, few)) / (many - few)


def main(*trees: str) -> None:
    """Print a line for each tree."""
    environments.make(GREENSCALE.environment)
    for tree in trees or (str(ROOT),):
        costs = ", ".join(f"{who} {cost(Path(tree), who):,.0f}" for who in JOBS)
        print(f"{tree}: instructions per job: {costs}", flush=True)


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
