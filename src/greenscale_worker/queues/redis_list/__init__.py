"""Jobs in a plain Redis list: producers `LPUSH`, and nothing is lost (docs/queue-protocol.md)."""

import asyncio
import os
import random
import secrets
import socket
from typing import Any, Final

from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.redis_common.connections import is_cluster, open_client, open_clients
from greenscale_worker.queues.redis_common.errors import mapped
from greenscale_worker.queues.redis_common.scripts import Script, load
from greenscale_worker.queues.redis_common.server import meet
from greenscale_worker.queues.redis_list.admin import RedisListAdmin
from greenscale_worker.queues.redis_list.claims import PEEK_SECONDS
from greenscale_worker.queues.redis_list.keys import Keys
from greenscale_worker.queues.redis_list.queue import RedisListQueue
from greenscale_worker.telemetry import Metrics

FORMAT: Final = b"1"  # of the keys; a worker that knows another one must not touch them
WORKER_SCRIPTS: Final = ("claim", "bind", "settle", "release", "beat")
ADMIN_SCRIPTS: Final = ("put", "cancel", "replay")


async def open_queue(redis: RedisOptions, options: QueueOptions, metrics: Metrics) -> RedisListQueue:
    """Open the worker's side; waits for a Redis that is absent or loading.

    Raises ConfigError where Redis refuses us or where another format of the queue's keys is in use.
    """
    keys = Keys(options.name, cluster=is_cluster(redis))
    patience = options.heartbeat / 3
    clients = open_clients(redis, peek_seconds=PEEK_SECONDS)
    try:
        major = await meet(clients.commands, patience=patience)
        await _agree_on_format(clients.commands, keys)
    except BaseException:
        await clients.commands.aclose()
        raise
    queue = RedisListQueue(
        clients,
        _scripts(WORKER_SCRIPTS, server_major=major, when_full=True),
        keys,
        options,
        owner=f"{socket.gethostname().replace('|', '_')}:{os.getpid()}:{secrets.token_hex(4)}",
        metrics=metrics,
    )
    try:
        await _first_beat(queue, patience)
    except BaseException:
        await queue.aclose()
        raise
    return queue


async def open_admin(redis: RedisOptions, options: QueueOptions) -> RedisListAdmin:
    """Open everybody else's side; it connects with its first call."""
    keys = Keys(options.name, cluster=is_cluster(redis))
    return RedisListAdmin(open_client(redis), _scripts(ADMIN_SCRIPTS, server_major=0, when_full=False), keys, options)


def _scripts(names: tuple[str, ...], *, server_major: int, when_full: bool) -> dict[str, Script]:
    return {name: load(__name__, name, server_major=server_major, when_full=when_full) for name in names}


async def _agree_on_format(client: Any, keys: Keys) -> None:
    control = keys.of("control")
    with mapped():
        await client.hsetnx(control, "format", FORMAT)
        found = await client.hget(control, "format")
    if found != FORMAT:
        known = FORMAT.decode()
        raise ConfigError(f"{control} in Redis has format {found!r}; this version knows {known}: use a matching one")


async def _first_beat(queue: RedisListQueue, patience: float) -> None:
    """Send one heartbeat before anything is claimed, so that an ACL without our rights is found out at the start."""
    while True:
        try:
            return await queue.greet()
        except QueueUnavailableError:
            await asyncio.sleep(random.uniform(0, patience))  # noqa: S311  jitter, not a secret
