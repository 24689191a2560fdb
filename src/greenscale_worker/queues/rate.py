"""How fast jobs end, by when the last ones did."""

from collections.abc import Sequence
from typing import Final

LONG_SECONDS: Final = 60.0
SHORT_SECONDS: Final = 10.0
ENOUGH: Final = 10  # ends within the short time: then that tells, and not what was before
SHORTEST_SECONDS: Final = 1.0  # over which a rate is told
LEAST: Final = 2  # ends; of one alone no rate can be told


def rate_of(ages: Sequence[float]) -> float:
    """Tell how many jobs end a second. `ages`: how many seconds ago they ended, the latest first."""
    lately = [age for age in ages if age <= SHORT_SECONDS]
    chosen = lately if len(lately) >= ENOUGH else [age for age in ages if age <= LONG_SECONDS]
    return len(chosen) / max(chosen[-1], SHORTEST_SECONDS) if len(chosen) >= LEAST else 0.0
