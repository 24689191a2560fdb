"""The handler of batches: one step of one batch for each call."""

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from greenscale_worker.batches.objects import Event, Fault, Request
from greenscale_worker.batches.step import Step
from greenscale_worker.batches.store import Batches, SupersededError
from greenscale_worker.errors import BadInputError, FilesUnavailableError, QueueUnavailableError, Snooze
from greenscale_worker.execution import Policy
from greenscale_worker.files.objects import FileObjects
from greenscale_worker.job import Job
from greenscale_worker.queues import QueueClient
from greenscale_worker.shares import Shares
from greenscale_worker.telemetry import log

FOREVER: Final = 10**9
POLICY: Final = Policy(max_tries=FOREVER, max_crashes=FOREVER, timeout=600.0, max_age=float("inf"))
LANES: Final = 8
LANES_OF_ONE: Final = LANES // 2  # for the batches of one tenant
AWAY_SECONDS: Final = (1.0, 3.0)  # until the next step, while Redis or Files are away
TURN_SECONDS: Final = 1.0  # for which a batch stands back where others have no lane
FAULT_SECONDS: Final = 30.0  # until the next step after a fault of ours
PATIENCE_SECONDS: Final = 3600.0  # with such faults, once the time of a batch is over
Tell = Callable[[str | None, Event, str, int], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeederOptions:
    """Times are seconds. `max_bytes` is of a job, as workers take it.

    A step lasts `step`, or less where so many batches wait that the turn of each would come later than a quarter of the
    time that `answers_last` in Redis. What has ended is committed after 2 s, for a long batch after a hundredth of its
    age, but before such a quarter is over.
    """

    max_bytes: int = 1024 * 1024
    step: float = 30.0
    answers_last: float = 3600.0


class Feeder:
    """Runs batches: a handler for a Worker of their queue, with POLICY. `queue` is that of their lines.

    `tell` is called with a batch's tenant, `batch.completed` or another end, its id and the time of that, until it has
    returned once. `others` says how many batches there are that nobody runs. Once `hurried` is set, steps end soon,
    each with a commit. `clock` is seconds since the epoch.
    """

    def __init__(  # noqa: PLR0913  the parts
        self,
        batches: Batches,
        objects: FileObjects,
        queue: QueueClient,
        *,
        options: FeederOptions | None = None,
        tell: Tell | None = None,
        others: Callable[[], Awaitable[int]] | None = None,
        hurried: asyncio.Event | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.batches = batches
        self.objects = objects
        self.queue = queue
        self.options = options or FeederOptions()
        self.tell = tell or _tell_nobody
        self.clock = clock
        self.hurried = hurried or asyncio.Event()
        self._others = others
        self._tenants = Shares(LANES_OF_ONE)

    async def __call__(self, job: Job) -> str:
        """Do a step. Return how the batch has ended. Raises Snooze if it goes on, BadInputError if it is none."""
        try:
            request = Request.model_validate(job.payload.get("batch"))
        except ValidationError:
            raise BadInputError("bad_field", "batch: a request by a gateway is expected", job_id=job.job_id) from None
        with self._tenants.place(request.tenant or ""):
            return await self._step(request)

    async def _step(self, request: Request) -> str:
        try:
            await self.batches.create(request)
            step = Step(self, request, await self.batches.state(request), seconds=await self._seconds())
            return await step.run()
        except SupersededError:
            raise Snooze(TURN_SECONDS) from None
        except (QueueUnavailableError, FilesUnavailableError) as error:
            log.warning("batch_waits", batch=request.id, error=str(error))
            raise Snooze(random.uniform(*AWAY_SECONDS)) from None  # noqa: S311  jitter, not a secret
        except Snooze:
            raise Snooze(TURN_SECONDS if await self._waiting() else 0.0) from None
        except Exception as error:  # noqa: BLE001  a batch is no dead letter, whatever happens
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
            log.error("batch_error", batch=request.id, error=type(error).__name__, where=where)
            await self._give_up_in_the_end(request)
            raise Snooze(FAULT_SECONDS) from None

    async def _give_up_in_the_end(self, request: Request) -> None:
        """Let a batch fail that a fault of ours keeps from ending for an hour."""
        now = self.clock()
        if now < request.expires_at + PATIENCE_SECONDS:
            return
        fault = Fault(code="internal_error", message="the gateway has a fault; its log says where")
        with suppress(SupersededError, QueueUnavailableError, FilesUnavailableError):
            state = await self.batches.state(request)
            if not state.is_final:
                ids = {"output_file_id": None, "error_file_id": None}
                state = state.next(status="failed", ended_at=int(now), faults=(fault,), **ids)
                await self.batches.commit(request, state)

    async def _seconds(self) -> float:
        """Return how long a step lasts, so that each batch collects its answers before they expire."""
        longest = self.options.step
        waiting = await self._waiting()
        return min(longest, self.options.answers_last / 4 * LANES / waiting) if waiting else longest

    async def _waiting(self) -> int:
        """Return how many batches nobody runs; 0 if that is not known."""
        with suppress(QueueUnavailableError):
            return 0 if self._others is None else await self._others()
        return 0


async def _tell_nobody(_tenant: str | None, _type: Event, _object_id: str, _at: int) -> None:
    """Tell nobody."""
