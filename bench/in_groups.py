"""Takes jobs from a list and records answers, in groups of a fixed size, without calling an endpoint.

`python bench/in_groups.py PORT JOBS GROUP`: `bench.instructions` uses it to count Redis without random variation.
It uses only what other versions of the package have, too.
"""

import asyncio
import sys
import time

from greenscale_worker import Output, QueueOptions, RedisOptions, Succeeded, Usage, decode, open_queue


async def main(port: int, jobs: int, group: int) -> None:
    """Run all jobs; `jobs` is a multiple of `group`."""
    queue = await open_queue("list", RedisOptions(url=f"redis://127.0.0.1:{port}/0"), QueueOptions(name="jobs"))
    outcome = Succeeded(Output("4", model="m", finish_reason="stop", usage=Usage(9, 1, 10)))
    for _ in range(jobs // group):
        leases = await asyncio.gather(*(queue.lease() for _ in range(group)))
        pairs = [(lease, decode(lease.payload, max_bytes=1_000_000)) for lease in leases]
        await asyncio.gather(*(queue.bind(lease, job) for lease, job in pairs))
        for lease in leases:
            if hasattr(lease, "began"):
                lease.began = time.monotonic()
        await asyncio.gather(*(queue.settle(lease, outcome) for lease in leases))
    await queue.aclose()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
