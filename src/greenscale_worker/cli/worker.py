"""The worker as a process: opens its parts, handles signals, and exits with a code that says what it left behind."""

import asyncio
import gc
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable  # noqa: TC003  beside the others, which are needed at run time
from contextlib import AsyncExitStack, suppress
from typing import Final

from greenscale_worker.backends import Backend
from greenscale_worker.cli import FAILED
from greenscale_worker.cli.context import open_client, open_configured_backend, open_queue
from greenscale_worker.cli.process import run_logged
from greenscale_worker.config import (
    Settings,
    engine_pages,
    most_in_flight,
    own_pod,
    policy,
    queue_name,
    queue_options,
    redis_options,
)
from greenscale_worker.config.rules import masked
from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.execution import same_model
from greenscale_worker.job import Job, Output
from greenscale_worker.queues import HELD, Queue, QueueClient
from greenscale_worker.telemetry import Metrics, flush_log, gather_log, log
from greenscale_worker.worker import NOT_CLEAN, Worker

GARBAGE_THRESHOLD: Final = 50_000  # a job leaves no cycles behind; at the default of 700 looking for them costs 5 %
SCRAPE_SECONDS: Final = 2.0
PAUSED_SECONDS: Final = 1.0
PAUSED_TIMEOUT: Final = 0.3
CANCEL_SECONDS: Final = 0.1
LEAVE_SECONDS: Final = 1.0
LONGEST_TRACEBACK: Final = 16 * 1024
STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


def run() -> int:
    """Run the worker until a signal. Return 0 if nothing is left behind, 1 if leases are left to expire."""
    return run_logged(_work)


async def _work(settings: Settings) -> int:
    gather_log(asyncio.get_running_loop())
    try:
        clean = await Process(settings).run()
    finally:
        gather_log(None)
    if clean:
        log.info("stopped")
        code = 0
    else:
        log.error("stopped", hint=NOT_CLEAN)
        code = FAILED
    flush_log()
    # A handler's thread or task that does not end must not keep the process alive: its job was handed back.
    watchdog = threading.Timer(LEAVE_SECONDS, os._exit, (code,))
    watchdog.daemon = True
    watchdog.start()
    return code


class Process:
    """One worker, with its queue, backend, health server and signals."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._queue: Queue | None = None
        self._admin: QueueClient | None = None
        self._backend: Backend | None = None
        self._paused, self._paused_asked = False, -math.inf
        self._worker: Worker | None = None
        self._looking: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    async def run(self) -> bool:
        """Open, work, close. Return whether everything was handed back. Raises ConfigError."""
        settings, loop = self._settings, asyncio.get_running_loop()
        pod, pages = own_pod(settings), engine_pages(settings)
        for number in STOPPING:
            loop.add_signal_handler(number, self.stop)
        async with AsyncExitStack() as stack:
            backend = open_configured_backend(settings)
            stack.push_async_callback(backend.aclose)
            if settings.log_content:
                backend = Overheard(backend)
            self._backend = backend
            if settings.health_port is not None:
                await self._serve_health(stack, settings.health_port)
            self._queue = await self._open_queue()
            if self._queue is None:
                return True
            self._worker = self._make_worker(self._queue, backend)
            if self._stopping.is_set():
                self._worker.stop()
            self._announce()
            if pod is not None:
                _keep_deletion_cost(stack, pod, self._worker)
            if pages:
                self._look_at_engine(stack, pages)
            gc.freeze()
            gc.set_threshold(GARBAGE_THRESHOLD)
            return await self._worker.run()

    def stop(self) -> None:
        """Start to drain; a second call ends the drain time at once. Before the queue is open: stop waiting for it."""
        self._stopping.set()
        if self._worker is not None:
            self._worker.stop()
        if self._looking is not None:
            self._looking.cancel()  # another worker looks

    async def _open_queue(self) -> Queue | None:
        """Wait for the queue's server. Return None if stopped before. Raises ConfigError."""
        opening = asyncio.create_task(open_queue(self._settings, self._metrics))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        while not opening.done():
            opening.cancel()  # again and again: Python 3.11 may swallow one while redis-py connects
            await asyncio.wait({opening}, timeout=CANCEL_SECONDS)
        return None if opening.cancelled() else opening.result()

    def _make_worker(self, queue: Queue, backend: Backend) -> Worker:
        settings = self._settings
        return Worker(
            queue,
            backend,
            concurrency=settings.concurrency,
            drain=settings.drain_seconds,
            heartbeat=queue_options(settings).heartbeat,  # a plug-in's queue may not have `options`
            max_bytes=settings.max_payload_bytes,
            policy=policy(settings),
            metrics=self._metrics,
            on_exception=log_exception if _logs_exceptions(settings) else None,
        )

    def _look_at_engine(self, stack: AsyncExitStack, pages: list[str]) -> None:
        """Look at the engine beside the lanes, until `stack` is left. Raises ConfigError for a queue that cannot."""
        from greenscale_worker.engine_look import EngineLook
        from greenscale_worker.tls import client_context

        queue, file = self._queue, self._settings.endpoint_ca_file
        if queue is None or not hasattr(queue, "observe"):  # a plug-in's, of an older version
            raise ConfigError(f"GREENSCALE_ENGINE_METRICS_URL: the queue {self._settings.queue} has no observe")
        look = EngineLook(
            queue, pages, most=most_in_flight(self._settings), tls=client_context(ca_file=file), metrics=self._metrics
        )
        self._looking = asyncio.create_task(look.run())
        stack.callback(self._looking.cancel)

    def _announce(self) -> None:
        settings = self._settings
        log.info(
            "worker_started",
            queue=queue_name(settings),
            kind=settings.queue,
            redis=masked(redis_options(settings).url),
            backend=settings.backend,
            concurrency=settings.concurrency,
        )

    async def _serve_health(self, stack: AsyncExitStack, port: int) -> None:
        from greenscale_worker.health import heartbeat_faults, serving

        every = queue_options(self._settings).heartbeat

        def live() -> list[str]:
            tried = self._worker.beat_tried if self._worker is not None else None
            return list(heartbeat_faults(tried, every=every))

        self._admin = await open_client(self._settings)
        stack.push_async_callback(self._admin.aclose)
        host = self._settings.health_host
        await stack.enter_async_context(
            serving(host, port, live=live, ready=self._unready, notes=self._why_nothing_moves, metrics=self._scrape)
        )

    def _unready(self) -> list[str]:
        """Return what keeps this worker from working, a line each."""
        worker, queue = self._worker, self._queue
        faults = {
            "the queue does not answer": queue is None or not queue.up,
            "the backend has not answered yet": worker is None or not worker.ready,
            "draining": self._stopping.is_set(),
        }
        return [fault for fault, holds in faults.items() if holds]

    async def _why_nothing_moves(self) -> list[str]:
        """Return what else keeps jobs from being run, a line each: the endpoint, or a pause."""
        worker, notes = self._worker, []
        if worker is None:
            waits_for = getattr(self._backend, "why_not_ready", None)
            notes += [f"waiting for the backend: {waits_for}"] if waits_for else []
        notes += [worker.why] if worker is not None and worker.why is not None else []
        if await self._is_paused():
            notes.append("paused: `greenscale-worker resume` ends it")
        return [masked(" ".join(note.split())) for note in notes]

    async def _is_paused(self) -> bool:
        """Return whether the queue is paused; it is asked once a second at most."""
        now = asyncio.get_running_loop().time()
        if self._admin is not None and now - self._paused_asked >= PAUSED_SECONDS:
            self._paused_asked = now
            with suppress(TimeoutError, QueueUnavailableError, ConfigError):
                async with asyncio.timeout(PAUSED_TIMEOUT):
                    self._paused = (await self._admin.depth()).paused
        return self._paused

    async def _scrape(self) -> bytes:
        """Return all metrics, with the queue's depth if it answers."""
        if self._admin is not None:
            with suppress(TimeoutError, QueueUnavailableError, ConfigError):
                async with asyncio.timeout(SCRAPE_SECONDS):
                    depth, flow = await self._admin.depth(), await self._admin.flow()
                self._metrics.held(flow.held, HELD)
                self._metrics.depth(
                    waiting=depth.waiting,
                    running=depth.running,
                    delayed=depth.delayed,
                    held=depth.held,
                    scheduled=depth.scheduled,
                    dead=depth.dead,
                )
        return self._metrics.render()


class Overheard:
    """Logs the jobs and answers of a backend; used only if a setting says so."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.ready = backend.ready
        self.aclose = backend.aclose
        self.peers: Callable[[Job], str] = getattr(backend, "peers", same_model)

    @property
    def why_not_ready(self) -> str | None:
        """See Backend."""
        return getattr(self._backend, "why_not_ready", None)

    async def infer(self, job: Job) -> Output:
        """See Backend. A job that gets no answer is logged without one."""
        answer = None
        try:
            output = await self._backend.infer(job)
            answer = getattr(output, "text", None)
        finally:
            log.info("job", outcome="asked", job_id=job.job_id, payload=job.payload, answer=answer)
        return output


def _keep_deletion_cost(stack: AsyncExitStack, pod: str, worker: Worker) -> None:
    """Start a task that nothing waits for; it is cancelled when the stack is left."""
    from greenscale_worker.deletion_cost import api_server, keep_deletion_cost

    # Kubernetes tells every container where its API server is; the name is the same in every cluster.
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    server = api_server(host, os.environ.get("KUBERNETES_SERVICE_PORT", "443"))
    task = asyncio.create_task(keep_deletion_cost(server, pod, lambda: worker.busy))
    stack.callback(task.cancel)


def log_exception(job: Job, error: BaseException) -> None:
    """Log the traceback of what a backend raised, without the values of variables; its message may quote the job."""
    text = "".join(traceback.format_exception(error)).rstrip()
    if len(text) > LONGEST_TRACEBACK:
        text = f"…{text[-LONGEST_TRACEBACK:]}"
    log.error("backend_exception", job_id=job.job_id, exception=text)


def _logs_exceptions(settings: Settings) -> bool:
    return sys.stderr.isatty() if settings.log_exceptions == "auto" else settings.log_exceptions == "true"
