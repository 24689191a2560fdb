"""Differences between redis-py 5 to 8. No other module depends on the installed version."""

from inspect import Parameter, signature
from typing import Any, Final

import redis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection

# Older versions drop a node that did not answer from their list, and never recover once the list is empty.
KEEPS_CLUSTERS: Final = tuple(map(int, redis.__version__.split(".")[:2])) >= (7, 2)

_CONNECTION: Final = signature(AbstractConnection).parameters
_POOL: Final = signature(ConnectionPool).parameters

# No CLIENT SETINFO: proxies and Redis before 7.2 do not know it.
UNNAMED: Final[dict[str, Any]] = (
    {"driver_info": None} if "driver_info" in _CONNECTION else {"lib_name": None, "lib_version": None}
)
# No notices of a provider's maintenance: they need RESP 3.
UNNOTIFIED: Final[dict[str, Any]] = {}
if "maint_notifications_config" in _POOL:
    from redis.maint_notifications import MaintNotificationsConfig

    UNNOTIFIED["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)

# Before 5.3, a pool requires the name of the command that a connection is for, and does not use it.
_WANTS_COMMAND: Final = signature(ConnectionPool.get_connection).parameters["command_name"].default is Parameter.empty


async def connection_of(pool: Any) -> Any:
    """Take a connection from a pool."""
    return await pool.get_connection(*[""] * _WANTS_COMMAND)


async def answers_of(pipeline: Any) -> list[Any]:
    """Run a pipeline. Raises the first error in the server's words, which redis-py 6 and 7 lose."""
    answers: list[Any] = await pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def listener(client: Any) -> Any:
    """Return a PubSub. For a Cluster it uses one node, since the Cluster's client has none before redis-py 8.

    Each node gets what is published on any. The client must be initialized.
    """
    if not hasattr(client, "connection_pool"):
        node = client.get_random_node()
        kind, settings = node.connection_class, node.connection_kwargs
        client = Redis.from_pool(ConnectionPool(connection_class=kind, **{**settings, **UNNOTIFIED}))
    return client.pubsub(ignore_subscribe_messages=True)
