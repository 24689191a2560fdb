"""Checks at the start that a server can keep a queue: it has the commands, and no queue of another kind."""

from typing import Any, Final

import orjson

from greenscale_worker.errors import ConfigError
from greenscale_worker.queues.redis.errors import COMMAND_WORDS, NEEDED, RIGHTS_WORDS
from greenscale_worker.queues.redis.keys import OF_STORES, Keys
from greenscale_worker.queues.redis.script_loader import read_script
from greenscale_worker.queues.redis.store import Store

Command = tuple[str, ...]

# Used by the scripts of a worker, besides HDEL and SET, with which `examine.lua` begins, and DEL, which comes last: all
# others are tried on a string. "" stands for its key.
COMMANDS: Final[tuple[Command, ...]] = (
    ("EXISTS", ""),
    ("EXPIRE", "", "1"),
    ("GET", ""),
    ("HEXISTS", "", "f"),
    ("HGET", "", "f"),
    ("HGETALL", ""),
    ("HINCRBY", "", "f", "1"),
    ("HLEN", ""),
    ("HMGET", "", "f"),
    ("HSCAN", "", "0"),
    ("HSET", "", "f", "v"),
    ("HSETNX", "", "f", "v"),
    ("LINDEX", "", "0"),
    ("LLEN", ""),
    ("LPUSH", "", "v"),
    ("RPOP", ""),
    ("TIME",),
    ("TYPE", ""),
    ("XADD", "", "*", "f", "v"),
    ("XREVRANGE", "", "+", "-", "COUNT", "1"),
    ("ZADD", "", "1", "m"),
    ("ZCARD", ""),
    ("ZCOUNT", "", "0", "1"),
    ("ZINCRBY", "", "1", "m"),
    ("ZLEXCOUNT", "", "-", "+"),
    ("ZMSCORE", "", "m"),
    ("ZRANGE", "", "0", "0"),
    ("ZRANGEBYSCORE", "", "0", "1"),
    ("ZREM", "", "m"),
    ("ZREMRANGEBYSCORE", "", "0", "1"),
    ("ZSCORE", "", "m"),
)


async def examine(client: Any, store: Store, keys: Keys) -> None:
    """Raise ConfigError naming the missing commands, or a key that belongs to a queue of another kind.

    Raises redis-py's errors, too.
    """
    script = read_script("examine")
    others = [keys.of(part) for part in OF_STORES if part not in store.own]
    commands = orjson.dumps([*COMMANDS, *store.commands, ("DEL", "")])
    # By EVAL, which workers need, too, whenever a server has forgotten its scripts.
    names = [keys.claim("-"), *others]
    errors, foreign = await client.execute_command("EVAL", script, len(names), *names, commands)
    missing = {
        name.decode(): text
        for name, error in zip(errors[::2], errors[1::2], strict=True)
        if COMMAND_WORDS.search(text := error.decode(errors="replace")) or RIGHTS_WORDS.search(text)
    }
    if missing:
        one = next(iter(missing.values()))
        raise ConfigError(
            f"Redis does not let scripts use {', '.join(missing)}; {NEEDED}, where this user may use them: {one}"
        )
    if foreign:
        where = foreign[0].decode()
        raise ConfigError(
            f"{keys.name} is a queue of another kind, for {where} is in Redis: check GREENSCALE_QUEUE and its name"
        )
