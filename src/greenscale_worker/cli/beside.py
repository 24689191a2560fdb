"""Workers of a gateway's own queues, which run beside it in its process."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from greenscale_worker.errors import ConfigError
from greenscale_worker.tasks import end
from greenscale_worker.telemetry import Metrics, log
from greenscale_worker.worker import Worker

if TYPE_CHECKING:
    from greenscale_worker.backends.handlers import Handler
    from greenscale_worker.config import Settings
    from greenscale_worker.execution import Policy
    from greenscale_worker.queues import Queue, QueueOptions

AGAIN_SECONDS: Final = 5.0


@asynccontextmanager
async def beside(  # noqa: PLR0913  what a worker needs
    settings: "Settings",
    part: str,
    handler: "Handler",
    *,
    lanes: int,
    policy: "Policy",
    stopping: asyncio.Event,
    hurry: asyncio.Event,
) -> AsyncIterator[None]:
    """Run a worker of the gateway's own queue `part` until `stopping` is set, then drain it; `hurry`: at once.

    The block is left once the worker has ended. It never ends the gateway: while Redis is away it waits, and after an
    error it begins anew.
    """
    parts = _Parts(settings, part, handler, lanes, policy)
    running = asyncio.create_task(parts.run(stopping, hurry))
    try:
        yield
    finally:
        stopping.set()
        await asyncio.wait({running})


class _Parts:
    """Makes the queue and its worker, anew after each error."""

    def __init__(self, settings: "Settings", part: str, handler: "Handler", lanes: int, policy: "Policy") -> None:
        self._settings = settings
        self._part = part
        self._handler = handler
        self._lanes = lanes
        self._policy = policy
        self._said = ""

    async def run(self, stopping: asyncio.Event, hurry: asyncio.Event) -> None:
        while not stopping.is_set():
            stop = asyncio.create_task(stopping.wait())
            opening = asyncio.create_task(self._open())
            try:
                await asyncio.wait({opening, stop}, return_when=asyncio.FIRST_COMPLETED)
                if opening.done():
                    await self._work(opening.result(), stopping, hurry)
            except ConfigError as error:
                self._say(str(error))
            except Exception as error:  # noqa: BLE001  a lane's error is a bug; the gateway goes on
                if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):  # that is logged
                    log.error("gateway_error", route=self._part, error=type(error).__name__, where="worker")
            finally:
                await end(opening)
            if not stopping.is_set():
                await asyncio.wait({stop}, timeout=AGAIN_SECONDS)
            await end(stop)

    async def _open(self) -> "Queue":
        from greenscale_worker.config import redis_options
        from greenscale_worker.queues.registry import open_queue

        settings = self._settings
        options = self._options()
        if self._policy.max_crashes is not None:
            options = replace(options, max_crashes=self._policy.max_crashes)
        queue = await open_queue("list", redis_options(settings), options, Metrics())
        self._said = ""
        return queue

    def _options(self) -> "QueueOptions":
        from greenscale_worker.config import own_queue_options

        return own_queue_options(self._settings, self._part)

    def _say(self, reason: str) -> None:
        """Log why the worker cannot begin, such as rights that the user of Redis lacks; once until it has begun."""
        if reason != self._said:
            log.warning("queue_unavailable", error=f"{self._options().name}: {reason}")
        self._said = reason

    async def _work(self, queue: "Queue", stopping: asyncio.Event, hurry: asyncio.Event) -> None:
        worker = Worker(
            queue,
            self._handler,
            concurrency=self._lanes,
            drain=self._settings.drain_seconds,
            max_bytes=self._settings.max_payload_bytes,
            policy=self._policy,
            quiet=True,
        )
        ending = asyncio.create_task(_end(worker, stopping, hurry))
        try:
            await worker.run()
        finally:
            await end(ending)


async def _end(worker: Worker, stopping: asyncio.Event, hurry: asyncio.Event) -> None:
    await stopping.wait()
    worker.stop()
    await hurry.wait()
    worker.stop()
