"""Opens both sides of a queue in Redis, for either store."""

import asyncio
import os
import secrets
import socket
from contextlib import suppress
from functools import cache
from typing import Any, Final

from greenscale_worker.errors import ConfigError
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.redis.client import RedisQueueClient
from greenscale_worker.queues.redis.connections import close, is_cluster, open_clients, open_redis
from greenscale_worker.queues.redis.examination import examine
from greenscale_worker.queues.redis.fetcher import PEEK_SECONDS
from greenscale_worker.queues.redis.keys import Keys
from greenscale_worker.queues.redis.queue import RedisQueue
from greenscale_worker.queues.redis.script_loader import Script, load
from greenscale_worker.queues.redis.server import meet, patiently
from greenscale_worker.queues.redis.store import Store
from greenscale_worker.telemetry import Metrics

FORMATS: Final = (b"1", b"2")  # of the keys, that this version reads; a new queue gets the last
CLOSE_SECONDS: Final = 2.0
WORKER_SCRIPTS: Final = (
    *("claim", "bind", "write_tokens", "settle", "release", "retry"),
    *("heartbeat", "why", "record_dead", "unregister", "promote", "observe"),
)
CLIENT_SCRIPTS: Final = (
    *("put", "promote", "look", "cancel", "uncancel", "open", "attend", "join", "forget"),
    *("pause", "read_flow", "set_tenant", "tenants"),
)
LETTER_SCRIPTS: Final = ("list", "find", "codes", "replay", "purge", "discard", "tidy")
SHARED: Final = {  # parts of scripts, in this order, and which scripts have them
    "flow_declared": ("claim",),
    "flow_in_use": ("bind", "settle", "release"),
    "flow": (
        *("claim", "bind", "settle", "release", "retry", "heartbeat", "unregister"),
        *("read_flow", "pause"),
    ),
    "ledger": ("claim", "bind", "settle", "retry", "heartbeat", "unregister", "cancel"),
    "waiting": ("claim", "release", "retry", "heartbeat", "replay"),
    "dead_letters": ("claim", "settle", "retry", "heartbeat", "record_dead", "cancel", *LETTER_SCRIPTS),
    "rescue": ("claim", "heartbeat", "cancel"),
    "fairness": ("claim",),
    "seats": ("claim", "heartbeat", "unregister"),
    "letters": LETTER_SCRIPTS,
    "append": ("put", "promote"),
    "attendance": ("put", "attend", "join"),
}


async def open_queue(store: Store, redis: RedisOptions, options: QueueOptions, metrics: Metrics) -> RedisQueue:
    """Open the worker side; waits for a Redis that is absent or loading.

    Raises ConfigError if Redis refuses us or cannot keep this queue: it is too old, lacks a command, holds a queue of
    another kind, or the queue's keys have another format.
    """
    keys = Keys(options.name, store.own, cluster=is_cluster(redis), public=options.result_prefix)
    patience = options.heartbeat / 3
    clients = open_clients(redis, peek_seconds=PEEK_SECONDS)
    try:
        await patiently(lambda: meet(clients.commands), patience=patience)
        await patiently(lambda: examine(clients.commands, store, keys), patience=patience)
        await patiently(lambda: _check_format(clients.commands, store, keys), patience=patience)
    except BaseException:
        await close(clients.commands)
        raise
    queue = RedisQueue(
        clients,
        load(store.script, *WORKER_SCRIPTS, "purge", "tidy", shared=SHARED),
        store,
        keys,
        options,
        owner=f"{socket.gethostname().replace('|', '_')}:{os.getpid()}:2-{secrets.token_hex(4)}",  # 2: its format
        metrics=metrics,
    )
    try:
        # Before anything is claimed, so that missing ACL rights are noticed at the start.
        await patiently(queue.greet, patience=patience)
    except BaseException:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await queue.aclose()
        raise
    return queue


async def open_client(store: Store, redis: RedisOptions, options: QueueOptions) -> RedisQueueClient:
    """Open the client side; it connects on the first call. Raises ConfigError."""
    keys = Keys(options.name, store.own, cluster=is_cluster(redis), public=options.result_prefix)
    return RedisQueueClient(lambda: open_redis(redis), _client_scripts(store.script), store, keys, options)


def client_of(client: Any, store: Store, keys: Keys, options: QueueOptions) -> RedisQueueClient:
    """Return the client side of one of many queues that share a client of redis-py; who made that closes it."""
    return RedisQueueClient(lambda: client, _client_scripts(store.script), store, keys, options)


@cache
def _client_scripts(store: str) -> dict[str, Script]:
    return load(store, *CLIENT_SCRIPTS, *LETTER_SCRIPTS, shared=SHARED)


async def _check_format(client: Any, store: Store, keys: Keys) -> None:
    others = [keys.result("-"), keys.record("-"), keys.body("-"), keys.cancel("-")]
    others += [keys.claim("-"), keys.why("-"), keys.lanes("-")]
    check_format = load(store.script, "check_format", shared={})["check_format"]
    found = await check_format(client, [*keys.base, *others], ["", store.word, FORMATS[-1]])
    if found not in FORMATS:
        where, known = keys.of("control"), " and ".join(known.decode() for known in FORMATS)
        raise ConfigError(f"{where} in Redis has format {found!r}; this version knows {known}: use a matching one")
