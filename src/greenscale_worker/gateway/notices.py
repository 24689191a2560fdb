"""The notices that jobs leave when they end: read by every gateway, and acknowledged once all has been done with them.

What is done with a notice may be done twice, by two gateways or after a crash, and must be the same then.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from greenscale_worker.client.ends import Record
from greenscale_worker.errors import FilesUnavailableError, GreenScaleError
from greenscale_worker.queues import Notice, QueueClient
from greenscale_worker.telemetry import log

EVERY_SECONDS: Final = 1.0
AGAIN_SECONDS: Final = 5.0  # until a notice is told again that a consumer has refused for now
PORTION: Final = 100  # notices that are told together
MOST_PUT_OFF: Final = 10_000  # which are read each time to find those behind them
AT_ONCE: Final = 8
Consumer = Callable[[Notice, Record], Awaitable[None]]


class Notices:
    """Lets each of `consumers`, in order, handle every notice; while there are none, notices stay in the queue.

    A consumer gets the notice and the job's record, empty if that has expired. It ignores what is not for it, and
    raises GreenScaleError where the notice is to be told again, after `again` seconds; those behind it do not wait. Any
    other error is logged, and does not come again.
    """

    def __init__(
        self, queue: QueueClient, *, on_files_away: Callable[[str], None], again: float = AGAIN_SECONDS
    ) -> None:
        self.consumers: list[Consumer] = []
        self._again = again
        self._put_off: dict[str, float] = {}  # until when, by id
        self._queue = queue
        self._on_files_away = on_files_away

    async def keep(self) -> None:
        """Handle notices until cancelled."""
        while True:
            handled = 0
            try:
                handled = await self.handle()
            except FilesUnavailableError as error:
                self._on_files_away(str(error))
            except GreenScaleError:  # the rest of the upkeep says so, too
                pass
            except Exception as error:  # noqa: BLE001  a plug-in may raise anything; the next turn may do better
                _log(error, self._queue)
            if handled < PORTION:
                await asyncio.sleep(EVERY_SECONDS)

    async def handle(self) -> int:
        """Handle the oldest notices, and return how many. Raises what a consumer or the queue has raised."""
        notices = await self._due() if self.consumers else []
        if not notices:
            return 0
        records = [record for record, _ in await self._queue.look_up([notice.job_id for notice in notices])]
        seats = asyncio.Semaphore(AT_ONCE)

        async def handled(notice: Notice, record: Record) -> None:
            async with seats:
                for consumer in self.consumers:
                    await self._told(consumer, notice, record)

        told = await asyncio.gather(*map(handled, notices, records), return_exceptions=True)
        failures = {notice.id: failure for notice, failure in zip(notices, told, strict=True) if failure is not None}
        self._put_off |= dict.fromkeys(failures, monotonic() + self._again)
        done = [notice.id for notice in notices if notice.id not in failures]
        if done:
            await self._queue.acknowledge_notices(done)
        if failures:
            raise next(iter(failures.values()))
        return len(done)

    async def _due(self) -> list[Notice]:
        """Return the oldest that are not put off, and forget of those that are what others have acknowledged."""
        notices = await self._queue.notices(PORTION + min(len(self._put_off), MOST_PUT_OFF))
        now = monotonic()
        self._put_off = {each.id: self._put_off[each.id] for each in notices if self._put_off.get(each.id, now) > now}
        return [each for each in notices if each.id not in self._put_off][:PORTION]

    async def _told(self, consumer: Consumer, notice: Notice, record: Record) -> None:
        try:
            await consumer(notice, record)
        except GreenScaleError:
            raise
        except Exception as error:  # noqa: BLE001  one notice must not stand in the way of all behind it
            _log(error, consumer)


def _log(error: Exception, of: object) -> None:
    log.error("gateway_error", route="notices", error=type(error).__name__, where=type(of).__name__)
