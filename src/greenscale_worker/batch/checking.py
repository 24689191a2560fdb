"""Checks the file of a batch line by line before any of it is sent."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from greenscale_worker.batch.lines import Fault, Line, read_line
from greenscale_worker.batch.raw_lines import MOST_LINES as MOST_OF_A_FILE
from greenscale_worker.batch.raw_lines import RawLine
from greenscale_worker.job import Path

MOST_LINES: Final = 50_000
MOST_FAULTS: Final = 50
ROOM: Final = 1024  # bytes that a job has beside its line: id, tenant, deadline
EXPECTED: Final = 'a line is {"custom_id": …, "method": "POST", "url": …, "body": {…}}'


@dataclass(frozen=True, slots=True)
class BatchFault:
    """What makes a batch fail, as in the `errors` of OpenAI's Batch."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Checker:
    """Takes the lines of a batch for `endpoint` as they come. `faults` are the first 50, one for a line.

    `max_bytes` is of a job; a line may have 1 KiB less. `total` counts lines that are not blank. About 60 bytes are
    kept for each line, to find a custom_id that is used twice.
    """

    def __init__(self, endpoint: Path, *, max_bytes: int, most_lines: int = MOST_LINES) -> None:
        self.total = 0
        self.faults: list[BatchFault] = []
        self._endpoint = endpoint
        self._max_bytes = max_bytes - ROOM
        self._most_lines = most_lines
        self._seen: set[bytes] = set()
        self._too_long = False

    @property
    def is_over(self) -> bool:
        """Whether further lines would change nothing."""
        return len(self.faults) >= MOST_FAULTS or self.total > self._most_lines or self._too_long

    def check(self, raw: RawLine) -> Line | None:
        """Read a line and return it if it can be sent; None for a blank one and for one with a fault."""
        if self.is_over:
            return None
        if raw.number > MOST_OF_A_FILE:
            self._too_long = True
            said = f"more than {MOST_OF_A_FILE:,} lines, blank ones among them"
            self.faults.append(BatchFault("too_many_tasks", said, raw.number))
        if raw.is_blank or self._too_long:
            return None
        self.total += 1
        if self.total > self._most_lines:
            said = f"more than {self._most_lines:,} lines; make several batches of them"
            self.faults.append(BatchFault("too_many_tasks", said, raw.number))
            return None
        line = read_line(raw, max_bytes=self._max_bytes)
        fault = line.fault or self._fault_in_batch(line)
        if fault is None:
            return line
        self.faults.append(BatchFault(fault.openai_code, fault.message, raw.number, fault.param))
        return None

    def end(self) -> None:
        """Say that there are no more lines."""
        if not self.total and not self.faults:
            self.faults.append(BatchFault("empty_file", "the file has no line that is not blank"))

    def _fault_in_batch(self, line: Line) -> Fault | None:
        for name, value in (("custom_id", line.custom_id), ("body", None if line.is_short else line.body)):
            if value is None:
                said = f"{name}: is missing; {EXPECTED}"
                return Fault("bad_line", "missing_required_parameter", said, name)
        if line.url is not None and line.url != self._endpoint:
            said = f"url: {line.url}, and the batch is for {self._endpoint}"
            return Fault("bad_line", "url_mismatch", said, "url")
        if len(line.payload()) > self._max_bytes:  # numbers may be written longer than they were
            return Fault("too_large", "line_too_large", f"longer than {self._max_bytes} bytes")
        mark = blake2b((line.custom_id or "").encode(), digest_size=16).digest()
        if mark in self._seen:
            said = "custom_id: an earlier line has the same; each may be used once"
            return Fault("duplicate_custom_id", "duplicate_custom_id", said, "custom_id")
        self._seen.add(mark)
        return None
