"""How a name becomes a backend, the backends of others, and the parts of `chat` that need no connection."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenscale_worker.backends import ChatOptions, open_backend
from greenscale_worker.backends.chat import ChatBackend
from greenscale_worker.backends.echo import EchoBackend
from greenscale_worker.backends.handlers import HandlerBackend
from greenscale_worker.backends.request import chat_request, question, text_of
from greenscale_worker.backends.retry_after import LONGEST, retry_after
from greenscale_worker.errors import BadInputError, ConfigError, TransientError
from greenscale_worker.job import Job, Output

OPTIONS = ChatOptions(url="http://127.0.0.1:9/v1/chat/completions", model="llama")
HANDLERS = """
import json
from greenscale_worker.job import Output, Usage

async def text(job): return "hello " + job.payload["prompt"]
async def output(job): return Output("4", usage=Usage(1, 2, 3))
async def data(job): return {"answer": [1, None]}
async def nonsense(job): return object()
def two(job, other): return "no"
def factory(): return Whole()
def of_handler(): return text
answer = 42

class Whole:
    async def infer(self, job): return Output("whole")
    async def ready(self): return False
    async def aclose(self): pass

class Callable_:
    async def __call__(self, job): return "called"

class Half:
    async def infer(self, job): return Output("half")

class Nested:
    handler = text

callable_object = Callable_()
whole = Whole()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "handlers_of_a_test"
    (tmp_path / f"{name}.py").write_text(HANDLERS)
    (tmp_path / "broken_in_a_test.py").write_text("import a_module_that_is_not_there\n")
    distribution = tmp_path / "others-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text(
        f"[greenscale.backends]\nmine = {name}:text\nwhole = {name}:Whole\ngone = {name}:gone\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for imported in (name, "broken_in_a_test"):
        sys.modules.pop(imported, None)


def job(**payload: Any) -> Job:
    return Job(job_id="1", payload=payload or {"prompt": "you"})


async def answer(name: str, **payload: Any) -> Output:
    backend = open_backend(name, OPTIONS)
    try:
        return await backend.infer(job(**payload))
    finally:
        await backend.aclose()


# --- names ---


async def test_the_built_in_names() -> None:
    for name, kind in (("chat", ChatBackend), ("echo", EchoBackend)):
        backend = open_backend(name, OPTIONS)
        assert isinstance(backend, kind)
        await backend.aclose()


def test_a_backend_may_be_opened_before_the_loop_runs() -> None:
    backend = open_backend("chat", OPTIONS)
    assert asyncio.run(backend.ready()) is False
    asyncio.run(backend.aclose())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("text", "hello you"),
        ("output", "4"),
        ("data", '{"answer":[1,null]}'),
        ("factory", "whole"),
        ("of_handler", "hello you"),
        ("Whole", "whole"),
        ("whole", "whole"),
        ("Callable_", "called"),
        ("callable_object", "called"),
        ("Nested.handler", "hello you"),
    ],
)
async def test_a_handler_by_its_path(module: str, name: str, expected: str) -> None:
    assert (await answer(f"{module}:{name}")).text == expected


async def test_a_handler_is_always_ready_and_a_backend_says_for_itself(module: str) -> None:
    assert await open_backend(f"{module}:text", OPTIONS).ready()
    assert not await open_backend(f"{module}:whole", OPTIONS).ready()


@pytest.mark.parametrize(("name", "expected"), [("mine", "hello you"), ("whole", "whole")])
@pytest.mark.usefixtures("module")
async def test_a_backend_by_entry_point(name: str, expected: str) -> None:
    assert (await answer(name)).text == expected


@pytest.mark.parametrize("name", ["", "nothing", "chat ", ":", "a:", ":b", "package.module"])
@pytest.mark.usefixtures("module")
def test_an_unknown_name_says_what_is_accepted(name: str) -> None:
    with pytest.raises(ConfigError, match=r"chat, echo, gone, mine, whole or package\.module:handler"):
        open_backend(name, OPTIONS)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("{module}:missing", "missing"),
        ("{module}:answer", "int"),
        ("{module}:two", "argument"),
        ("{module}:Half", "Half"),
        ("no_such_module_anywhere:f", "no_such_module_anywhere"),
        ("broken_in_a_test:f", "a_module_that_is_not_there"),
        ("gone", "gone"),
    ],
)
def test_what_cannot_be_loaded_says_why(module: str, name: str, told: str) -> None:
    name = name.format(module=module)
    with pytest.raises(ConfigError, match=rf"^backend {name}: .*{told}"):
        open_backend(name, OPTIONS)


async def test_an_answer_that_is_not_json_raises(module: str) -> None:
    with pytest.raises(TransientError, match="is not JSON"):
        await answer(f"{module}:nonsense")


def test_only_what_is_asked_for_is_imported() -> None:
    script = (
        "import sys; from greenscale_worker.backends import ChatOptions, open_backend\n"
        "open_backend('echo', ChatOptions(url='', model=''))\n"
        "print([name for name in ('aiohttp', 'importlib.metadata') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603  our own line
    assert "aiohttp" not in shown.stdout


def test_a_file_beside_the_command_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_the_command.py").write_text("async def answer(job): return 'here'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert isinstance(open_backend("beside_the_command:answer", OPTIONS), HandlerBackend)


# --- echo ---


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"prompt": " Hi "}, " Hi "),
        ({"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}, "1"),
        ({"messages": [{"role": "user", "content": "1"}, {"role": "user", "content": "2"}]}, "2"),
        ({"messages": [{"role": "system", "content": "be brief"}]}, "be brief"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]}, "a"),
        ({"messages": [{"role": "user"}]}, ""),
    ],
)
async def test_echo_answers_with_the_question(payload: dict[str, Any], expected: str) -> None:
    assert (await answer("echo", **payload)).text == expected


async def test_echo_refuses_what_chat_refuses() -> None:
    with pytest.raises(BadInputError, match="stream"):
        await answer("echo", prompt="?", stream=True)


# --- the request ---

TEXT = st.text("a ?\0é", max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("role"), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["prompt", "messages", "stream", "n", "model", "max_tokens", "max_completion_tokens", "top_p"]
GOOD = st.sampled_from(["?", [{"role": "user", "content": "?"}], False, 1])


@given(st.dictionaries(st.sampled_from(FIELDS), GOOD | JSON))
def test_any_payload_is_a_request_or_bad_input(payload: dict[str, Any]) -> None:
    before = repr(payload)
    try:
        request = chat_request(payload, {"model": "llama", "max_tokens": 7})
    except BadInputError as refused:
        error = refused
    else:
        assert all(isinstance(message["role"], str) for message in request["messages"])
        assert isinstance(question(request["messages"]), str)
        assert "prompt" not in request
        assert request.get("stream", False) is False
        assert request.get("n", 1) == 1
        assert request["model"].strip()
        assert {"max_tokens", "max_completion_tokens"} & request.keys()
        assert request.get("top_p") == payload.get("top_p")
        error = BadInputError("bad_request", "prompt")
    assert error.code == "bad_request"
    assert re.split(r"\W", str(error))[0] in FIELDS
    assert repr(payload) == before


@given(JSON)
def test_any_content_has_a_text(content: Any) -> None:
    assert isinstance(text_of(content), str)


# --- Retry-After ---

DATES = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)).map(  # noqa: DTZ001  the zone comes next
    lambda date: date.replace(microsecond=0, tzinfo=UTC)
)


@given(st.integers(1, 10**30))
def test_whole_seconds(seconds: int) -> None:
    assert retry_after({"Retry-After": str(seconds)}) == min(float(seconds), LONGEST)


@given(st.floats(0.001, 1e6).map(lambda number: round(number, 3)))
def test_fractions_and_milliseconds(number: float) -> None:
    text = f"{number:.3f}"
    assert retry_after({"Retry-After": f" {text} "}) == min(float(text), LONGEST)
    assert retry_after({"retry-after-ms": text, "Retry-After": "9"}) == min(float(text) / 1000, LONGEST)


@given(DATES, st.integers(-100_000, 100_000))
def test_a_date_counts_from_the_responses_own(now: datetime, seconds: int) -> None:
    then = now + timedelta(seconds=seconds)
    headers = {"Date": format_datetime(now, usegmt=True), "Retry-After": format_datetime(then, usegmt=True)}
    assert retry_after(headers) == (min(float(seconds), LONGEST) if seconds > 0 else None)


@given(DATES, st.integers(1, 600), st.integers(-12, 12))
def test_a_date_in_another_zone_or_an_older_form_is_the_same_moment(now: datetime, seconds: int, hours: int) -> None:
    then = now + timedelta(seconds=seconds)
    own = {"Date": format_datetime(now, usegmt=True)}
    zoned = format_datetime(then.astimezone(timezone(timedelta(hours=hours))))
    for text in (zoned, f"{then:%a %b %d %H:%M:%S %Y}"):  # the second is asctime(), RFC 9110, 5.6.7
        assert retry_after(own | {"Retry-After": text}) == float(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "0.0",
        "-1",
        "-0",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e3",
        "1_000",
        "+5",
        "٣",
        "5 s",
        "5,0",
        "0x10",
        "",
        " ",
        ".5",
        "5.",
        "soon",
        "Wed",
        "Thu, 99 Foo 2026 99:99:99 GMT",
        "\x00",
        "1\n2",
    ],
)
@pytest.mark.parametrize("name", ["Retry-After", "retry-after-ms"])
def test_unreadable_is_unknown(name: str, text: str) -> None:
    assert retry_after({name: text, "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}) is None


@pytest.mark.parametrize("date", [None, "yesterday", "0"])
def test_a_date_without_the_responses_own_is_unknown(date: str | None) -> None:
    headers = {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)}
    assert retry_after(headers | ({"Date": date} if date else {})) is None


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_whatever_the_headers_say_it_is_unknown_or_within_bounds(after: str, milliseconds: str, date: str) -> None:
    seconds = retry_after({"Retry-After": after, "retry-after-ms": milliseconds, "Date": date})
    assert seconds is None or 0 < seconds <= LONGEST
