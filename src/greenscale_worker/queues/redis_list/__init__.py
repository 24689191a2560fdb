"""Jobs in a plain Redis list: producers `LPUSH`, and nothing is lost (docs/queue-protocol.md)."""

import os
import secrets
import socket
from typing import Any, Final

from greenscale_worker.errors import ConfigError
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.redis_common.connections import is_cluster, open_client, open_clients
from greenscale_worker.queues.redis_common.scripts import Script, load
from greenscale_worker.queues.redis_common.server import meet, patiently
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
        major = await patiently(lambda: meet(clients.commands), patience=patience)
        agree = load(__name__, "agree", server_major=major, when_full=True)
        await patiently(lambda: _agree_on_format(clients.commands, agree, keys), patience=patience)
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
        # Before anything is claimed, so that an ACL without our rights is found out at the start.
        await patiently(queue.greet, patience=patience)
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


async def _agree_on_format(client: Any, agree: Script, keys: Keys) -> None:
    found = await agree(client, keys.base, ["", FORMAT])
    if found != FORMAT:
        where, known = keys.of("control"), FORMAT.decode()
        raise ConfigError(f"{where} in Redis has format {found!r}; this version knows {known}: use a matching one")
