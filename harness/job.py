"""The job that all systems run, and its settings. Uses only the standard library, as it runs in every environment.

A worker finds Redis, the endpoint and its number of lanes in BENCH_REDIS_PORT, BENCH_URL and BENCH_LANES.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

REDIS_PORT: Final = int(os.environ.get("BENCH_REDIS_PORT", "0"))
REDIS_URL: Final = f"redis://127.0.0.1:{REDIS_PORT}"
URL: Final = os.environ.get("BENCH_URL", "")
LANES: Final = int(os.environ.get("BENCH_LANES", "1"))
TIMEOUT: Final = 300  # seconds that one call may take: GreenScale's default
RESULT_TTL: Final = 3600  # seconds that a result is kept: likewise
CHUNK: Final = 100  # jobs that a producer pushes at once


Push: TypeAlias = Callable[[Sequence[tuple[str, str]]], Awaitable[None]]
"""Pushes jobs, each an id and a prompt, in order."""


def body(prompt: str) -> dict[str, Any]:
    """Return the body to post to the endpoint."""
    messages = [{"role": "user", "content": prompt}]
    return {"model": "m", "temperature": 0.7, "max_tokens": 1024, "messages": messages}


def text(answer: dict[str, Any]) -> str:
    """Return the text to store as the result."""
    return str(answer["choices"][0]["message"]["content"])


def prompt(job_id: str, size: int) -> str:
    """Return a prompt of `size` bytes that begins with the job's id, by which the endpoint knows the call."""
    return f"{job_id} ".ljust(size, "x")


def produce(open_producer: Callable[[], Awaitable[Push]]) -> None:
    """Run as a producer process: for each line `FIRST COUNT SIZE` of standard input, push these jobs.

    FIRST is the number of the first job, SIZE the length of prompts in bytes. The answer to a line is the monotonic
    time (ns) just before the push.
    """
    asyncio.run(_produce(open_producer))


async def _produce(open_producer: Callable[[], Awaitable[Push]]) -> None:
    push = await open_producer()
    while line := await asyncio.to_thread(sys.stdin.readline):
        first, count, size = map(int, line.split())
        ids = [f"job-{number:07d}" for number in range(first, first + count)]
        jobs = [(job_id, prompt(job_id, size)) for job_id in ids]
        began = time.monotonic_ns()
        for start in range(0, count, CHUNK):
            await push(jobs[start : start + CHUNK])
        print(began, flush=True)
