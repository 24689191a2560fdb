"""Reads all queues in turn: those with work each second, and ten times whether a job has come into an empty one."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, Protocol

from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.queues import Flow
from greenscale_worker.scaler.metrics import ScalerMetrics
from greenscale_worker.scaler.trigger import Trigger
from greenscale_worker.scaler.watched import KEPT_SECONDS, Reads, Watched
from greenscale_worker.tasks import end
from greenscale_worker.telemetry import log

Name = tuple[Literal["list", "stream"], str]

GLANCE_SECONDS: Final = 0.1  # between two looks for arrivals
BUSY_SECONDS: Final = 1.0
EMPTY_SECONDS: Final = 5.0  # a job may have been scheduled
REFUSED_SECONDS: Final = 10.0
REST: Final = 3  # times as long as it looked: with many queues each of the two rounds is at it a quarter of the time
AT_ONCE: Final = 16
AGAIN_SECONDS: Final = 1.0
NOBODY_SECONDS: Final = 60.0  # after which a pod that was asked for should work
FORGET_SECONDS: Final = 900.0  # after which a queue that nobody asks for is forgotten
MOST_QUEUES: Final = 10_000


class Looks(Protocol):
    """How queues are read: `queues.redis.lookout.Lookout`."""

    def client(self, kind: Literal["list", "stream"], name: str) -> Reads:
        """Return what reads one queue."""
        ...

    async def arrivals(self, queues: Sequence[Name]) -> list[bool]:
        """Return into which of some empty queues a job may have come.

        Raises QueueUnavailableError and ConfigError.
        """
        ...


class TooManyQueuesError(Exception):
    """More queues are asked for than one scaler watches."""


class Watcher:
    """Watches every queue that was asked for lately.

    `tried` is when it last began to look, by the loop's clock. `away` is why Redis cannot be read; None if it can.
    """

    def __init__(self, looks: Looks, metrics: ScalerMetrics) -> None:
        self.queues: dict[Trigger, Watched] = {}
        self.tried: float | None = None
        self.away: str | None = None
        self._looks = looks
        self._metrics = metrics
        self._stale = False
        self._clock = asyncio.get_running_loop().time
        metrics.observe(
            queues=lambda: len(self.queues),
            streams=lambda: sum(queue.streams for queue in self.queues.values()),
            age=self.oldest,
        )
        self._tasks = [
            asyncio.create_task(self._repeat("arrivals", self._glance)),
            asyncio.create_task(self._repeat("queues", self._look)),
        ]

    async def aclose(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            await end(task)

    def watch(self, trigger: Trigger) -> Watched:
        """Return what is known of a queue, and watch it from now on. Raises TooManyQueuesError."""
        queue = self.queues.get(trigger)
        if queue is None:
            if len(self.queues) >= MOST_QUEUES:
                raise TooManyQueuesError
            queue = self.queues[trigger] = Watched(trigger, self._looks.client(trigger.kind, trigger.name))
            if self.away is not None:
                queue.failed(QueueUnavailableError(self.away))
        queue.used_at = self._clock()
        return queue

    def oldest(self) -> float:
        """Return the age of the oldest answer, in seconds; 0 if there is none."""
        now = self._clock()
        return max((queue.age(now) for queue in self.queues.values() if queue.flow is not None), default=0.0)

    async def _repeat(self, what: str, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            began = self._clock()
            await step()
            took = self._clock() - began
            self._metrics.look.labels(what).observe(took)
            away = random.uniform(0.2, AGAIN_SECONDS) if self.away else 0.0  # noqa: S311  jitter, not a secret
            await asyncio.sleep(max(GLANCE_SECONDS, away, min(REST * took, BUSY_SECONDS)))

    async def _glance(self) -> None:
        """Read the queues into which a job has come, and those that nobody has read yet."""
        self.tried = self._clock()
        if self.away:
            return
        queues = list(self.queues.values())
        empty = [queue for queue in queues if queue.empty]
        try:
            came = await self._looks.arrivals([_name(queue) for queue in empty])
        except (QueueUnavailableError, ConfigError) as error:
            self._gone(error)
            return
        arrived = [queue for queue, has_come in zip(empty, came, strict=True) if has_come]
        await self._read([*arrived, *(queue for queue in queues if queue.unread)])

    async def _look(self) -> None:
        """Read the queues whose time has come, and forget those that nobody asks for."""
        now = self._clock()
        for trigger, queue in list(self.queues.items()):
            if not queue.streams and now - queue.used_at > FORGET_SECONDS:
                del self.queues[trigger]
        due = [queue for queue in self.queues.values() if queue.look_at <= now]
        await self._read(due or list(self.queues.values())[: 1 if self.away else 0])
        if self.away and not self._stale and self.oldest() > KEPT_SECONDS:
            self._stale = True
            log.warning("answers_stale", seconds=KEPT_SECONDS)

    async def _read(self, queues: Sequence[Watched]) -> None:
        """Read queues, some at a time; one while Redis is away. Stop at the first one that it does not answer."""
        at_once = 1 if self.away else AT_ONCE
        for start in range(0, len(queues), at_once):
            if not all(await asyncio.gather(*map(self._read_one, queues[start : start + at_once]))):
                return

    async def _read_one(self, queue: Watched) -> bool:
        """Read a queue. Return whether Redis has answered."""
        try:
            flow = await queue.client.flow()
        except QueueUnavailableError as error:
            self._gone(error)
            return False
        except ConfigError as error:
            if not queue.refused:
                log.warning("queue_refused", queue=queue.trigger.name, kind=queue.trigger.kind, error=str(error))
            queue.failed(error)
            queue.look_at = self._clock() + REFUSED_SECONDS
            return True
        self._back()
        now = self._clock()
        if queue.read(flow, now):
            self._metrics.wakes.inc()
            self._complain(queue, now)
        queue.look_at = now + self._rest_of(queue, flow)
        return True

    def _complain(self, queue: Watched, now: float) -> None:
        """Say it if no pod comes, once each time that pods are asked for."""
        since = queue.asking_since
        if since is not None and now - since > NOBODY_SECONDS:
            queue.asking_since = float("inf")
            log.warning("nobody_comes", queue=queue.trigger.name, kind=queue.trigger.kind, seconds=NOBODY_SECONDS)

    def _rest_of(self, queue: Watched, flow: Flow) -> float:
        """Return in how many seconds to read a queue again."""
        if not queue.empty:
            return BUSY_SECONDS
        due = EMPTY_SECONDS if flow.due_seconds is None else flow.due_seconds - queue.trigger.start
        return min(max(due, BUSY_SECONDS), EMPTY_SECONDS * random.uniform(0.8, 1))  # noqa: S311  lest all come at once

    def _gone(self, error: QueueUnavailableError | ConfigError) -> None:
        if self.away is None:
            log.warning("queue_unavailable", error=str(error), kept_seconds=KEPT_SECONDS)
        self.away = str(error)
        for queue in self.queues.values():
            queue.failed(error)

    def _back(self) -> None:
        if self.away is not None:
            log.info("queue_back")
        self.away, self._stale = None, False


def _name(queue: Watched) -> Name:
    return queue.trigger.kind, queue.trigger.name
