"""Checks the file of a batch line by line before any of it is sent."""

from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Final

from greenscale_worker.batch.lines import Fault, Line, read_line
from greenscale_worker.batch.raw_lines import MOST_LINES as MOST_OF_A_FILE
from greenscale_worker.batch.raw_lines import RawLine
from greenscale_worker.job import Path
from greenscale_worker.wire_json import read, write

MOST_LINES: Final = 50_000
MOST_FAULTS: Final = 50
ROOM: Final = 1024  # bytes that a job has beside its line: id, tenant, deadline
MARK_BYTES: Final = 16
NOTHING: Final = b'{"total":0,"faults":[],"models":[]}'
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
    kept for each line, to find a custom_id that is used twice. `kept`: go on where another Checker has written it.
    """

    def __init__(
        self, endpoint: Path, *, max_bytes: int, most_lines: int = MOST_LINES, kept: bytes | None = None
    ) -> None:
        head, _, seen = (kept or NOTHING).partition(b"\n")
        told = read(head)
        self.total: int = told["total"]
        self.faults = [BatchFault(**fault) for fault in told["faults"]]
        self._models: list[Any] = told["models"]
        self._endpoint = endpoint
        self._max_bytes = max_bytes - ROOM
        self._most_lines = most_lines
        self._seen = {seen[start : start + MARK_BYTES] for start in range(0, len(seen), MARK_BYTES)}
        self._too_long = False

    @property
    def model(self) -> str | None:
        """The model of all lines, None if they have none or several."""
        model = self._models[0] if len(self._models) == 1 else None
        return model if isinstance(model, str) else None

    def keep(self) -> bytes:
        """Write what another Checker needs to go on behind the line that was taken last: 16 bytes for each line."""
        faults = [asdict(fault) for fault in self.faults]
        head = {"total": self.total, "faults": faults, "models": self._models}
        return write(head) + b"\n" + b"".join(self._seen)

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
            if len(self._models) <= 1 and (model := line.body.get("model")) not in self._models:
                self._models.append(model)
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
        mark = blake2b((line.custom_id or "").encode(), digest_size=MARK_BYTES).digest()
        if mark in self._seen:
            said = "custom_id: an earlier line has the same; each may be used once"
            return Fault("duplicate_custom_id", "duplicate_custom_id", said, "custom_id")
        self._seen.add(mark)
        return None
