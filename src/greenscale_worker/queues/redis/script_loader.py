"""Loads the scripts of a queue and runs them."""

import hashlib
from collections.abc import Container, Mapping
from importlib import resources
from typing import Any, Final

from redis.exceptions import NoScriptError

SCRIPTS: Final = resources.files(__package__).joinpath("scripts")


class Script:
    """One script with what stands in front of it; run by its hash, or whole where the server has not seen it yet."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()

    async def __call__(self, client: Any, keys: list[str], args: list[Any]) -> Any:
        """Run once and give Redis' answer."""
        try:
            return await client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.execute_command("EVAL", self.source, len(keys), *keys, *args)


def read_script(name: str) -> bytes:
    """Read `name`.lua as it is."""
    return SCRIPTS.joinpath(f"{name}.lua").read_bytes()


def load(store: str, *names: str, shared: Mapping[str, Container[str]]) -> dict[str, Script]:
    """Read each `name`.lua.

    In front of it stand `prelude.lua`, the part `store`, and then those parts that only some scripts have: `shared`
    says which.
    """
    head = read_script("prelude") + read_script(store)

    def whole(name: str) -> bytes:
        parts = [part for part, scripts in shared.items() if name in scripts]
        return head + b"".join(read_script(part) for part in (*parts, name))

    return {name: Script(whole(name)) for name in names}
