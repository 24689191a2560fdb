"""Measures the cost of `batched` and of a thread: microseconds per job of no-op handlers, `async def`, plain, batched.

python bench/batched.py [rounds]. One process, the memory queue, 100 lanes, groups of at most 100, logs switched off.
"""

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import orjson
import structlog

from greenscale_worker import Job, MemoryQueue, Worker, batched

JOBS = 20_000
LANES = 100


async def one(_job: Job) -> str:
    return "done"


def plain(_job: Job) -> str:
    return "done"


@batched(most=LANES)
async def many(jobs: Sequence[Job]) -> list[str]:
    return ["done"] * len(jobs)


async def microseconds(handler: Callable[[Job], Any]) -> float:
    queue = MemoryQueue()
    await queue.put([(str(number), orjson.dumps({"job_id": str(number)})) for number in range(JOBS)])
    began = time.perf_counter()
    async with Worker(queue, handler, concurrency=LANES):
        while (depth := await queue.depth()).waiting or depth.running:  # noqa: ASYNC110  a queue has no Event
            await asyncio.sleep(0.005)
        took = time.perf_counter() - began
    return took / JOBS * 1e6


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    gc.freeze()
    gc.set_threshold(50_000)  # as the worker's process does
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    taken: dict[str, list[float]] = {"one by one": [], "plain": [], "batched": []}
    for _ in range(rounds):
        for name, handler in (("one by one", one), ("plain", plain), ("batched", many)):
            taken[name].append(asyncio.run(microseconds(handler)))
    for name, times in taken.items():
        print(
            f"{name:<12} {median(times):6.1f} microseconds per job (of {rounds}: {min(times):.1f} … {max(times):.1f})"
        )


if __name__ == "__main__":
    main()
