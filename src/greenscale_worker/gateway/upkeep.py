"""What a gateway does by itself: reads the keys, and lets jobs begin that have become due."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.gateway.core import Gateway
from greenscale_worker.tasks import end
from greenscale_worker.telemetry import log

EVERY_SECONDS: Final = 1.5  # a key that is revoked is refused everywhere within 5 s


@asynccontextmanager
async def upkeep(gateway: Gateway) -> AsyncIterator[None]:
    """Do it until the block is left."""
    task = asyncio.create_task(_keep(gateway))
    try:
        yield
    finally:
        await end(task)


async def _keep(gateway: Gateway) -> None:
    while True:
        try:
            await gateway.keyring.refresh()
            await gateway.queue.promote()
            gateway.queue_is_back()
        except (QueueUnavailableError, ConfigError) as error:
            gateway.queue_is_away(str(error))
        except Exception as error:  # noqa: BLE001  a plug-in may raise anything; the next turn may do better
            log.error("gateway_error", route="upkeep", error=type(error).__name__, where=type(gateway.queue).__name__)
        await asyncio.sleep(EVERY_SECONDS)
