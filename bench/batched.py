"""What `batched` costs: microseconds per job of a handler that does nothing, by itself and behind `batched`.

python bench/batched.py [rounds]. One process, the queue of memory, 100 lanes, groups of at most 100, logs switched off.
"""

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from typing import Any

import orjson
import structlog

from greenscale_worker import HandlerBackend, Job, MemoryQueue, Worker, batched

JOBS = 20_000
LANES = 100


async def one(_job: Job) -> str:
    return "done"


@batched(most=LANES)
async def many(jobs: Sequence[Job]) -> list[str]:
    return ["done"] * len(jobs)


async def microseconds(handler: Callable[[Job], Awaitable[Any]]) -> float:
    queue = MemoryQueue()
    await queue.put([(str(number), orjson.dumps({"job_id": str(number)})) for number in range(JOBS)])
    worker = Worker(queue, HandlerBackend(handler), concurrency=LANES)
    began = time.perf_counter()
    running = asyncio.create_task(worker.run())
    while (depth := await queue.depth()).waiting or depth.running:  # noqa: ASYNC110  a queue has no Event
        await asyncio.sleep(0.005)
    took = time.perf_counter() - began
    worker.stop()
    await running
    return took / JOBS * 1e6


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    gc.freeze()
    gc.set_threshold(50_000)  # as the worker's process does
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    taken: dict[str, list[float]] = {"one by one": [], "batched": []}
    for _ in range(rounds):
        for name, handler in (("one by one", one), ("batched", many)):
            taken[name].append(asyncio.run(microseconds(handler)))
    for name, times in taken.items():
        print(
            f"{name:<12} {median(times):6.1f} microseconds per job (of {rounds}: {min(times):.1f} … {max(times):.1f})"
        )


if __name__ == "__main__":
    main()
