"""A file of prompts through the worker: what is in the output, and what is not asked twice."""

import asyncio
import codecs
import errno
import os
import random
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenscale_worker.backends import ChatOptions, open_backend
from greenscale_worker.backends.echo import EchoBackend
from greenscale_worker.batch import Batch, Tally
from greenscale_worker.batch.lines import NAME_AT_END, NAME_AT_START
from greenscale_worker.batch.raw_lines import TAIL
from greenscale_worker.batch.requests import count_lines
from greenscale_worker.errors import ConfigError
from greenscale_worker.job import Job, Output
from greenscale_worker.simulator import CHAT_PATH, SimulatorOptions, running
from greenscale_worker.telemetry import configure_logging
from tests.support.endpoint import Endpoint, Reply, completion

PATIENCE = 30.0


class Files:
    """The two files of a batch."""

    def __init__(self, directory: Path) -> None:
        self.source = directory / "in.jsonl"
        self.target = directory / "out.jsonl"

    def write(self, lines: Iterable[Any]) -> None:
        raw = (line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
        self.source.write_bytes(b"".join(line + b"\n" for line in raw))

    def answers(self) -> list[Any]:
        data = self.target.read_bytes()
        assert data.endswith(b"\n") or not data
        return [orjson.loads(line) for line in data.splitlines()]

    def by_custom_id(self) -> dict[str, Any]:
        """What a reader gets: where there are several lines, the last one counts."""
        return {line["custom_id"]: line for line in self.answers()}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    """A line of the log for each job would be held by the one who captures it."""
    configure_logging(json=False, level="error")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class Counting:
    """Counts what is asked and answers with the question."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._echo = EchoBackend()

    async def infer(self, job: Job) -> Output:
        output = await self._echo.infer(job)
        self.asked.append(output.text)
        return output

    async def ready(self) -> bool:
        return True

    async def aclose(self) -> None:
        pass


async def run(files: Files, backend: Any = None, **options: Any) -> Tally:
    batch = Batch(files.source, files.target, backend or Counting(), **options)
    async with asyncio.timeout(PATIENCE):
        tally = await batch.run()
    assert batch.fault is None
    return tally


async def asked(files: Files) -> list[str]:
    """Run, and say what was asked."""
    backend = Counting()
    await run(files, backend)
    return sorted(backend.asked)


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[str, Any]]:
    """A simulated endpoint, and somebody who asks it for what it has counted."""
    async with running(SimulatorOptions()) as url, aiohttp.ClientSession() as session:

        async def stats() -> Any:
            async with session.get(url + "/stats") as response:
                return await response.json()

        async def fail(**faults: Any) -> None:
            async with session.post(url + "/faults", json=faults) as response:
                assert response.status == 200

        yield url + CHAT_PATH, (stats, fail)


# Lines and what becomes of them


async def test_each_kind_of_line_is_answered_in_the_shape_of_openai_batch(
    files: Files, endpoint: tuple[str, Any]
) -> None:
    question = {"role": "user", "content": "What is 2+2?"}
    files.write(
        [
            {"prompt": "What is 2+2?"},
            {"messages": [question], "max_tokens": 5, "user": "with parameters"},
            {"custom_id": "é 1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [question]}},
            {"custom_id": "2", "prompt": "What is 2+2?", "metadata": {"team": "a"}},
            {"job_id": "3", "prompt": "What is 2+2?"},
        ]
    )
    url, (stats, _) = endpoint
    backend = open_backend("chat", ChatOptions(url=url, model="a-model", max_tokens=9))
    tally = await run(files, backend)
    await backend.aclose()
    assert (tally.total, tally.answered, tally.failed, tally.earlier) == (5, 5, 0, 0)
    assert tally.completion_tokens == 5
    lines = files.by_custom_id()
    assert set(lines) == {"line-1", "line-2", "é 1", "2", "3"}
    assert (await stats())["jobs"]["with parameters"] == 1
    for line in lines.values():
        assert list(line) == ["id", "custom_id", "response", "error"]
        assert list(line["response"]) == ["status_code", "request_id", "body"]
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        body = line["response"]["body"]
        assert line["response"]["request_id"] == body["id"]
        assert (body["object"], body["model"]) == ("chat.completion", "a-model")
        assert body["choices"][0]["message"] == {"role": "assistant", "content": "4"}
        assert body["usage"]["total_tokens"] > body["usage"]["completion_tokens"] == 1
    assert len({line["id"] for line in lines.values()}) == 5


async def test_each_line_asks_the_path_that_its_url_names(files: Files, endpoint: tuple[str, Any]) -> None:
    files.write(
        [
            {"custom_id": "text", "method": "POST", "url": "/v1/completions", "body": {"prompt": "What is 2+2?"}},
            {"custom_id": "vectors", "method": "POST", "url": "/v1/embeddings", "body": {"input": ["a", "b"]}},
        ]
    )
    backend = open_backend("chat", ChatOptions(url=endpoint[0], model="a-model"))
    tally = await run(files, backend)
    assert (tally.answered, tally.failed) == (2, 0)
    bodies = {name: line["response"]["body"] for name, line in files.by_custom_id().items()}
    assert bodies["text"]["choices"][0]["text"] == "4"
    assert [each["object"] for each in bodies["vectors"]["data"]] == ["embedding", "embedding"]
    assert (await run(files, backend)).earlier == 2
    await backend.aclose()


async def test_a_backend_of_texts_completes_and_makes_no_embeddings(files: Files) -> None:
    files.write(
        [
            {"custom_id": "text", "url": "/v1/completions", "body": {"prompt": "hello"}},
            {"custom_id": "vectors", "url": "/v1/embeddings", "body": {"input": "hello"}},
        ]
    )
    tally = await run(files)
    assert (tally.answered, tally.failed) == (1, 1)
    lines = files.by_custom_id()
    body = lines["text"]["response"]["body"]
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", "hello")
    assert lines["vectors"]["error"]["code"] == "no_answer"


async def test_a_line_that_asks_the_same_of_another_path_is_another_line(files: Files) -> None:
    files.write([{"custom_id": "a", "url": "/v1/chat/completions", "body": {"prompt": "1"}}])
    assert await asked(files) == ["1"]
    files.write([{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "1"}}])
    assert await asked(files) == ["1"]


async def test_a_backend_without_a_body_gives_one_as_an_endpoint_would(files: Files) -> None:
    files.write([{"prompt": "hello", "model": "m"}])
    await run(files)
    (line,) = files.answers()
    body = line["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", "m")
    assert body["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    ]


BAD_LINES: list[tuple[str, Any]] = [
    ("not_json", b"{"),
    ("not_json", b'{"prompt": "\xff"}'),
    ("not_json", b'{"prompt": "x", "seed": 1e999}'),
    ("not_json", b'{"prompt": "x", "seed": NaN}'),
    ("not_an_object", b'["prompt"]'),
    ("bad_line", {"custom_id": "", "prompt": "x"}),
    ("bad_line", {"custom_id": 7, "prompt": "x"}),
    ("bad_line", {"custom_id": "a", "body": "x"}),
    ("bad_line", {"custom_id": "b", "method": "GET", "body": {"prompt": "x"}}),
    ("bad_line", {"custom_id": "c", "url": "/v1/responses", "body": {"prompt": "x"}}),
    ("bad_request", {"custom_id": "d", "url": "/v1/embeddings", "body": {"prompt": "x"}}),
    ("bad_request", {}),
    ("bad_request", {"prompt": ""}),
    ("bad_request", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}),
    ("bad_request", {"prompt": "x", "stream": True}),
    ("bad_field", {"prompt": "x", "deep": orjson.loads(b"[" * 70 + b"]" * 70)}),
    ("too_large", {"prompt": "x" * 3000}),
    ("too_large", {"custom_id": 'é"', "prompt": "x" * 3000}),
    ("too_large", {"method": "POST", "url": "/v1", "custom_id": "last", "body": {"prompt": "x" * 3000}}),
]


async def test_a_bad_line_is_an_error_with_a_reason_and_stops_nothing(files: Files) -> None:
    files.write([line for _, line in BAD_LINES] + [{"prompt": "good"}])
    tally = await run(files, max_bytes=2000)
    assert (tally.answered, tally.failed) == (1, len(BAD_LINES))
    lines = files.by_custom_id()
    for number, (code, line) in enumerate(BAD_LINES, start=1):
        given_id = line.get("custom_id") if isinstance(line, dict) else None
        error = lines[given_id if given_id and isinstance(given_id, str) else f"line-{number}"]
        assert error["response"] is None
        assert error["error"]["code"] == code
        assert error["error"]["message"]
    assert lines[f"line-{len(BAD_LINES) + 1}"]["error"] is None


async def test_bad_lines_are_not_reported_again_but_still_counted(files: Files) -> None:
    files.write([line for _, line in BAD_LINES])
    await run(files, max_bytes=2000)
    before = files.target.read_bytes()
    tally = await run(files, max_bytes=2000)
    assert files.target.read_bytes() == before
    assert (tally.answered, tally.failed, tally.earlier, tally.refused) == (0, 0, len(BAD_LINES), len(BAD_LINES))


async def test_a_custom_id_used_twice_is_reported_and_asked_once(files: Files) -> None:
    files.write([{"custom_id": "a", "prompt": prompt} for prompt in ("1", "1", "2", "2")])
    assert await asked(files) == ["1"]
    lines = files.answers()
    assert len({line["id"] for line in lines}) == 4
    errors = [line["error"] for line in lines if line["error"]]
    assert {error["code"] for error in errors} == {"duplicate_custom_id"}
    assert sorted(error["message"].split(":")[0] for error in errors) == ["line 2", "line 3", "line 4"]
    assert await asked(files) == []
    assert len(files.answers()) == 4


async def test_a_line_may_be_as_long_as_is_said(files: Files) -> None:
    line = b'{"prompt":"%b"}' % (b"x" * 1100)
    files.write([line])
    assert (await run(files, max_bytes=len(line) - 1)).failed == 1
    assert (await run(files, max_bytes=len(line))).answered == 1
    files.write([b'{"prompt":"x","logit_bias":[%b]}' % b",".join([b"9e15"] * 500)])
    assert (await run(files, max_bytes=files.source.stat().st_size)).answered == 1


class Remembering(Counting):
    """Keeps the jobs it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Job] = []

    async def infer(self, job: Job) -> Output:
        self.jobs.append(job)
        return await super().infer(job)


async def test_what_is_asked_is_what_the_line_says_without_its_name(files: Files) -> None:
    files.write(
        [
            {"custom_id": "a", "job_id": "b", "prompt": "1", "metadata": {"team": "a"}, "seed": 7},
            {"custom_id": "c", "body": {"prompt": "2", "job_id": "d"}, "unknown": 1},
        ]
    )
    backend = Remembering()
    await run(files, backend, concurrency=1)
    assert [job.payload for job in backend.jobs] == [{"prompt": "1", "seed": 7}, {"prompt": "2"}]
    assert [job.metadata for job in backend.jobs] == [{"team": "a"}, None]
    assert set(files.by_custom_id()) == {"a", "c"}


async def sent(lines: Iterable[Any], files: Files, **options: Any) -> list[Any]:
    """Run against an endpoint, and say what arrived there."""
    files.write(lines)
    async with Endpoint() as endpoint:
        backend = open_backend("chat", ChatOptions(**{"url": endpoint.url, "model": "m", **options}))
        await run(files, backend, concurrency=1)
        await backend.aclose()
    return [received.body for received in endpoint.received]


async def test_a_body_is_sent_as_it_is(files: Files) -> None:
    """No default is added that the line did not ask for, and a parameter called like a field of ours arrives."""
    lines = [line for name in ("reasoning-model", "metadata-of-the-request") for line in _lines(name)]
    bodies = [orjson.loads(line)["body"] for line in lines]
    expected = [{name: value for name, value in body.items() if value is not None} for body in bodies]
    assert [orjson.loads(body) for body in await sent(lines, files)] == expected
    assert [body.get("metadata") for body in expected] == [None, None, None, {"team": "search"}]


def _lines(name: str) -> list[bytes]:
    return (Path(__file__).parent / "data" / f"{name}.jsonl").read_bytes().splitlines()


async def test_a_short_line_gets_the_defaults_and_a_body_only_the_model(files: Files) -> None:
    question = [{"role": "user", "content": "?"}]
    short, whole, null = await sent(
        [{"prompt": "?"}, {"body": {"messages": question}}, {"prompt": "?", "temperature": None}], files
    )
    assert orjson.loads(short) == {"model": "m", "messages": question, "max_tokens": 1024, "temperature": 0.7}
    assert orjson.loads(whole) == {"model": "m", "messages": question}
    assert orjson.loads(null) == {"model": "m", "messages": question, "max_tokens": 1024}


async def test_numbers_and_half_characters_arrive(files: Files) -> None:
    lines = [
        b'{"prompt":"1","seed":1180591620717411303424}',
        b'{"body":{"prompt":"2 \\ud83d","seed":-9223372036854775809}}',
    ]
    first, second = await sent(lines, files)
    assert b'"seed":1180591620717411303424' in first
    assert b'"seed":-9223372036854775809' in second
    assert "2 \ufffd".encode() in second


async def test_an_answer_that_is_only_nearly_json_is_written_as_json(files: Files) -> None:
    choice = b'{"message":{"content":"4\\ud83d"},"finish_reason":"stop"}'
    answer = b'{"id":"x","seed":1180591620717411303424,"choices":[%b]}' % choice
    files.write([{"custom_id": "a", "prompt": "?"}])
    async with Endpoint(Reply(pieces=(answer,))) as endpoint:
        backend = open_backend("chat", ChatOptions(url=endpoint.url, model="m"))
        await run(files, backend)
        await backend.aclose()
    assert b'"seed":1180591620717411303424' in files.target.read_bytes()
    assert files.answers()[0]["response"]["body"]["choices"][0]["message"]["content"] == "4\ufffd"


async def test_an_empty_answer_is_an_answer(files: Files) -> None:
    files.write([{"custom_id": "a", "prompt": "?"}])
    async with Endpoint(Reply(json=completion(""))) as endpoint:
        backend = open_backend("chat", ChatOptions(url=endpoint.url, model="m"))
        assert (await run(files, backend)).answered == 1
        await backend.aclose()
    assert files.answers()[0]["error"] is None


async def test_lines_may_all_name_their_model(files: Files) -> None:
    lines = [{"custom_id": "a", "prompt": "1", "model": "mine"}, {"custom_id": "b", "prompt": "2"}]
    (body,) = await sent(lines, files, model=None)
    assert orjson.loads(body)["model"] == "mine"
    assert files.by_custom_id()["b"]["error"]["code"] == "no_model"
    assert len(await sent(lines, files)) == 1, "it is asked as soon as there is a model"


async def test_blank_lines_and_a_byte_order_mark_are_passed_over(files: Files) -> None:
    files.source.write_bytes(b'\xef\xbb\xbf{"prompt": "1"}\r\n\n   \n{"prompt": "4"}')
    tally = await run(files)
    assert (tally.total, tally.answered) == (2, 2)
    assert set(files.by_custom_id()) == {"line-1", "line-4"}


async def test_an_empty_file_has_an_empty_output(files: Files) -> None:
    files.write([])
    tally = await run(files)
    assert (tally.total, tally.done) == (0, 0)
    assert files.answers() == []


@pytest.mark.parametrize(("data", "lines"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2)])
def test_lines_are_counted(files: Files, data: bytes, lines: int) -> None:
    files.source.write_bytes(data)
    assert count_lines(files.source) == lines


async def test_what_cannot_be_read_twice_is_read_once(files: Files) -> None:
    os.mkfifo(files.source)
    writer = asyncio.create_task(asyncio.to_thread(files.write, [{"prompt": "1"}, {"prompt": "2"}]))
    batch = await asyncio.to_thread(Batch, files.source, files.target, Counting())
    tally = await batch.run()
    await writer
    assert (tally.total, tally.answered) == (None, 2)


# Starting again


async def test_started_again_it_repeats_nothing(files: Files) -> None:
    files.write([{"prompt": "1"}, {"custom_id": "a", "prompt": "2"}])
    assert await asked(files) == ["1", "2"]
    before = files.target.read_bytes()
    backend = Counting()
    tally = await run(files, backend)
    assert (backend.asked, tally.earlier, tally.answered) == ([], 2, 0)
    assert files.target.read_bytes() == before


async def test_a_changed_line_runs_again_and_its_last_answer_counts(files: Files) -> None:
    files.write([{"prompt": "1"}, {"custom_id": "a", "prompt": "2"}, {"custom_id": "b", "prompt": "3"}])
    await run(files)
    files.write([{"prompt": "1!"}, {"custom_id": "a", "prompt": "2!"}, {"custom_id": "b", "prompt": "3"}])
    assert await asked(files) == ["1!", "2!"]
    contents = {
        name: line["response"]["body"]["choices"][0]["message"]["content"]
        for name, line in files.by_custom_id().items()
    }
    assert contents == {"line-1": "1!", "a": "2!", "b": "3"}
    assert await asked(files) == []


async def test_a_parameter_is_part_of_what_is_asked_but_the_way_it_is_written_is_not(files: Files) -> None:
    files.write([b'{"custom_id": "a", "prompt": "1", "seed": 1}'])
    await run(files)
    files.write([b'{"seed":1,   "prompt":"\\u0031","custom_id":"a"}'])
    assert await asked(files) == []
    files.write([{"custom_id": "a", "prompt": "1", "seed": 2}])
    assert await asked(files) == ["1"]


async def test_lines_with_a_custom_id_may_move_and_those_without_may_not(files: Files) -> None:
    files.write([{"custom_id": "a", "prompt": "1"}, {"prompt": "2"}])
    await run(files)
    files.write([{"prompt": "2"}, {"custom_id": "a", "prompt": "1"}])
    assert await asked(files) == ["2"]


async def test_lines_that_failed_are_asked_again(files: Files, endpoint: tuple[str, Any]) -> None:
    url, (stats, _) = endpoint
    backend = open_backend("chat", ChatOptions(url=url, model="m"))
    files.write([{"prompt": "1"}, {"messages": [{"role": "user", "content": "2"}], "max_tokens": -1}])
    tally = await run(files, backend)
    assert (tally.answered, tally.failed) == (1, 1)
    assert files.by_custom_id()["line-2"]["error"]["code"] == "http_400"
    tally = await run(files, backend)
    assert (tally.earlier, tally.refused, tally.answered, tally.failed) == (1, 0, 0, 1)
    await backend.aclose()
    assert (await stats())["outcomes"] == {"ok": 1, "400": 2}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_cut_off_anywhere_the_output_is_repaired_and_completed(tmp_path: Path, cut: float, seed: int) -> None:
    files = Files(tmp_path)
    files.target.unlink(missing_ok=True)
    names = [f"é{number}" * random.Random(seed).randrange(1, 9) for number in range(5)]
    files.write([{"custom_id": name, "prompt": name} for name in names])
    asyncio.run(run(files))
    data = files.target.read_bytes()
    kept = data[: round(cut * len(data))]
    files.target.write_bytes(kept)
    whole = {orjson.loads(line)["custom_id"] for line in kept.split(b"\n")[:-1]}
    last = kept.split(b"\n")[-1]
    if last and last + b"\n" in data:
        whole.add(orjson.loads(last)["custom_id"])
    assert asyncio.run(asked(files)) == sorted(set(names) - whole)
    assert sorted(line["custom_id"] for line in files.answers()) == sorted(names)


@pytest.mark.parametrize("size", [10, 70_000, 200_000])
async def test_a_last_line_that_lacks_only_its_end_is_kept_and_half_a_line_is_not(files: Files, size: int) -> None:
    files.write([{"custom_id": name, "prompt": name * size} for name in "ab"])
    await run(files, concurrency=1)
    data = files.target.read_bytes()
    files.target.write_bytes(data[:-1])
    assert await asked(files) == []
    assert files.target.read_bytes() == data
    files.target.write_bytes(data[:-2])
    assert await asked(files) == ["b" * size]
    assert sorted(files.by_custom_id()) == ["a", "b"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "precious"}\n',
        b'{"prompt": "precious"}',
        b"notes\n",
        b"notes",
        b"\n",
        b'{"id":"batch_req_'[:1] + b"\n",
    ],
)
async def test_a_file_that_is_no_output_of_a_batch_is_left_alone(files: Files, content: bytes) -> None:
    files.write([{"prompt": "1"}])
    files.target.write_bytes(content)
    with pytest.raises(ConfigError, match=r"out\.jsonl"):
        Batch(files.source, files.target, Counting())
    assert files.target.read_bytes() == content


async def test_swapped_or_equal_files_do_no_harm(files: Files) -> None:
    files.write([{"prompt": "1"}])
    before = files.source.read_bytes()
    with pytest.raises(ConfigError):
        Batch(files.source, files.source, Counting())
    assert files.source.read_bytes() == before


async def test_damage_amid_the_output_costs_one_line(files: Files) -> None:
    files.write([{"custom_id": name, "prompt": name} for name in "abc"])
    await run(files, concurrency=1)
    first, second, third = files.target.read_bytes().splitlines(keepends=True)
    files.target.write_bytes(first + b"\0" * (len(second) - 1) + b"\n" + third)
    assert await asked(files) == [orjson.loads(second)["custom_id"]]


async def test_two_batches_cannot_write_one_output(files: Files) -> None:
    files.write([{"prompt": "1"}])
    first = Batch(files.source, files.target, Counting())
    with pytest.raises(ConfigError, match="another batch"):
        Batch(files.source, files.target, Counting())
    assert (await first.run()).answered == 1
    assert (await run(files)).earlier == 1


@pytest.mark.parametrize("missing", ["source", "target"])
async def test_a_file_that_is_not_there_is_said_at_once(files: Files, missing: str) -> None:
    files.write([{"prompt": "1"}])
    setattr(files, missing, Path(files.source.parent / "nowhere" / "x.jsonl"))
    with pytest.raises(FileNotFoundError):
        Batch(files.source, files.target, Counting())


# Running


class Stuck(Counting):
    """Answers nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.go = asyncio.Event()

    async def infer(self, job: Job) -> Output:
        self.calls += 1
        await self.go.wait()
        return await super().infer(job)


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  nobody says so
            await asyncio.sleep(0.005)


async def test_a_large_file_is_not_held_in_memory(files: Files) -> None:
    with files.source.open("wb") as file:
        file.writelines(b'{"prompt":"%b"}\n' % (b"x" * 20_000) for _ in range(2_000))
    backend = Stuck()
    tracemalloc.start()
    batch = Batch(files.source, files.target, backend, concurrency=8)
    task = asyncio.create_task(batch.run())
    await until(lambda: backend.calls == 8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < files.source.stat().st_size / 2, peak
    batch.stop()
    batch.stop()
    await task
    assert files.answers() == []


async def test_lines_that_fail_are_not_held_in_memory(files: Files) -> None:
    with files.source.open("wb") as file:
        file.writelines(b'{"stream":true,"prompt":"%b"}\n' % (b"x" * 20_000) for _ in range(4_000))
    tracemalloc.start()
    tally = await run(files, concurrency=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tally.failed == 4_000
    assert peak < files.source.stat().st_size / 2, peak


async def test_others_get_their_turn_while_finished_lines_are_passed_over(files: Files) -> None:
    files.write({"prompt": str(number)} for number in range(2_000))
    await run(files)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert (await run(files)).earlier == 2_000
    task.cancel()
    assert turns >= 20


async def test_a_line_without_end_is_not_held_in_memory(files: Files) -> None:
    with files.source.open("wb") as file:
        file.writelines(b"x" * 1_000_000 for _ in range(30))
        file.write(b'\n{"prompt": "good"}\n')
    tracemalloc.start()
    tally = await run(files, max_bytes=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tally.answered, tally.failed) == (1, 1)
    assert peak < 10_000_000
    assert files.by_custom_id()["line-1"]["error"]["code"] == "too_large"


async def test_stopped_it_waits_for_what_runs_and_takes_nothing_more(files: Files) -> None:
    files.write([{"prompt": str(number)} for number in range(20)])
    backend = Stuck()
    batch = Batch(files.source, files.target, backend, concurrency=3, drain=PATIENCE)
    task = asyncio.create_task(batch.run())
    await until(lambda: backend.calls == 3)
    batch.stop()
    await asyncio.sleep(0)
    backend.go.set()
    async with asyncio.timeout(PATIENCE):
        tally = await task
    assert (tally.answered, backend.calls, len(files.answers())) == (3, 3, 3)
    assert len(await asked(files)) == 17


async def test_stopped_twice_it_ends_at_once(files: Files) -> None:
    files.write([{"prompt": str(number)} for number in range(20)])
    backend = Stuck()
    batch = Batch(files.source, files.target, backend, concurrency=3, drain=3600)
    task = asyncio.create_task(batch.run())
    await until(lambda: backend.calls == 3)
    batch.stop()
    batch.stop()
    async with asyncio.timeout(PATIENCE):
        tally = await task
    assert (tally.answered, tally.failed, files.answers()) == (0, 0, [])
    assert len(await asked(files)) == 20


async def test_lines_are_there_as_soon_as_they_are_finished(files: Files) -> None:
    files.write([{"prompt": "1"}, {"prompt": "2"}])
    seen: list[int] = []
    await run(files, on_finished=lambda _request, _outcome: seen.append(len(files.answers())))
    assert seen == [1, 2]


async def test_faults_of_the_endpoint_are_outlasted_and_counted(files: Files, endpoint: tuple[str, Any]) -> None:
    files.write([{"prompt": f"What is 2+{number}?"} for number in range(30)])
    url, (stats, fail) = endpoint
    await fail(rate_429=0.2, rate_cut=0.1, retry_after=0.05)
    backend = open_backend("chat", ChatOptions(url=url, model="m"))
    tally = await run(files, backend)
    await backend.aclose()
    assert (tally.answered, tally.failed) == (30, 0)
    counted = await stats()
    assert 0 < counted["requests"] - 30 <= tally.retries
    assert all(line["error"] is None for line in files.answers())


@pytest.mark.parametrize("answer", ["403-input-flagged.http", "429-never-fits.http"])
async def test_a_line_that_is_refused_for_what_it_says_is_one_error_line(files: Files, answer: str) -> None:
    """The first one, so that nobody has been answered before."""
    files.write([{"prompt": str(number)} for number in range(40)])
    raw = (Path(__file__).parent / "data" / "answers" / answer).read_bytes()
    async with Endpoint(Reply(raw=raw)) as url:
        backend = open_backend("chat", ChatOptions(url=url.url, model="m"))
        tally = await run(files, backend, concurrency=1)
        await backend.aclose()
    assert (tally.answered, tally.failed) == (39, 1)
    (line,) = [line for line in files.answers() if line["error"] is not None]
    assert line["custom_id"] == "line-1"
    assert line["error"]["code"] == f"http_{answer[:3]}"


async def test_a_wrong_key_ends_the_batch_and_says_what_to_check(files: Files) -> None:
    files.write([{"prompt": str(number)} for number in range(20)])
    async with running(SimulatorOptions(api_key="right")) as url:
        backend = open_backend("chat", ChatOptions(url=url + CHAT_PATH, model="m", key="wrong"))
        batch = Batch(files.source, files.target, backend)
        async with asyncio.timeout(PATIENCE):
            tally = await batch.run()
        await backend.aclose()
    assert isinstance(batch.fault, ConfigError)
    assert "key" in str(batch.fault)
    assert "wrong" not in str(batch.fault)
    assert (tally.answered, tally.failed, files.answers()) == (0, 0, [])


# Files as people have them


ENCODINGS = [("utf-8", b""), ("utf-8", codecs.BOM_UTF8)]
ENCODINGS += [("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE)]
ENCODINGS += [("utf-32-le", codecs.BOM_UTF32_LE), ("utf-32-be", codecs.BOM_UTF32_BE)]


@pytest.mark.parametrize(("encoding", "mark"), ENCODINGS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
async def test_a_file_is_read_by_its_byte_order_mark(files: Files, encoding: str, mark: bytes, line_end: str) -> None:
    """PowerShell's `>` writes UTF-16. Gurmukhi letters hold the byte of a line feed there."""
    prompts = ["Ünïcode \u0a0a \U0001f600", "", "x" * 300_000, "last"]
    lines = [orjson.dumps({"prompt": prompt}).decode() if prompt else "" for prompt in prompts]
    files.source.write_bytes(mark + line_end.join(lines).encode(encoding))
    backend = Counting()
    tally = await run(files, backend)
    assert sorted(backend.asked) == sorted(filter(None, prompts))
    assert (tally.answered, tally.failed, tally.total) == (3, 0, 3)
    assert await asked(files) == []


async def test_half_a_character_at_the_end_of_utf_16_is_one_bad_line(files: Files) -> None:
    files.source.write_bytes(codecs.BOM_UTF16_LE + '{"prompt": "a"}\n'.encode("utf-16-le") + b"x")
    tally = await run(files)
    assert (tally.answered, tally.failed) == (1, 1)


BIG = "x" * 2_000_000


@pytest.mark.parametrize(
    ("line", "custom_id"),
    [
        ({"custom_id": 'a\n"é', "method": "POST", "url": "/v1/chat/completions", "body": {"prompt": BIG}}, 'a\n"é'),
        ({"method": "POST", "n": -1.5e3, "custom_id": "a-1", "body": {"prompt": BIG}}, "a-1"),
        ({"prompt": BIG, "custom_id": "a-1"}, "a-1"),
        ({"body": {"messages": [BIG]}, "custom_id": "a-1", "method": "POST", "n": None}, "a-1"),
        ({"job_id": "a-1", "prompt": BIG}, "a-1"),
        ({"body": {"custom_id": "not this", "prompt": BIG}}, "line-1"),
        ({"body": {"prompt": BIG, "custom_id": "not this"}}, "line-1"),
        ({"prompt": BIG + '"custom_id": "not this"}'}, "line-1"),
        ({"prompt": '"custom_id": "not this",' + BIG}, "line-1"),
        ({"custom_id": 7, "prompt": BIG}, "line-1"),
        ([BIG], "line-1"),
    ],
    ids=range(11),
)
async def test_a_line_that_is_too_long_keeps_its_name(files: Files, line: Any, custom_id: str) -> None:
    files.write([line, {"prompt": "good"}])
    tally = await run(files)
    assert (tally.answered, tally.failed) == (1, 1)
    (failed,) = (answer for answer in files.answers() if answer["error"])
    assert (failed["custom_id"], failed["error"]["code"]) == (custom_id, "too_large")


@given(st.text('{}[]":,\\ custom_id01"\n', max_size=60).map(str.encode))
def test_looking_for_the_name_of_a_line_ends_soon(line: bytes) -> None:
    found = NAME_AT_START.match(line) or NAME_AT_END.search(line)
    assert found is None or found[1].startswith(b'"')
    for text in (
        b'{"a":"b",' * 10_000,
        b'"custom_id":"' * 10_000,
        b"{" + b'"a":1,' * 10_000,
        b'"custom_id":"x",' * 300,
    ):
        assert NAME_AT_START.match(text) is None
        assert NAME_AT_END.search(text[-TAIL:]) is None


async def test_where_there_are_no_locks_it_goes_on_with_a_warning(
    files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(_file: Any, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    configure_logging(json=False)
    files.write([{"prompt": "1"}])
    assert await asked(files) == ["1"]
    warnings = [line for line in capsys.readouterr().err.splitlines() if "output not locked" in line]
    assert len(warnings) == 1
    assert "No locks available" in warnings[0]
    assert str(files.target) in warnings[0]


async def test_a_line_that_names_no_model_fails_alone_and_is_asked_again(
    files: Files, endpoint: tuple[str, Any]
) -> None:
    url, (stats, _) = endpoint
    files.write([{"prompt": "1", "model": "m", "user": "named"}, {"prompt": "2", "user": "not named"}])
    for model, answered, jobs in ((None, 1, {"named": 1}), ("m", 1, {"named": 1, "not named": 1})):
        backend = open_backend("chat", ChatOptions(url=url, model=model))
        tally = await run(files, backend)
        await backend.aclose()
        assert (tally.answered, tally.failed) == (answered, 1 if model is None else 0)
        assert (await stats())["jobs"] == jobs
    assert any((answer["error"] or {}).get("code") == "no_model" for answer in files.answers())
