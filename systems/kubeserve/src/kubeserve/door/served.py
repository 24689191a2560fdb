"""One deployment in the door: its worker on its queue, the revision that answers, and the one that is to."""

import asyncio
import itertools
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from greenscale_worker import Policy, RedisOptions, Worker, open_queue

from kubeserve.domain import DeploymentState
from kubeserve.door.backend import Current, ModelBackend
from kubeserve.door.hot import Hot
from kubeserve.door.kept import Kept
from kubeserve.door.leases import Leases
from kubeserve.door.metrics import Metrics
from kubeserve.door.pool import Pool
from kubeserve.door.replica import LOAD_SECONDS, Replica, StartError
from kubeserve.door.zygotes import ZygoteOf
from kubeserve.places import Observation
from kubeserve.places.workload import Replicable, Workload
from kubeserve.queueing import LARGEST_BODY, queue_options

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 300.0
DRAIN_SECONDS: Final = 20.0
HAND_BACK_SECONDS: Final = 5.0  # beyond the drain time
MOST_LOGS: Final = 8
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Means:
    """What all deployments of a door share."""

    redis: RedisOptions
    zygotes: ZygoteOf
    metrics: Metrics
    kept: Kept
    leases: Leases


class Served:
    """Runs a workload, and the next one when `take` is told of it; the former revision answers until that has loaded.

    `folder` keeps what must outlive the door: which revision has come up here, so that a restart wakes nobody.
    `may_grow` says whether its owner may have one more replica. At the end calls have `drain` seconds.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        folder: Path,
        means: Means,
        may_grow: Callable[[], bool],
        drain: float = DRAIN_SECONDS,
    ) -> None:
        self._workload = workload
        self._drain_seconds = drain
        self._folder = folder
        self._means = means
        self._may_grow = may_grow
        self._current: Current | None = None
        self._reason = ""
        self._rolling: asyncio.Task[None] | None = None
        self._open: dict[Pool, Replicable] = {}
        self._retiring = set[asyncio.Task[None]]()
        self._numbers = itertools.count(1)
        may_keep = partial(means.kept.admit, workload.tenant)
        self._backend = ModelBackend(workload.id, lambda: self._current, means.metrics, may_keep)
        self.hot = Hot(workload.id, self._backend, means.leases)
        self._worker = asyncio.create_task(self._work())
        self._running: Worker | None = None
        self._closing = False
        self._roll_to(workload)

    def take(self, workload: Workload) -> None:
        """Make this what shall run."""
        if workload == self._workload:
            return
        former, self._workload = self._workload, workload
        if _numbers(former) != _numbers(workload):
            self._drain()  # and another worker is begun
        self._roll_to(workload)

    @property
    def tenant(self) -> str:
        """The id of its owner."""
        return self._workload.tenant

    @property
    def replicas(self) -> int:
        """How many replicas answer for it."""
        return self._current.pool.replicas if self._current is not None else 0

    @property
    def size(self) -> int:
        """How many replicas it has: those that load, and those of a former revision, too."""
        return sum(pool.size for pool in self._open)

    @property
    def uses(self) -> set[tuple[str, Path]]:
        """The tenant and the environments that it may fork from, or has forked from."""
        wanted = [self._workload.target, *([self._workload.fallback] if self._workload.fallback else [])]
        return {(self._workload.tenant, what.environment) for what in (*wanted, *self._open.values())}

    def observe(self) -> Observation:
        """Return how it stands."""
        current, target = self._current, self._workload.target
        replicas = self.replicas
        if current is None:
            state = DeploymentState.FAILED if self._reason else DeploymentState.STARTING
        elif self._reason or current.pool.failing:
            state = DeploymentState.DEGRADED
        elif current.what.revision != target.revision:
            state = DeploymentState.STARTING
        else:
            state = DeploymentState.READY if replicas else DeploymentState.ASLEEP
        reason = self._reason or (current.pool.failing if current is not None else None) or ""
        active = current.what.revision if current is not None else None
        return Observation(self._workload.generation, state, reason, active, replicas)

    async def aclose(self) -> None:
        """Let running calls end for a while, hand the rest back, stop every replica."""
        self._closing, drain = True, self._drain_seconds
        if self._rolling is not None:
            self._rolling.cancel()
            await asyncio.wait({self._rolling})
        self._drain()
        await asyncio.gather(self.hot.aclose(drain), asyncio.wait({self._worker}, timeout=drain + HAND_BACK_SECONDS))
        self._worker.cancel()
        await asyncio.wait({self._worker})
        for pool in list(self._open):
            self._retire(pool)
        if self._retiring:
            await asyncio.wait(self._retiring)

    def _drain(self) -> None:
        if self._running is not None and not self._running.draining:  # to be told twice ends its calls at once
            self._running.stop()

    async def _work(self) -> None:
        """Take predictions until the end, whatever becomes of a worker."""
        while not self._closing:
            try:
                await self._run_worker()
            except Exception:
                log.exception("worker_failed", deployment=self._workload.id)
                await asyncio.sleep(FIRST_PAUSE)

    async def _run_worker(self) -> None:
        queue = await open_queue("list", self._means.redis, queue_options(self._workload.id))
        concurrency, timeout = _numbers(self._workload)
        worker = Worker(
            queue,
            self._backend,
            concurrency=concurrency,
            drain=self._drain_seconds,
            max_bytes=LARGEST_BODY,
            policy=Policy(timeout=2 * (concurrency + 1) * timeout + LOAD_SECONDS),  # each may have to be asked alone
        )
        self._running = worker
        if self._closing:
            worker.stop()
        await worker.run()

    def _roll_to(self, workload: Workload) -> None:
        if self._rolling is not None:
            self._rolling.cancel()
        self._reason = ""
        self._rolling = asyncio.create_task(self._roll(workload))

    async def _roll(self, workload: Workload) -> None:
        """Bring the target up, however often that takes; as long as it fails, the fallback answers."""
        if self._current is not None and self._current.what == workload.target:
            return
        former = workload.fallback
        if self._current is None and former is not None and self._has_come_up(former):
            self._answer_with(self._pool(former), former)
        pause = FIRST_PAUSE
        while True:
            try:
                await self._bring_up(workload.target)
            except StartError as error:
                self._reason = f"revision {workload.target.revision}: {error}"
            else:
                self._reason = ""
                return
            if self._current is None and former is not None:
                with suppress(StartError):
                    await self._bring_up(former)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  jitter
            pause = min(LONGEST_PAUSE, 2 * pause)

    async def _bring_up(self, what: Replicable) -> None:
        pool = self._pool(what)
        try:
            if what.minimum or not self._has_come_up(what):
                await pool.warm()
        except BaseException:
            self._retire(pool)
            raise
        self._answer_with(pool, what)

    def _answer_with(self, pool: Pool, what: Replicable) -> None:
        """Let it answer. Calls of the former one end where they are."""
        former, self._current = self._current, Current(pool, what)
        self._note(what)
        if former is not None:
            self._retire(former.pool)

    def _retire(self, pool: Pool) -> None:
        task = asyncio.create_task(self._close(pool))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close(self, pool: Pool) -> None:
        try:
            await pool.aclose()
        finally:
            self._open.pop(pool, None)

    def _pool(self, what: Replicable) -> Pool:
        pool = Pool(
            lambda: self._start(what),
            minimum=what.minimum,
            maximum=what.maximum,
            idle=what.idle,
            timeout=what.timeout,
            may_grow=self._may_grow,
        )
        self._open[pool] = what
        return pool

    async def _start(self, what: Replicable) -> Replica:
        number = next(self._numbers)
        logs = self._folder / "logs"
        try:
            logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"its log cannot be kept: {error.strerror}") from error
        zygote = self._means.zygotes.of(self._workload.tenant, what.environment)
        return await Replica.start(f"{self._workload.id}-{number}", zygote, what, logs / f"{number % MOST_LOGS}.log")

    @property
    def _came_up(self) -> Path:
        return self._folder / "came-up"

    def _has_come_up(self, what: Replicable) -> bool:
        try:
            return self._came_up.read_bytes() == what.version.encode()
        except OSError:
            return False

    def _note(self, what: Replicable) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._came_up.write_bytes(what.version.encode())
        except OSError as error:  # a restart will load it once more, to see
            log.warning("note_not_kept", deployment=self._workload.id, error=error.strerror)


def _numbers(workload: Workload) -> tuple[int, float]:
    """Return what a worker is made with."""
    return workload.target.concurrency, workload.target.timeout
