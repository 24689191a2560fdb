"""Counts instructions per job, of a worker and of Redis, by callgrind: other load on the machine does not change them.

`python -m bench.instructions [TREE…]` counts for source trees, such as another worktree of this repository; by
default for this one. A job is an entry of 150 bytes in a list. Its cost is the difference between a large and a small
number of jobs, so that start and end do not count. Needs valgrind and redis-server.

The worker has 100 lanes, and the endpoint answers at once. The size of its groups varies at random, so one count says
little: compare several, alternately. Redis is counted with groups of a fixed size (`in_groups.py`), as all jobs of a
group share the fixed cost of a script.
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
IN_GROUPS: Final = ROOT / "bench" / "in_groups.py"
JOBS: Final = (500, 3500)
GROUPS: Final = {1: (64, 640), 4: (320, 3200), 32: (640, 6400)}
BYTES: Final = 150
COUNTED: Final = re.compile(r"Collected : (\d+)")
POLL_SECONDS: Final = 0.2
END_SECONDS: Final = 300


def count(tree: Path, who: Who, jobs: int, group: int = LANES) -> int:
    """Run so many jobs with this tree and return the instructions that a worker took, or Redis with such groups.

    Raises RuntimeError if they cannot be counted.
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
        variables = place.variables() | GREENSCALE.variables(place) | {"PYTHONPATH": str(tree / "src")}
        command = [str(python(GREENSCALE.environment)), str(IN_GROUPS), str(place.redis_port), str(jobs), str(group)]
        if who == "worker":
            endpoint = Endpoint(folder, 0)
            stack.enter_context(endpoint.process)
            variables |= {"NEYSA_API_URL": endpoint.url}
            command = [*valgrind, command[0], *GREENSCALE.worker(LANES)]
        program = Process(command, variables, folder / "program.log")
        stack.enter_context(program)
        while client.exists("{jobs}:open", "jobs") and program.alive:
            time.sleep(POLL_SECONDS)
        if client.exists("{jobs}:open", "jobs"):
            raise RuntimeError(f"not all jobs of {tree} were done: {program.log.read_text(errors='replace')[-500:]}")
        for process in (program, redis):
            process.signal(signal.SIGTERM)
            process.popen.wait(END_SECONDS)
        log = (program if who == "worker" else redis).log.read_text(errors="replace")
        found = COUNTED.search(log)
        if found is None:
            raise RuntimeError(f"{who} of {tree} was not counted: {log[-500:]}")
        return int(found[1])


def cost(tree: Path, who: Who, jobs: tuple[int, int], group: int = LANES) -> float:
    """Return instructions per job."""
    few, many = jobs
    return (count(tree, who, many, group) - count(tree, who, few, group)) / (many - few)


def main(*trees: str) -> None:
    """Print a line for each tree."""
    environments.make(GREENSCALE.environment)
    for tree in trees or (str(ROOT),):
        path = Path(tree)
        redis = (f"{cost(path, 'Redis', jobs, group):,.0f} in groups of {group}" for group, jobs in GROUPS.items())
        print(f"{tree}: instructions per job: Redis {', '.join(redis)}", flush=True)
        print(f"{tree}: instructions per job: worker {cost(path, 'worker', JOBS):,.0f}", flush=True)


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
