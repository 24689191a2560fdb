"""What all calls of a client share: its connections, its scripts, and the limit of calls at a time."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from greenscale_worker.job import is_job_id
from greenscale_worker.queues import LIVE_SECONDS, QueueOptions
from greenscale_worker.queues.redis.call_limit import CallLimit
from greenscale_worker.queues.redis.connections import close
from greenscale_worker.queues.redis.keys import Keys
from greenscale_worker.queues.redis.replies import read_records
from greenscale_worker.queues.redis.script_loader import Script
from greenscale_worker.queues.redis.store import Store

Answer = TypeVar("Answer")


class Caller:
    """Runs scripts and commands for the client side of a queue. Calls raise QueueUnavailableError or ConfigError."""

    def __init__(
        self,
        connect: Callable[[], Any],
        scripts: dict[str, Script],
        store: Store,
        keys: Keys,
        options: QueueOptions,
    ) -> None:
        self._connect = connect
        self._client = connect()
        self._scripts = scripts
        self._store = store
        self._keys = keys
        self._options = options
        self._reader: Any = None  # blocks, so it has connections of its own
        self._let_in = False
        self._calls = CallLimit()

    @property
    def _live_seconds(self) -> int:
        """How long a live record lasts; 0: none is written."""
        return LIVE_SECONDS if self._options.result_ttl else 0

    async def _run(self, script: str, keys: list[str], args: list[Any], read: Callable[[Any], Answer]) -> Answer:
        """Run a script and read its answer; if that fails, the server is not Redis."""
        async with self._calls.slot():
            if not self._let_in:  # a server that requires a password answers a long command by hanging up
                await self._client.time()
                self._let_in = True
            return read(await self._scripts[script](self._client, keys, ["", self._store.word, *args]))

    async def _records(self, job_ids: Sequence[str]) -> list[dict[str, str]]:
        """Read records, all at one moment; empty ones for invalid ids."""
        known = [job_id for job_id in job_ids if is_job_id(job_id)]
        if not known:
            return [{} for _ in job_ids]
        keys = [*self._keys.base, *map(self._keys.record, known)]
        found = await self._run("look", keys, known, partial(read_records, known))
        return [found.get(job_id, {}) for job_id in job_ids]

    async def _now(self) -> float:
        seconds, micros = await self._client.time()
        return int(seconds) + int(micros) / 1e6

    async def aclose(self) -> None:
        """Close every connection."""
        await close(self._client)
        if self._reader is not None:
            await close(self._reader)
