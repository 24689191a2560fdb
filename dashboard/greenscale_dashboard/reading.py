"""Reads JSON from outside: what is missing, or is of another type, reads as None or empty, and never raises."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def text(value: Any) -> str | None:
    """Return a string that can be encoded, or None."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def number(value: Any) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def count(value: Any) -> int | None:
    """Return a whole number, or None."""
    found = number(value)
    return None if found is None else int(found)


def moment(value: Any) -> datetime | None:
    """Return a time of RFC 3339 (without an offset: UTC), or None."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def epoch(value: Any) -> datetime | None:
    """Return a time given as seconds since the epoch, or None."""
    found = number(value)
    try:
        return None if found is None else datetime.fromtimestamp(found, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def fields(value: Any) -> Mapping[str, Any]:
    """Return an object, or an empty one."""
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a list, or none."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def texts(value: Any) -> list[str]:
    """Return the strings of a list, or none."""
    return [found for each in value if (found := text(each))] if isinstance(value, list) else []
