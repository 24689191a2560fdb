"""What a deployment may do in Redis: a user of its own, limited to its queue. Redis may forget users: set again."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from greenscale_worker import ConfigError, QueueUnavailableError, RedisOptions, redis_client
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from kubeserve.errors import UnavailableError
from kubeserve.manifests import redis_user_of
from kubeserve.places.cluster.client import LAPSED
from kubeserve.queueing import answers_key, hot_key, key_patterns

# A worker's (kustomize/components/external-redis/users.acl), its scaler's, and those of the lease of calls by HTTP.
COMMANDS: Final = (
    "blmove", "del", "eval", "evalsha", "exists", "expire", "get", "hdel", "hexists", "hget", "hgetall", "hincrby",
    "hkeys", "hlen", "hmget", "hscan", "hset", "hsetnx", "info", "lindex", "llen", "lpop", "lpush", "lrange", "ltrim",
    "pexpire", "ping", "publish", "rpop", "rpush", "select", "set", "subscribe", "time", "type", "unlink",
    "unsubscribe", "xadd", "xread", "xrevrange", "zadd", "zcard", "zcount", "zincrby", "zlexcount", "zmscore",
    "zrange", "zrangebyscore", "zrem", "zremrangebyscore", "zscore",
)  # fmt: skip
LIST: Final = "ACL", "LIST"
SAVE: Final = "ACL", "SAVE"  # where Redis has a file of its users: they outlive it, also while the platform is away
USER: Final = redis_user_of("")
WAKE_SECONDS: Final = 60.0


def password_of(secret: bytes, deployment_id: str) -> str:
    """Return the password of a deployment's user: derived, so that nobody keeps it."""
    return hmac.digest(secret, f"redis {deployment_id}".encode(), hashlib.sha256).hex()


class RedisUsers:
    """The users of all deployments. Every call raises UnavailableError if Redis is away, or does not let us.

    While `lapsed` holds nothing is written: another control plane may have taken over.
    """

    def __init__(
        self, redis: RedisOptions, secret: bytes, installation: str, lapsed: Callable[[], bool] = lambda: False
    ) -> None:
        self._redis = redis
        self._secret = secret
        self._lapsed = lapsed
        self.installation = installation
        self._saved = set[str]()

    def password(self, deployment_id: str) -> str:
        """Return the password of its user."""
        return password_of(self._secret, deployment_id)

    async def keep(self, deployment_id: str, tenant: str) -> None:
        """Let its user be there, with the rights to its own keys and no others; also when Redis is started again."""
        name, *below = key_patterns(deployment_id)
        keys = [f"~{pattern}" for pattern in (name, *below, answers_key(tenant))]
        rights = ["resetchannels", f"&{{{name}}}:*", "nocommands", *(f"+{command}" for command in COMMANDS)]
        rule = ["reset", "on", f">{self.password(deployment_id)}", self._mark(deployment_id), *keys, *rights]
        await self._ask("ACL", "SETUSER", redis_user_of(deployment_id), *rule)
        if deployment_id not in self._saved:
            await self._ask(*SAVE)
            self._saved.add(deployment_id)

    async def ours(self) -> set[str]:
        """Return the ids of the deployments whose users this installation has made, in Redis and of late."""
        told = await self._ask(*LIST)
        lines = [line for each in told.values() for line in each] if isinstance(told, dict) else told
        users = [line.decode(errors="replace").split()[1:] for line in lines]
        of_deployments = [(name[len(USER) :], rule) for name, *rule in users if name.startswith(USER)]
        return {deployment_id for deployment_id, rule in of_deployments if self._mark(deployment_id) in rule}

    async def remove(self, deployment_id: str) -> None:
        """Let there be no such user; who is logged in as it is cut off."""
        await self._ask("ACL", "DELUSER", redis_user_of(deployment_id))
        await self._ask(*SAVE)
        self._saved.discard(deployment_id)

    async def wake(self, deployment_id: str) -> None:
        """Let the scaler see work for a minute: a call that nobody makes."""
        key, until = hot_key(deployment_id), int((time.time() + WAKE_SECONDS) * 1000)
        await self._ask("ZADD", key, until, "platform/0")
        await self._ask("EXPIRE", key, int(WAKE_SECONDS))

    def _mark(self, deployment_id: str) -> str:
        """Return the hash of a password that nobody has: by it we know a user that this installation has made."""
        return f"#{hmac.digest(self._secret, f'{self.installation} {deployment_id}'.encode(), hashlib.sha256).hex()}"

    async def _ask(self, *command: str | int) -> Any:
        """Send a command whole: what is cancelled while it connects would leave its connection open."""
        if command != LIST and self._lapsed():
            raise UnavailableError(LAPSED)
        asking = asyncio.create_task(self._send(command))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            await asyncio.wait({asking})
            raise

    async def _send(self, command: Sequence[str | int]) -> Any:
        """Send it; one about users to every server, each of which has its own."""
        refusals = (ResponseError,) if command == SAVE else ()  # of a server that has no such file
        try:
            async with redis_client(self._redis) as client:
                is_for_all = command[0] == "ACL" and isinstance(client, RedisCluster)
                where = {"target_nodes": RedisCluster.ALL_NODES} if is_for_all else {}
                with suppress(*refusals):
                    return await client.execute_command(*command, **where)
        except QueueUnavailableError as error:
            raise UnavailableError("Redis does not answer; a deployment needs its queue") from error
        except ConfigError as error:
            raise UnavailableError("Redis lets us make no users: grant ACL SETUSER, DELUSER and LIST") from error
