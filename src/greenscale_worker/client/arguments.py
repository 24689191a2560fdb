"""Checks the arguments of the client's methods; errors say what is accepted."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import DEADLINE_ACCEPTED
from greenscale_worker.queues import STATES, State


def check_many(name: str, value: object, accepted: str, *, single: tuple[type, ...] = (str, bytes)) -> None:
    """Raise TypeError unless `value` is a collection; a string would be taken for its characters."""
    if isinstance(value, single) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: {accepted} is expected, not {_kind(value)}")


def check_timeout(timeout: object) -> None:
    """Raise TypeError unless `timeout` is a number of seconds or None."""
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float)):
        raise TypeError(f"timeout: seconds as a number, or None, are expected, not {timeout!r}")


def states_of(state: State | Iterable[State] | None) -> frozenset[State]:
    """Return the states given, all for None. Raises ValueError for an unknown state, TypeError for another type."""
    if state is None:
        return frozenset(STATES)
    if not isinstance(state, Iterable):
        raise TypeError(f"state: a state or several are expected, not {_kind(state)}")
    words: list[Any] = [state] if isinstance(state, str) else list(state)
    for word in words:
        if word not in STATES:
            near = get_close_matches(str(word), STATES, 1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"state: there is no {word!r}{meant}; expected: {', '.join(STATES)}")
    return frozenset(words)


def fields_of(job: Mapping[str, Any] | str) -> dict[str, Any]:
    """Return the fields of a job, a prompt or a dict. Raises TypeError, or BadInputError for a field's wrong type."""
    if isinstance(job, str):
        return {"prompt": job}
    if not isinstance(job, Mapping):
        raise TypeError(f"a job is a prompt (str) or a dict of its fields, not {_kind(job)}")
    fields = dict(job)
    deadline, metadata = fields.get("deadline"), fields.get("metadata")
    if isinstance(deadline, datetime):
        fields["deadline"] = deadline.isoformat()
    elif deadline is not None and not isinstance(deadline, str):
        raise BadInputError("bad_field", f"deadline: {DEADLINE_ACCEPTED}, or a datetime, not {_kind(deadline)}")
    if isinstance(metadata, Mapping):
        fields["metadata"] = dict(metadata)
    elif metadata is not None:
        raise BadInputError("bad_field", f"metadata: a dict of strings is expected, not {_kind(metadata)}")
    return fields


def _kind(value: object) -> str:
    return type(value).__name__
