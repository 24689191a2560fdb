"""What the record of a job says that was replayed, and has not been claimed again."""

from collections.abc import Mapping, Sequence
from typing import Final

KEPT: Final = ("submitted_ms", "metadata", "created_at")


def replayed(record: Mapping[str, str]) -> dict[str, str]:
    """Make of the record of the run before, which has failed, that of a job which waits."""
    return {name: record[name] for name in KEPT if name in record} | {"state": "waiting"}


def check_letter_id(letter_id: object) -> None:
    """Raise TypeError for what is no id, such as a list of them."""
    if not isinstance(letter_id, str):
        raise TypeError(f"a dead letter's id is a string, not {type(letter_id).__name__}; for several: replay_many")


def check_letter_ids(letter_ids: object) -> None:
    """Raise TypeError for what is no list of ids, such as one id: it would be taken for its characters."""
    if isinstance(letter_ids, str) or not isinstance(letter_ids, Sequence):
        kind = type(letter_ids).__name__
        raise TypeError(f"letter_ids: a list of dead letters' ids is expected, not {kind}; for one: replay")
