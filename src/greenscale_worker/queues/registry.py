"""Opens a queue by name: `list`, `stream`, or an entry point of group `greenscale.queues` (docs/plugins.md)."""

import inspect
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final, Protocol

from greenscale_worker.errors import ConfigError
from greenscale_worker.queues import Queue, QueueClient, QueueOptions, RedisOptions
from greenscale_worker.telemetry import Metrics

GROUP: Final = "greenscale.queues"
BUILT_IN: Final = {  # imported on demand: Redis' client costs 100 ms of a start
    "list": "greenscale_worker.queues.redis.list",
    "stream": "greenscale_worker.queues.redis.stream",
}


class QueueKind(Protocol):
    """The object an entry point refers to: usually a module with these two functions.

    A queue that is not in Redis ignores `redis`.
    """

    async def open_queue(self, redis: RedisOptions, options: QueueOptions, metrics: Metrics) -> Queue:
        """Open the worker side; waits for an absent server. Raises ConfigError if the server refuses us."""
        ...

    async def open_client(self, redis: RedisOptions, options: QueueOptions) -> QueueClient:
        """Open the client side; it connects on the first call. Raises ConfigError."""
        ...


async def open_queue(
    kind: str, redis: RedisOptions, options: QueueOptions | None = None, metrics: Metrics | None = None
) -> Queue:
    """Open the worker side of a queue. Raises ConfigError if there is no such kind, or it cannot be opened."""
    return await find(kind).open_queue(redis, options or QueueOptions(), metrics or Metrics())


async def open_client(kind: str, redis: RedisOptions, options: QueueOptions | None = None) -> QueueClient:
    """Open the client side of a queue. Raises ConfigError, as `open_queue` does."""
    return await find(kind).open_client(redis, options or QueueOptions())


def find(name: str) -> QueueKind:
    """Return a kind of queue. Raises ConfigError if there is none, or if it lacks a function."""
    if name in BUILT_IN:
        built_in: Any = import_module(BUILT_IN[name])
        return _checked(built_in)
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise ConfigError(f"queue {name}: there is no such one; {', '.join(sorted({*BUILT_IN, *found}))} are accepted")
    try:
        return _checked(found[name].load())
    except Exception as error:
        raise ConfigError(f"queue {name}: {type(error).__name__}: {error}") from error


class _Former:
    """Adapts a kind of queue that has `open_client` under its former name, `open_admin`; for one more release."""

    def __init__(self, kind: Any) -> None:
        self.open_queue = kind.open_queue
        self.open_client = kind.open_admin


def _checked(found: Any) -> QueueKind:
    if hasattr(found, "open_admin") and not hasattr(found, "open_client"):
        found = _Former(found)
    if not all(inspect.iscoroutinefunction(getattr(found, name, None)) for name in ("open_queue", "open_client")):
        what = getattr(found, "__name__", type(found).__name__)
        raise TypeError(f"async def open_queue and open_client are expected, not {what}")
    kind: QueueKind = found
    return kind
