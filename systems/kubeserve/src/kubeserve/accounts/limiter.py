"""Limits how often something is done per key, in memory that does not grow."""

import hashlib
import secrets
import time
from array import array
from collections.abc import Callable
from typing import Final

SLOTS: Final = 65_536


class Limiter:
    """Admits `burst` at once per key, and one more each `seconds` (GCRA).

    A key has a slot by a keyed hash. Two keys that share one, by a chance of 1 in 65,536, share its limit; nobody can
    drive out the memory of another key.
    """

    def __init__(self, burst: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._tolerance = (burst - 1) * seconds
        self._seconds = seconds
        self._clock = clock
        self._secret = secrets.token_bytes(16)
        self._free_at = array("d", bytes(8 * SLOTS))

    def admit(self, key: str) -> float:
        """Count one for the key, and give 0; or give the seconds to wait, and count nothing."""
        slot, now = self._slot(key), self._clock()
        free_at = max(self._free_at[slot], now)
        if (wait := free_at - self._tolerance - now) > 0:
            return wait
        self._free_at[slot] = free_at + self._seconds
        return 0.0

    def forgive(self, key: str) -> None:
        """Count one less for the key."""
        self._free_at[self._slot(key)] -= self._seconds

    def _slot(self, key: str) -> int:
        digest = hashlib.blake2b(key.encode(errors="replace"), digest_size=4, key=self._secret).digest()
        return int.from_bytes(digest) % SLOTS
