"""Objects by key, in a directory or in S3: what the gateway keeps of files, batches and responses.

An object is written whole or not at all. `open_files` opens the store that GREENSCALE_FILES names.
"""

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Stored:
    """An object that is there: its key and its size in bytes."""

    key: str
    size: int


class Files(Protocol):
    """A store of objects. Keys are paths of names below the store's root, such as `batches/team-a/batch_1/3`.

    Every call raises FilesUnavailableError while the store is away, refuses our credentials, or is full (`full`).
    """

    async def create(self, key: str, data: bytes) -> bool:
        """Write a small object, unless there is one of this key; return whether it was written.

        Of many writers of a key, one is told True. Whoever was told False finds the object of that one. After a
        FilesUnavailableError it may have been written.
        """
        ...

    async def write(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Write an object of any size in constant memory, in place of any other of this key; return its bytes.

        It appears when it is whole. If `chunks` raises, nothing is written.
        """
        ...

    async def read(self, key: str, *, start: int = 0, end: int | None = None) -> bytes | None:
        """Return an object's bytes from `start` up to `end`, as many as there are; None if there is no such object."""
        ...

    def chunks(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield an object's bytes from `start` up to `end`, in constant memory. Raises KeyError if it is not there."""
        ...

    async def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[Stored]:
        """Return the objects below a prefix (`a` has `a/b`, and not `ab`), in order of their keys, behind `after`."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are passed over."""
        ...

    async def aclose(self) -> None:
        """Let go of the store."""
        ...
