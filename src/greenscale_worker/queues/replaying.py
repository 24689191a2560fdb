"""What the record of a job says that was replayed, and has not been claimed again."""

from collections.abc import Mapping
from typing import Final

KEPT: Final = ("submitted_ms", "metadata", "created_at")


def replayed(record: Mapping[str, str]) -> dict[str, str]:
    """Make of the record of the run before, which has failed, that of a job which waits."""
    return {name: record[name] for name in KEPT if name in record} | {"state": "waiting"}
