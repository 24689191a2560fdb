"""Bad input: one table from which both the tests and docs/wire-contract.md are made.

python -m tests.bad_input            fails where the document is stale
python -m tests.bad_input --write    writes it
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "wire-contract.md"
BEGIN, END = "<!-- bad-input:begin -->", "<!-- bad-input:end -->"
MEBIBYTE: Final = 1024 * 1024
LONGEST_SHOWN: Final = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A payload that no run could make right.

    `code` is that of its dead letter, `job_id` the id under which a record says `failed`, where it has a usable one.
    `example` stands in the document for a payload that is too long to be shown.
    """

    name: str
    payload: bytes
    code: str
    job_id: str | None = None
    example: str = ""

    @property
    def shown(self) -> str:
        """The payload, as the document shows it."""
        if self.example:
            return self.example
        if not self.payload:
            return "*(nothing)*"
        if len(self.payload) > LONGEST_SHOWN:
            raise ValueError(f"{self.name}: an example is needed")
        return f"`{self.payload.decode(errors='backslashreplace')}`".replace("\ufeff", r"\ufeff")


def _raw(name: str, payload: bytes, code: str = "not_json", example: str = "", job_id: str | None = None) -> Case:
    """Make a case of bytes: mostly without a usable id."""
    return Case(name=name, payload=payload, code=code, example=example, job_id=job_id)


def _job(name: str, code: str, example: str = "", **fields: Any) -> Case:
    """Make a case with an id, which is its name."""
    job_id, shown = name.replace(" ", "-"), orjson.dumps(fields).decode()
    payload = orjson.dumps({"job_id": job_id, **fields})
    return Case(name=name, payload=payload, code=code, job_id=job_id, example=example or f"`{shown}`")


def _nested(levels: int) -> str:
    return "[" * levels + "]" * levels


ASK: Final[dict[str, Any]] = {"prompt": "What is 2+2?"}

CASES: Final = (
    _raw("nothing at all", b""),
    _raw("plain text", b"What is 2+2?"),
    _raw("half a job", b'{"job_id":"half","prompt":"What is'),
    _raw("a byte order mark", b'\xef\xbb\xbf{"job_id":"bom","prompt":"Hello"}', job_id="bom"),
    _raw("invalid UTF-8", b'{"job_id":"utf-8","prompt":"caf\xe9"}', job_id="utf-8"),
    _raw(
        "a NUL byte",
        b'{"job_id":"nul-byte","prompt":"a\x00b"}',
        example=r'`{"job_id":"nul-byte","prompt":"a\x00b"}`',
        job_id="nul-byte",
    ),
    _raw("a number out of range", b'{"job_id":"huge","prompt":"Hello","temperature":1e999}', job_id="huge"),
    _raw("NaN", b'{"job_id":"nan","prompt":"Hello","temperature":NaN}', job_id="nan"),
    _raw(
        "deeper than any parser goes",
        b'{"job_id":"abyss","x":' + _nested(50_000).encode() + b"}",
        example="50,000 lists in each other",
    ),
    _raw("a list", b'["What is 2+2?"]', "not_an_object"),
    _raw("a string", b'"What is 2+2?"', "not_an_object"),
    _raw("null", b"null", "not_an_object"),
    _raw("no id", b'{"prompt":"What is 2+2?"}', "bad_job_id"),
    _raw("an id that is null", b'{"job_id":null,"prompt":"Hello"}', "bad_job_id"),
    _raw("an id that is a number", b'{"job_id":7,"prompt":"Hello"}', "bad_job_id"),
    _raw("an empty id", b'{"job_id":"","prompt":"Hello"}', "bad_job_id"),
    _raw("an id with other characters", b'{"job_id":"a/b","prompt":"Hello"}', "bad_job_id"),
    _raw("an id with a line feed", b'{"job_id":"a\\n","prompt":"Hello"}', "bad_job_id"),
    _raw(
        "an id that is too long",
        b'{"job_id":"' + b"x" * 129 + b'","prompt":"Hello"}',
        "bad_job_id",
        "129 letters",
    ),
    _job("above the limit", "too_large", "a prompt of 1 MiB", prompt="x" * MEBIBYTE),
    _raw("above the limit and not JSON", b"x" * (MEBIBYTE + 1), "too_large", "1 MiB and a byte of anything"),
    _raw(
        "far above the limit",
        orjson.dumps({"job_id": "far", "prompt": "x" * 8 * MEBIBYTE}),
        "too_large",
        "a prompt of 8 MiB; the id is the first or the last field",
        job_id="far",
    ),
    _raw(
        "far above the limit, its id amid it",
        orjson.dumps({"x": 1, "job_id": "amid", "prompt": "x" * 8 * MEBIBYTE}),
        "too_large",
        "a prompt of 8 MiB, and the id in another place: it is not looked for",
    ),
    _job("an escaped NUL", "bad_field", prompt="a\0b"),
    _job("deep nesting", "bad_field", "65 lists in each other", prompt="Hello", x=orjson.loads(_nested(65))),
    _job("an unreadable deadline", "bad_field", **ASK, deadline="tomorrow"),
    _job("a deadline without an offset", "bad_field", **ASK, deadline="2030-01-01T00:00:00"),
    _job("a deadline that is a number", "bad_field", **ASK, deadline=4102444800),
    _job("a deadline that has passed", "deadline_passed", **ASK, deadline="2020-01-01T00:00:00Z"),
    _job("another path", "bad_field", **ASK, path="/v1/images/generations"),
    _job("a path that is a number", "bad_field", **ASK, path=1),
    _job(
        "a path that is not that of the url",
        "bad_field",
        example='`{"url":"/v1/embeddings","body":{"input":"x"},"path":"/v1/completions"}`',
        url="/v1/embeddings",
        body={"input": "x"},
        path="/v1/completions",
    ),
    _job("another thing to keep", "bad_field", **ASK, keep="all"),
    _job("tokens that are a word", "bad_field", **ASK, tokens="yes"),
    _job("a notice that is a word", "bad_field", **ASK, notify="yes"),
    _job("tokens of embeddings", "bad_field", path="/v1/embeddings", input="x", tokens=True),
    _job("no prompt", "bad_request"),
    _job("a prompt that is null", "bad_request", prompt=None),
    _job("an empty prompt", "bad_request", prompt=""),
    _job("a blank prompt", "bad_request", prompt=" \n"),
    _job("a prompt that is a number", "bad_request", prompt=4),
    _job("prompt and messages", "bad_request", **ASK, messages=[{"role": "user", "content": "Hello"}]),
    _job("no messages", "bad_request", messages=[]),
    _job("messages that are no list", "bad_request", messages="Hello"),
    _job("a message without a role", "bad_request", messages=[{"content": "Hello"}]),
    _job("a message that is a string", "bad_request", messages=["Hello"]),
    _job("a blank model", "bad_request", **ASK, model=" "),
    _job("a model that is a number", "bad_request", **ASK, model=3),
    _job("a stream", "bad_request", **ASK, stream=True),
    _job("a stream that is a word", "bad_request", **ASK, stream="false"),
    _job("more than one answer", "bad_request", **ASK, n=2),
    _job("n that is no whole number", "bad_request", **ASK, n=1.0),
    _job("a completion without a prompt", "bad_request", path="/v1/completions", messages=[]),
    _job("a completion of two prompts", "bad_request", path="/v1/completions", prompt=["a", "b"]),
    _job("an embedding without an input", "bad_request", path="/v1/embeddings"),
    _job("an embedding of an empty list", "bad_request", path="/v1/embeddings", input=[]),
)

# An id in flight twice, the second time with another payload. The first has the record, and keeps it.
CONFLICT: Final = Case(
    name="an id in flight with another payload",
    payload=b'{"job_id":"twice","prompt":"And 3+3?"}',
    code="conflict",
    example='`{"prompt":"And 3+3?"}`',
)


def table() -> str:
    """Render the table as Markdown."""
    records = [("failed" if case.job_id else "none", case) for case in CASES] + [("that of the first", CONFLICT)]
    lines = [f"| {case.name} | {case.shown} | `{case.code}` | {record} |" for record, case in records]
    return "\n".join(["| what | payload, less its id | code | record |", "|---|---|---|---|", *lines])


def document(text: str) -> str:
    """Put the table into the document, between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    """Write the document, or say whether it is stale."""
    text = DOCUMENT.read_text()
    fresh = document(text)
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(fresh)
    elif fresh != text:
        sys.stderr.write(f"{DOCUMENT.name} is stale: python -m tests.bad_input --write\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
