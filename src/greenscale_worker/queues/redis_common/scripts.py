"""Loads the scripts of a queue and runs them."""

import hashlib
from importlib import resources
from typing import Any

from redis.exceptions import NoScriptError


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


def load(protocol: str, store: str, *names: str, shared: tuple[str, ...] = ()) -> dict[str, Script]:
    """Read each `name`.lua of the package `protocol`.

    In front of it stand `prelude.lua`, the `store.lua` of the package `store`, and then those of `protocol` that are
    `shared` by these scripts alone.
    """
    folder = resources.files(protocol)
    head = folder.joinpath("prelude.lua").read_bytes() + resources.files(store).joinpath("store.lua").read_bytes()
    head += b"".join(folder.joinpath(f"{name}.lua").read_bytes() for name in shared)
    return {name: Script(head + folder.joinpath(f"{name}.lua").read_bytes()) for name in names}
