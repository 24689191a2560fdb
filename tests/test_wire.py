"""What a producer wrote, and what becomes a job of it."""

import json
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import Job, decode
from greenscale_worker.wire_json import read, read_leniently, write

TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def job(**fields: Any) -> Job:
    return decode(orjson.dumps({"job_id": "1", "prompt": "?", **fields}), max_bytes=10_000)


NOON: Final = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2026-11-27T12:00:00", NOON),
        ("2026-11-27 12:00:00", NOON),
        ("2026-11-27T12:00:00Z", NOON),
        ("2026-11-27T14:00:00+02:00", NOON),
        (NOON.timestamp(), NOON),
        ("yesterday", None),
        ("", None),
        ([1], None),
        (1e300, None),
        (None, None),
    ],
)
def test_a_time_that_is_only_echoed_kills_no_job(written: Any, expected: datetime | None) -> None:
    assert job(created_at=written).created_at == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"a": "b"}, {"a": "b"}),
        ({"a": 7, "b": True, "c": None, "d": {"e": [1]}}, {"a": "7", "b": "true", "c": "null", "d": '{"e":[1]}'}),
        (["a"], None),
        ("a", None),
        (7, None),
    ],
)
def test_metadata_kill_no_job(written: Any, expected: dict[str, str] | None) -> None:
    assert job(metadata=written).metadata == expected


@pytest.mark.parametrize("written", ["00-1-2-03", "", 7, TRACE.upper(), TRACE + "-1"])
def test_a_trace_context_that_cannot_be_read_is_left_out(written: Any) -> None:
    assert job(traceparent=written, metadata={"a": "b"}).traceparent is None
    assert job(traceparent=written, metadata={"a": "b"}).metadata == {"a": "b"}


def test_what_can_be_read_is_kept_beside_what_cannot() -> None:
    mended = job(created_at="x", traceparent=TRACE, metadata={"a": "b"}, deadline="2030-01-01T00:00:00Z")
    assert (mended.traceparent, mended.metadata) == (TRACE, {"a": "b"})
    assert mended.deadline == datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(BadInputError, match=r"^deadline: ") as caught:
        job(created_at="x", deadline="tomorrow")
    assert (caught.value.code, caught.value.job_id) == ("bad_field", "1")


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        (b"hello", "byte 0 is unexpected"),
        (b"nothing", "byte 0 is unexpected"),
        ('{"é": secret}'.encode(), "byte 7 is unexpected"),
        (b'{"prompt": "secret', "it breaks off after 18 bytes"),
        (b'{"prompt": \xff}', "byte 11 is not UTF-8"),
        (b" \n", "it is empty"),
        (b'{"n": %s}' % (b"9" * 5000), "it is nested too deeply, or has a number that is none of JSON"),
    ],
)
def test_what_is_no_json_is_told_by_where_it_is_wrong_without_its_words(written: bytes, fault: str) -> None:
    with pytest.raises(BadInputError) as caught:
        decode(written, max_bytes=1_000_000)
    accepted = 'a JSON object is expected, such as {"job_id": "test-001", "prompt": "What is 2+2?"}'
    assert (caught.value.code, str(caught.value)) == ("not_json", f"not JSON: {fault}; {accepted}")


@pytest.mark.parametrize(("written", "kind"), [(b"[1]", "an array"), (b'"x"', "a string"), (b"null", "null")])
def test_what_is_no_object_is_called_by_its_kind(written: bytes, kind: str) -> None:
    with pytest.raises(BadInputError, match=f"^{kind}; a JSON object is expected, such as ") as caught:
        decode(written, max_bytes=1_000)
    assert caught.value.code == "not_an_object"


def test_a_line_of_a_batch_is_a_whole_request() -> None:
    body = {"model": "m", "metadata": {"team": "a"}, "messages": [], "deadline": "?"}
    line = {"job_id": "1", "custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": body}
    read_ = decode(orjson.dumps({**line, "metadata": {"b": "c"}}), max_bytes=10_000)
    assert (read_.payload, read_.verbatim, read_.metadata, read_.deadline) == (body, True, {"b": "c"}, None)


@pytest.mark.parametrize(
    "fields", [{"body": {"a": 1}}, {"body": "x", "url": "/chat/completions"}, {"body": {}, "url": "/v1/embeddings"}]
)
def test_what_looks_like_one_only_from_afar_stays_a_payload(fields: dict[str, Any]) -> None:
    """A handler of one's own may call its fields as it likes."""
    assert job(**fields).payload == {"prompt": "?", **fields}
    assert decode(orjson.dumps({"job_id": "1", "verbatim": True}), max_bytes=99).payload == {"verbatim": True}
    assert not job(**fields).verbatim


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("https://api.openai.com/v1/chat/completions/", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/completions", "/v1/completions"),
        ("/v1/embeddings", "/v1/embeddings"),
    ],
)
def test_a_line_of_a_batch_names_its_path_by_its_url(url: str, path: str) -> None:
    line = {"job_id": "1", "url": url, "body": {"keep": "x"}, "keep": "body", "tenant": "a"}
    read_ = decode(orjson.dumps(line), max_bytes=1_000)
    assert (read_.path, read_.payload, read_.verbatim) == (path, {"keep": "x"}, True)
    assert (read_.keep, read_.tenant, read_.tokens) == ("body", "a", False)
    assert decode(orjson.dumps({**line, "path": path}), max_bytes=1_000) == read_


def test_the_options_of_a_job_are_no_parameters() -> None:
    plain = job()
    assert (plain.tenant, plain.path, plain.keep, plain.tokens) == (None, "/v1/chat/completions", "text", False)
    options = {"tenant": "team-7", "path": "/v1/completions", "keep": "body", "tokens": True}
    read_ = job(**options)
    assert {name: getattr(read_, name) for name in options} == options
    assert read_.payload == {"prompt": "?"}
    assert job(**dict.fromkeys(options)) == job(tokens=False, keep="text") == plain
    assert not job(path="/v1/embeddings", input="?", tokens=False).tokens


@pytest.mark.parametrize("written", ["", "-a", "A", "a_b", "a" * 33, 7, ["a"], {}])
def test_a_tenant_that_is_none_is_left_out(written: Any) -> None:
    assert job(tenant=written) == job()


@pytest.mark.parametrize("field", ["path", "keep", "tokens"])
@pytest.mark.parametrize("written", ["", "/v1/chat/completions/", "TEXT", "true", 1, [], {}, ["text"]])
def test_an_option_that_is_none_is_refused_by_its_name(field: str, written: Any) -> None:
    with pytest.raises(BadInputError, match=rf"^{field}: .* is expected$") as caught:
        job(**{field: written})
    assert (caught.value.code, caught.value.job_id) == ("bad_field", "1")


# --- JSON ---

CHARACTERS: Final = st.text(st.characters(exclude_categories=()), max_size=8)
VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a\\"é', max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert read(write(value)) == value
    assert read_leniently(write(value)) == value
    assert read(write(value, sort=True)) == value


@given(CHARACTERS)
def test_half_a_surrogate_pair_is_replaced_and_nothing_else(text: str) -> None:
    """Python's own writer escapes halves as they are."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert len(read(json.dumps(text).encode())) == len(whole)
    assert read(json.dumps([text]).encode()) == [read(json.dumps(text).encode())]
    if not any(0xD800 <= ord(character) < 0xE000 for character in text):
        assert read(json.dumps(text).encode()) == text


@given(st.binary(max_size=40) | st.text('{}[]",:\\u0d8n1e9NaI.- ', max_size=40).map(str.encode))
def test_whatever_the_bytes_are_they_are_read_or_refused(raw: bytes) -> None:
    for reader in (read, read_leniently):
        try:
            write(reader(raw))
        except ValueError:
            continue
