"""What is known of one queue, from memory: whether it wants a pod, and how much work it has."""

import asyncio
from contextlib import suppress
from typing import Final, Protocol

from greenscale_worker.errors import ConfigError, GreenScaleError, QueueUnavailableError
from greenscale_worker.queues import Flow
from greenscale_worker.scaler.trigger import Trigger

KEPT_SECONDS: Final = 30.0  # for which a queue's last answer counts while Redis is away
FRESH_SECONDS: Final = 5.0  # for which it is news


class Reads(Protocol):
    """What reads one queue: a `queues.QueueClient`."""

    async def flow(self) -> Flow:
        """See QueueClient."""
        ...


class Watched:
    """One queue as one or several ScaledObjects see it. `look_at` is when to read it again, by the loop's clock."""

    def __init__(self, trigger: Trigger, client: Reads) -> None:
        self.trigger = trigger
        self.client = client
        self.flow: Flow | None = None
        self.look_at = 0.0
        self.used_at = 0.0
        self.streams = 0
        self.announced = 0
        self.asking_since: float | None = None  # for a pod, of which none has come yet
        self.refused: ConfigError | None = None
        self._failed: GreenScaleError | None = None
        self._read_at = float("-inf")
        self._wants = False
        self._first = asyncio.Event()
        self._bell = asyncio.Event()

    def read(self, flow: Flow, now: float) -> bool:
        """Take in what was read. Return whether a pod is asked for: at the first job, and again until one lives."""
        wanted = self._wants
        self.flow, self._read_at, self.refused, self._failed = flow, now, None, None
        open_to_work = not (flow.paused or flow.shut or flow.scaled_to_zero)
        self._wants = open_to_work and self.work > 0
        self._first.set()
        asks = self._wants and (not wanted or not flow.workers)
        if not self._wants or flow.workers:
            self.asking_since = None
        elif self.asking_since is None:
            self.asking_since = now
        if asks:
            self.announced += 1
            self.ring()
        return asks

    def failed(self, error: GreenScaleError) -> None:
        """Note that it could not be read: what was read last is kept for a while."""
        self._failed = error
        self.refused = error if isinstance(error, ConfigError) else None
        self._first.set()

    def ring(self) -> None:
        """Wake every stream."""
        self._bell.set()
        self._bell = asyncio.Event()

    async def rung(self) -> None:
        """Wait for `ring`."""
        await self._bell.wait()

    async def first_look(self, seconds: float) -> None:
        """Wait until it was read once, or could not be, but no longer than that."""
        if not self._first.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._first.wait()

    @property
    def unread(self) -> bool:
        """Whether nobody has tried to read it yet."""
        return not self._first.is_set()

    @property
    def empty(self) -> bool:
        """Whether it had no job, so that only an arrival can change that."""
        return self.flow is not None and not self.refused and not self.flow.waiting and not self.flow.open

    @property
    def work(self) -> int:
        """How many jobs are worth a lane now, or will be as soon as a pod could run."""
        return 0 if self.flow is None else self.flow.work(self.trigger.start)

    def age(self, now: float) -> float:
        """Return how old the answer is, in seconds; inf if there is none."""
        return now - self._read_at

    def wants_pod(self, now: float) -> bool:
        """Return whether a pod is to be started for it, as far as that is news."""
        return self._wants and self.age(now) < FRESH_SECONDS

    def answer(self, now: float) -> tuple[int, bool]:
        """Return how much work there is, and whether pods are to be started or, where some live, to be kept.

        A paused or shut queue keeps the pods that it has and starts none. Raises QueueUnavailableError if the answer is
        too old, ConfigError if Redis refuses to give one.
        """
        if self.flow is None or self.age(now) > KEPT_SECONDS:
            raise self._failed or QueueUnavailableError("the queue was not read yet")
        keeps = self.flow.workers > 0 and not self.flow.scaled_to_zero
        return self.work, self._wants or (keeps and self.work > 0)
