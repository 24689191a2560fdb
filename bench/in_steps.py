"""Takes jobs through a queue in steps, and tells what each part of a step cost Redis. No endpoint is called.

`python bench/in_steps.py PORT PID STORE GROUP`, of a Redis: for each line that it is sent, it puts 16 jobs, claims
them, sends a heartbeat, binds and settles them, in groups of this size, and answers a line of JSON: for each part,
processor time of Redis and time in its scripts, in µs. With PID 0 it asks for neither. `bench.script_cost` uses it.
It uses only what other versions of the package have, too.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final

from redis import Redis

from greenscale_worker import Output, QueueOptions, RedisOptions, Succeeded, Usage, decode, open_client, open_queue

JOBS: Final = 16
PAYLOAD: Final = '{"job_id":"%s","prompt":"what is the price of power%s","max_tokens":40}'
OUTCOME: Final = Succeeded(Output("4", model="m", finish_reason="stop", usage=Usage(9, 1, 10)))


class Meter:
    """Notes what parts of a step cost a Redis: by name, processor time and time in scripts, in µs."""

    def __init__(self, port: int, pid: int) -> None:
        self._redis: Any = Redis(port=port)
        self._schedstat = Path(f"/proc/{pid}/schedstat") if pid else None
        self.costs: dict[str, tuple[float, int]] = {}

    async def of(self, part: str, work: Awaitable[Any]) -> Any:
        """Wait for a part. To ask for the time in scripts does not count."""
        if self._schedstat is None:
            return await work
        scripts, cpu = self._scripts(), _microseconds(self._schedstat)
        result = await work
        cpu = _microseconds(self._schedstat) - cpu
        self.costs[part] = (cpu, self._scripts() - scripts)
        return result

    def _scripts(self) -> int:
        stats = self._redis.info("commandstats")
        return sum(stats[name]["usec"] for name in ("cmdstat_eval", "cmdstat_evalsha") if name in stats)


def _microseconds(schedstat: Path) -> float:
    return int(schedstat.read_text().split()[0]) / 1000


async def grouped(calls: list[Awaitable[Any]], size: int) -> list[Any]:
    """Make the calls, so many at once."""
    return [each for start in range(0, JOBS, size) for each in await asyncio.gather(*calls[start : start + size])]


async def step(queue: Any, client: Any, meter: Meter, number: int, size: int) -> None:
    """Take jobs through the queue."""
    ids = [f"job-{number}-{place}" for place in range(JOBS)]
    jobs = [(job_id, (PAYLOAD % (job_id, 100 * ".")).encode()) for job_id in ids]
    puts = [client.put(jobs[start : start + size]) for start in range(0, JOBS, size)]
    await meter.of("put", grouped(puts, 1))
    leases = await meter.of("claim", grouped([queue.lease() for _ in ids], size))
    pairs = [(lease, decode(lease.payload, max_bytes=1_000_000)) for lease in leases]
    await meter.of("heartbeat", queue.beat(lanes=JOBS))
    await meter.of("bind", grouped([queue.bind(lease, job) for lease, job in pairs], size))
    for lease in leases:
        lease.began = time.monotonic()
    await meter.of("settle", grouped([queue.settle(lease, OUTCOME) for lease in leases], size))


async def main(port: int, pid: int, store: str, size: int) -> None:
    """Answer each line with the costs of a step."""
    answers, sys.stdout = sys.stdout, sys.stderr  # where the package may write its log
    options, meter = QueueOptions(name="jobs"), Meter(port, pid)
    redis = RedisOptions(url=f"redis://127.0.0.1:{port}/0")
    queue, client = await open_queue(store, redis, options), await open_client(store, redis, options)
    for number, _ in enumerate(sys.stdin):
        await step(queue, client, meter, number, size)
        print(json.dumps(meter.costs), file=answers, flush=True)
    await client.aclose()
    await queue.aclose()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
