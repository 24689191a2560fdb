"""Loads and runs the scripts of a queue."""

import hashlib
from collections.abc import Container, Mapping
from importlib import resources
from typing import Any, Final

from redis.exceptions import NoScriptError

SCRIPTS: Final = resources.files(__package__).joinpath("scripts")


class Script:
    """One script with its shared parts; run by its hash, or in full if the server does not know it yet."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()

    async def __call__(self, client: Any, keys: list[str], args: list[Any]) -> Any:
        """Run the script once and return Redis' answer."""
        try:
            return await client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.execute_command("EVAL", self.source, len(keys), *keys, *args)


def read_script(name: str) -> bytes:
    """Return the bytes of `name`.lua."""
    return SCRIPTS.joinpath(f"{name}.lua").read_bytes()


def load(store: str, *names: str, shared: Mapping[str, Container[str]]) -> dict[str, Script]:
    """Load each `name`.lua.

    `prelude.lua`, the part `store`, `turns.lua`, and the parts that `shared` gives to it are put in front of it.
    """
    head = read_script("prelude") + read_script(store) + read_script("turns")

    def whole(name: str) -> bytes:
        parts = [part for part, scripts in shared.items() if name in scripts]
        return head + b"".join(read_script(part) for part in (*parts, name))

    return {name: Script(whole(name)) for name in names}
