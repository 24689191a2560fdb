"""What every store of files promises."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Digest:
    """What went through: `size` in bytes, `sha256` in hex."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "Digest":
        """Return the digest of these bytes."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


class Objects(Protocol):
    """Files by key. Keys are as `check_key` accepts them; every method raises KubeServeError for another one."""

    async def put_file(self, key: str, path: Path) -> Digest:
        """Write a file's content, if the key is free or has the same. Raises ConflictError, UnavailableError."""

    async def put_bytes(self, key: str, data: bytes) -> Digest:
        """Write a few bytes, if the key is free or has the same. Raises ConflictError, UnavailableError."""

    async def fetch(self, key: str, path: Path) -> Digest:
        """Write the content to the file `path`, which appears (0600) when it is whole.

        Raises NotFoundError, UnavailableError.
        """

    async def read(self, key: str, limit: int) -> bytes:
        """Return the content, of at most `limit` bytes. Raises TooLargeError, NotFoundError, UnavailableError."""

    async def list(self, prefix: str) -> dict[str, int]:
        """Return the size in bytes of every key that is `prefix` or below it (`a/b` is below `a`, `ab` is not)."""

    async def delete(self, prefix: str) -> None:
        """Delete the keys that `list` returns, and what unfinished writes left there. None there is fine."""

    async def presign(self, key: str, seconds: float) -> str:
        """Return a URL by which whoever has it may read the key for some seconds, a week at most.

        Raises UnavailableError, with the code `no_urls` where the store never has any, as a directory.
        """
