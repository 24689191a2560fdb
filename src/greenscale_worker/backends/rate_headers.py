"""What an endpoint says of the rate it allows: `x-ratelimit-*`, as OpenAI sends them."""

import re
from collections.abc import Mapping
from typing import Final

from greenscale_worker.job import Rates

NAMES: Final = (
    *("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"),
    *("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens"),
)
NUMBER: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?", re.ASCII)


def rates_of(headers: Mapping[str, str]) -> Rates | None:
    """Read the headers; None if they say nothing. -1, 0 and anything but a number mean unknown."""
    found = [_number(headers.get(name)) for name in NAMES]
    return Rates(*found) if any(found) else None


def _number(text: str | None) -> float | None:
    return (float(text) or None) if text is not None and NUMBER.fullmatch(text.strip()) else None
