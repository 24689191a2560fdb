"""Insisting: what must reach Redis is sent until it is answered."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.queues.redis_common.connections import READ_SECONDS
from greenscale_worker.queues.redis_common.errors import mapped
from greenscale_worker.queues.redis_common.scripts import Script
from greenscale_worker.telemetry import log


class Link:
    """A client, and the patience to wait for its server.

    After an outage, and after this process was stopped for more than `stale_after` seconds, nothing is sent
    before `greet` (the heartbeat) has been answered: a claim that came first could reap our own leases. Attempts
    are at most `patience` seconds apart, at random, so that a fleet does not come back in step.
    """

    def __init__(
        self, client: Any, *, greet: Callable[[], Awaitable[None]], patience: float, stale_after: float
    ) -> None:
        self.client = client
        self._greet = greet
        self._patience = patience
        self._stale_after = stale_after
        self._answered = asyncio.get_running_loop().time()
        self._recovery: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether the server answered when it was last asked."""
        return self._recovery is None

    async def once(self, script: Script, keys: list[str], args: list[Any]) -> Any:
        """Run a script once. Raises QueueUnavailableError or ConfigError."""
        with mapped():
            async with asyncio.timeout(READ_SECONDS):
                answer = await script(self.client, keys, args)
        self._answered = asyncio.get_running_loop().time()
        return answer

    async def insist(self, script: Script, keys: list[str], args: list[Any]) -> tuple[Any, bool]:
        """Run a script until it is answered; say also whether it was sent more than once."""
        repeated = False
        while True:
            if self._recovery is None and self._is_stale():
                self._recovery = asyncio.create_task(self._recover(pause=0.0))
            if self._recovery is not None:
                await asyncio.shield(self._recovery)
            try:
                return await self.once(script, keys, args), repeated
            except (QueueUnavailableError, ConfigError) as error:
                repeated = True
                self.lost(error)

    def lost(self, error: Exception) -> None:
        """Learn that the server did not answer, and begin to look for it."""
        if self._recovery is None:
            log.warning("queue_unavailable", error=str(error))
            self._recovery = asyncio.create_task(self._recover(pause=self._patience))

    async def aclose(self) -> None:
        """Stop looking for the server, and close every connection."""
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.wait({self._recovery})
        await self.client.aclose()

    def _is_stale(self) -> bool:
        return asyncio.get_running_loop().time() - self._answered > self._stale_after

    async def _recover(self, *, pause: float) -> None:
        was_away = pause > 0
        while True:
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311  jitter, not a secret
            pause = self._patience
            try:
                await self._greet()
            except (QueueUnavailableError, ConfigError):
                continue
            break
        self._recovery = None
        if was_away:
            log.info("queue_back")
