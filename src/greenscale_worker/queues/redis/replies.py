"""Parses Redis' replies to a client. Raises ValueError and the like for a reply that is not from our scripts."""

import re
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any, Final, cast

import orjson
from redis.exceptions import ResponseError

from greenscale_worker.queues import DeadLetter, Flow, LedgerMinute, Notice, Replay, State, TokenPiece
from greenscale_worker.queues.replaying import replayed
from greenscale_worker.queues.told import is_number

LEDGER_SUMS: Final = Struct(">11d")  # of a minute, as in ledger.lua
LEDGER_NAMES: Final = (
    *("ended", "failed", "cancelled", "retried", "prompt_tokens", "completion_tokens"),
    *("call_ms", "replica_ms", "busy_lane_ms", "replicas_peak"),
)
MOST: Final = 9e15  # of a count, as in prelude.lua
NOTICE: Final = re.compile(r"([0-9]{1,16}) ([0-9]{1,16}) (succeeded|failed|cancelled) (\S+) (.*)", re.DOTALL)
NOT_REPLAYED: Final[dict[bytes, Replay]] = {b"GONE": "unknown", b"LOST": "payload_lost"}


def read_joined(answer: Any) -> tuple[str | None, int]:
    """Read the id of a job that was joined, and how many clients wait."""
    job_id, waiting = answer
    return job_id.decode() or None, int(waiting)


def read_result(answer: Any) -> bytes | None:
    """Read an answer; a value of another type under its name counts as none."""
    if isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE"):
        return None
    if isinstance(answer, Exception):
        raise answer
    return None if answer is None else bytes(memoryview(answer))


def read_records(job_ids: Sequence[str], answer: Any) -> dict[str, dict[str, str]]:
    """Read the record of each job; that of a replayed job becomes the record of a waiting one."""
    records = [replayed(_read_fields(words)) if again else _read_fields(words) for again, *words in answer]
    return dict(zip(job_ids, records, strict=True))


def _read_fields(words: Sequence[bytes]) -> dict[str, str]:
    texts = [word.decode("utf-8", "replace") for word in words]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def read_ledger(minutes: Sequence[int], answer: Any) -> list[LedgerMinute]:
    """Read the fields of these minutes; what another program wrote there counts as nothing."""
    if isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE"):
        return []
    if isinstance(answer, Exception):
        raise answer
    return [_read_minute(at, text) for at, text in zip(minutes, answer, strict=True) if text is not None]


def _read_minute(minute: int, value: bytes) -> LedgerMinute:
    found = LEDGER_SUMS.unpack(value) if len(value) == LEDGER_SUMS.size else (0.0,) * len(LEDGER_NAMES)
    sums = {name: int(each) if _is_sum(each) else 0 for name, each in zip(LEDGER_NAMES, found, strict=False)}
    times = {f"{name}_seconds": sums.pop(f"{name}_ms") / 1000 for name in ("call", "replica", "busy_lane")}
    return LedgerMinute(minute * 60.0, **sums, **times)  # type: ignore[arg-type]  # each by its name


def _is_sum(value: float) -> bool:
    """Return whether the scripts could have written this: as in prelude.lua, `is_count`."""
    return 0 <= value < MOST


def read_why(answer: Any) -> str | None:
    """Read why a worker makes no calls; a value of another type counts as none."""
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else None


def read_lanes(answer: Any) -> int | None:
    """Read how many lanes a worker has; anything but a count says nothing."""
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else ""
    return int(text) if is_number(text) else None


def read_pieces(job_ids: Mapping[bytes, str], answer: Any) -> list[TokenPiece]:
    """Read pieces of text from the streams of jobs; an entry that another program wrote is a piece without text."""
    return [
        TokenPiece(
            job_ids[name],
            position.decode(),
            int(attempt) if (attempt := fields.get(b"attempt", b"0")).isdigit() else 0,
            fields.get(b"text", b"").decode("utf-8", "replace"),
        )
        for name, entries in answer or ()
        for position, fields in entries
    ]


def read_notice(member: bytes) -> Notice | None:
    """Read a notice; None for what another program wrote."""
    found = NOTICE.fullmatch(member.decode("utf-8", "replace"))
    if found is None:
        return None
    id_, ms, state, job_id, code = found.groups()
    return Notice(id_, job_id, cast("State", state), int(ms) / 1000, code or None)


def read_open(answer: Any) -> tuple[bytes, list[Any]]:
    """Read a page of jobs: the score behind which to continue, empty at the end, and a row for each."""
    behind, rows = answer
    return bytes(memoryview(behind)), list(rows)


def read_flow(answer: Any) -> Flow:
    """Read what holds jobs back: counts, flags and times in ms, and texts that are empty where there is no bound."""
    *counts, held, held_ms, due_ms, limit, requests, tokens, call_ms = answer
    waiting, open_, in_flight, workers, paused, scaled, shut = map(int, counts)
    return Flow(
        waiting=waiting,
        open=open_,
        in_flight=in_flight,
        limit=int(limit) if limit else None,
        requests=float(requests) if requests else None,
        tokens=float(tokens) if tokens else None,
        paused=bool(paused),
        scaled_to_zero=bool(scaled),
        shut=bool(shut),
        held=held.decode(),
        held_seconds=int(held_ms) / 1000,
        due_seconds=int(due_ms) / 1000 if due_ms else None,
        workers=workers,
        call_seconds=float(call_ms) / 1000 if call_ms else None,
    )


def read_flags(answer: Any) -> list[bool]:
    """Read a yes or no for each."""
    return [read_flag(each) for each in answer]


def read_flag(answer: Any) -> bool:
    """Read a yes or no."""
    return bool(int(answer))


def read_promoted(answer: Any) -> tuple[int, list[bytes]]:
    """Read how many jobs were promoted, and which are due by now."""
    promoted, due = answer
    return int(promoted), [bytes(memoryview(each)) for each in due]


def read_page(answer: Any) -> tuple[int, bytes, list[DeadLetter]]:
    """Read a page of dead letters: how many there are in all, where the next page begins, and these."""
    total, cursor, page = answer
    letters = [read_letter(*each) for each in zip(page[::3], page[1::3], page[2::3], strict=True)]
    return int(total), cursor, letters


def read_found(answer: Any) -> DeadLetter | None:
    """Read the dead letter that was found, if any."""
    return read_letter(*answer) if answer else None


def read_counts(answer: Any) -> list[tuple[bytes, int]]:
    """Read codes, each with its number of dead letters."""
    return [(code, int(count)) for code, count in zip(answer[::2], answer[1::2], strict=True)]


def read_replays(answer: Any) -> list[Replay]:
    """Read the outcome of each replay: at least one, or the caller would loop for ever."""
    replays: list[Replay] = [NOT_REPLAYED.get(each, "replayed") for each in answer]
    if not replays:
        raise ValueError("no answer to a replay")
    return replays


def read_purge(answer: Any) -> tuple[int, bool]:
    """Read how many dead letters were deleted, and whether there are more."""
    gone, more = answer
    return int(gone), bool(int(more))


def read_cursor(answer: Any) -> bytes:
    """Read where to continue: in the letters, in their index, or nowhere."""
    cursor = bytes(memoryview(answer))
    if cursor[:1] not in {b"", b"l", b"i"}:
        raise ValueError("no place to go on")
    return cursor


def read_letter(id_: bytes, header: bytes, payload: bytes) -> DeadLetter:
    """Build a dead letter from its id, its JSON header and its payload."""
    known = orjson.loads(header.decode("utf-8", "replace"))
    return DeadLetter(
        id=id_.decode(),
        job_id=known["job_id"] or None,
        code=known["code"],
        message=known["message"],
        attempts=int(known["tries"]),
        crashes=int(known["crashes"]),
        died_at=int(known["died_ms"]) / 1000,
        payload=payload,
    )
