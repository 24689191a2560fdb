"""What the ledger keeps: the constants of the protocol, its jobs and dead letters, and what scripts are told."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

LEASE, BEAT = 15_000, 3_000
LIVE_SECONDS = 7 * 86_400
TOMBSTONE_SECONDS = 3600
SUSPECT_CRASHES, BURIAL_MARGIN, BATCH = 2, 2, 64
AT_ONCE = 8  # fresh jobs, as in claim.lua
REMEMBERED_SECONDS = 86_400  # a claim, for its repetition
LARGEST = 200  # bytes of a payload that is read; in production 8 MiB
FOREIGN = "a foreign type"
GROUP, NOBODY, STRANGER = "greenscale", "-", "somebody"

Record = dict[str, str]
Kind = Literal["list", "stream"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a queue is configured. `ttl` is seconds; 0: neither results nor records."""

    kind: Kind = "list"
    side: Literal["RIGHT", "LEFT"] = "RIGHT"
    max_bytes: int = 1_000_000
    ttl: int = 3600

    @property
    def word(self) -> str:
        """What every script is told of the store."""
        return self.side if self.kind == "list" else GROUP

    def name(self, id_: int) -> str:
        """A job's id as Redis knows it; here a number, which for a stream is milliseconds times 1024 plus sequence."""
        return str(id_) if self.kind == "list" else f"{id_ >> 10}-{id_ & 1023}"


@dataclass(slots=True)
class Open:
    """A job that was claimed and has not ended. `until` is when its lease expires, or when its delay ends.

    `alias` is its id where the payload has none.
    """

    payload: bytes
    first: int
    place: Literal["lease", "ready", "delayed"] = "ready"
    until: int = 0
    token: str = ""
    owner: str = ""
    tries: int = 0
    crashes: int = 0
    job_id: str = ""
    alias: str = ""

    @property
    def suspect(self) -> bool:
        return self.crashes >= SUSPECT_CRASHES

    def meta(self) -> str:
        return f"{self.token}|{self.owner}|{self.tries}|{self.crashes}|{self.first}|{self.job_id}"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter."""

    header: dict[str, Any]
    payload: bytes


class Binding(NamedTuple):
    """One item of a bind."""

    id: int
    token: str
    job_id: str
    fields: Record


class Ending(NamedTuple):
    """One item of a settle. `text` is the answer, or the code of the failure."""

    id: int
    token: str
    state: str
    job_id: str
    text: str
    message: str
    fields: Record


class Return(NamedTuple):
    """One item of a release. `delay` is milliseconds; `counted` is 1 or 0."""

    id: int
    token: str
    delay: int
    counted: int
    job_id: str
    reason: str


def number_of(name: bytes) -> int:
    """Read a job's id as the ledger has it."""
    ms, dash, seq = name.partition(b"-")
    return (int(ms) << 10) + int(seq) if dash else int(ms)


def read_letter(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Take a dead letter apart as `QueueAdmin.dead` does."""
    header, _, payload = raw.partition(b"\n")
    try:
        return orjson.loads(header), payload
    except orjson.JSONDecodeError as error:
        raise AssertionError(f"a dead letter cannot be read: {raw!r}") from error
