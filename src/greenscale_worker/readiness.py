"""Waits for a backend before the first job is claimed."""

import asyncio
import random
from contextlib import suppress
from typing import Final

from greenscale_worker.backends import Backend
from greenscale_worker.telemetry import log

READY_SECONDS: Final = 1.0  # between two questions at most
FIRST_WORD_SECONDS: Final = 15.0  # until the wait is logged again; doubles up to LAST_WORD_SECONDS
LAST_WORD_SECONDS: Final = 300.0


async def until_ready(backend: Backend, stopping: asyncio.Event) -> bool:
    """Ask the backend about once a second until it is ready. Return False if `stopping` is set before.

    While it is not ready, that is logged now and then.
    """
    clock = asyncio.get_running_loop().time
    say_at, pause = clock(), FIRST_WORD_SECONDS
    while not stopping.is_set():
        if await backend.ready():
            return True
        if clock() >= say_at:
            log.warning("waiting_for_backend", why=getattr(backend, "why_not_ready", "") or "it is not ready")
            say_at, pause = clock() + pause, min(LAST_WORD_SECONDS, 2 * pause)
        with suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(READY_SECONDS / 2, READY_SECONDS)):  # noqa: S311  jitter
                await stopping.wait()
    return False
