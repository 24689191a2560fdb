"""The ways in which people write the lines of a batch, and what becomes of each: one table, for tests and for readers.

`python -m tests.support.lines --write docs/batches.md` writes the table into that page; `--check` compares.
"""

import codecs
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

ROOT: Final = Path(__file__).parent.parent.parent
BEGIN: Final = "<!-- Written by `python -m tests.support.lines --write docs/batches.md`; do not edit. -->\n"
END: Final = "<!-- End of what `python -m tests.support.lines` wrote. -->\n"
ENDPOINT: Final = "/v1/chat/completions"
MIB: Final = 1024 * 1024
MOST_LINES: Final = 50_000
MOST_FILE_BYTES: Final = 200 * MIB


@dataclass(frozen=True)
class Local:
    """What the command does: lines that are answered, and that fail, all with `code`, the last of them at `line`."""

    answered: int
    failed: int = 0
    code: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.failed:
            return f"the line fails: `{self.code}`"
        return "answered" if self.answered else "nothing to do, exit code 0"


@dataclass(frozen=True)
class Completed:
    """The batch of the gateway is completed: `failed` of its lines are in the error file, all with `code`."""

    completed: int
    failed: int = 0
    code: str | None = None

    def __str__(self) -> str:
        return f"the line fails: `{self.code}`" if self.failed else "answered"


@dataclass(frozen=True)
class Failed:
    """The batch of the gateway fails before a line is sent; its first error has this code, line and parameter."""

    code: str
    line: int | None = None
    param: str | None = None

    def __str__(self) -> str:
        return f"the batch fails: `{self.code}`"


@dataclass(frozen=True)
class Refused:
    """The upload is refused with this status."""

    status: int

    def __str__(self) -> str:
        return f"the upload is refused: {self.status}"


@dataclass(frozen=True)
class Case:
    """A file: how it is called in the table, in chunks of its bytes, and what becomes of it at both places.

    `written` empty: it is not in the table, as another case speaks for it. `is_large`: only for tests that may be long.
    """

    name: str
    written: str
    chunks: Callable[[], Iterable[bytes]]
    local: Local
    gateway: Completed | Failed | Refused
    why: str = ""
    is_large: bool = False

    def write(self, path: Path) -> None:
        """Write the file."""
        with path.open("wb") as file:
            file.writelines(self.chunks())


def line(custom_id: Any, content: str = "What is 2+2?", **changed: Any) -> dict[str, Any]:
    """Make a line of OpenAI's Batch; what is changed to None is left out."""
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    whole = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body, **changed}
    return {name: value for name, value in whole.items() if value is not None}


def asking(custom_id: str, **parameters: Any) -> dict[str, Any]:
    """Make a line with further parameters in its body."""
    whole = line(custom_id)
    return {**whole, "body": {**whole["body"], **parameters}}


GOOD: Final = line("good")
TWO: Final = (GOOD, line("b"))
BOTH: Final = (Local(2), Completed(2))


def _jsonl(*lines: Any, end: str = "\n", encoding: str = "utf-8", mark: bytes = b"") -> Callable[[], list[bytes]]:
    text = "".join(orjson.dumps(each).decode() + end for each in lines)
    return lambda: [mark + text.encode(encoding)]


def _bytes(after: bytes) -> Callable[[], list[bytes]]:
    """Make a file of a good line and these bytes."""
    return lambda: [orjson.dumps(GOOD) + b"\n" + after]


def _sized(size: int) -> Callable[[], list[bytes]]:
    """Make a file of a good line and one of so many bytes, without its line end."""
    room = size - len(orjson.dumps(line("b", "")))
    return _jsonl(GOOD, line("b", "x" * room))


def _many(number: int) -> Iterator[bytes]:
    return (orjson.dumps(line(f"a-{each}")) + b"\n" for each in range(number))


def _large(size: int) -> Iterator[bytes]:
    """Make lines of half a MiB, and a last one that fills the file up to `size`."""
    number, each = 0, MIB // 2
    while size:
        length = size if size < 2 * each else each
        bare = len(orjson.dumps(line(f"a-{number:06}", "")))
        yield orjson.dumps(line(f"a-{number:06}", "x" * (length - bare - 1))) + b"\n"
        number, size = number + 1, size - length


def _one_bad(code: str) -> Local:
    return Local(1, 1, code, 2)


def _of_line(  # noqa: PLR0913, PLR0917  the columns of the table
    name: str, written: str, given: Any, local: Local, gateway: Completed | Failed, why: str = ""
) -> Case:
    """Make a case of a line behind a good one."""
    chunks = _bytes(given) if isinstance(given, bytes) else _jsonl(GOOD, given)
    return Case(name, written, chunks, local, gateway, why)


def _deep(levels: int) -> bytes:
    nested = b"[" * levels + b"]" * levels
    return orjson.dumps(line("b"))[:-2] + b',"deep":' + nested + b"}}\n"


FILES: Final = [
    Case("crlf", "lines that end with CR LF", _jsonl(*TWO, end="\r\n"), *BOTH),
    Case("no-newline", "no line end after the last line", lambda: [b"\n".join(map(orjson.dumps, TWO))], *BOTH),
    Case(
        "blank-lines",
        "blank lines, also of spaces only",
        lambda: [b"\n   \n" + orjson.dumps(GOOD) + b"\n\r\n\t\n" + orjson.dumps(line("b")) + b"\n\n"],
        *BOTH,
        why="They are passed over; line numbers count them.",
    ),
    Case("bom", "a byte order mark", _jsonl(*TWO, mark=codecs.BOM_UTF8), *BOTH),
    Case(
        "bom-amid",
        "a byte order mark amid the file",
        lambda: [codecs.BOM_UTF8.join([b"", *(orjson.dumps(each) + b"\n" for each in TWO)])],
        *BOTH,
        why="Two files were joined.",
    ),
    Case(
        "utf-16-le",
        "UTF-16 or UTF-32 with its byte order mark",
        _jsonl(*TWO, end="\r\n", encoding="utf-16-le", mark=codecs.BOM_UTF16_LE),
        *BOTH,
        why="PowerShell's `>` writes UTF-16.",
    ),
    Case("utf-16-be", "", _jsonl(*TWO, encoding="utf-16-be", mark=codecs.BOM_UTF16_BE), *BOTH),
    Case("utf-32-le", "", _jsonl(*TWO, encoding="utf-32-le", mark=codecs.BOM_UTF32_LE), *BOTH),
    Case("empty", "an empty file", lambda: [b""], Local(0), Failed("empty_file")),
    Case("only-blank", "a file of blank lines only", lambda: [b"\n \r\n\n"], Local(0), Failed("empty_file")),
    Case(
        "old-mac",
        "lines that end with CR alone",
        lambda: [b"\r".join(map(orjson.dumps, TWO))],
        Local(0, 1, "not_json", 1),
        Failed("invalid_json_line", 1),
        "It is one line, which is not JSON.",
    ),
    Case(
        "50001-lines",
        "50,001 lines",
        lambda: _many(MOST_LINES + 1),
        Local(MOST_LINES + 1),
        Failed("too_many_tasks", MOST_LINES + 1),
        "The command has no limit.",
        is_large=True,
    ),
    Case(
        "200-mib-and-1",
        "200 MiB and a byte",
        lambda: _large(MOST_FILE_BYTES + 1),
        Local(2 * 200),
        Refused(413),
        "The command has no limit.",
        is_large=True,
    ),
]

NAMES: Final = [
    _of_line(
        "numeric-custom-id",
        "`custom_id` is a number",
        line(7),
        _one_bad("bad_line"),
        Failed("invalid_type", 2, "custom_id"),
        'Its answer would be called `"7"`, which no longer matches the number where you look it up.',
    ),
    _of_line(
        "no-custom-id",
        "no `custom_id`",
        line(None),
        Local(2),
        Failed("missing_required_parameter", 2, "custom_id"),
        "The command calls a line by its number, `line-2`; answers of a batch come in any order, as OpenAI's do.",
    ),
    _of_line(
        "empty-custom-id",
        "an empty `custom_id`",
        line(""),
        _one_bad("bad_line"),
        Failed("invalid_value", 2, "custom_id"),
    ),
    _of_line(
        "duplicate-custom-id",
        "a `custom_id` of an earlier line",
        line("good", "What is 2+3?"),
        _one_bad("duplicate_custom_id"),
        Failed("duplicate_custom_id", 2, "custom_id"),
        "Nobody could tell the two answers apart.",
    ),
    _of_line("long-custom-id", "a `custom_id` of 10,000 characters", line("é" * 10_000), *BOTH),
]

REQUESTS: Final = [
    _of_line("url-with-host", "`url` with a host", line("b", url="https://api.openai.com/v1/chat/completions"), *BOTH),
    _of_line("url-with-slash", "`url` with a slash at its end", line("b", url=f"{ENDPOINT}/"), *BOTH),
    _of_line("url-of-azure", "`url` without `/v1`, as Azure's", line("b", url="/chat/completions"), *BOTH),
    _of_line("no-url", "no `url`", line("b", url=None), *BOTH, why="It is that of the batch, or chat completions."),
    _of_line("no-method", "no `method`", line("b", method=None), *BOTH, why="There is only one."),
    _of_line(
        "unknown-url",
        "`url` of an API that is not served, such as `/v1/responses`",
        line("b", url="/v1/responses"),
        _one_bad("bad_line"),
        Failed("invalid_url", 2, "url"),
    ),
    _of_line(
        "other-endpoint",
        "`url` of another endpoint than the batch's",
        line("b", url="/v1/completions", body={"model": "m", "prompt": "What is 2+2?"}),
        Local(2),
        Failed("url_mismatch", 2, "url"),
        "The command asks each line's own.",
    ),
    _of_line(
        "method-get",
        "`method` is not `POST`",
        line("b", method="GET"),
        _one_bad("bad_line"),
        Failed("invalid_method", 2, "method"),
    ),
    _of_line(
        "short",
        'a short line, `{"custom_id": …, "prompt": …}`',
        {"custom_id": "b", "prompt": "What is 2+2?"},
        Local(2),
        Failed("missing_required_parameter", 2, "body"),
        "What it asks depends on settings of the command.",
    ),
    _of_line(
        "body-is-text",
        "`body` is not an object",
        line("b", body="What is 2+2?"),
        _one_bad("bad_line"),
        Failed("invalid_type", 2, "body"),
    ),
    _of_line(
        "own-model", "a `model` of its own", asking("b", model="another"), *BOTH, why="OpenAI wants one model a file."
    ),
    _of_line(
        "unknown-parameter", "a parameter that nobody knows", asking("b", unheard_of=[1]), *BOTH, why="It is sent."
    ),
    _of_line(
        "stream",
        "`stream` is true",
        asking("b", stream=True),
        _one_bad("bad_request"),
        Completed(1, 1, "bad_request"),
        "What is wrong in a body costs that line alone, as with OpenAI.",
    ),
    _of_line(
        "several-answers",
        "`n` is more than 1",
        asking("b", n=2),
        _one_bad("bad_request"),
        Completed(1, 1, "bad_request"),
    ),
    _of_line(
        "no-messages",
        "no `messages`",
        line("b", body={"model": "m"}),
        _one_bad("bad_request"),
        Completed(1, 1, "bad_request"),
    ),
]

SIZES: Final = [
    Case("1-mib-less-room", "a line of 1 MiB less 1 KiB", _sized(MIB - 1024), *BOTH),
    Case(
        "1-mib",
        "a line of 1 MiB",
        _sized(MIB),
        Local(2),
        Failed("line_too_large", 2),
        "A job is at most 1 MiB (`GREENSCALE_MAX_PAYLOAD_BYTES`); its id, tenant and deadline need room.",
    ),
    Case(
        "1-mib-and-1",
        "a line of 1 MiB and a byte",
        _sized(MIB + 1),
        _one_bad("too_large"),
        Failed("line_too_large", 2),
        "It keeps its `custom_id`, and is not held in memory.",
    ),
]

NOT_JSON: Final = (_one_bad("not_json"), Failed("invalid_json_line", 2))
BAD_FIELD: Final = (_one_bad("bad_field"), Completed(1, 1, "bad_field"))

JSON: Final = [
    _of_line("not-json", "not JSON", b"What is 2+2?\n", *NOT_JSON),
    _of_line("cut-off", "half a line", orjson.dumps(line("b"))[:-20], *NOT_JSON),
    _of_line("array", "a JSON array", b'["What is 2+2?"]\n', _one_bad("not_an_object"), Failed("invalid_json_line", 2)),
    _of_line("latin-1", "not UTF-8", orjson.dumps(line("b", "é")).decode().encode("latin-1"), *NOT_JSON),
    _of_line(
        "nan",
        "`NaN` or `Infinity`, as Python's `json` writes them",
        orjson.dumps(asking("b", seed=1)).replace(b":1}", b":NaN}"),
        *NOT_JSON,
    ),
    _of_line(
        "large-number",
        "a whole number beyond 64 bits",
        orjson.dumps(asking("b", seed=1)).replace(b":1}", b":" + b"9" * 25 + b"}"),
        *BOTH,
        why="It keeps its digits.",
    ),
    _of_line("nested", "nested more than 64 levels deep", _deep(70), *BAD_FIELD),
    _of_line("nested-deeply", "nested more than 1,024 levels deep", _deep(100_000), *NOT_JSON),
    _of_line(
        "duplicate-key",
        "a key twice in an object",
        orjson.dumps(line("b")).replace(b'{"custom_id"', b'{"custom_id":"a","custom_id"'),
        *BOTH,
        why="The last one counts.",
    ),
    _of_line(
        "separators",
        "U+2028, U+2029 or U+0085 in a string",
        line("b", "a\u2028b\u2029c\u0085d"),
        *BOTH,
        why="A line ends with a line feed, and with nothing else.",
    ),
    _of_line(
        "surrogate",
        r"half a character, `\ud83d`",
        orjson.dumps(line("b", "@")).replace(b"@", rb"\ud83d"),
        *BOTH,
        why="U+FFFD is sent: text was cut amid an emoji.",
    ),
    _of_line("nul", r"`\u0000` in a string", line("b", "\0"), *BAD_FIELD),
    _of_line("nul-byte", "a byte that is 0", orjson.dumps(line("b", "@")).replace(b"@", b"\0"), *NOT_JSON),
]

CASES: Final = [*FILES, *NAMES, *REQUESTS, *SIZES, *JSON]


def table() -> str:
    """Return the table, in Markdown."""
    rows = ["| In the file | `greenscale-worker batch` | A batch of the gateway | |\n", "|---|---|---|---|\n"]
    rows += [f"| {case.written} | {case.local} | {case.gateway} | {case.why} |\n" for case in CASES if case.written]
    return "".join(rows)


def written(text: str) -> str:
    """Return a page with the table made anew. Raises ValueError where it has no place for one."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for the table: {BEGIN.strip()} and {END.strip()} are missing")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(option: str, name: str) -> int:
    """Write the table into a page (`--write`), or say whether the one in there is fresh (`--check`)."""
    path = ROOT / name
    text = written(path.read_text())
    if option == "--write":
        path.write_text(text)
    elif text != path.read_text():
        sys.stderr.write(f"{name} is stale: make docs\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
