"""A client that repeats calls until Redis answers."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random

from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.queues.redis.connection_cache import ConnectionCache
from greenscale_worker.queues.redis.connections import READ_SECONDS, close
from greenscale_worker.queues.redis.errors import mapped
from greenscale_worker.queues.redis.script_loader import Script
from greenscale_worker.tasks import end
from greenscale_worker.telemetry import log

Read = TypeVar("Read")

UNREADABLE: Final = (TypeError, ValueError, LookupError, AttributeError)


class RetryingClient:
    """Runs scripts, once or until they are answered.

    After an outage, and after this process was stopped for more than two heartbeats, `greet` (the heartbeat) is sent
    first and must be answered: an earlier claim could reap our own leases. Retries wait a random time of up to a third
    of a heartbeat, so that a fleet does not reconnect in step.
    """

    def __init__(self, client: Any, *, greet: Callable[[], Awaitable[None]], heartbeat: float) -> None:
        self.client = client
        # The cache is for a single server; a Cluster has many.
        self._cache = ConnectionCache(client) if hasattr(client, "connection_pool") else None
        self._greet = greet
        self._patience = heartbeat / 3
        self._stale_after = 2 * heartbeat
        self._limit = min(READ_SECONDS, 1.5 * heartbeat)  # the worker gives up a heartbeat after 2 * heartbeat
        self._answered = asyncio.get_running_loop().time()
        self._recovery: asyncio.Task[None] | None = None
        self._calling = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def up(self) -> bool:
        """Whether the server answered the last call."""
        return self._recovery is None

    async def once(self, script: Script, keys: list[str], args: list[Any], read: Callable[[Any], Read]) -> Read:
        """Run a script once and return its answer as parsed by `read`. Raises QueueUnavailableError or ConfigError.

        `read` must have no side effects: if it fails, the answer is not the script's, and the call may be repeated.
        """
        with mapped():
            async with asyncio.timeout(self._limit):
                answer = await script(self._cache or self.client, keys, args)
        try:
            understood = read(answer)
        except UNREADABLE as error:  # a proxy that mixes up its connections, or a server that is not Redis
            what = f"{type(answer).__name__} ({type(error).__name__}: {error})"
            raise QueueUnavailableError(f"Redis' answer is not that of the script: {what}") from error
        self._answered = asyncio.get_running_loop().time()
        return understood

    async def call(
        self,
        script: Script,
        keys: list[str],
        args: list[Any],
        read: Callable[[Any], Read],
        *,
        times: int | None = None,
    ) -> tuple[Read, bool]:
        """Run a script until it is answered; return the answer and whether it was sent more than once.

        `times`: raise QueueUnavailableError or ConfigError after so many failures, although heartbeats were answered.
        """
        self._calling += 1
        self._quiet.clear()
        try:
            return await self._call(script, keys, args, read, times=times, after=None)
        finally:
            self._calling -= 1
            if not self._calling:
                self._quiet.set()

    async def call_last(self, script: Script, keys: list[str], args: list[Any], read: Callable[[Any], Read]) -> Read:
        """Do as `call`, but after an outage wait until all other calls are answered.

        So a claim cannot take a job under a new token while its answer waits to be recorded under the old one.
        """
        answer, _ = await self._call(script, keys, args, read, times=None, after=self._quiet)
        return answer

    def lost(self, error: Exception) -> None:
        """Note that the server did not answer, and start recovery."""
        if self._recovery is None:
            log.warning("queue_unavailable", error=str(error))
            self._recovery = asyncio.create_task(self._recover(lost=True))

    async def aclose(self) -> None:
        """Stop recovery and close every connection."""
        await end(self._recovery)
        if self._cache is not None:
            await self._cache.drop_idle()
        await close(self.client)

    async def _call(  # noqa: PLR0913  a call, and how to insist on it
        self,
        script: Script,
        keys: list[str],
        args: list[Any],
        read: Callable[[Any], Read],
        *,
        times: int | None,
        after: asyncio.Event | None,
    ) -> tuple[Read, bool]:
        failed = 0
        while True:
            if self._recovery is None and self._is_stale():
                self._recovery = asyncio.create_task(self._recover(lost=False))
            if self._recovery is not None:
                await asyncio.shield(self._recovery)
                if after is not None:
                    await after.wait()
            try:
                return await self.once(script, keys, args, read), failed > 0
            except (QueueUnavailableError, ConfigError) as error:
                failed += 1
                if failed == times:
                    raise
                self.lost(error)

    def _is_stale(self) -> bool:
        return asyncio.get_running_loop().time() - self._answered > self._stale_after

    async def _recover(self, *, lost: bool) -> None:
        """Greet until that is answered. `lost`: a call has just failed, and that was logged."""
        said = lost

        async def greet() -> None:
            if said and self._cache is not None:
                await self._cache.drop_idle()
            await self._greet()

        def say(state: RetryCallState) -> None:
            nonlocal said
            if not said and state.outcome is not None:
                log.warning("queue_unavailable", error=str(state.outcome.exception()))
            said = True

        if lost:
            await asyncio.sleep(random.uniform(0, self._patience))  # noqa: S311  jitter, not a secret
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((QueueUnavailableError, ConfigError)),
            wait=wait_random(0, self._patience),
            before_sleep=say,
        )
        await retrying(greet)
        self._recovery = None
        if said:
            log.info("queue_back")
