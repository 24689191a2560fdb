"""What the answers to each tenant's predictions take in Redis, where each is kept for an hour."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from kubeserve.queueing import RESULT_SECONDS

STEP: Final = 60.0  # seconds that are counted together


class Kept:
    """Admits answers of a tenant as long as those of the last hour have at most `most` bytes together."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._bytes: dict[str, Counter[int]] = {}  # of a tenant, by the minute

    def admit(self, tenant: str, size: int) -> bool:
        """Count an answer, unless it is too much."""
        now = int(self._clock() / STEP)
        minutes = self._bytes.setdefault(tenant, Counter())
        for old in [minute for minute in minutes if minute < now - RESULT_SECONDS / STEP]:
            del minutes[old]
        if minutes.total() + size > self.most:
            return False
        minutes[now] += size
        return True
