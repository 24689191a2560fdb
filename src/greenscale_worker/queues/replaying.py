"""The record of a job that was replayed and not yet claimed again, and checks of ids."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

# In a record, whatever becomes of its runs, and that with what its payload says; as in prelude.lua.
OF_THE_JOB: Final = ("submitted_ms", "class", "tenant", "digest", "drains")
NOTICE_ID: Final = re.compile(r"[0-9]{1,16}")
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
    _check_list(letter_ids, "letter_ids", "dead letters' ids")


def check_job_ids(job_ids: object) -> None:
    """Raise TypeError for anything but a list, likewise."""
    _check_list(job_ids, "job_ids", "jobs' ids")


def check_notice_ids(ids: Sequence[str]) -> None:
    """Raise TypeError for anything but a list, likewise, and ValueError for what is no notice's id."""
    _check_list(ids, "ids", "notices' ids")
    for each in ids:
        if not NOTICE_ID.fullmatch(each):
            raise ValueError(f"{each!r} is no notice's id; that of a Notice is expected")


def _check_list(ids: object, name: str, what: str) -> None:
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise TypeError(f"{name}: a list of {what} is expected, not {type(ids).__name__}")
