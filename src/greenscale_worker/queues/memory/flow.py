"""What holds jobs back in the queue within one process: the counterpart of flow.lua."""

import math
from collections.abc import Callable
from typing import Final

from greenscale_worker.engine_metrics import CAUTIOUS
from greenscale_worker.queues import EngineTurn, QueueOptions

LATELY_SECONDS: Final = 60.0  # as in flow.lua


class FlowControl:
    """Decides how many jobs may be claimed now. `clock` counts seconds."""

    def __init__(self, options: QueueOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self.engine: int | None = None
        self.engine_calm = 0
        self.engine_unseen = ""
        self._looked = -math.inf
        self._looker, self._looker_until = "", -math.inf

    @property
    def limit(self) -> int | None:
        """How many calls may be open; None: no limit."""
        limit = self._options.limit
        if limit != "engine":
            return limit
        found = CAUTIOUS if self.engine is None else self.engine
        return found if self._clock() - self._looked <= LATELY_SECONDS else min(found, CAUTIOUS)

    def turn(self, worker: str, seconds: float, in_flight: int) -> EngineTurn:
        """Take or keep the turn to look at the engine; see engine.lua."""
        now = self._clock()
        if self._looker not in {"", worker} and self._looker_until > now:
            return EngineTurn(mine=False, seconds=self._looker_until - now, in_flight=in_flight)
        self._looker, self._looker_until = worker, now + seconds
        return EngineTurn(mine=True, seconds=seconds, in_flight=in_flight, limit=self.engine, calm=self.engine_calm)

    def observe(self, worker: str, limit: int, calm: int, why: str) -> bool:
        """Set the limit that the engine allows, if it is this worker's turn. Return whether it has grown."""
        now = self._clock()
        if self._looker != worker or self._looker_until <= now:
            return False
        grown = limit > (self.engine or 0)
        self.engine, self.engine_calm, self.engine_unseen, self._looked = limit, calm, why, now
        return grown
