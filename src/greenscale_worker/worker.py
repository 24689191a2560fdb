"""N lanes that claim jobs, run them and record their outcomes, until told to stop."""

import asyncio
import math
import random
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Final, Self

from greenscale_worker.backends import Backend
from greenscale_worker.backends.handlers import Handler, as_backend
from greenscale_worker.cancel_scope import GRACE_SECONDS, CancelScope
from greenscale_worker.errors import BadInputError, QueueUnavailableError
from greenscale_worker.execution import Executor, OnException, Policy, Run, timed_out
from greenscale_worker.gate import Gate
from greenscale_worker.job import DRAIN, Failed, Failure, Job, Outcome, Released, decode, show_by
from greenscale_worker.outcome_log import LOSSES, report
from greenscale_worker.queues import Lease, Queue, QueueOptions
from greenscale_worker.readiness import until_ready
from greenscale_worker.telemetry import Metrics, log
from greenscale_worker.token_writer import TokenWriter

LANES: Final = 16
NOT_CLEAN: Final = "not everything could be handed back; other workers take over as leases expire"
RELEASE_SECONDS: Final = 2.0  # beyond the drain time, to hand back unfinished jobs
LAST_SECONDS: Final = 0.1
LONGEST_WHY: Final = 500
VERDICTS: Final = {"delayed": "released", "held": "held", "dead": "failed", "stale": "not_ours"}


@dataclass(slots=True, eq=False)
class _Running:
    """A job that a lane runs. `given_up`: its handler ignored cancellation, and the lane was replaced."""

    job: Job
    lease: Lease
    probe: bool
    given_up: bool = False


class Worker:
    """Runs jobs of one queue on one backend, or with a function that takes a job: `async def`, or plain in a thread.

    `concurrency` is the number of lanes, each of which claims one job and runs it at once; None: the gate's, else 16.
    `drain` is how many seconds running jobs may go on after `stop`; the rest are handed back. `heartbeat` is the
    seconds between heartbeats. `heartbeat` and `policy.max_crashes` default to the queue's options. `on_exception` is
    called with the job and every exception of a handler. `quiet`: neither its start nor its drain is logged.
    `beat_tried` is the loop's time at the last attempt to send a heartbeat, `ready` whether the backend was found
    ready, `draining` whether `stop` was called.

    `async with` runs the worker in the background, and drains it on leaving. An error that ends a lane cancels the task
    inside at once, and is raised on leaving. Raises TypeError where `backend` is neither a backend nor a function.
    """

    def __init__(  # noqa: PLR0913  the parts, and the four numbers that are the worker's own
        self,
        queue: Queue,
        backend: Backend | Handler,
        *,
        concurrency: int | None = None,
        drain: float = 25.0,
        heartbeat: float | None = None,
        max_bytes: int = 1024 * 1024,
        gate: Gate | None = None,
        policy: Policy | None = None,
        metrics: Metrics | None = None,
        on_exception: OnException | None = None,
        quiet: bool = False,
    ) -> None:
        self.beat_tried: float | None = None
        self.ready = False
        self._queue = queue
        self._backend = as_backend(backend)
        self._own_backend = self._backend is not backend
        self._quiet = quiet
        self._concurrency = concurrency or (gate.lanes if gate is not None else LANES)
        self._drain_seconds = drain
        options = getattr(queue, "options", None) or QueueOptions()
        self._heartbeat = options.heartbeat if heartbeat is None else heartbeat
        self._max_bytes = max_bytes
        self._metrics = metrics or Metrics()
        self._gate = gate or Gate(self._concurrency, metrics=self._metrics)
        self._gate.on_shut = self._withdraw
        policy = policy or Policy()
        if policy.max_crashes is None:
            policy = replace(policy, max_crashes=options.max_crashes)
        self._executor = Executor(
            self._backend, self._gate, policy, self._metrics, on_stuck=self._give_up, on_exception=on_exception
        )
        self._stopping = asyncio.Event()
        self._patience: asyncio.Timeout | None = None
        self._handing_back = False
        self._claiming: set[CancelScope] = set()
        self._running: dict[CancelScope, _Running] = {}
        self._lanes: set[asyncio.Task[None]] = set()
        self._givings_up: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._metrics.busy(lambda: self._busy)
        self._background: tuple[CancelScope, asyncio.Task[bool]] | None = None

    async def __aenter__(self) -> Self:
        """Start to work in the background."""
        inside = CancelScope()

        def ended(running: asyncio.Task[bool]) -> None:
            if running.cancelled() or running.exception() is not None:
                inside.cancel()

        running = asyncio.create_task(self.run())
        running.add_done_callback(ended)
        self._background = inside, running
        inside.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain. A cancellation ends the drain time, as a second `stop` does. Raises the error that ended a lane."""
        if self._background is None:
            raise RuntimeError("the worker was not entered")
        inside, running = self._background
        inside.__exit__(kind, error, trace)
        self.stop()
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError:
            self.stop()
            await running
            raise
        if not running.result():
            log.error("stopped", hint=NOT_CLEAN)

    @property
    def draining(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def why(self) -> str | None:
        """Why nothing is sent to the endpoint now, in one line; None while calls are sent."""
        if self.ready:
            return self._gate.why
        waits_for = getattr(self._backend, "why_not_ready", None)
        return f"waiting for the backend: {waits_for}" if waits_for else None

    @property
    def busy(self) -> int:
        """Number of jobs in flight: claimed and not settled yet."""
        return self._busy

    def stop(self) -> None:
        """Stop claiming, and let running jobs go on for the drain time. A second call ends that time at once."""
        if self._stopping.is_set():
            self._drain_seconds = 0.0
            if self._patience is not None and not self._patience.expired():
                self._patience.reschedule(0)
        self._stopping.set()
        self._withdraw()

    async def run(self) -> bool:
        """Work until `stop`, then drain and close the queue. Return whether all was recorded or handed back.

        A backend passed in is left open. A handler that ignores cancellation is left running; its job is handed back
        all the same. Raises the error that ended a lane, which is a bug.
        """
        heartbeats = asyncio.create_task(self._send_heartbeats())
        try:
            if await self._backend_is_ready():
                if not self._quiet:
                    log.info("ready", concurrency=self._concurrency)
                self._lanes |= {asyncio.create_task(self._lane()) for _ in range(self._concurrency)}
                await self._watch(heartbeats)
                if not self._quiet:
                    log.info("draining", running=len(self._running), seconds=self._drain_seconds)
                await self._drain()
            limit = asyncio.get_running_loop().time() + RELEASE_SECONDS
            clean = await self._hand_back(limit)
            heartbeats.cancel()  # one sent after `aclose` would list this worker as live again
            await asyncio.wait({heartbeats}, timeout=LAST_SECONDS)
            return await self._close(limit) and clean
        finally:
            tasks = {heartbeats, *self._lanes, *self._givings_up}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=LAST_SECONDS)
            if self._own_backend:
                await self._backend.aclose()

    async def _watch(self, heartbeats: asyncio.Task[None]) -> None:
        """Wait for `stop`. Raises the error that ends a lane, or the heartbeats, before."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not stopping.done():
                tasks = {stopping, heartbeats, *self._lanes}
                ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=self._heartbeat)
                for task in ended:
                    task.result()
        finally:
            stopping.cancel()

    async def _lane(self) -> None:
        scope = CancelScope()
        while not self._stopping.is_set():
            try:
                claimed = await self._claim(scope)
            except QueueUnavailableError as error:
                log.warning("queue_unavailable", error=str(error))
                await asyncio.sleep(random.uniform(0, self._heartbeat))  # noqa: S311  jitter, not a secret
                continue
            if claimed is None:
                continue
            lease, probe = claimed
            kept = True
            try:
                kept = await self._work(lease, scope, probe=probe)
            finally:
                if kept:
                    self._gate.leave(probe=probe)
            if not kept:
                return

    async def _claim(self, scope: CancelScope) -> tuple[Lease, bool] | None:
        """Wait until a call may be sent, then for a job. Return None if cancelled by `_withdraw`."""
        self._claiming.add(scope)
        try:
            with scope:
                probe = await self._gate.enter()
                try:
                    return await (self._queue.lease(probe=True) if probe else self._queue.lease()), probe
                except BaseException:
                    self._gate.leave(probe=probe)
                    raise
        finally:
            self._claiming.discard(scope)
        return None

    def _withdraw(self) -> None:
        """Cancel every pending claim; lanes that still want a job claim again when the gate opens."""
        for scope in self._claiming:
            scope.cancel()

    async def _work(self, lease: Lease, scope: CancelScope, *, probe: bool) -> bool:
        """Run a job and record its outcome. Return False if the lane was replaced meanwhile."""
        self._busy += 1
        kept = True
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            job, outcome, note = await self._outcome(lease, scope, probe=probe)
            if outcome is _GIVEN_UP:
                kept = False
                return False
            ran = clock()
            note = note or await self._record(lease, outcome)
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))
        else:
            report(self._metrics, lease, job, note=note, outcome=outcome, run=ran - began, record=clock() - ran)
        finally:
            self._busy -= kept
        return True

    async def _record(self, lease: Lease, outcome: Outcome | Failure | None) -> str:
        """Record an outcome in the queue. Return the word for what was recorded, empty if it is the outcome itself."""
        if isinstance(outcome, Failure):
            return VERDICTS[await self._queue.retry(lease, outcome)]
        if isinstance(outcome, Failed) and lease.began is None:
            lease.attempts = lease.runs  # refused before anything was sent
        return "" if outcome is None or await self._queue.settle(lease, outcome) else "not_ours"

    async def _outcome(
        self, lease: Lease, scope: CancelScope, *, probe: bool
    ) -> tuple[Job | None, Outcome | Failure | None, str]:
        """Run a job. Return its outcome to record, or else a word for what is recorded already."""
        began = asyncio.get_running_loop().time()
        try:
            job = decode(lease.payload, max_bytes=self._max_bytes, default_job_id=lease.default_job_id)
        except BadInputError as error:
            lease.job_id = error.job_id
            return None, Failed(error.code, str(error)), ""
        binding = await self._queue.bind(lease, job)
        if binding == "conflict":
            return job, Failed("conflict", "another job with this id and another payload is in flight"), ""
        if binding != "run":
            return job, None, binding
        self._metrics.started(asyncio.get_running_loop().time() - began)
        writer = self._writer(job, lease) if job.tokens else None
        outcome = await self._execute(_Running(job, lease, probe), scope)
        if writer is not None and outcome is not None and outcome is not _GIVEN_UP:
            await writer.finish()
        return job, outcome, "" if outcome is not None else LOSSES[lease.lost or "gone"]

    def _writer(self, job: Job, lease: Lease) -> TokenWriter | None:
        """Let a job show its text, if the queue can."""
        write = getattr(self._queue, "write_tokens", None)
        if write is None:
            return None
        writer = TokenWriter(partial(write, lease), job.job_id)
        show_by(job, writer.emit)
        return writer

    async def _execute(self, running: _Running, scope: CancelScope) -> Outcome | Failure | None:
        """Run a job. Return None if its lease was lost meanwhile: nothing is to be recorded."""
        if self._handing_back:
            return Released(DRAIN)
        lease, timeouts = running.lease, self._executor.timeouts
        self._running[scope] = running
        try:
            with scope:
                lease.on_lost = lambda: timeouts.add(scope, 0.0)
                if lease.lost is None:
                    outcome = await self._executor.run(running.job, lease, probe=running.probe)
                    return _GIVEN_UP if running.given_up else outcome
        finally:
            if not running.given_up:
                lease.on_lost = None
                del self._running[scope]
            timeouts.discard(scope)
        if running.given_up:
            return _GIVEN_UP
        return None if lease.lost is not None else Released(DRAIN)

    def _give_up(self, task: asyncio.Task[object]) -> None:
        """Give up a handler that ignores cancellation: settle its job, and start another lane."""
        scope = next((scope for scope in self._running if scope.task is task), None)
        if scope is None:
            return
        running = self._running.pop(scope)
        running.given_up = True
        running.lease.on_lost = None
        log.error("handler_stuck", job_id=running.job.job_id, seconds=2 * GRACE_SECONDS)
        self._busy -= 1
        self._gate.leave(probe=running.probe)
        self._lanes = {lane for lane in self._lanes if lane is not task}
        if not self._stopping.is_set():
            self._lanes.add(asyncio.create_task(self._lane()))
        if running.lease.lost is None:
            self._keep(self._settle_stuck(running))

    async def _settle_stuck(self, running: _Running) -> None:
        """Record a timeout for a job whose handler hangs."""
        lease, began = running.lease, running.lease.began or monotonic()
        lease.call_seconds = monotonic() - began
        outcome = self._executor.judge(Run(running.job, lease, probe=running.probe, ends=math.inf), timed_out())
        try:
            note = await self._record(lease, outcome)
        except QueueUnavailableError as error:
            log.warning("queue_unavailable", error=str(error))
        else:
            report(self._metrics, lease, running.job, note=note, outcome=outcome, run=monotonic() - began, record=0.0)

    def _keep(self, work: Coroutine[object, object, None]) -> None:
        """Run `work` beside the lanes; only the shutdown waits for it."""
        task = asyncio.create_task(work)
        self._givings_up.add(task)
        task.add_done_callback(self._givings_up.discard)

    async def _send_heartbeats(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self.beat_tried = loop.time()
            with suppress(TimeoutError, QueueUnavailableError):
                async with asyncio.timeout(2 * self._heartbeat):
                    why = self.why and " ".join(self.why.split())[:LONGEST_WHY]
                    await self._queue.beat(why, lanes=self._concurrency, shut=self._gate.is_open)
            await asyncio.sleep(max(0.0, self.beat_tried + self._heartbeat - loop.time()))

    async def _backend_is_ready(self) -> bool:
        """Wait until the backend is ready. Return False if the worker is stopped before."""
        self.ready = await until_ready(self._backend, self._stopping)
        return self.ready

    async def _drain(self) -> None:
        """Wait for the lanes to finish, for the drain time or until `stop` is called again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds) as self._patience:
                while tasks := {task for task in self._lanes | self._givings_up if not task.done()}:
                    await asyncio.wait(tasks, timeout=self._heartbeat)
        self._patience = None

    async def _hand_back(self, limit: float) -> bool:
        """Cancel running jobs, which their lanes release. Return False if some could not be released in time.

        A handler that ignores cancellation has half of that time; then its job is released without it.
        """
        self._handing_back = True
        lanes = self._lanes | self._givings_up
        for scope in self._running:
            scope.cancel()
        await _wait(lanes, limit - RELEASE_SECONDS / 2)
        stubborn = {scope.task: running for scope, running in self._running.items()}
        for running in stubborn.values():
            running.given_up = True  # when its handler returns after all, the queue may be closed
        releases = {asyncio.create_task(self._release(running.lease)) for running in stubborn.values()}
        unfinished = await _wait((lanes - stubborn.keys()) | releases, limit)
        for task in unfinished:
            task.cancel()
        for lane in lanes:
            if lane.done():
                lane.result()
        return not unfinished

    async def _release(self, lease: Lease) -> None:
        await self._queue.settle(lease, Released(DRAIN))

    async def _close(self, limit: float) -> bool:
        try:
            async with asyncio.timeout_at(limit):
                await self._queue.aclose()
        except TimeoutError:
            return False
        return True


_GIVEN_UP: Final = Released("given_up")


async def _wait(tasks: set[asyncio.Task[None]], until: float) -> set[asyncio.Task[None]]:
    """Wait for tasks until a time of the loop's clock. Return those that have not ended."""
    if not tasks:
        return tasks
    _, unfinished = await asyncio.wait(tasks, timeout=max(0.0, until - asyncio.get_running_loop().time()))
    return unfinished
