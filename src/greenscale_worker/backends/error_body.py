"""Reads an endpoint's error, in any of the usual shapes."""

import re
from dataclasses import dataclass
from html import unescape
from typing import Any, Final

from greenscale_worker.wire_json import read_leniently

MESSAGES: Final = ("message", "msg", "detail", "error_msg", "status_msg", "error_description", "title")
NAMES: Final = ("code", "type", "status", "error_type", "error_code", "__type", "status_code", "statusCode")
STATUSES: Final = range(400, 600)
TITLE: Final = re.compile(r"<(title|h1)[^>]*>(.*?)</", re.IGNORECASE | re.DOTALL)
HTML: Final = re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)
KEY: Final = re.compile(r"[A-Za-z_][A-Za-z_-]{0,30}")  # no digits: it may be the id of a request
MOST_KEYS: Final = 8


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An endpoint's error. `message` is its words in one line, which may quote a prompt.

    `names` are those for machines: code, type, status, reason. `param` is the parameter that is wrong, `status` the
    HTTP status among the names, `shape` what the body is made of, which does not depend on the prompt.
    """

    message: str = ""
    names: tuple[str, ...] = ()
    param: str | None = None
    status: int | None = None
    shape: str = ""


def read_error(body: bytes) -> ErrorBody:
    """Read the body of an answer that is no success. Accepts any bytes."""
    try:
        value = read_leniently(body)
    except ValueError:
        return _text(body)
    return error_in(value)


def is_html(body: bytes) -> bool:
    """Return whether a body is an HTML page, of a proxy or a portal, instead of an answer."""
    return HTML.match(body) is not None


def error_in(value: Any) -> ErrorBody:
    """Find the error in a JSON value: `{"error": {…}}`, or what other servers send instead."""
    outer = _first(value)
    if not isinstance(outer, dict):
        return ErrorBody(_line(outer), shape=type(outer).__name__)
    inner = _inner(outer)
    error = inner if isinstance(inner, dict) else outer
    message = _message(inner) if inner is not None else _message(outer)
    if isinstance(metadata := error.get("metadata"), dict) and (raw := _line(metadata.get("raw"))):
        message = f"{message}: {raw}"  # OpenRouter: what its provider said
    names = tuple(dict.fromkeys(_names(error) + _names(outer)))
    param = error.get("param")
    return ErrorBody(
        message,
        names,
        param if isinstance(param, str) and param not in ("", "None") else None,  # LiteLLM writes None as text
        next((int(name) for name in names if name.isdecimal() and len(name) == 3 and int(name) in STATUSES), None),  # noqa: PLR2004  digits of a status
        f"{_keys(outer)}/{_keys(error)}" if error is not outer else _keys(outer),
    )


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _inner(outer: dict[str, Any]) -> Any:
    """Return the part of an answer that describes the error, None if that is the whole answer."""
    for key in ("error", "errors", "detail", "base_resp"):  # the last: MiniMax
        if inner := outer.get(key):
            if key == "detail" and isinstance(inner, list):
                return {"message": _fields(inner)}
            return _first(inner)
    return None


def _fields(faults: list[Any]) -> str:
    """Return FastAPI's list of wrong fields as text, without their values."""
    said = []
    for fault in faults:
        if isinstance(fault, dict):
            parts = loc if isinstance(loc := fault.get("loc"), list) else []
            where = ".".join(part for part in parts if isinstance(part, str) and part != "body")
            said.append(": ".join(part for part in (where, _line(fault.get("msg"))) if part))
    return "; ".join(said)


def _message(error: Any) -> str:
    if not isinstance(error, dict):
        return _line(error)
    for key in MESSAGES:
        said = error.get(key)
        if isinstance(said, dict):  # Mistral: the message is FastAPI's answer
            inner = _inner(said) or said
            said = inner.get("message") if isinstance(inner, dict) else inner
        if line := _line(said):
            return line
    return ""


def _names(error: dict[str, Any]) -> list[str]:
    found = [error.get(key) for key in NAMES]
    for part in ("innererror", "details"):  # Azure, Google
        more = error.get(part)
        for each in more if isinstance(more, list) else [more]:
            if isinstance(each, dict):
                found += [each.get("code"), each.get("reason")]
    return [str(name) for name in found if isinstance(name, str | int) and not isinstance(name, bool) and name != ""]


def _keys(value: dict[str, Any]) -> str:
    return ",".join(sorted(key for key in value if KEY.fullmatch(key))[:MOST_KEYS])


def _line(text: object) -> str:
    return " ".join(text.split()) if isinstance(text, str) else ""


def _text(body: bytes) -> ErrorBody:
    text = body.decode(errors="replace")
    if is_html(body):
        title = TITLE.search(text)
        return ErrorBody(_line(unescape(re.sub(r"<[^>]*>", " ", title[2]))) if title else "", shape="html")
    return ErrorBody(_line(text), shape="text" if text.strip() else "empty")
