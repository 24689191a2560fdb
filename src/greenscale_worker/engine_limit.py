"""How many calls a fleet may have open at an engine, by what the engine's metrics say.

Requests that wait inside an engine gain nothing: its slots are full. So the limit of a fleet follows them: it grows
while nothing waits and what is allowed is used, and falls at once by what waits beyond a few, whoever sent it. Work in
a queue thereby yields to requests that reach the engine by another way.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

from greenscale_worker.engine_metrics import Load

CAUTIOUS: Final = 8  # calls, before the engine was seen, and in the end when it is no longer
FEW: Final = 2  # requests that may wait inside, so that a slot is filled as soon as it is free;
FEW_OF: Final = 64  # and one more for so many that run
USED: Final = 0.8  # share of the limit that must be in flight before it grows
FULL_CACHE: Final = 0.95  # share of the KV cache; from there on it does not grow
FAST: Final = 0.5  # share of the limit by which a look lets it grow while no request has waited inside:
FAST_CALLS: Final = 16  # or so many, as more at once would all wait until the engine's next step,
FAST_SHARE: Final = 0.1  # or this share, if that is more
SLOW: Final = 0.05  # the share once requests have waited
CALM: Final = 10  # looks in a row without a waiting request, after which it grows fast again
PATIENT: Final = 10  # looks in a row that see no engine, after which the limit falls
FALL: Final = 0.9  # of the limit is left, each such look


@dataclass(frozen=True, slots=True)
class Aim:
    """The limit of the fleet, and in how many looks in a row nothing was waiting inside."""

    limit: int = CAUTIOUS
    calm: int = CALM


def few(load: Load) -> int:
    """Return how many requests may wait inside engines with this load before the limit falls."""
    return FEW + int(load.running) // FEW_OF


def next_aim(aim: Aim, load: Load, in_flight: int, *, blind: bool = False, most: int | None = None) -> Aim:
    """Decide once for the whole fleet, after a look. `in_flight` are its calls, `blind`: some engine was not seen.

    More than a few waiting: what is in flight less the rest of them, 1 at least. None waiting, and 80 % of the limit
    used: half as much again, until requests first wait; from then on 5 %. Never above `most`.
    """
    allowed = few(load)
    if load.waiting > allowed:
        lowered = in_flight - math.ceil(load.waiting - allowed)
        return _within(Aim(min(aim.limit, lowered), calm=0), most)
    if load.waiting:
        return _within(replace(aim, calm=0), most)
    calm = min(CALM, aim.calm + 1)
    if blind or load.cache >= FULL_CACHE or in_flight < USED * aim.limit:
        return _within(Aim(aim.limit, calm), most)
    fast = min(FAST * aim.limit, max(FAST_CALLS, FAST_SHARE * aim.limit))
    step = fast if aim.calm >= CALM else SLOW * aim.limit
    return _within(Aim(aim.limit + max(1, int(step)), calm), most)


def unseen_aim(aim: Aim, looks: int, *, most: int | None = None) -> Aim:
    """Decide where no engine could be seen in so many looks in a row.

    The limit stays for ten of them, then falls by a tenth each, down to 8. It grows slowly afterwards.
    """
    if looks <= PATIENT:
        return _within(replace(aim, calm=0), most)
    return _within(Aim(max(min(aim.limit, CAUTIOUS), int(FALL * aim.limit)), calm=0), most)


def _within(aim: Aim, most: int | None) -> Aim:
    limit = aim.limit if most is None else min(aim.limit, most)
    return replace(aim, limit=max(1, limit))
