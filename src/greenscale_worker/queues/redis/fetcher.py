"""Fetches jobs for lanes. Lanes that wait at the same time share one CLAIM and, while the queue is empty, one peek.

A peek removes nothing, so it may be lost, cancelled or left behind by a dead process; it only reports that there is
something to claim. Only two workers, those with a seat, peek; the others are woken by a message (`seats.lua`).
"""

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.queues import SUSPECT_CRASHES, Lease, QueueOptions
from greenscale_worker.queues.redis.errors import mapped
from greenscale_worker.queues.redis.flow_words import HELD_BACK, bounds_of
from greenscale_worker.queues.redis.keys import Keys
from greenscale_worker.queues.redis.retrying_client import RetryingClient
from greenscale_worker.queues.redis.script_loader import Script
from greenscale_worker.queues.redis.store import Store
from greenscale_worker.tasks import end
from greenscale_worker.telemetry import Metrics, log

MOST: Final = 32  # jobs in one CLAIM; larger groups keep the process waiting for scripts
MOST_BYTES: Final = 4 * 1024 * 1024
PEEK_SECONDS: Final = 10
PEEK_AFTER: Final = 0.003  # so that jobs that arrive one by one are claimed in groups, too
POLL_SECONDS: Final = 1.0
PAUSED: Final = -2
PEEKED: Final = ("", "background")


class Fetcher:
    """Hands jobs to waiting lanes.

    `held` has every lease of this process. `hand_back` releases, uncounted, a lease that no lane waits for any more.
    `record_dead` is called with jobs that the scripts buried.
    """

    def __init__(  # noqa: PLR0913  the parts it is made of
        self,
        redis: RetryingClient,
        peeker: Any,
        script: Script,
        *,
        store: Store,
        keys: Keys,
        options: QueueOptions,
        owner: str,
        hand_back: Callable[[Lease], Coroutine[Any, Any, object]],
        record_dead: Callable[[list[bytes]], Awaitable[None]],
        metrics: Metrics,
    ) -> None:
        self.held: dict[str, Lease] = {}
        self._redis = redis
        self._peeker = peeker
        self._script = script
        self._store = store
        self._keys = [*keys.base, keys.claim(owner)]
        self._options = options
        self._owner = owner
        self._hand_back = hand_back
        self._record_dead = record_dead
        self._metrics = metrics
        self._waiting: deque[asyncio.Future[Lease]] = deque()
        self._wanted = asyncio.Event()
        self._news = asyncio.Event()
        self._peek: asyncio.Task[None] | None = None
        self._returns: set[asyncio.Task[object]] = set()
        self._from = b""
        self._peek_refused = False
        self._is_known = False  # by the queue, as one with a free lane
        self._probes = set[asyncio.Future[Lease]]()
        self._held_back = ""
        self._seated = self._paused = self._resting = False
        self._closing = False
        self._claiming = asyncio.create_task(self._claim_until_closed())

    async def wait(self, *, probe: bool = False) -> Lease:
        """Wait for a job. If the caller is cancelled, its job goes to another lane or back to the head."""
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        if probe:
            self._probes.add(future)
            future.add_done_callback(self._probes.discard)
        self._waiting.append(future)
        self._wanted.set()
        if self._claiming.done():
            self._claiming.result()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._give(future.result())
            if not self._lanes():
                self.ring()  # to leave the seat
            raise

    @property
    def idle(self) -> bool:
        """Whether a lane is free and no job was found for it."""
        return self._resting and not self._paused and self._lanes() > 0

    @property
    def why(self) -> str | None:
        """Why a worker that runs nothing gets none of the jobs that wait; None if it does not know."""
        return HELD_BACK.get(self._held_back) if self.idle and not self.held else None

    def ring(self) -> None:
        """Claim again, as there may be a job."""
        self._news.set()

    def ring_seat(self) -> None:
        """Claim again if this worker has a seat, or may get one by the claim in flight."""
        if self._seated or not self._resting:
            self.ring()

    def sit_down(self) -> None:
        """Note that this worker has a seat, and claim: a job may have come before it knew."""
        if not self._seated:
            self.ring()

    def forget(self, lease: Lease) -> None:
        """Drop a lease that has ended, for whatever reason."""
        if self.held.get(lease.id) is lease:  # otherwise it is ours again, under a new token
            del self.held[lease.id]
        if lease.crashes >= SUSPECT_CRASHES or self._held_back:
            self.ring()  # it may have made room

    async def aclose(self) -> None:
        """Stop claiming. Waits for a CLAIM in flight and puts its jobs back to the head."""
        self._closing = True
        self._wanted.set()
        self._news.set()
        await self._claiming
        if self._returns:
            await asyncio.wait(self._returns)
        await end(self._peek)

    async def _claim_until_closed(self) -> None:
        try:
            while not self._closing:
                lanes = self._lanes()
                if lanes or self._is_known:
                    await self._claim(lanes)
                else:
                    self._wanted.clear()
                    await self._wanted.wait()
        except Exception as error:
            for future in self._waiting:
                if not future.done():
                    future.set_exception(error)
            raise

    def _lanes(self) -> int:
        return sum(not future.done() for future in self._waiting)

    async def _claim(self, lanes: int) -> None:
        """Claim once, and rest if that brought fewer jobs than asked for. Without lanes, leave the seat."""
        self._news.clear()
        asked, probe = min(lanes, MOST), bool(self._probes)
        options = self._options
        nonce = secrets.token_hex(16)
        may_suspect = not any(lease.crashes >= SUSPECT_CRASHES for lease in self.held.values())
        args = ["", self._store.word, asked, int(options.lease * 1000), int(options.heartbeat * 1000)]
        args += [self._owner, nonce, options.max_crashes, MOST_BYTES, int(may_suspect), int(lanes > asked)]
        args += [lanes + len(self.held), *bounds_of(options), int(probe)]
        claimed = await self._redis.call_last(self._script, self._keys, args, _read)
        sleep_ms, reaped, leases, buried, self._from, self._seated, self._held_back = claimed
        self._paused = lanes > 0 and sleep_ms == PAUSED
        self._is_known = not self._paused and len(leases) < lanes
        self._metrics.reaped(reaped)
        for lease in leases:
            self.held[lease.id] = lease
            self._give(lease)
        await self._record_dead(buried)
        if sleep_ms != 0 and len(leases) < asked and not self._closing:
            await self._rest(sleep_ms)

    def _give(self, lease: Lease) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(lease)
                return
        returning: asyncio.Task[object] = asyncio.create_task(self._hand_back(lease))
        self._returns.add(returning)
        returning.add_done_callback(self._returns.discard)

    async def _rest(self, sleep_ms: int) -> None:
        may_peek = self._held_back in PEEKED  # else it would return at once, as jobs wait
        if self._seated and may_peek and (self._peek is None or self._peek.done()):
            self._peek = asyncio.create_task(self._peek_once())
        self._resting = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience(sleep_ms)):
                await self._news.wait()
        self._resting = False

    def _patience(self, sleep_ms: int) -> float | None:
        """Return seconds until the next claim. Without a seat: None, as the next heartbeat reports what was missed."""
        if sleep_ms > 0:
            return sleep_ms / 1000
        return PEEK_SECONDS if self._seated or self._paused else None

    async def _peek_once(self) -> None:
        await asyncio.sleep(PEEK_AFTER)
        try:
            with mapped():
                await self._store.peek(self._peeker, self._from, PEEK_SECONDS)
        except (QueueUnavailableError, ConfigError) as error:
            # Redis is unavailable, or full: then it refuses a BLMOVE, but not our scripts. So claim now and then.
            if isinstance(error, ConfigError) and not self._peek_refused:
                log.warning("queue_unavailable", error=str(error))
                self._peek_refused = True
            await asyncio.sleep(random.uniform(POLL_SECONDS / 2, POLL_SECONDS))  # noqa: S311  jitter, not a secret
        self._news.set()


def _read(answer: Any) -> tuple[int, int, list[Lease], list[bytes], bytes, bool, str]:
    """Read the answer to CLAIM: sleep in ms, jobs reaped, claimed and buried, where to wait from, seated, held back."""
    sleep_ms, now_ms, reaped, jobs, buried, after, seated, held_back, estimate = answer
    estimated = int(estimate) if estimate else None
    leases = [
        Lease(
            id=id_.decode(),
            token=token.decode(),
            payload=payload,
            tries=tries / 1000,
            runs=runs,
            crashes=crashes,
            claimed_at=int(now_ms) / 1000,
            first_claimed_at=int(first_ms) / 1000,
            default_job_id=name.decode("utf-8", "replace") or None,
            charged=None if estimated is None else -(-len(payload) // 4) + estimated,  # as in flow.lua
            estimated=estimated or 0,
        )
        for id_, token, tries, crashes, first_ms, payload, name, runs in jobs
    ]
    return int(sleep_ms), int(reaped), leases, list(buried), after, bool(seated), held_back.decode()
