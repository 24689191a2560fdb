"""Parses Redis' replies to a worker. Raises ValueError and the like for a reply that is not from our scripts."""

from collections.abc import Callable, Container
from typing import Any, Final

from greenscale_worker.queues import Binding, Observed, Verdict

BINDINGS: Final[dict[bytes, Binding]] = {
    b"RUN": "run",
    b"BADTYPE": "run",
    b"DUPLICATE": "duplicate",
    b"CONFLICT": "conflict",
    b"CANCELLED": "cancelled",
    b"STALE": "stale",
}
VERDICTS: Final[dict[bytes, Verdict]] = {
    b"DELAYED": "delayed",
    b"HELD": "held",
    b"DEAD": "dead",
    b"STALE": "stale",
    b"GONE": "stale",
}
ENDINGS: Final = frozenset({b"OK", b"BADTYPE", b"STALE", b"GONE"})


def read_words(number: int, known: Container[bytes]) -> Callable[[Any], list[bytes]]:
    """Return a reader of `number` known words."""

    def read(answer: Any) -> list[bytes]:
        words = [word for word in answer if word in known]
        if not len(answer) == len(words) == number:
            raise ValueError(f"{len(words)} words that are known, {number} expected")
        return words

    return read


def read_beat(answer: Any) -> tuple[int, int, list[tuple[str, str, str]], list[bytes], bool, list[bytes], int]:
    """Read a heartbeat's answer.

    Jobs reaped, claimable, leases lost, jobs buried, whether it has a seat, jobs due, notices dropped.
    """
    reaped, claimable, lost, buried, seated, due, dropped = answer
    words = [word.decode() for word in lost]
    leases = list(zip(words[::3], words[1::3], words[2::3], strict=True))
    return int(reaped), int(claimable), leases, list(buried), bool(seated), list(due), int(dropped)


def read_observed(answer: Any) -> Observed | None:
    """Read what the fleet does to the engine; None if another worker looks at it."""
    is_ours, limit, in_flight, calm = answer
    return Observed(int(limit) if limit else None, int(in_flight), int(calm)) if int(is_ours) else None


def read_verdicts(answer: Any) -> list[tuple[Verdict, bytes, float]]:
    """Read the verdict on each failed job, BADTYPE if a foreign key was replaced, and in how many seconds it is due."""
    replaced = [b"BADTYPE" if int(foreign) else b"OK" for foreign in answer[1::3]]
    due_in = [int(ms) / 1000 for ms in answer[2::3]]
    return list(zip([VERDICTS[verdict] for verdict in answer[::3]], replaced, due_in, strict=True))


def read_releases(answer: Any) -> list[tuple[bytes, int]]:
    """Read how each release went, and how many drains have cut the job off by now."""
    words = read_words(len(answer) // 2, ENDINGS)(answer[::2])
    return list(zip(words, map(int, answer[1::2]), strict=True))


def unread(_answer: Any) -> None:
    """Ignore an answer that has no content."""
