"""Hashes and checks passwords: one at a time, in a thread; who comes when the line is full is refused."""

import asyncio
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from kubeserve.database.text import refused
from kubeserve.domain import SHORTEST_PASSWORD
from kubeserve.errors import LimitedError

LONGEST: Final = 256
FEWEST_KINDS: Final = 5
LINE: Final = 16  # who may wait for the thread
RETRY_SECONDS: Final = 1.0


def check_password(password: str, email: str) -> None:
    """Raise KubeServeError unless the password may be chosen, with what is accepted."""
    text = _normal(password)
    if text is None or not SHORTEST_PASSWORD <= len(text) <= LONGEST:
        raise refused("password", f"{SHORTEST_PASSWORD} to {LONGEST} characters are accepted")
    if len(set(text)) < FEWEST_KINDS:
        raise refused("password", f"one of at least {FEWEST_KINDS} different characters is accepted")
    if email in text.lower():
        raise refused("password", "one without your e-mail address in it is accepted")


class Passwords:
    """Argon2id with the parameters of OWASP's cheat sheet: 19 MiB, two passes, one lane."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._thread = ThreadPoolExecutor(1, "argon2")
        self._waiting = 0
        self._nobodys: str | None = None

    @contextmanager
    def place(self) -> Iterator[None]:
        """Stand in the line, for all that an attempt does. Raises LimitedError if the line is full."""
        if self._waiting >= LINE:
            raise LimitedError("many people log in just now: try again in a moment", retry_after=RETRY_SECONDS)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def hash(self, password: str) -> str:
        """Hash a password that was checked."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._hash, password)

    async def is_right(self, password_hash: str | None, password: str) -> bool:
        """Tell whether it is the password of that hash; without one, False after the same time."""
        run = asyncio.get_running_loop().run_in_executor
        return await run(self._thread, self._verify, password_hash, password)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _hash(self, password: str) -> str:
        return self._hasher.hash(_normal(password) or "")

    def _verify(self, password_hash: str | None, password: str) -> bool:
        text = _normal(password)
        if self._nobodys is None:
            self._nobodys = self._hasher.hash("of nobody")
        mine = password_hash if password_hash is not None and text is not None else self._nobodys
        try:
            right = self._hasher.verify(mine, text if text is not None and len(text) <= LONGEST else "")
        except (VerificationError, InvalidHashError):
            return False
        return right and mine is password_hash


def _normal(password: str) -> str | None:
    """Give the form that is hashed, the same whatever keyboard wrote it; None if no keyboard did."""
    if len(password) > 4 * LONGEST:
        return None
    text = unicodedata.normalize("NFKC", password)
    return text if all(character.isprintable() for character in text) else None
