"""The difference between list and stream: where payloads lie, and how to wait for them."""

from typing import Any, Protocol

from greenscale_worker.queues.redis.keys import Keys


class Store(Protocol):
    """A list or a stream. Its Lua half is `script`."""

    @property
    def script(self) -> str:
        """Name of its Lua part, `list_store` or `stream_store`."""
        ...

    @property
    def own(self) -> tuple[str, ...]:
        """Names of the keys it has beside those of the protocol."""
        ...

    @property
    def word(self) -> str:
        """The ARGV[2] of every script."""
        ...

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """The commands its Lua part uses, as harmless calls in which "" stands for a key."""
        ...

    async def peek(self, client: Any, after: bytes, seconds: int) -> None:
        """Block until there may be an unclaimed job, for `seconds` at most. Takes nothing.

        `after` is the position to wait from, as the last claim returned it.
        """
        ...

    async def unclaimed(self, client: Any, keys: Keys) -> tuple[int, float | None]:
        """Count unclaimed jobs of the class `standard`; return also when the oldest came, if known.

        That is seconds since the epoch.
        """
        ...

    async def waiting(self, client: Any, after: bytes | None, count: int) -> list[tuple[bytes, bytes, bytes | None]]:
        """Read up to `count` of these, oldest first: position, payload and name of each.

        `after` is the position of the last job returned; None: begin. The name is None if the payload has it.
        """
        ...

    def first_seen(self, job: bytes) -> float:
        """Return when a job came, or was first claimed, from its id: seconds since the epoch; inf if invalid."""
        ...
