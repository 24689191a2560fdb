"""What an operator sees: log events, one line for each, and metrics."""

import asyncio
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, Literal, Protocol, TextIO

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily
from structlog.typing import EventDict

from greenscale_worker.colour import coloured
from greenscale_worker.job import Usage
from greenscale_worker.log_text import LogText
from greenscale_worker.log_writer import LogWriter

Event = Literal[
    "answers_stale",
    "backend_error",
    "backend_exception",
    "batch_error",
    "batch_waits",
    "breaker_closed",
    "breaker_opened",
    "dead_letters_trimmed",
    "deletion_cost_delayed",
    "deletion_cost_off",
    "draining",
    "engine_seen",
    "engine_unseen",
    "foreign_key_replaced",
    "gate_open",
    "gate_shut",
    "gateway_error",
    "out_of_files",
    "files_swept",
    "files_unavailable",
    "gateway_started",
    "handler_stuck",
    "job",
    "job_buried",
    "job_cut_again",
    "job_taken_over",
    "log_lines_dropped",
    "nobody_comes",
    "notices_dropped",
    "output_not_locked",
    "probe_failed",
    "queue_back",
    "queue_refused",
    "queue_unavailable",
    "ready",
    "redis_may_evict",
    "redis_not_persistent",
    "scaler_started",
    "stopped",
    "thread_left_behind",
    "tokens_not_written",
    "unknown_setting",
    "waiting_for_backend",
    "webhook_disabled",
    "webhook_failed",
    "worker_started",
]

CREDENTIALS: Final = re.compile(rb'://[^\s/"@]*@')
START_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 15)
CALL_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300)


class Log(Protocol):
    """A logger of our events only. Facts are numbers and short words, never a prompt, answer or secret."""

    def debug(self, event: Event, /, **facts: object) -> None:
        """Log what only debugging needs."""

    def info(self, event: Event, /, **facts: object) -> None:
        """Log what happens when all is well."""

    def warning(self, event: Event, /, **facts: object) -> None:
        """Log what recovers by itself, or may cause trouble later."""

    def error(self, event: Event, /, **facts: object) -> None:
        """Log what an operator has to fix."""


log: Log = structlog.get_logger()


def configure_logging(*, json: bool, level: str = "info", left_out: Collection[str] = ()) -> None:
    """Log from `level` (debug, info, warning, error) upwards: JSON lines to stdout, or lines for people to stderr.

    Events in `left_out` are not logged.
    A thread writes the lines: neither a reader that stalls nor a full disk holds up a job. Lines that cannot be
    written are dropped, and counted.
    """
    vars(log).pop("bind", None)  # the logger that an earlier call configured, and structlog cached
    structlog.configure(
        cache_logger_on_first_use=True,
        processors=[*([_without(left_out)] if left_out else []), _as_json if json else _for_people(), _mask],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines,
    )
    _writer.redirect(sys.stdout if json else sys.stderr)


def _without(events: Collection[str]) -> Callable[[object, str, EventDict], EventDict]:
    def passed_on(_logger: object, _level: str, facts: EventDict) -> EventDict:
        if facts["event"] in events:
            raise structlog.DropEvent
        return facts

    return passed_on


def _for_people() -> LogText:
    stream = sys.stderr
    return LogText(colour=coloured(stream), terminal=stream if stream is not None and stream.isatty() else None)


@contextmanager
def log_above(stream: TextIO) -> Iterator[None]:
    """Write lines for people to `stream` meanwhile, which stands in for stderr and puts them above a progress bar."""
    former = _writer.stream
    if former is not sys.stderr:  # the log is JSON, on stdout
        yield
        return
    _writer.redirect(stream)
    try:
        yield
    finally:
        _writer.redirect(former)


def _as_json(_logger: object, level: str, facts: EventDict) -> bytes:
    line = {"timestamp": datetime.now(UTC), "level": level, "event": facts.pop("event"), **facts}
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_UTC_Z)
    except TypeError:  # a lone surrogate, an integer above 64 bits
        return orjson.dumps({key: str(value).encode(errors="replace").decode() for key, value in line.items()})


def _mask(_logger: object, _level: str, line: Any) -> bytes:
    """Hide user and password of every URL: messages of other libraries quote them."""
    return CREDENTIALS.sub(b"://***@", line) if b"@" in line else line


class _Lines:
    """Passes each line to the writer; structlog calls this a logger."""

    def msg(self, line: bytes) -> None:
        _writer.put(line + b"\n")

    def info(self, line: bytes) -> None:
        _writer.put(line + b"\n", may_wait=True)

    debug = warning = error = msg


def _lines_were_dropped(lines: int) -> None:
    log.error("log_lines_dropped", lines=lines, hint="who reads the log was too slow, or the disk is full")


_writer: Final = LogWriter(_lines_were_dropped)


def gather_log(loop: asyncio.AbstractEventLoop | None) -> None:
    """Write all `info` lines of one turn of this thread's event loop together; None: no longer."""
    _writer.gather_for(loop)


def flush_log() -> None:
    """Wait until the log is written, half a second at most. For the end of the process, or other output."""
    _writer.flush()


class _DroppedLines:
    """Counts the lines dropped in the whole process, as a collector of prometheus_client."""

    def collect(self) -> list[CounterMetricFamily]:
        return [CounterMetricFamily("greenscale_log_lines_dropped", "Lines of log lost", value=_writer.dropped)]


class Metrics:
    """Counts and times for Prometheus. Each instance has its own registry; times are seconds."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        own.register(_DroppedLines())
        self._finished = cache(
            Counter("greenscale_jobs", "Runs that ended, by outcome", ["outcome", "code"], registry=own).labels
        )
        self._started = Histogram(
            "greenscale_claim_to_start_seconds", "From claim to call", registry=own, buckets=START_SECONDS
        )
        self._called = Histogram(
            "greenscale_call_seconds", "One call of the backend, failed or not", registry=own, buckets=CALL_SECONDS
        )
        self._tokens = cache(Counter("greenscale_tokens", "Tokens used, by kind", ["kind"], registry=own).labels)
        self._retried = cache(Counter("greenscale_retries", "Calls to be made again", ["reason"], registry=own).labels)
        self._busy = Gauge("greenscale_lanes_busy", "Jobs running in this process", registry=own)
        self._shut = Gauge("greenscale_gate_shut", "1 while nothing may be sent to the endpoint", registry=own)
        self._breaker = Gauge("greenscale_breaker_open", "1 while the endpoint only gets probes", registry=own)
        self._depth = cache(
            Gauge("greenscale_queue_jobs", "Jobs of the whole queue, by state", ["state"], registry=own).labels
        )
        self._engine = Gauge("greenscale_engine_requests", "Requests inside the engine", ["state"], registry=own)
        self._held = cache(
            Gauge("greenscale_queue_held", "1 for what holds waiting jobs back", ["by"], registry=own).labels
        )
        self._reaped = Counter("greenscale_leases_reaped", "Leases that ended without a word", registry=own)
        self._notices_dropped = Counter(
            "greenscale_notices_dropped", "Notices that nobody had acknowledged in time", registry=own
        )
        self._lost = cache(
            Counter("greenscale_leases_lost", "Leases of this process lost", ["how"], registry=own).labels
        )

    def finished(self, outcome: str, code: str = "") -> None:
        """Count a run that ended. Both labels come from a small, fixed set of words."""
        self._finished(outcome, code).inc()

    def started(self, seconds: float) -> None:
        """Observe the time from the claim of a job to its start."""
        self._started.observe(seconds)

    def called(self, seconds: float) -> None:
        """Observe the time of one call."""
        self._called.observe(seconds)

    def tokens(self, usage: Usage) -> None:
        """Count the tokens of an answer, as far as the endpoint gave them."""
        for kind, tokens in (("prompt", usage.prompt_tokens), ("completion", usage.completion_tokens)):
            if tokens:
                self._tokens(kind).inc(tokens)

    def retried(self, reason: str) -> None:
        """Count a call that will be retried."""
        self._retried(reason).inc()

    def busy(self, lanes: Callable[[], float]) -> None:
        """Set the function that returns how many lanes run a job now; it is called at every scrape."""
        self._busy.set_function(lanes)

    def gate(self, *, shut: bool, breaker: bool) -> None:
        """Set whether the gate is shut, and whether the breaker is open."""
        self._shut.set(shut)
        self._breaker.set(breaker)

    def depth(self, **jobs: int) -> None:
        """Set the number of jobs by state. Until this is called, nothing is shown, rather than zeros."""
        for state, number in jobs.items():
            self._depth(state).set(number)

    def engine(self, running: float | None, waiting: float | None) -> None:
        """Set what the engine's metrics say; None: it is not seen, or another worker looks, and nothing is shown."""
        self._engine.clear()
        for state, requests in (("running", running), ("waiting", waiting)):
            if requests is not None:
                self._engine.labels(state).set(requests)

    def held(self, by: str, words: Sequence[str]) -> None:
        """Set which of these words keeps waiting jobs from being claimed; empty: none does."""
        for word in words:
            self._held(word).set(word == by)

    def reaped(self, jobs: int) -> None:
        """Count leases of any worker that this process found expired."""
        self._reaped.inc(jobs)

    def notices_dropped(self, number: int) -> None:
        """Count notices that this process has dropped, as nobody acknowledged them."""
        self._notices_dropped.inc(number)

    def lost(self, how: str) -> None:
        """Count a lease of this process that was lost: `taken` or `gone`."""
        self._lost(how).inc()

    def render(self) -> bytes:
        """Return what Prometheus scrapes, as prometheus_client's CONTENT_TYPE_LATEST."""
        return generate_latest(self.registry)
