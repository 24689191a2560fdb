"""What the record of a job says that was replayed, and has not been claimed again."""

from collections.abc import Mapping
from typing import Final

KEPT: Final = ("submitted_ms", "metadata", "created_at")


def replayed(record: Mapping[str, str]) -> dict[str, str]:
    """Make of the record of the run before, which has failed, that of a job which waits."""
    return {name: record[name] for name in KEPT if name in record} | {"state": "waiting"}


def check_letter_id(letter_id: object) -> None:
    """Raise TypeError for what is no id, such as a list of them."""
    if not isinstance(letter_id, str):
        raise TypeError(f"a dead letter's id is a string, not {type(letter_id).__name__}; for several: replay_many")
