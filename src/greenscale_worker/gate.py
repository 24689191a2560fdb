"""Decides for all lanes whether a call may be sent now."""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

from greenscale_worker.blame import FIRST_PAUSE, Call, Evidence
from greenscale_worker.errors import TransientError
from greenscale_worker.telemetry import Metrics, log

CLOCKS_DIFFER: Final = timedelta(seconds=10)  # our clock and that of Redis, which dates dead letters


class Gate:
    """Lets as many lanes send as the endpoint bears: none during a wait it asked for, only a probe while it is down.

    `on_shut` is called when more lanes are inside than may send, so that those without a job come out. Lanes wait
    without polling. The lanes of one event loop share a gate; it is not thread-safe.
    """

    on_shut: Callable[[], None] | None = None

    def __init__(self, lanes: int = 16, *, metrics: Metrics | None = None) -> None:
        self.lanes = lanes
        self._evidence = Evidence(lanes)
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._waiting = 0
        self._inside = 0
        self._probing = False
        self._shut_by = ""
        self._opened_at = ""

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open, so that only a probe may send."""
        return self._evidence.is_open

    @property
    def why(self) -> str | None:
        """Why nothing is sent now, in one line; None while calls are sent."""
        if self._evidence.is_open:
            return f"the breaker is open, calls fail since {self._opened_at}: {self._shut_by}"
        seconds = self._evidence.wait(monotonic())
        return f"the endpoint asked for {seconds:.0f} s more: {self._shut_by}" if seconds > 0 else None

    def remaining(self, *, probe: bool = False) -> float:
        """Seconds until a lane that is inside may send; 0.0: now. While the breaker is open, only the probe may."""
        evidence = self._evidence
        if not evidence.is_open and not evidence.held_until:
            return 0.0
        now = monotonic()
        if evidence.is_open and not probe:
            return max(FIRST_PAUSE, evidence.wait(now))
        return max(0.0, evidence.held_until - now)

    async def enter(self) -> bool:
        """Wait until this lane may claim a job. Return whether it is the one probe of an open breaker.

        May be cancelled at any time. Call `leave` once for every `enter` that returned.
        """
        while (wait := self._wait()) > 0:
            changed = self._changed
            self._waiting += 1
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if wait == math.inf else wait):
                        await changed.wait()
            finally:
                self._waiting -= 1
        if self._shut_by or self._evidence.held_until:
            self._reopen()
        self._inside += 1
        self._probing = probe = self._evidence.is_open
        return probe

    def leave(self, *, probe: bool) -> None:
        """Give up the lane's place, whatever the outcome of its call."""
        self._inside -= 1
        if probe:
            self._probing = False
        if self._waiting:
            self._wake()

    def succeeded(self, call: Call) -> None:
        """Record that the endpoint answered."""
        evidence = self._evidence
        was_open = evidence.is_open
        evidence.succeeded(call, monotonic())
        if was_open:
            self._shut_by = ""
            log.info("breaker_closed")
            self._report()
        if self._waiting:
            self._wake()

    def failed(self, call: Call, fault: TransientError) -> tuple[float, float]:
        """Record a fault. Return how much of a try it uses up, and the seconds until the job may be called again."""
        evidence, now = self._evidence, monotonic()
        was_open, held_until = evidence.is_open, evidence.held_until
        used, delay = evidence.failed(call, fault, now)
        if evidence.is_open and not was_open:
            self._say_opened(fault, now)
        elif evidence.is_open and call.probe and evidence.wait(now) > FIRST_PAUSE / 2:
            log.warning("probe_failed", code=fault.code, seconds=round(evidence.wait(now), 1))
        elif evidence.held_until > max(held_until, now):
            self._shut_by = self._shut_by or fault.code
            log.info("gate_shut", code=fault.code, seconds=round(evidence.held_until - now, 1))
        self._report()
        if self.on_shut is not None and (evidence.wait(now) > 0 or self._inside > evidence.allowed):
            self.on_shut()
        return used, delay

    @property
    def held_seconds(self) -> float:
        """For how long the endpoint wants no calls; 0.0: it said nothing, or of one job alone."""
        return max(0.0, self._evidence.held_until - monotonic())

    def _wait(self) -> float:
        """Seconds until a lane may enter; infinite while another lane has to leave or succeed first."""
        evidence = self._evidence
        full = self._probing if evidence.is_open else self._inside >= int(evidence.allowed)
        if not full and not evidence.is_open and not evidence.held_until:
            return 0.0
        return math.inf if full else evidence.wait(monotonic())

    def _say_opened(self, fault: TransientError, now: float) -> None:
        began = datetime.now(UTC) - timedelta(seconds=self._evidence.failing_for(now))
        self._opened_at = f"{began:%H:%M:%S} UTC"
        self._shut_by = ", ".join(word for word in (fault.code, fault.advice) if word)
        facts = {"check": fault.advice} if fault.advice else {}
        if fault.prior == "job":
            since = (began - CLOCKS_DIFFER).isoformat(timespec="seconds").replace("+00:00", "Z")
            facts["replay"] = f"greenscale-worker dead replay --code {fault.code} --since {since}"
        say = log.error if fault.advice else log.warning
        say("breaker_opened", code=fault.code, **facts)

    def _reopen(self) -> None:
        """End the wait that the endpoint asked for, and log it; from now on no call has to read the clock."""
        if not self._evidence.is_open:
            self._evidence.held_until = 0.0
            if self._shut_by:
                log.info("gate_open")
            self._shut_by = ""
            self._report()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _report(self) -> None:
        if self._metrics is not None:
            evidence = self._evidence
            self._metrics.gate(shut=evidence.wait(monotonic()) > 0 or evidence.is_open, breaker=evidence.is_open)
