"""The job that everybody does, and where it is done; the standard library alone, for it runs in every environment.

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
TIMEOUT: Final = 300  # seconds that one call may take: what GreenScale grants by default
RESULT_TTL: Final = 3600  # seconds that a result is kept: likewise
CHUNK: Final = 100  # jobs that a producer pushes in one go


Push: TypeAlias = Callable[[Sequence[tuple[str, str]]], Awaitable[None]]
"""Pushes jobs, each an id and a prompt, in order."""


def body(prompt: str) -> dict[str, Any]:
    """What is posted to the endpoint."""
    messages = [{"role": "user", "content": prompt}]
    return {"model": "m", "temperature": 0.7, "max_tokens": 1024, "messages": messages}


def text(answer: dict[str, Any]) -> str:
    """What is stored as the result."""
    return str(answer["choices"][0]["message"]["content"])


def prompt(job_id: str, size: int) -> str:
    """A prompt of that many bytes that begins with the job's name, so that the endpoint can say whose call came."""
    return f"{job_id} ".ljust(size, "x")


def produce(open_producer: Callable[[], Awaitable[Push]]) -> None:
    """Be a producer process: for each line `FIRST COUNT SIZE` of standard input, push these jobs.

    FIRST numbers the first job, SIZE is the prompts' in bytes. The answer to a line is the monotonic time (ns) just
    before the push.
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
