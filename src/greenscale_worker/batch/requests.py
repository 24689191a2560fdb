"""The requests of a file that is run here: the name, the key and the job of each line."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from io import BufferedReader
from pathlib import Path
from typing import Final

from greenscale_worker.batch.lines import Fault, Line, read_line
from greenscale_worker.batch.raw_lines import LONGEST_MARK, RawLine, Splitter, encoding_of
from greenscale_worker.errors import BadInputError
from greenscale_worker.job import CHAT_PATH
from greenscale_worker.job import Path as ApiPath
from greenscale_worker.wire_json import write

CHUNK: Final = 1024 * 1024

# Codes of faults in the line itself: unless it changes, sending it again cannot succeed.
IN_VAIN: Final = frozenset(
    {"not_json", "not_an_object", "bad_line", "bad_field", "bad_request", "too_large", "duplicate_custom_id"}
)


@dataclass(frozen=True, slots=True)
class Request:
    """One line. `key` identifies the line and its content; `payload` is a job's, or there is a `fault` instead."""

    job_id: str
    custom_id: str
    key: int
    path: ApiPath = CHAT_PATH
    payload: bytes = b""
    fault: BadInputError | None = None


def read_requests(file: BufferedReader, *, max_bytes: int) -> Iterator[Request | None]:
    """Yield the lines one by one, None for a blank one. Lines over `max_bytes` are not held in memory.

    A line is identified by its custom_id (or job_id), else by its number, which counts blank lines too. About 70 bytes
    are kept for each custom_id, to find duplicates.
    """
    seen: set[int] = set()
    for raw in _lines(file, max_bytes):
        yield None if raw.is_blank else _request(raw, read_line(raw, max_bytes=max_bytes), seen)


def count_lines(path: Path) -> int | None:
    """Count the lines. Return None if the file can be read only once."""
    if not path.is_file():
        return None
    ends, last = 0, "\n"
    with path.open("rb") as file:
        encoding = encoding_of(file.peek(LONGEST_MARK)[:LONGEST_MARK])
        as_text = codecs.getincrementaldecoder("latin-1" if encoding == "utf-8" else encoding)("replace").decode
        while chunk := file.read(CHUNK):
            text = as_text(chunk)
            ends, last = ends + text.count("\n"), text[-1:] or last
        last = as_text(b"", final=True) or last
    return ends + (last != "\n")


def _lines(file: BufferedReader, max_bytes: int) -> Iterator[RawLine]:
    splitter = Splitter(max_bytes=max_bytes)
    while chunk := file.read1(CHUNK):  # of a pipe, what is there
        yield from splitter.feed(chunk)
    yield from splitter.end()


def _request(raw: RawLine, line: Line, seen: set[int]) -> Request:
    number, name = str(raw.number), f"line-{raw.number}"
    if line.fault is not None:
        return _refused(raw, line.custom_id or name, line.fault, _key(f"fault {name}", raw.text))
    if line.custom_id is not None:
        name = f"id {line.custom_id}"
        if (mark := _key(name)) in seen:
            said = "an earlier line has the same custom_id; each may be used once"
            fault = Fault("duplicate_custom_id", "duplicate_custom_id", said)
            return _refused(raw, line.custom_id, fault, _key(f"fault {name}", number.encode(), raw.text))
        seen.add(mark)
    path = () if line.path == CHAT_PATH else (line.path.encode(),)
    key = _key(name, write(line.body, sort=True), *path)
    return Request(number, line.custom_id or name, key, line.path, line.payload(job_id=number))


def _refused(raw: RawLine, custom_id: str, fault: Fault, key: int) -> Request:
    error = BadInputError(fault.code, f"line {raw.number}: {fault.message}")
    return Request(str(raw.number), custom_id, key, fault=error)


def _key(name: str, *rest: bytes) -> int:
    """Hash to 64 bits: among a million lines, two collide with a probability of 1 in 37 million."""
    digest = blake2b(name.encode(), digest_size=8)
    for part in rest:
        digest.update(b"\0" + part)
    return int.from_bytes(digest.digest())
