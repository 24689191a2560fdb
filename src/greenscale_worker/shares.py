"""Shares lanes among those whose jobs they run, receivers or tenants, so that none of them holds up the others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final

from greenscale_worker.errors import Snooze

SHORTEST_SNOOZE: Final = 0.25  # seconds
LONGEST_SNOOZE: Final = 60.0
NEWEST: Final = 0.3  # the weight of the last delivery in the mean
MOST_KNOWN: Final = 1000


@dataclass(slots=True)
class Share:
    """What one of them has. `seconds` is how long a job takes, `silent` whether a receiver did not answer the last."""

    busy: int = 0
    seconds: float = 0.5
    silent: bool = False
    booked: float = 0.0
    rests_until: float = 0.0

    def rest(self, until: float) -> None:
        """Run nothing until a time by the clock of the shares."""
        self.rests_until = max(self.rests_until, until)


class Shares:
    """Lets each have `most` lanes at a time, and one if it is a receiver that did not answer the last delivery.

    `clock` counts seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        self._most = most
        self._known: dict[str, Share] = {}

    @contextmanager
    def place(self, name: str) -> Iterator[Share]:
        """Take a lane for a job of `name`. Raises Snooze if it has all that it may have, or is to rest.

        The delay is until about when those that were put off before it have had their turn, so that many of them do
        not come back again and again.
        """
        now = self.clock()
        share = self._known.setdefault(name, Share())
        if now < share.rests_until:
            raise Snooze(min(LONGEST_SNOOZE, share.rests_until - now + SHORTEST_SNOOZE))
        most = 1 if share.silent else self._most
        if share.busy >= most:
            share.booked = max(share.booked, now) + share.seconds / most
            raise Snooze(max(SHORTEST_SNOOZE, min(LONGEST_SNOOZE, share.booked - now)))
        share.busy += 1
        ran = True
        try:
            yield share
        except Snooze:  # the job has not run
            ran = False
            raise
        finally:
            share.busy -= 1
            if ran:
                share.seconds += NEWEST * (self.clock() - now - share.seconds)
            self._forget()

    def _forget(self) -> None:
        """Forget those that are idle, if there are many."""
        if len(self._known) > MOST_KNOWN:
            now = self.clock()
            for name, each in list(self._known.items()):
                if not each.busy and max(each.booked, each.rests_until) <= now:
                    del self._known[name]
