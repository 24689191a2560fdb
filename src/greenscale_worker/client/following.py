"""Follows the text of a job while it comes."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from greenscale_worker.client.ends import Ended, Ends
from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.queues import QueueClient, TokenPiece
from greenscale_worker.tasks import end

WAIT_SECONDS: Final = 10.0
AGAIN_SECONDS: Final = 0.5


async def follow(queue: QueueClient, job_id: str, ends: Ends) -> AsyncGenerator[TokenPiece | Ended, None]:
    """Yield the pieces that a job shows, and then how it has ended. Raises as `Ends.wait`, and waits as that does."""
    ended = asyncio.create_task(ends.wait(job_id))
    reading: asyncio.Task[list[TokenPiece]] | None = None
    after = ""
    try:
        while True:
            end_of_job = ended.result() if ended.done() else None
            wait = WAIT_SECONDS if end_of_job is None else 0.0
            reading = asyncio.create_task(queue.read_tokens({job_id: after}, wait=wait))
            await asyncio.wait({reading} if end_of_job else {reading, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await end(reading)
                continue  # the job has ended: what was not read yet is read without waiting
            pieces = []
            try:
                pieces = reading.result()
            except QueueUnavailableError:
                await asyncio.wait({ended}, timeout=AGAIN_SECONDS)
            for piece in pieces:
                after = piece.position
                yield piece
            if end_of_job is not None and not pieces:
                yield end_of_job
                return
    finally:
        await end(reading)
        await end(ended)
