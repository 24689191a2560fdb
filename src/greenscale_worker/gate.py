"""May this process send to the endpoint now? `Retry-After` and a circuit breaker, shared by all lanes."""

import asyncio
import math
import random
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

from greenscale_worker.errors import TransientError
from greenscale_worker.telemetry import Metrics, log

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0


def jittered(seconds: float) -> float:
    """Lengthen a wait by up to a tenth, so that processes told the same time do not come back as one."""
    return seconds * (1 + random.random() / 10)  # noqa: S311  spread, not secrecy


class Gate:
    """Open until the endpoint asks for time (`Retry-After`) or fails too often in a row (the breaker trips).

    A tripped breaker lets one lane at a time through as a probe, after a pause of 1 s that doubles up to 60 s,
    jittered; the first success heals it. `on_shut` is called each time the gate shuts. Lanes wait without
    polling. One event loop's lanes share a gate; it is not for several threads.
    """

    on_shut: Callable[[], None] | None = None

    def __init__(self, *, threshold: int = 5, metrics: Metrics | None = None) -> None:
        self._threshold = threshold
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._held_until = 0.0
        self._faults = 0
        self._tripped = False
        self._pause = FIRST_PAUSE
        self._next_probe = 0.0
        self._probing = False  # a lane is in as the probe
        self._may_send = False  # and nothing has failed since it came in

    @property
    def tripped(self) -> bool:
        """Whether the breaker is open, so that only a probe may send."""
        return self._tripped

    def remaining(self) -> float:
        """Seconds until this process may send; 0.0: now. With the breaker open, 0.0 while a probe is in."""
        held = self._held()
        if not self._tripped or self._may_send:
            return held
        return max(held, self._next_probe - monotonic(), FIRST_PAUSE)

    async def enter(self) -> bool:
        """Wait until this lane may claim a job; True: it is the one probe of an open breaker.

        May be cancelled at any time. `leave` belongs to every `enter` that returned.
        """
        while (wait := self._wait()) > 0:
            changed = self._changed
            with suppress(TimeoutError):
                async with asyncio.timeout(None if wait == math.inf else wait):
                    await changed.wait()
        if self._tripped:
            self._probing = self._may_send = True
        return self._tripped

    def leave(self, *, probe: bool) -> None:
        """Say that the lane is done with what it entered for, whatever came of it; frees the probe's place."""
        if probe:
            self._probing = self._may_send = False
            self._wake()

    def succeeded(self) -> None:
        """Learn that the endpoint answered: ends a series of faults and heals the breaker, not a Retry-After."""
        self._faults = 0
        if self._tripped:
            self._tripped = self._may_send = False
            self._pause = FIRST_PAUSE
            log.info("breaker_closed")
            self._report()
            self._wake()

    def failed(self, error: TransientError) -> None:
        """Learn of a fault: its Retry-After holds back every lane; one not counted is the endpoint's own."""
        was_shut = self.remaining() > 0
        if error.retry_after is not None:
            self._held_until = max(self._held_until, monotonic() + jittered(error.retry_after))
        if not error.counted:
            self._faults += 1
            if self._tripped:
                self._probe_failed(error)
            elif error.shut or self._faults >= self._threshold:
                self._trip(error)
        self._report()
        if was_shut or self.remaining() == 0:
            return
        if not self._tripped:
            log.info("gate_shut", code=error.code, seconds=round(self.remaining(), 1))
        if self.on_shut is not None:
            self.on_shut()

    def _held(self) -> float:
        if not self._held_until:
            return 0.0
        held = self._held_until - monotonic()
        if held <= 0:
            self._held_until = held = 0.0
            log.info("gate_open")
            self._report()
        return held

    def _wait(self) -> float:
        """Seconds until a lane may come in; infinite while another one is in as the probe."""
        held = self._held()
        if not self._tripped:
            return held
        if self._probing:
            return math.inf
        return max(held, self._next_probe - monotonic())

    def _trip(self, error: TransientError) -> None:
        self._tripped = True
        self._await_probe()
        if error.shut:  # such a message quotes nobody; it says what to check
            log.error("breaker_opened", code=error.code, check=str(error))
        else:
            log.warning("breaker_opened", code=error.code, faults=self._faults)

    def _probe_failed(self, error: TransientError) -> None:
        """Lengthen the pause once for each probe; calls sent before the breaker opened may still fail too."""
        if self._may_send:
            self._may_send = False
            self._await_probe()
            log.warning("probe_failed", code=error.code, seconds=round(self.remaining(), 1))

    def _await_probe(self) -> None:
        self._next_probe = monotonic() + jittered(self._pause)
        self._pause = min(LONGEST_PAUSE, 2 * self._pause)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _report(self) -> None:
        if self._metrics is not None:
            self._metrics.gate(shut=self._tripped or self._held_until > 0, breaker=self._tripped)
