"""Listens to a channel, for as long as it takes."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.queues.redis_common.errors import mapped


class Bell:
    """Calls `heard` with each message, and with b"" whenever one may have been missed.

    Nothing depends on a message arriving: what it says is found out by the next heartbeat, too.
    """

    def __init__(self, client: Any, channel: str, heard: Callable[[bytes], None], *, patience: float) -> None:
        self._client = client
        self._channel = channel
        self._heard = heard
        self._patience = patience
        self._listening = asyncio.create_task(self._listen_for_ever())

    async def aclose(self) -> None:
        """Stop listening, and close the connection."""
        self._listening.cancel()
        await asyncio.wait({self._listening})
        await self._client.aclose()

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                with mapped():
                    await self._listen()
            except (QueueUnavailableError, ConfigError):
                await asyncio.sleep(random.uniform(0, self._patience))  # noqa: S311  jitter, not a secret

    async def _listen(self) -> None:
        async with self._client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(self._channel)
            self._heard(b"")
            async for message in pubsub.listen():
                self._heard(message["data"])
