"""The faults of the simulator: which, how often, and for which requests."""

from hashlib import blake2b
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Fate = Literal["ok", "429", "5xx", "hang", "cut", "malformed", "slow"]
Status = Annotated[int, Field(ge=500, le=599)]
Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

FAULTS: Final[tuple[Fate, ...]] = ("429", "5xx", "hang", "cut", "malformed", "slow")
VARIANTS: Final[dict[Fate, tuple[str, ...]]] = {
    "5xx": ("500", "502", "503"),
    "cut": ("before", "amid"),
    "malformed": ("html", "half", "no_choices"),
}


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Faults:
    """The faults and their rates: shares of the requests, together at most 1.

    - 429: at once, with Retry-After of `retry_after` seconds (0: without that header)
    - 5xx: with `status_5xx`; None draws 500, 502 or 503
    - hang: never answered
    - cut: the connection is closed `before` the answer or `amid` its body; None draws
    - malformed: a 200 with an `html` page, `half` the body or `no_choices`; None draws
    - slow: a good answer whose body takes `slow_seconds`

    Raises pydantic's ValidationError (a ValueError) if a value is out of bounds.
    """

    rate_429: Rate = 0.0
    rate_5xx: Rate = 0.0
    rate_hang: Rate = 0.0
    rate_cut: Rate = 0.0
    rate_malformed: Rate = 0.0
    rate_slow: Rate = 0.0
    retry_after: Seconds = 1.0
    status_5xx: Status | None = None
    cut: Literal["before", "amid"] | None = None
    malformed: Literal["html", "half", "no_choices"] | None = None
    slow_seconds: Seconds = 5.0

    def __post_init__(self) -> None:
        total = round(sum(self.rate_of(fault) for fault in FAULTS), 9)
        if total > 1:
            raise ValueError(f"the rates add up to {total:g}; together they may be at most 1")

    def rate_of(self, fault: Fate) -> float:
        """Share of the requests that suffer this fault."""
        return float(getattr(self, f"rate_{fault}"))

    def draw(self, seed: int, job: str, seen: int) -> tuple[Fate, str]:
        """Draw the fate of a job's `seen`-th request, and its variant if there are several.

        The result depends on the arguments alone, not on other or earlier requests.
        """
        digest = blake2b(f"{seed} {seen} {job}".encode(), digest_size=12).digest()
        point, dice = int.from_bytes(digest[:6]) / 2**48, int.from_bytes(digest[6:])
        for fault in FAULTS:
            rate = self.rate_of(fault)
            if point < rate:
                return fault, self._variant(fault, dice)
            point -= rate
        return "ok", ""

    def _variant(self, fault: Fate, dice: int) -> str:
        chosen = {"5xx": self.status_5xx, "cut": self.cut, "malformed": self.malformed}.get(fault)
        variants = VARIANTS.get(fault, ("",))
        return str(chosen or variants[dice % len(variants)])
