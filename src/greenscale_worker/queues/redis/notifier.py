"""Listens to channels of Redis and passes messages on."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.queues.redis.connections import close
from greenscale_worker.queues.redis.errors import mapped
from greenscale_worker.queues.redis.redis_py import listener
from greenscale_worker.tasks import end

SILENCE_SECONDS: Final = 3600.0  # passed explicitly: redis-py before 8.1 would use the client's timeout


class Notifier:
    """Calls `heard` with each message, and with b"" whenever one may have been missed.

    Nothing depends on a message arriving: its content is found out by other means, too. If the server does not allow
    listening, `say` is called once with the reason. Without rights to all channels, it listens only to the first.
    """

    def __init__(
        self,
        client: Any,
        channels: Sequence[str],
        heard: Callable[[bytes], None],
        *,
        patience: float,
        say: Callable[[str], None] | None,
    ) -> None:
        self._client = client
        self._channels = channels
        self._heard = heard
        self._patience = patience
        self._say = say
        self._listening = asyncio.create_task(self._listen_for_ever())

    async def aclose(self) -> None:
        """Stop listening, and close the connection."""
        await end(self._listening)
        await close(self._client)

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                with mapped():
                    await self._listen()
            except QueueUnavailableError:
                pass
            except ConfigError as error:
                if self._say is not None:
                    self._say(str(error))
                self._say = None
                if "channel" in str(error):  # in the server's words; other causes, such as a password, may be repaired
                    self._channels = self._channels[:1]
            await asyncio.sleep(random.uniform(0, self._patience))  # noqa: S311  jitter, not a secret
            await self._client.aclose()  # a Cluster client learns the nodes anew with its next command

    async def _listen(self) -> None:
        await self._client.initialize()  # a Cluster client must know the nodes before it can subscribe
        async with listener(self._client) as pubsub:
            await pubsub.subscribe(*self._channels)
            self._heard(b"")
            while True:
                message = await pubsub.get_message(timeout=SILENCE_SECONDS)
                if message is not None:
                    self._heard(message["data"])
