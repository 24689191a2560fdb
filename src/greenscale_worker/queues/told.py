"""Reads a job's record into a JobInfo; tolerates records that other programs wrote."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from greenscale_worker.queues import CLASSES, STATES, JobInfo

DIGITS: Final = 16
COUNTS: Final = ("attempts", "crashes", "prompt_tokens", "completion_tokens", "total_tokens")
TIMES: Final = ("submitted", "claimed", "due", "finished")


def of_record(job_id: str, record: Mapping[str, str]) -> JobInfo | None:
    """Read a whole record; None if there is none."""
    state = next((each for each in STATES if each == record.get("state")), None)
    return None if state is None else with_record(record, job_id=job_id, state=state)


def with_record(record: Mapping[str, str], **known: Any) -> JobInfo:
    """Complete `known` with what the record says; `known` wins."""
    told: dict[str, Any] = {name: record.get(name) for name in ("worker", "model", "finish_reason", "tenant")}
    told |= {"code": record.get("error_code"), "message": record.get("error_message")}
    told |= {name: number(record, name) for name in COUNTS} | {
        f"{name}_at": seconds(record, f"{name}_ms") for name in TIMES
    }
    told["metadata"] = _metadata(record.get("metadata"))
    told["job_class"] = next((each for each in CLASSES if each == record.get("class")), None)
    told["created_at"] = _time(record.get("created_at"))
    return JobInfo(**{**{name: value for name, value in told.items() if value is not None}, **known})


def is_number(text: str) -> bool:
    """Return whether this is a count, or a time in ms, as we write them."""
    return len(text) <= DIGITS and text.isascii() and text.isdigit()


def number(record: Mapping[str, str], name: str) -> int | None:
    """Return a count; None if it is invalid."""
    text = record.get(name, "")
    return int(text) if is_number(text) else None


def seconds(record: Mapping[str, str], name: str) -> float | None:
    """Return a time in ms as seconds."""
    ms = number(record, name)
    return None if ms is None else ms / 1000


def _metadata(text: str | None) -> dict[str, str] | None:
    try:
        metadata = orjson.loads(text or "")
    except orjson.JSONDecodeError:
        return None
    return metadata if isinstance(metadata, dict) else None


def _time(text: str | None) -> float | None:
    """Return a time as we write it, RFC 3339, in seconds since the epoch."""
    try:
        time = datetime.fromisoformat(text or "")
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
