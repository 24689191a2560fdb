"""A line of a batch's input: what it asks, or what is wrong with it."""

import re
from dataclasses import dataclass, field
from typing import Any, Final

from greenscale_worker.batch.raw_lines import RawLine
from greenscale_worker.job import CHAT_PATH, PATHS, Path, path_of
from greenscale_worker.wire_json import fault_of, kind_of, read, write

STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
MEMBER: Final = STRING + rb"\s*+:\s*+(?:" + STRING + rb"|[-+.\w]++)\s*+"
OWN: Final = rb'"(?:custom_id|job_id)"\s*+:\s*+'
OWN_NAME: Final = OWN + rb"(" + STRING + rb")\s*+"
NAME_AT_START: Final = re.compile(rb"\s*+\{\s*+(?:(?!" + OWN + rb")" + MEMBER + rb",\s*+)*+" + OWN_NAME, re.DOTALL)
NAME_AT_END: Final = re.compile(rb"(?<!\\)" + OWN_NAME + rb"(?:,\s*+" + MEMBER + rb")*+\}\s*+$", re.DOTALL)
PATHS_ACCEPTED: Final = ", ".join(PATHS)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a line cannot be sent. `code` is that of `greenscale-worker batch`, `openai_code` that of OpenAI's Batch."""

    code: str
    openai_code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it was read. `custom_id` is None if it has none, or none that can be used.

    `body` is the whole request where the line is one of OpenAI's Batch; else (`is_short`) the parameters beside each
    other, for which the backend has defaults. `url` is the path that the line names, None if it names none.
    """

    number: int
    custom_id: str | None
    body: dict[str, Any] = field(default_factory=dict)
    url: Path | None = None
    is_short: bool = False
    fault: Fault | None = None

    @property
    def path(self) -> Path:
        """The path to ask, chat completions by default."""
        return self.url or CHAT_PATH

    def payload(self, **envelope: Any) -> bytes:
        """Return the job, with further fields beside it, such as its `job_id`."""
        asked = self.body if self.is_short else {"url": self.path, "body": self.body}
        return write({**asked, **envelope})


def read_line(raw: RawLine, *, max_bytes: int) -> Line:
    """Read a line that is not blank. `max_bytes` is of its text, in UTF-8 without the line end. Raises nothing."""
    if len(raw.text) > max_bytes:
        fault = Fault("too_large", "line_too_large", f"longer than {max_bytes} bytes")
        return Line(raw.number, _name_of_part(raw), fault=fault)
    custom_id = None
    try:
        data = _object(raw.text)
        custom_id = _custom_id(data)
        return _asked(raw.number, custom_id, data)
    except _FaultError as error:
        return Line(raw.number, custom_id, fault=error.fault)


class _FaultError(Exception):
    def __init__(self, code: str, openai_code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.fault = Fault(code, openai_code, message, param)


def _object(text: bytes) -> dict[str, Any]:
    try:
        data = read(text)
    except ValueError as error:
        said = f"not JSON: {fault_of(error, text)}; a JSON object is expected"
        raise _FaultError("not_json", "invalid_json_line", said) from None
    if not isinstance(data, dict):
        raise _FaultError("not_an_object", "invalid_json_line", f"{kind_of(data)}; a JSON object is expected")
    return data


def _custom_id(data: dict[str, Any]) -> str | None:
    """Remove and return the line's own name; `job_id` is accepted so that files made for `submit` can be used."""
    names = [data.pop(field, None) for field in ("custom_id", "job_id")]
    name = names[0] if names[0] is not None else names[1]
    if name is not None and (not isinstance(name, str) or not name):
        code = "invalid_value" if name == "" else "invalid_type"
        said = (
            f"custom_id: {'an empty string' if name == '' else kind_of(name)}; a string that is not empty is expected"
        )
        raise _FaultError("bad_line", code, said, "custom_id")
    return name


def _asked(number: int, custom_id: str | None, data: dict[str, Any]) -> Line:
    if "body" not in data:
        return Line(number, custom_id, data, is_short=True)
    method, url, body = data.get("method", "POST"), data.get("url"), data["body"]
    if method != "POST":
        raise _FaultError("bad_line", "invalid_method", "method: only POST is accepted", "method")
    path = path_of(url)
    if url is not None and path is None:
        raise _FaultError("bad_line", "invalid_url", f"url: {PATHS_ACCEPTED} are accepted", "url")
    if not isinstance(body, dict):
        raise _FaultError("bad_line", "invalid_type", f"body: {kind_of(body)}; an object is expected", "body")
    body.pop("job_id", None)  # the line's name, in files made for `submit`
    return Line(number, custom_id, body, path)


def _name_of_part(raw: RawLine) -> str | None:
    """Find the name of a line of which only start and end are held."""
    found = NAME_AT_START.match(raw.text) or NAME_AT_END.search(raw.tail)
    try:
        name = read(found[1]) if found else None
    except ValueError:
        return None
    return name or None
