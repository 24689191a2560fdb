"""What holds jobs back in the queue within one process: the counterpart of flow.lua."""

from collections.abc import Callable

from greenscale_worker.queues import QueueOptions


class FlowControl:
    """Decides how many jobs may be claimed now. `clock` counts seconds."""

    def __init__(self, options: QueueOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock

    @property
    def limit(self) -> int | None:
        """How many calls may be open; None: no limit."""
        limit = self._options.limit
        return 1 if limit == "engine" else limit
