"""How long an endpoint asks clients to wait."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST: Final = 600.0
NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)


def retry_after(headers: Mapping[str, str], *, longest: float = LONGEST) -> float | None:
    """Read `retry-after-ms`, else `Retry-After` (RFC 9110, 10.2.3): seconds, at most `longest`.

    A date is compared with the response's own `Date`, so that our clock does not matter. Negative, zero or
    unreadable: None.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds:
        return min(milliseconds / 1000, longest)
    value = headers.get("Retry-After", "")
    seconds = _number(value)
    if seconds is None:
        then, now = _date(value), _date(headers.get("Date", ""))
        seconds = (then - now).total_seconds() if then and now else 0.0
    return min(seconds, longest) if seconds > 0 else None


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if NUMBER.fullmatch(text) else None


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
        return date if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
