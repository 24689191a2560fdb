"""Loads the `.lua` files of a queue's room and runs them."""

import hashlib
from importlib import resources
from typing import Any, Final

from redis.exceptions import NoScriptError

# From Redis 7 on (and in Valkey) a script may run although memory is full: ours only move jobs or free them.
ALLOW_OOM: Final = b"#!lua flags=allow-oom\n"
FLAGS_SINCE: Final = 7


class Script:
    """One script with its prelude; run by its hash, or whole where the server has not seen it yet."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()

    async def __call__(self, client: Any, keys: list[str], args: list[Any]) -> Any:
        """Run once and give Redis' answer."""
        try:
            return await client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.execute_command("EVAL", self.source, len(keys), *keys, *args)


def load(package: str, name: str, *, server_major: int, when_full: bool) -> Script:
    """Read `name`.lua of a package, its `prelude.lua` put in front.

    `when_full`: the script must also run while Redis is out of memory.
    """
    folder = resources.files(package)
    source = folder.joinpath("prelude.lua").read_bytes() + folder.joinpath(f"{name}.lua").read_bytes()
    return Script(ALLOW_OOM + source if when_full and server_major >= FLAGS_SINCE else source)
