"""The lines of a batch's input, one at a time: what each asks for, and what it is known by."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Final

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import CHAT, is_chat
from greenscale_worker.wire_json import read, write

CHUNK: Final = 1024 * 1024
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# The name of a line of which only the beginning is kept: before it, members that are plain texts (method, url).
NAME: Final = re.compile(
    rb'\s*\{\s*(?:"[^"\\]*"\s*:\s*"[^"\\]*"\s*,\s*)*?"custom_id"\s*:\s*("(?:[^"\\]|\\.){1,1000}")', re.DOTALL
)

# Codes of faults that lie in the line itself: as long as it does not change, asking again is in vain.
IN_VAIN: Final = frozenset(
    {"not_json", "not_an_object", "bad_line", "bad_field", "bad_request", "too_large", "duplicate_custom_id"}
)


@dataclass(frozen=True, slots=True)
class Request:
    """One line. `key` identifies it and what it asks for; `payload` is a job's, or there is a `fault` instead."""

    job_id: str
    custom_id: str
    key: int
    payload: bytes = b""
    fault: BadInputError | None = None


def read_requests(file: BinaryIO, *, max_bytes: int) -> Iterator[Request | None]:
    """Read the lines one by one; None for a blank one. Lines over `max_bytes` are not held in memory.

    A line is known by its custom_id (or job_id), else by its number: blank lines count, too. Of the custom_ids
    about 70 bytes each are kept, to find duplicates.
    """
    seen: set[int] = set()
    for number, line in enumerate(_lines(file, max_bytes), start=1):
        yield _read(number, line, seen, max_bytes) if line.strip() else None


def count_lines(path: Path) -> int | None:
    """Count the lines; None where the file can be read only once."""
    if not path.is_file():
        return None
    ends, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            ends, last = ends + chunk.count(b"\n"), chunk[-1:]
    return ends + (last != b"\n")


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """Lines, of which those too long are cut off: one byte too much tells."""
    first = True
    while line := file.readline(max_bytes + 2):
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(CHUNK)):
            pass
        yield line.rstrip(b"\r\n").removeprefix(BYTE_ORDER_MARK if first else b"")
        first = False


def _read(number: int, line: bytes, seen: set[int], max_bytes: int) -> Request:
    name, custom_id = f"line-{number}", None
    try:
        data = _object(line, max_bytes)
        custom_id = _custom_id(data)
        asked = _asked(data)
    except BadInputError as error:
        custom_id = custom_id or error.job_id
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


def _object(line: bytes, max_bytes: int) -> dict[str, Any]:
    if len(line) > max_bytes:
        raise BadInputError("too_large", f"longer than {max_bytes} bytes", job_id=_cut_custom_id(line))
    try:
        data = read(line)
    except ValueError as error:
        raise BadInputError("not_json", f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadInputError("not_an_object", f"a JSON object is expected, not {type(data).__name__}")
    return data


def _custom_id(data: dict[str, Any]) -> str | None:
    """Take the line's own name out; `job_id` is accepted so that files made for `submit` can be used."""
    names = [data.pop(field, None) for field in ("custom_id", "job_id")]
    name = names[0] if names[0] is not None else names[1]
    if name is not None and (not isinstance(name, str) or not name):
        raise BadInputError("bad_line", "custom_id: a string that is not empty is expected")
    return name


def _cut_custom_id(line: bytes) -> str | None:
    """Find the name in a line whose end was not read."""
    found = NAME.match(line)
    with suppress(ValueError):
        return str(read(found[1])) if found else None
    return None


def _asked(data: dict[str, Any]) -> dict[str, Any]:
    """What to ask: the body of an OpenAI Batch line, else the line itself."""
    if "body" not in data:
        return data
    method, url, body = data.get("method", "POST"), data.get("url", CHAT), data["body"]
    if method != "POST":
        raise BadInputError("bad_line", "method: only POST is accepted")
    if not is_chat(url):
        raise BadInputError("bad_line", "url: only /v1/chat/completions is accepted")
    if not isinstance(body, dict):
        raise BadInputError("bad_line", f"body: an object is expected, not {type(body).__name__}")
    body.pop("job_id", None)  # a name, as it stands in files made for `submit`
    return body


def _key(name: str, *rest: bytes) -> int:
    """Hash to 64 bits: among a million lines, two are taken for one with a probability of 1 in 37 million."""
    digest = blake2b(name.encode(), digest_size=8)
    for part in rest:
        digest.update(b"\0" + part)
    return int.from_bytes(digest.digest())
