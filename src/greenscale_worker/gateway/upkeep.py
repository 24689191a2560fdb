"""What a gateway does by itself: reads the keys, lets due jobs begin, handles notices, and deletes what has expired."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from greenscale_worker.batches import sweeping
from greenscale_worker.errors import ConfigError, FilesUnavailableError, QueueUnavailableError
from greenscale_worker.files.objects import FileObjects
from greenscale_worker.gateway.core import Gateway
from greenscale_worker.tasks import end
from greenscale_worker.telemetry import log

SWEEP_SECONDS: Final = 3600.0
EVERY_SECONDS: Final = 1.5  # a key that is revoked is refused everywhere within 5 s


@asynccontextmanager
async def upkeep(gateway: Gateway) -> AsyncIterator[None]:
    """Do it until the block is left."""
    tasks = [asyncio.create_task(_keep(gateway)), asyncio.create_task(gateway.notices.keep())]
    if gateway.file_objects is not None:
        tasks.append(asyncio.create_task(_sweep(gateway, gateway.file_objects)))
    try:
        yield
    finally:
        for task in tasks:
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


async def _sweep(gateway: Gateway, objects: FileObjects) -> None:
    while True:
        try:
            if swept := await objects.sweep():
                log.info("files_swept", files=swept)
            if gateway.batching is not None:
                await gateway.batching.sweep(time.time())
                await sweeping.sweep(gateway.batching, time.time())
        except QueueUnavailableError as error:
            gateway.queue_is_away(str(error))
        except FilesUnavailableError as error:
            gateway.files_are_away(str(error))
        except Exception as error:  # noqa: BLE001  an object that somebody else put there
            log.error("gateway_error", route="upkeep", error=type(error).__name__, where="files")
        await asyncio.sleep(SWEEP_SECONDS)
