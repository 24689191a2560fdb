"""Makes lines of output of the ends of jobs, and counts them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from greenscale_worker.batch.output import answer_line, body_of, error_line, line_id
from greenscale_worker.batches.objects import Ending, OpenLine, Request, Usage
from greenscale_worker.job import Output
from greenscale_worker.job import Usage as JobUsage
from greenscale_worker.wire_json import read

MOST_LINES: Final = 1000
MOST_BYTES: Final = 4 * 1024 * 1024
ENDINGS: Final[Mapping[Ending, tuple[str, str]]] = {
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request had an answer"),
    "expired": ("batch_expired", "the batch expired before this request had an answer"),
    "failed": ("batch_failed", "the batch failed before this request had an answer"),
}
Record = Mapping[str, str]


@dataclass
class Taken:
    """Ends that no commit has taken yet. `buried` are lines that left a dead letter."""

    request: Request
    numbers: list[int] = field(default_factory=list)
    buried: list[int] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    size: int = 0

    @property
    def is_full(self) -> bool:
        """Whether it is time for a commit."""
        return len(self.numbers) >= MOST_LINES or self.size >= MOST_BYTES

    def end(self, line: OpenLine, record: Record, answer: bytes | None, body: bytes | None) -> None:
        """Take the end of a line's job."""
        match record.get("state"):
            case "succeeded":
                self._answer(line, record, answer, body)
            case "cancelled":
                self.fail(line, "job_cancelled", "the job of this request was cancelled")
            case _:
                self.usage += _usage_of_record(record)
                self.buried.append(line.number)
                code, message = record.get("error_code") or "failed", record.get("error_message") or "the job failed"
                if code == "deadline_passed":
                    code = ENDINGS["expired"][0]
                self.fail(line, code, message)

    def unfinished(self, line: OpenLine, ending: Ending) -> None:
        """Take a line that had not ended when the batch did."""
        self.fail(line, *ENDINGS[ending])

    def fail(self, line: OpenLine, code: str, message: str) -> None:
        """Take a line that has no answer."""
        self._add(self.errors, line, error_line(self._name(line), line.custom_id, code, message))

    def _answer(self, line: OpenLine, record: Record, answer: bytes | None, body: bytes | None) -> None:
        output = _output(record, answer, body)
        told = None if output is None else body_of(output, self.request.endpoint, self._key(line))
        if output is None:
            self.fail(line, "answer_lost", "the answer has expired before it was collected")
        elif told is None:
            self.fail(line, "no_answer", "the backend of the workers makes no embeddings")
        else:
            self.usage += _usage_of(told.get("usage"))
            self._add(self.outputs, line, answer_line(self._name(line), line.custom_id, told))

    def _add(self, where: list[bytes], line: OpenLine, written: bytes) -> None:
        where.append(written)
        self.numbers.append(line.number)
        self.size += len(written)

    def _key(self, line: OpenLine) -> int:
        """Return what names a line: 32 random bits of the batch's id, and its number."""
        return int(self.request.id[-8:], 16) << 32 | line.number

    def _name(self, line: OpenLine) -> str:
        return line_id(self._key(line))


def _output(record: Record, answer: bytes | None, body: bytes | None) -> Output | None:
    """Return what the backend gave; None if it has expired."""
    if body is not None:
        try:
            if isinstance(read(body), dict):
                return Output("", body=body)
        except ValueError:
            pass
    if answer is None:
        return None
    usage = _usage_of_record(record)
    counts = JobUsage(usage.input_tokens, usage.output_tokens, usage.total_tokens)
    return Output(answer.decode(errors="replace"), record.get("model"), record.get("finish_reason"), counts)


def _usage_of(told: Any) -> Usage:
    """Count the tokens that an answer names."""
    if not isinstance(told, dict):
        return Usage()
    prompt, completion = _count(told, "prompt_tokens"), _count(told, "completion_tokens")
    return Usage(
        input_tokens=prompt,
        cached_tokens=_count(told.get("prompt_tokens_details"), "cached_tokens"),
        output_tokens=completion,
        reasoning_tokens=_count(told.get("completion_tokens_details"), "reasoning_tokens"),
        total_tokens=_count(told, "total_tokens") or prompt + completion,
    )


def _usage_of_record(record: Record) -> Usage:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return _usage_of({name: int(record[name]) for name in names if record.get(name, "").isdecimal()})


def _count(told: Any, name: str) -> int:
    value = told.get(name) if isinstance(told, dict) else None
    return value if type(value) is int and value >= 0 else 0
