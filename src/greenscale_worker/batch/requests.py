"""The lines of a batch's input, read one at a time: the request and the key of each."""

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import CHAT, is_chat
from greenscale_worker.wire_json import fault_of, kind_of, read, write

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK: Final = 1024 * 1024
BYTE_ORDER_MARKS: Final = (  # the longer ones first: that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
TAIL: Final = 4096
STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
MEMBER: Final = STRING + rb"\s*+:\s*+(?:" + STRING + rb"|[-+.\w]++)\s*+"
OWN: Final = rb'"(?:custom_id|job_id)"\s*+:\s*+'
OWN_NAME: Final = OWN + rb"(" + STRING + rb")\s*+"
NAME_AT_START: Final = re.compile(rb"\s*+\{\s*+(?:(?!" + OWN + rb")" + MEMBER + rb",\s*+)*+" + OWN_NAME, re.DOTALL)
NAME_AT_END: Final = re.compile(rb"(?<!\\)" + OWN_NAME + rb"(?:,\s*+" + MEMBER + rb")*+\}\s*+$", re.DOTALL)

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
    payload: bytes = b""
    fault: BadInputError | None = None


def read_requests(file: BinaryIO, *, max_bytes: int) -> Iterator[Request | None]:
    """Yield the lines one by one, None for a blank one. Lines over `max_bytes` are not held in memory.

    A line is identified by its custom_id (or job_id), else by its number, which counts blank lines too. About 70 bytes
    are kept for each custom_id, to find duplicates.
    """
    seen: set[int] = set()
    for number, (line, end) in enumerate(_lines(_as_utf8(file), max_bytes), start=1):
        if len(line) > max_bytes:
            yield _too_large(number, line, end, max_bytes)
        else:
            yield _read(number, line, seen) if line.strip() else None


def count_lines(path: Path) -> int | None:
    """Count the lines. Return None if the file can be read only once."""
    if not path.is_file():
        return None
    ends, last = 0, b"\n"
    with path.open("rb") as raw:
        file = _as_utf8(raw)
        while chunk := file.read(CHUNK):
            ends, last = ends + chunk.count(b"\n"), chunk[-1:]
    return ends + (last != b"\n")


def _as_utf8(file: BinaryIO) -> BinaryIO:
    """Convert a file to UTF-8 from the encoding that its byte order mark names; PowerShell's `>` writes UTF-16."""
    start = file.peek(4) if isinstance(file, io.BufferedReader) else b""
    for mark, encoding in BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return io.BufferedReader(_Transcoded(file, encoding))
    return file


class _Transcoded(io.RawIOBase):
    """Reads a file in another encoding as UTF-8. What cannot be decoded becomes U+FFFD."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        while not self._rest:
            chunk = self._file.read(CHUNK)
            self._rest = self._decoder.decode(chunk, not chunk).encode()
            if not chunk and not self._rest:
                return 0
        room = memoryview(buffer).cast("B")
        size = min(len(room), len(self._rest))
        room[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield each line, with its last bytes. A line that is too long is cut, but stays longer than `max_bytes`."""
    first = True
    while line := file.readline(max_bytes + 2):
        rest = end = line
        while not rest.endswith(b"\n") and (rest := file.readline(CHUNK)):
            end = (end + rest)[-TAIL:]
        yield line.rstrip(b"\r\n").removeprefix(codecs.BOM_UTF8 if first else b""), end
        first = False


def _too_large(number: int, line: bytes, end: bytes, max_bytes: int) -> Request:
    """Refuse a line that is not held in memory, by its own name if that is near its start or its end."""
    found = NAME_AT_START.match(line) or NAME_AT_END.search(end)
    try:
        custom_id = _custom_id({"custom_id": read(found[1])}) if found else None
    except (BadInputError, ValueError):
        custom_id = None
    fault = BadInputError("too_large", f"line {number}: longer than {max_bytes} bytes")
    name = f"line-{number}"
    return Request(str(number), custom_id or name, _key(f"fault {name}", line), fault=fault)


def _read(number: int, line: bytes, seen: set[int]) -> Request:
    name, custom_id = f"line-{number}", None
    try:
        data = _object(line)
        custom_id = _custom_id(data)
        asked = _asked(data)
    except BadInputError as error:
        fault = BadInputError(error.code, f"line {number}: {error}")
        return Request(str(number), custom_id or name, _key(f"fault {name}", line), fault=fault)
    if custom_id is not None:
        name = f"id {custom_id}"
        if (mark := _key(name)) in seen:
            message = f"line {number}: an earlier line has the same custom_id; each may be used once"
            key = _key(f"fault {name}", str(number).encode(), line)
            return Request(str(number), custom_id, key, fault=BadInputError("duplicate_custom_id", message))
        seen.add(mark)
    key = _key(name, write(asked, sort=True))
    payload = {"url": CHAT, "body": asked} if "body" in data else asked
    return Request(str(number), custom_id or name, key, write({**payload, "job_id": str(number)}))


def _object(line: bytes) -> dict[str, Any]:
    try:
        data = read(line)
    except ValueError as error:
        raise BadInputError("not_json", f"not JSON: {fault_of(error, line)}; a JSON object is expected") from None
    if not isinstance(data, dict):
        raise BadInputError("not_an_object", f"{kind_of(data)}; a JSON object is expected")
    return data


def _custom_id(data: dict[str, Any]) -> str | None:
    """Remove and return the line's own name; `job_id` is accepted so that files made for `submit` can be used."""
    names = [data.pop(field, None) for field in ("custom_id", "job_id")]
    name = names[0] if names[0] is not None else names[1]
    if name is not None and (not isinstance(name, str) or not name):
        raise BadInputError("bad_line", "custom_id: a string that is not empty is expected")
    return name


def _asked(data: dict[str, Any]) -> dict[str, Any]:
    """Return the request: the body of an OpenAI Batch line, else the line itself."""
    if "body" not in data:
        return data
    method, url, body = data.get("method", "POST"), data.get("url", CHAT), data["body"]
    if method != "POST":
        raise BadInputError("bad_line", "method: only POST is accepted")
    if not is_chat(url):
        raise BadInputError("bad_line", "url: only /v1/chat/completions is accepted")
    if not isinstance(body, dict):
        raise BadInputError("bad_line", f"body: {kind_of(body)}; an object is expected")
    body.pop("job_id", None)  # the line's name, in files made for `submit`
    return body


def _key(name: str, *rest: bytes) -> int:
    """Hash to 64 bits: among a million lines, two collide with a probability of 1 in 37 million."""
    digest = blake2b(name.encode(), digest_size=8)
    for part in rest:
        digest.update(b"\0" + part)
    return int.from_bytes(digest.digest())
