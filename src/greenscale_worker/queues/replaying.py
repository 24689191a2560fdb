"""The record of a job that was replayed and not yet claimed again, and checks of letter ids."""

from collections.abc import Mapping, Sequence
from typing import Final

# In a record, whatever becomes of its runs, and that with what its payload says; as in prelude.lua.
OF_THE_JOB: Final = ("submitted_ms", "class", "tenant", "digest")
KEPT: Final = (*OF_THE_JOB, "created_at", "metadata")


def replayed(record: Mapping[str, str]) -> dict[str, str]:
    """Turn the record of the failed run into the record of a waiting job."""
    return {name: record[name] for name in KEPT if name in record} | {"state": "waiting"}


def check_letter_id(letter_id: object) -> None:
    """Raise TypeError for anything but one id, such as a list of ids."""
    if not isinstance(letter_id, str):
        raise TypeError(f"a dead letter's id is a string, not {type(letter_id).__name__}; for several: replay_many")


def check_letter_ids(letter_ids: object) -> None:
    """Raise TypeError for anything but a list of ids; one id would be taken for a list of characters."""
    if isinstance(letter_ids, str) or not isinstance(letter_ids, Sequence):
        kind = type(letter_ids).__name__
        raise TypeError(f"letter_ids: a list of dead letters' ids is expected, not {kind}")
