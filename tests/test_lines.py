"""The lines of a batch as people write them: what the splitter, the checker and the command make of each."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenscale_worker.batch import raw_lines
from greenscale_worker.batch.checking import MOST_FAULTS, MOST_LINES, BatchFault, Checker
from greenscale_worker.batch.lines import read_line
from greenscale_worker.batch.output import answer_line, error_line, line_id, read_output_line
from greenscale_worker.batch.raw_lines import Place, RawLine, Splitter, as_utf8
from greenscale_worker.job import CHAT_PATH, decode
from tests.support.cases import Cases, at_once
from tests.support.desk import Desk, a_desk
from tests.support.lines import CASES, ENDPOINT, MIB, Case, Completed, Failed, Refused, line

SMALL = [case for case in CASES if not case.is_large]
CHECKED = [case for case in CASES if not isinstance(case.gateway, Refused)]
CHUNKS = [1, 3, 1000, MIB]


def split(chunks: Iterable[bytes], *, max_bytes: int = MIB, place: Place | None = None) -> Iterator[RawLine]:
    splitter = Splitter(max_bytes=max_bytes, place=place)
    for chunk in chunks:
        yield from splitter.feed(chunk)
    yield from splitter.end()


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


# The command


async def outcome(desk: Desk, case: Case) -> None:
    """Run the command over the file of a case, and compare."""
    case.write(desk.source)
    desk.environment["GREENSCALE_BACKEND"] = "echo"
    result = await desk.batch("--json")
    figures = orjson.loads(result.out)
    assert (figures["answered"], figures["failed"]) == (case.local.answered, case.local.failed), result.err
    assert result.code == (1 if case.local.failed else 0)
    answers = desk.answers()
    assert len(answers) == case.local.answered + case.local.failed
    assert {answer["error"]["code"] for answer in answers if answer["error"]} == {case.local.code} - {None}
    if case.local.line is not None:
        assert f"line {case.local.line}: " in result.err


@at_once
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
async def test_the_command_does_with_a_file_what_the_table_says(cases: Cases, case: Case) -> None:
    directory = cases.directory / case.name
    directory.mkdir()
    async with a_desk(directory) as desk:
        await outcome(desk, case)


@pytest.mark.long
@pytest.mark.parametrize("case", [case for case in CASES if case.is_large], ids=lambda case: case.name)
async def test_the_command_does_with_a_large_file_what_the_table_says(tmp_path: Path, case: Case) -> None:
    async with a_desk(tmp_path) as desk:
        await outcome(desk, case)


# The checker


@pytest.mark.parametrize("case", CHECKED, ids=lambda case: case.name)
def test_a_batch_fails_before_it_begins_or_not_as_the_table_says(case: Case) -> None:
    checker = Checker(ENDPOINT, max_bytes=MIB)
    lines = [asked for raw in split(case.chunks()) if (asked := checker.check(raw)) is not None]
    checker.end()
    if isinstance(case.gateway, Failed):
        first = checker.faults[0]
        assert (first.code, first.line, first.param) == (case.gateway.code, case.gateway.line, case.gateway.param)
        assert first.message
    else:
        assert isinstance(case.gateway, Completed)
        assert checker.faults == []
        assert len(lines) == checker.total == case.gateway.completed + case.gateway.failed


def test_the_faults_of_a_batch_are_fifty_at_most() -> None:
    checker = Checker(CHAT_PATH, max_bytes=MIB)
    for raw in split([b"bad\n" * 100]):
        checker.check(raw)
    assert [fault.line for fault in checker.faults] == list(range(1, MOST_FAULTS + 1))
    assert checker.is_over


def test_a_batch_may_have_as_many_lines_as_are_said_beside_blank_ones() -> None:
    checker = Checker(CHAT_PATH, max_bytes=MIB, most_lines=3)
    for raw in split(orjson.dumps(line(str(number))) + b"\n\n" for number in range(3)):
        assert (checker.check(raw) is None) == raw.is_blank
    checker.end()
    assert (checker.total, checker.faults, checker.is_over) == (3, [], False)
    (raw,) = split([orjson.dumps(line("4"))])
    assert checker.check(raw) is None
    assert checker.faults == [BatchFault("too_many_tasks", "more than 3 lines; make several batches of them", 1)]
    assert MOST_LINES == 50_000


def test_a_line_whose_numbers_grow_must_fit_as_a_job() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"?"}],"logit_bias":[%b]}' % b",".join([b"9e15"] * 500)
    text = b'{"custom_id":"a","url":"/v1/chat/completions","body":%b}' % body
    checker = Checker(CHAT_PATH, max_bytes=len(text) + 1024)
    for raw in split([text]):
        assert checker.check(raw) is None
    assert [fault.code for fault in checker.faults] == ["line_too_large"]


# The splitter


@pytest.mark.parametrize("size", CHUNKS)
@pytest.mark.parametrize("case", [case for case in SMALL if "mib" not in case.name], ids=lambda case: case.name)
def test_chunks_of_any_size_make_the_same_lines_and_each_is_where_it_says(case: Case, size: int) -> None:
    data = b"".join(case.chunks())
    lines = list(split(in_pieces(data, size)))
    assert lines == list(split([data]))
    assert b"".join(data[each.offset : each.offset + each.length] for each in lines) == data
    assert [each.number for each in lines] == list(range(1, len(lines) + 1))
    places = Splitter(max_bytes=MIB)
    list(places.feed(data[:4]))
    encoding = places.place.encoding or "utf-8"
    for each in lines:
        assert as_utf8(data[each.offset : each.offset + each.length], encoding) == each.text


@given(st.lists(st.text(alphabet="a\u0a0a\u0a00\u2028\U0001f600 ", max_size=5), max_size=8), st.integers(1, 9))
def test_a_splitter_reads_on_behind_any_line(texts: list[str], size: int) -> None:
    lines_of_file = ["first", *texts]
    for encoding, mark in (("utf-8", ""), ("utf-16-le", "\ufeff"), ("utf-16-be", "\ufeff"), ("utf-32-be", "\ufeff")):
        data = (mark + "\n".join(lines_of_file)).encode(encoding)
        splitter = Splitter(max_bytes=100)
        lines, places = [], []
        for chunk in in_pieces(data, size):
            for each in splitter.feed(chunk):
                lines.append(each)
                places.append(splitter.place)
        lines += splitter.end()
        expected = [text.encode() for text in lines_of_file]
        assert [each.text for each in lines] == expected[: None if expected[-1] else -1]
        for at, place in enumerate(places):
            rest = list(split(in_pieces(data[place.offset :], size), max_bytes=100, place=place))
            assert rest == lines[at + 1 :]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-32-be"])
def test_of_a_line_that_is_too_long_only_its_ends_are_held(encoding: str) -> None:
    name = b'{"custom_id":"a","body":{"prompt":"'.decode()
    text = ("\ufeff" if encoding != "utf-8" else "") + name + "x" * 300_000 + '"},"n":1}\n{}'
    first, second = split(in_pieces(text.encode(encoding), 1000), max_bytes=1000)
    assert 1000 < len(first.text) < 5000
    assert first.tail.endswith(b'"},"n":1}')
    assert read_line(first, max_bytes=1000).custom_id == "a"
    assert second.text == b"{}"


# Jobs and lines of output


def test_the_job_of_a_line_is_what_its_body_says() -> None:
    asked = line("b", url="https://host/v1/embeddings", body={"input": "x", "metadata": {"a": "b"}})
    (raw,) = split([orjson.dumps(asked)])
    payload = read_line(raw, max_bytes=MIB).payload(job_id="x.1", keep="body", deadline="2030-01-02T03:04:05Z")
    job = decode(payload, max_bytes=MIB)
    assert (job.path, job.payload, job.verbatim, job.keep) == ("/v1/embeddings", asked["body"], True, "body")
    assert (job.job_id, job.metadata) == ("x.1", None)


def test_lines_of_output_are_those_of_openai() -> None:
    body: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "choices": []}
    for given_body in (body, orjson.dumps(body)):
        assert orjson.loads(answer_line(line_id(7), "é", given_body)) == {
            "id": "batch_req_0000000000000007",
            "custom_id": "é",
            "response": {"status_code": 200, "request_id": "chatcmpl-1", "body": body},
            "error": None,
        }
    assert orjson.loads(error_line("batch_req_1", "a", "batch_expired", "It was too late.")) == {
        "id": "batch_req_1",
        "custom_id": "a",
        "response": None,
        "error": {"code": "batch_expired", "message": "It was too late."},
    }
    assert read_output_line(b"{}") is None


def test_a_file_of_blank_lines_is_read_to_a_bound_and_is_one_fault() -> None:
    checker = Checker(CHAT_PATH, max_bytes=MIB)
    numbers = [raw_lines.MOST_LINES, raw_lines.MOST_LINES + 1, raw_lines.MOST_LINES + 2]
    for number in numbers:
        assert not checker.is_over or number == numbers[-1]
        assert checker.check(RawLine(number, 0, 1, b"")) is None
    checker.end()
    assert [(fault.code, fault.line) for fault in checker.faults] == [("too_many_tasks", raw_lines.MOST_LINES + 1)]
