"""What redis-py says differently in its releases 5 to 8. No other module asks which one is installed."""

from inspect import Parameter, signature
from typing import Any, Final

import redis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection

# Older ones take a node that did not answer off the list of those to ask, and never come back once the list is empty.
KEEPS_CLUSTERS: Final = tuple(map(int, redis.__version__.split(".")[:2])) >= (7, 2)

_CONNECTION: Final = signature(AbstractConnection).parameters
_POOL: Final = signature(ConnectionPool).parameters

# No CLIENT SETINFO: proxies and Redis before 7.2 do not know it.
UNNAMED: Final[dict[str, Any]] = (
    {"driver_info": None} if "driver_info" in _CONNECTION else {"lib_name": None, "lib_version": None}
)
# No notices of a provider's maintenance: they come by RESP 3 only, and are not asked for.
UNNOTIFIED: Final[dict[str, Any]] = {}
if "maint_notifications_config" in _POOL:
    from redis.maint_notifications import MaintNotificationsConfig

    UNNOTIFIED["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)

# Before 5.3, a pool wants the name of the command that a connection is for, and makes no use of it.
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
    """Make what subscribes to channels: of a Cluster by one of its nodes, since its client cannot before redis-py 8.

    Each node hears what is published on any. The client must be initialized.
    """
    if not hasattr(client, "connection_pool"):
        node = client.get_random_node()
        kind, settings = node.connection_class, node.connection_kwargs
        client = Redis.from_pool(ConnectionPool(connection_class=kind, **{**settings, **UNNOTIFIED}))
    return client.pubsub(ignore_subscribe_messages=True)
