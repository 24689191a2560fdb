r"""JSON as it comes and goes on the wire: fast where it is plain, and never poorer than what was written.

orjson reads whole numbers beyond 64 bits as floats and refuses half a surrogate pair (`\ud83d`), which `json.dumps`,
`JSON.stringify` and answers cut amid an emoji hold. Only text in which such a thing may be is read a second time.
"""

import json
import math
import re
from typing import Any, Final, NoReturn

import orjson

# So many digits in a row may exceed 64 bits; within strings they only cost a second parse.
DIGITS: Final = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
MANY_DIGITS: Final = b"0" * 19
# Matches every escape, so that none is found inside another: a surrogate pair, half of one (group 1), any other.
ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
KINDS: Final[dict[type, str]] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
REPLACEMENT: Final = rb"\ufffd"


def read(raw: bytes) -> Any:
    """Parse JSON: whole numbers of any size, half a surrogate pair as U+FFFD. Raises ValueError if it is not JSON."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raw = _with_whole_characters(raw)
        if not _may_hold_large_number(raw):  # otherwise it may be a number too large for orjson even as a float
            return orjson.loads(raw)
        return _read(raw.decode(), strict=True)
    return value if not _may_hold_large_number(raw) else _read(raw.decode(), strict=True)


def read_leniently(raw: bytes) -> Any:
    """Parse JSON with common deviations.

    NaN, Infinity and numbers out of range become null, broken UTF-8 is replaced, control characters in strings and a
    byte order mark are accepted. Raises ValueError for anything else.
    """
    try:
        return read(raw)
    except ValueError:
        return _read(_with_whole_characters(raw).decode("utf-8-sig", "replace"), strict=False)


def fault_of(error: ValueError, raw: bytes) -> str:
    """Return what is wrong with bytes that `read` has refused, and where, without quoting them."""
    if not raw.strip():
        return "it is empty"
    try:
        text = raw.decode()
    except UnicodeDecodeError as broken:
        return f"byte {broken.start} is not UTF-8"
    if not isinstance(error, json.JSONDecodeError):
        return "it is nested too deeply, or has a number that is none of JSON"
    at = len(text[: error.pos].encode())
    return f"it breaks off after {at} bytes" if at >= len(raw.rstrip()) else f"byte {at} is unexpected"


def kind_of(value: Any) -> str:
    """Return JSON's name for the type of a value."""
    return KINDS[type(value)]


def write(value: Any, *, sort: bool = False) -> bytes:
    """Return compact JSON, whole numbers of any size. Raises TypeError or ValueError for what JSON cannot hold."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort else None)
    except orjson.JSONEncodeError:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=sort, separators=(",", ":"))
        except RecursionError:
            raise ValueError("nested too deeply") from None
        return text.encode()


def _may_hold_large_number(raw: bytes) -> bool:
    return MANY_DIGITS in raw.translate(DIGITS)


def _with_whole_characters(raw: bytes) -> bytes:
    return ESCAPE.sub(lambda escape: REPLACEMENT if escape[1] else escape[0], raw)


def _read(text: str, *, strict: bool) -> Any:
    def number(digits: str) -> float | None:
        value = float(digits)
        if math.isfinite(value):
            return value
        return refuse(digits) if strict else None

    def refuse(what: str) -> NoReturn:
        raise ValueError(f"{what[:20]} is not a number of JSON")

    try:
        return json.loads(text, strict=strict, parse_float=number, parse_constant=refuse if strict else lambda _: None)
    except RecursionError:
        raise ValueError("nested too deeply") from None
