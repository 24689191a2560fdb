"""A provider's rate limits: requests and tokens a minute, judged over one second."""

from collections.abc import Callable
from time import monotonic
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

PerMinute = Annotated[float, Field(gt=0, allow_inf_nan=False)]
WINDOW_SECONDS: Final = 1.0
UNKNOWN_OUTPUT: Final = 16  # what a provider expects of a request that names no max_tokens


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class BudgetOptions:
    """What a client may send a minute; None: as much as it likes.

    `count` is when tokens are charged: `estimate` at arrival, the prompt's and max_tokens, as Azure does; `usage` at
    the end, those of the answer.

    Raises pydantic's ValidationError (a ValueError) if a value is out of bounds.
    """

    requests: PerMinute | None = None
    tokens: PerMinute | None = None
    count: Literal["estimate", "usage"] = "estimate"


class Bucket:
    """Holds what may be taken in `WINDOW_SECONDS`, at least 1, and is refilled as time passes."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = monotonic) -> None:
        self.per_minute = per_minute
        self.size = max(1.0, per_minute / 60 * WINDOW_SECONDS)
        self.taken = 0.0
        self.refused = 0
        self._level = self.size
        self._clock = clock
        self._began = self._at = clock()

    @property
    def level(self) -> float:
        """What is left now; below 0: debt."""
        now = self._clock()
        self._level = min(self.size, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return self._level

    def wait(self, amount: float) -> float:
        """Return the seconds until `amount` may be taken: 0 is now. More than its size may be taken when it is full."""
        return max(0.0, (min(amount, self.size) - self.level) * 60 / self.per_minute)

    def take(self, amount: float) -> None:
        """Take, into debt if need be."""
        self._level = self.level - amount
        self.taken += amount

    def stats(self) -> dict[str, float]:
        """Return what was taken and refused since the start, and the share of what might have been taken."""
        seconds = self._clock() - self._began
        return {
            "per_minute": self.per_minute,
            "taken": self.taken,
            "refused": self.refused,
            "used": self.taken / max(self.size, seconds * self.per_minute / 60),
        }


class Budget:
    """The buckets of one client."""

    def __init__(self, options: BudgetOptions, clock: Callable[[], float] = monotonic) -> None:
        self.options = options
        given = {"requests": options.requests, "tokens": options.tokens}
        self._buckets = {name: Bucket(rate, clock) for name, rate in given.items() if rate is not None}

    def admit(self, prompt_tokens: int, max_tokens: int | None) -> float:
        """Charge a request. Return 0, or in how many seconds it may come again if it is refused."""
        expected = prompt_tokens + (max_tokens or UNKNOWN_OUTPUT)
        amounts = {"requests": 1.0, "tokens": float(expected) if self.options.count == "estimate" else 1.0}
        waits = {name: bucket.wait(amounts[name]) for name, bucket in self._buckets.items()}
        longest = max(waits.values(), default=0.0)
        for name, bucket in self._buckets.items():
            if longest:
                bucket.refused += waits[name] > 0
            elif name == "requests" or self.options.count == "estimate":
                bucket.take(amounts[name])
        return longest

    def settle(self, tokens: int) -> None:
        """Charge the tokens of an answer, where that is what counts."""
        if "tokens" in self._buckets and self.options.count == "usage":
            self._buckets["tokens"].take(tokens)

    def headers(self) -> dict[str, str]:
        """Return what the provider tells with each answer."""
        told = {}
        for name, bucket in self._buckets.items():
            level = bucket.level
            told[f"x-ratelimit-limit-{name}"] = f"{bucket.per_minute:g}"
            told[f"x-ratelimit-remaining-{name}"] = str(max(0, int(level)))
            told[f"x-ratelimit-reset-{name}"] = f"{round((bucket.size - level) * 60_000 / bucket.per_minute)}ms"
        return told

    def stats(self) -> dict[str, dict[str, float]]:
        """Return the counts of each bucket."""
        return {name: bucket.stats() for name, bucket in self._buckets.items()}
