"""What the ledger keeps: the constants of the protocol, its jobs and dead letters, and what scripts are told."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

LEASE, BEAT = 15_000, 3_000
LEDGER_DAYS = 8
NOTICES_MS, MOST_NOTICES = 600_000, 5
LIVE_SECONDS = 7 * 86_400
FINAL_SECONDS = 3600
TOMBSTONE_SECONDS = LIVE_SECONDS
SUSPECT_CRASHES, BURIAL_MARGIN, BATCH = 2, 2, 64
AT_ONCE = 8  # fresh jobs, as in claim.lua
REMEMBERED_SECONDS = 86_400  # a claim, for its repetition
LARGEST = 200  # bytes of a payload that is read; in production 8 MiB
FOREIGN = "a foreign type"
GROUP, NOBODY, STRANGER = "greenscale", "-", "somebody"
BACKEND = "chat"

SCHEDULED_SECONDS = LIVE_SECONDS + 600  # of the record of a job that is due within ten minutes, or sooner
TURNS = 10  # of so many jobs in a row, a lower class that waits gets one
CLASSES = ("interactive", "standard", "background")
STEP = 4 * 10**15  # between the places of two classes

Record = dict[str, str]
Kind = Literal["list", "stream"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a queue is configured. `ttl` is seconds; 0: neither results nor records."""

    kind: Kind = "list"
    side: Literal["RIGHT", "LEFT"] = "RIGHT"
    max_bytes: int = 1_000_000
    ttl: int = FINAL_SECONDS

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

    `alias` is its id where the payload has none. `tries` are thousandths; `format` is how Redis keeps all this.
    """

    payload: bytes
    first: int
    place: Literal["lease", "ready", "delayed", "held"] = "ready"
    until: int = 0
    token: str = ""
    owner: str = ""
    tries: int = 0
    crashes: int = 0
    job_id: str = ""
    alias: str = ""
    runs: int = 0
    failed: int = 0
    format: str = ""
    job_class: str = "standard"
    tenant: str = ""

    @property
    def suspect(self) -> bool:
        return self.crashes >= SUSPECT_CRASHES

    def written(self, version: str) -> None:
        """Be written; the format of the version before knows whole tries only, and nothing of the rest."""
        self.format = version
        if version != "2":
            self.tries, self.runs, self.failed = self.tries // 1000 * 1000, self.tries // 1000, 0

    def meta(self) -> bytes:
        """Write what Redis keeps."""
        words = [self.token, self.owner, self.tries, self.crashes, str(self.first), self.job_id, self.runs, self.failed]
        if self.format == "2":
            return b"\x98" + b"".join(map(msgpack, words))
        return f"{self.token}|{self.owner}|{self.tries // 1000}|{self.crashes}|{self.first}|{self.job_id}".encode()


@dataclass(slots=True)
class Letter:
    """A dead letter. `apart`: its payload lies in a hash of its own, as format 2 has it."""

    header: dict[str, Any]
    payload: bytes
    apart: bool

    def members(self, name: str) -> set[bytes]:
        """What the index has of it: by time, by code, by job."""
        died, code, job_id = f"{int(self.header['died_ms']):016}", self.header["code"], self.header["job_id"]
        words = [("t", died, name), ("c", code.replace("\0", " "), died, name), ("j", job_id, name)]
        return {"\0".join(word).encode() for word in words[: 3 if job_id else 2]}


class Later(NamedTuple):
    """A job that is not due yet."""

    due: int
    job_class: str
    payload: bytes


class Binding(NamedTuple):
    """One item of a bind."""

    id: int
    token: str
    job_id: str
    notify: int
    fields: Record


class Ending(NamedTuple):
    """One item of a settle. `text` is the answer, or the code of the failure; `spent` what its call took."""

    id: int
    token: str
    state: str
    job_id: str
    text: str
    message: str
    spent: str
    fields: Record


class Return(NamedTuple):
    """One item of a release. `delay` is milliseconds."""

    id: int
    token: str
    delay: int
    job_id: str
    reason: str


class Fault(NamedTuple):
    """One item of a retry. Tries are thousandths, `delay` is milliseconds; `spent` is what its call took."""

    id: int
    token: str
    job_id: str
    code: str
    message: str
    prior: str
    fingerprint: str
    used: int
    most: int
    delay: int
    spent: str


def began_of(spent: str) -> int:
    """Return when a call began, of what it spent."""
    return int(spent.split(maxsplit=1)[0])


def msgpack(value: str | int) -> bytes:
    """Pack a word or a count as MessagePack does, in as few bytes as it takes."""
    if isinstance(value, str):
        raw = value.encode()
        return (bytes([0xA0 + len(raw)]) if len(raw) < 32 else b"\xd9" + bytes([len(raw)])) + raw
    if value < 128:
        return bytes([value])
    size = next(size for size in (1, 2, 4, 8) if value < 1 << 8 * size)
    return bytes([0xCB + size.bit_length()]) + value.to_bytes(size)


def number_of(name: bytes) -> int:
    """Read a job's id as the ledger has it."""
    ms, dash, seq = name.partition(b"-")
    assert ms.isdigit(), f"{name!r} is no job's id"
    return (int(ms) << 10) + int(seq) if dash else int(ms)


def read_letter(raw: bytes) -> tuple[dict[str, Any], bytes | None]:
    """Take a dead letter apart: its header, and its payload where that lies behind it."""
    header, feed, payload = raw.partition(b"\n")
    try:
        return orjson.loads(header), payload if feed else None
    except orjson.JSONDecodeError as error:
        raise AssertionError(f"a dead letter cannot be read: {raw!r}") from error
