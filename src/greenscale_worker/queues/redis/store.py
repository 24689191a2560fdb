"""What a kind of queue in Redis has of its own: where payloads lie, and how one waits for them."""

from typing import Any, Protocol

from greenscale_worker.queues.redis.keys import Keys


class Store(Protocol):
    """A list or a stream. Its other half is the part `script` of the scripts."""

    @property
    def script(self) -> str:
        """Name of its part of the scripts, `list_store` or `stream_store`."""
        ...

    @property
    def own(self) -> tuple[str, ...]:
        """Names of its own keys, beside those of the protocol."""
        ...

    @property
    def word(self) -> str:
        """What every script is told as ARGV[2]."""
        ...

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """What the worker's scripts use of its own, as harmless calls in which "" stands for a key."""
        ...

    async def peek(self, client: Any, after: bytes, seconds: int) -> None:
        """Block until there may be a job that nobody has claimed, for so long at most. Takes nothing.

        `after` is what the last claim gave to wait from.
        """
        ...

    async def unclaimed(self, client: Any, keys: Keys) -> tuple[int, float | None]:
        """Count what nobody has claimed; give also when the oldest of it came, in seconds, where that is known."""
        ...

    async def waiting(self, client: Any, after: bytes | None, count: int) -> list[tuple[bytes, bytes, bytes | None]]:
        """Read jobs that nobody has claimed, the oldest first: of each where it stands, its payload, and its name.

        `after` is where the last one stood that was given; None: begin. The name is None where the payload has it.
        """
        ...

    def first_seen(self, job: bytes) -> float:
        """Read from a job's id when it came, or was first claimed: seconds since the epoch; inf for what is no id."""
        ...
