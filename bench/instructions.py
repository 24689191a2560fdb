"""Counts instructions per job, of a worker, the bare loop and Redis: other load on the machine does not change them.

`python -m bench.instructions [TREE…]` counts for source trees, such as another worktree of this repository; by
default for this one. A job is an entry of 150 bytes in a list. Its cost is the difference between a large and a small
number of jobs, so that start and end do not count. Needs valgrind and redis-server; callgrind does not see the kernel.

The worker and the bare loop have as many lanes as LANES says, and the endpoint answers at once. The size of the
worker's groups varies at random, so one count says little: compare several, alternately. Redis is counted with groups
of a fixed size (`in_groups.py`), as all jobs of a group share the fixed cost of a script.
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
from bench.systems import BARE_LOOP
from harness import environments
from harness.endpoint import Endpoint
from harness.environments import ROOT, python
from harness.job import prompt
from harness.processes import Process
from harness.redis_server import free_port, until
from harness.systems import GREENSCALE, Place

Who = Literal["worker", "bare loop", "Redis"]

LANES: Final = (16, 100, 400)
IN_GROUPS: Final = ROOT / "bench" / "in_groups.py"
JOBS: Final = (500, 3500)
GROUPS: Final = {1: (64, 640), 4: (320, 3200), 32: (640, 6400)}
BYTES: Final = 150
COUNTED: Final = re.compile(r"Collected : (\d+)")
POLL_SECONDS: Final = 0.2
END_SECONDS: Final = 300


def count(tree: Path, who: Who, jobs: int, size: int) -> int:
    """Run so many jobs with this tree; return the instructions of a worker with `size` lanes, or of Redis in groups.

    Raises RuntimeError if they cannot be counted.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        valgrind = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'counted'}")
        place = Place(redis_port=free_port(), url="", lanes=size)
        server = ("redis-server", "--port", str(place.redis_port), "--bind", "127.0.0.1", "--save", "")
        redis = Process((*valgrind, *server) if who == "Redis" else server, {}, folder / "redis.log")
        client = Redis(port=place.redis_port, socket_timeout=END_SECONDS)
        stack.enter_context(redis)
        stack.enter_context(client)
        until(lambda: _answers(client))
        text = prompt("job-0000000", BYTES).removeprefix("job-0000000")
        client.lpush("jobs", *(PAYLOAD % (number, number, text) for number in range(jobs)))
        variables = place.variables() | GREENSCALE.variables(place) | {"PYTHONPATH": str(tree / "src")}
        command = [str(python(GREENSCALE.environment)), str(IN_GROUPS), str(place.redis_port), str(jobs), str(size)]
        if who != "Redis":
            endpoint = Endpoint(folder, 0)
            stack.enter_context(endpoint.process)
            variables |= {"NEYSA_API_URL": endpoint.url, "BENCH_URL": endpoint.url}
            command = [*valgrind, command[0], *GREENSCALE.worker(size)]
        if who == "bare loop":
            variables |= {"PYTHONPATH": str(ROOT)}
            command = [*valgrind, command[len(valgrind)], *BARE_LOOP.worker(size)]
        program = Process(command, variables, folder / "program.log")
        stack.enter_context(program)
        unfinished = ("{jobs}:open", "jobs", f"processing:{program.popen.pid}")
        while client.exists(*unfinished) and program.alive:
            time.sleep(POLL_SECONDS)
        if client.exists(*unfinished):
            raise RuntimeError(f"not all jobs of {tree} were done: {program.log.read_text(errors='replace')[-500:]}")
        for process in (program, redis):
            process.signal(signal.SIGTERM)
            process.popen.wait(END_SECONDS)
        log = (redis if who == "Redis" else program).log.read_text(errors="replace")
        found = COUNTED.search(log)
        if found is None:
            raise RuntimeError(f"{who} of {tree} was not counted: {log[-500:]}")
        return int(found[1])


def cost(tree: Path, who: Who, jobs: tuple[int, int], size: int) -> float:
    """Return instructions per job."""
    few, many = jobs
    return (count(tree, who, many, size) - count(tree, who, few, size)) / (many - few)


def main(*trees: str) -> None:
    """Print a line for each tree."""
    environments.make(GREENSCALE.environment)
    for tree in trees or (str(ROOT),):
        path = Path(tree)
        redis = (f"{cost(path, 'Redis', jobs, group):,.0f} in groups of {group}" for group, jobs in GROUPS.items())
        print(f"{tree}: instructions per job: Redis {', '.join(redis)}", flush=True)
        for lanes in LANES:
            worker, bare = cost(path, "worker", JOBS, lanes), cost(path, "bare loop", JOBS, lanes)
            print(
                f"{tree}: instructions per job: {lanes} lanes: worker {worker:,.0f}, bare loop {bare:,.0f}, "
                f"ratio {worker / bare:.2f}",
                flush=True,
            )


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
