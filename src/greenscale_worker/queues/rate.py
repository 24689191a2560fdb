"""The rate at which jobs end, from the latest ends."""

from collections.abc import Sequence
from typing import Final

LONG_SECONDS: Final = 60.0
SHORT_SECONDS: Final = 10.0
ENOUGH: Final = 10  # ends within the short time: then only these count
SHORTEST_SECONDS: Final = 1.0  # that a rate is computed over
LEAST: Final = 2  # ends; one alone has no rate


def rate_of(ages: Sequence[float]) -> float:
    """Return how many jobs end per second. `ages`: how many seconds ago they ended, latest first."""
    lately = [age for age in ages if age <= SHORT_SECONDS]
    chosen = lately if len(lately) >= ENOUGH else [age for age in ages if age <= LONG_SECONDS]
    return len(chosen) / max(chosen[-1], SHORTEST_SECONDS) if len(chosen) >= LEAST else 0.0
