"""`greenscale-worker batch` as people run it: real processes, signals, a terminal, a full disk."""

import asyncio
import os
import re
import resource
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from greenscale_worker.cli import main, parser
from greenscale_worker.cli.batch import EXAMPLES
from greenscale_worker.simulator import CHAT_PATH, SimulatorOptions, running
from harness.eventually import PATIENCE
from tests.support.desk import Desk, Terminal, a_desk, ended, simulated_endpoint
from tests.support.endpoint import Endpoint, Reply


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with a_desk(tmp_path) as desk:
        yield desk


@pytest.fixture
async def endpoint(desk: Desk) -> AsyncIterator[Callable[..., Any]]:
    async with simulated_endpoint(desk) as endpoint:
        yield endpoint


async def test_it_answers_a_file_and_says_how_it_went(desk: Desk, endpoint: Callable[..., Any]) -> None:
    desk.write(20)
    result = await desk.batch("--json")
    assert (result.code, len(desk.answers())) == (0, 20)
    assert {line["custom_id"] for line in desk.answers()} == {f"a-{number}" for number in range(20)}
    figures = orjson.loads(result.out)
    assert (figures["total"], figures["answered"], figures["failed"], figures["earlier"]) == (20, 20, 0, 0)
    assert figures["completion_tokens"] == sum(
        line["response"]["body"]["usage"]["completion_tokens"] for line in desk.answers()
    )
    assert re.fullmatch(
        r"20 answered, 0 failed in [\d.]+ s \([\d.]+/s\); [\d,]+ tokens, 0 calls made again\n", result.err
    )
    again = await desk.batch()
    assert (again.code, again.out) == (0, "")
    assert "20 done before" in again.err
    assert (await endpoint())["requests"] == 20


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and an environment in which the backend echo is set."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("GREENSCALE_", "NEYSA_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GREENSCALE_BACKEND", "echo")
    return tmp_path


def test_lines_that_fail_make_the_exit_code_1_each_time(here: Path) -> None:
    (here / "in.jsonl").write_text('{"prompt": "good"}\nbad\n')
    assert main(["batch", "in.jsonl", "out.jsonl"]) == 1
    assert main(["batch", "in.jsonl", "out.jsonl"]) == 1
    assert len((here / "out.jsonl").read_bytes().splitlines()) == 2
    (here / "in.jsonl").write_text('{"prompt": "good"}\n{"prompt": "mended"}\n')
    assert main(["batch", "in.jsonl", "out.jsonl"]) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("nowhere.jsonl out.jsonl", "nowhere.jsonl: No such file or directory"),
        ("GREENSCALE_BACKEND=chat nowhere.jsonl out.jsonl", "nowhere.jsonl: No such file or directory"),
        ("in.jsonl nowhere/out.jsonl", "nowhere/out.jsonl: No such file or directory"),
        ("in.jsonl .", ".: Is a directory"),
        (". out.jsonl", ".: Is a directory"),
        ("in.jsonl pipe", "pipe is a pipe or a terminal; expected: a file, which a batch can read again"),
        ("in.jsonl/x out.jsonl", "in.jsonl/x: Not a directory"),
        ("in.jsonl in.jsonl", "in.jsonl is there and is not the output of a batch"),
        ("GREENSCALE_BACKEND=chat in.jsonl out.jsonl", "no endpoint is set"),
        ("GREENSCALE_BACKEND=chat in.jsonl out.jsonl", "`greenscale-worker simulate` is one, for NEYSA_API_URL=http:"),
        ("GREENSCALE_BACKEND=nobody in.jsonl out.jsonl", "GREENSCALE_BACKEND: backend nobody"),
        ("GREENSCALE_TEMPERATURE=9 in.jsonl out.jsonl", "GREENSCALE_TEMPERATURE: '9' is not accepted"),
        ("GREENSCALE_TEMPERATURE=nan in.jsonl out.jsonl", "GREENSCALE_TEMPERATURE: 'nan' is not accepted"),
        ("GREENSCALE_MAX_TOKENS=-1 in.jsonl out.jsonl", "GREENSCALE_MAX_TOKENS: '-1' is not accepted"),
        ("GREENSCALE_CONCURRENCY=0 in.jsonl out.jsonl", "GREENSCALE_CONCURRENCY: '0' is not accepted"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_exit_code_2(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    (here / "in.jsonl").write_text('{"prompt": "1"}\n')
    os.mkfifo(here / "pipe")
    *settings, source, target = command.split()
    for setting in settings:
        monkeypatch.setenv(*setting.split("="))
    assert main(["batch", source, target]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert (here / "in.jsonl").read_text() == '{"prompt": "1"}\n'
    assert not (here / "out.jsonl").exists()


async def test_lines_that_are_wrong_are_named_and_where_they_stand_is_told(
    desk: Desk, endpoint: Callable[..., Any]
) -> None:
    assert (await endpoint())["requests"] == 0
    desk.source.write_text('{"no": "prompt"}\nno JSON\n')
    first = await desk.run("batch", "in.jsonl", "out.jsonl")
    assert first.code == 1
    assert "1 x bad_request: line 1: " in first.err
    assert "1 x not_json: line 2: " in first.err
    again = await desk.run("batch", "in.jsonl", "out.jsonl")
    assert again.code == 1
    assert "2 done before, 2 of them wrong" in again.err
    assert again.err.endswith("\n  jq -c 'select(.error) | [.custom_id, .error]' out.jsonl\n")


def test_the_first_example_works_beside_a_simulated_endpoint() -> None:
    command, first, *_ = EXAMPLES.splitlines()
    assert command.split()[:2] == ["greenscale-worker", "simulate"]
    port = parser().parse_args(["simulate"]).port
    assert first.split()[:2] == [f"NEYSA_API_URL=http://127.0.0.1:{port}{CHAT_PATH}", "NEYSA_API_KEY="]


async def test_a_pipe_may_be_the_input_but_not_the_output(desk: Desk, endpoint: Callable[..., Any]) -> None:
    desk.write(20)
    with desk.source.open("rb") as source:
        result = await desk.run("batch", "/dev/stdin", "out.jsonl", stdin=source)
    assert (result.code, len(desk.answers())) == (0, 20)
    result = await desk.run("batch", "in.jsonl", "/dev/stdout")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("greenscale-worker: /dev/stdout is a pipe or a terminal")
    assert (await endpoint())["requests"] == 20


async def test_lines_that_name_their_model_need_no_other(desk: Desk, endpoint: Callable[..., Any]) -> None:
    url = desk.environment.pop("NEYSA_API_URL").removesuffix("/chat/completions")
    del desk.environment["NEYSA_API_KEY"]
    desk.environment |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "key"}
    desk.source.write_text('{"prompt": "1", "model": "m"}\n{"prompt": "2"}\n')
    result = await desk.batch()
    assert (result.code, (await endpoint())["requests"]) == (1, 1)
    assert [line["error"]["code"] for line in desk.answers() if line["error"]] == ["no_model"]


async def test_a_first_line_that_is_flagged_is_one_error_line_and_exit_code_1(desk: Desk) -> None:
    desk.write(40)
    raw = (Path(__file__).parent / "data" / "answers" / "403-input-flagged.http").read_bytes()
    async with Endpoint(Reply(raw=raw)) as endpoint:
        desk.environment |= {"NEYSA_API_URL": endpoint.url, "GREENSCALE_CONCURRENCY": "1"}
        result = await desk.batch()
    assert (result.code, len(desk.answers())) == (1, 40)
    assert [line["custom_id"] for line in desk.answers() if line["error"]] == ["a-0"]


async def test_a_wrong_key_is_said_with_exit_code_2(desk: Desk) -> None:
    desk.write(50)
    async with running(SimulatorOptions(api_key="right")) as url:
        desk.environment |= {"NEYSA_API_URL": url + CHAT_PATH, "NEYSA_API_KEY": "not-the-right-key"}
        result = await desk.batch()
    assert result.code == 2
    assert "greenscale-worker: the endpoint refuses the key" in result.err.replace("HTTP 401: ", "")
    assert "not-the-right-key" not in result.err
    assert desk.answers() == [], "no line has failed for it"
    assert "Traceback" not in result.err


async def test_stopped_it_lets_calls_end_and_goes_on_where_it_was(desk: Desk, endpoint: Callable[..., Any]) -> None:
    desk.write(60)
    desk.environment["GREENSCALE_CONCURRENCY"] = "4"
    for number, code, finished in ((signal.SIGINT, 130, 8), (signal.SIGTERM, 143, 20)):
        process = await desk.start_batch(answers=finished)
        process.send_signal(number)
        result = await ended(process)
        assert result.code == code
        assert "stopping" in result.err
        assert " left; " in result.err
        assert finished <= len(desk.answers()) < 60
    assert (await desk.batch()).code == 0
    assert sorted(line["custom_id"] for line in desk.answers()) == sorted(f"a-{number}" for number in range(60))
    assert (await endpoint())["jobs"] == {f"a-{number}": 1 for number in range(60)}


async def test_stopped_twice_it_does_not_wait(desk: Desk, endpoint: Callable[..., Any]) -> None:
    await endpoint(rate_hang=1)
    desk.write(10)
    process = await desk.start("batch", "in.jsonl", "out.jsonl")
    async with asyncio.timeout(PATIENCE):
        while (await endpoint())["requests"] < 10:  # noqa: ASYNC110  another process has no Event to wait for
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        assert b"stopping" in await process.stderr.readline()
    began = asyncio.get_running_loop().time()
    process.send_signal(signal.SIGINT)
    result = await ended(process)
    assert result.code == 130
    assert asyncio.get_running_loop().time() - began < 4  # the drain time is 5 s
    assert not desk.answers()


async def test_killed_it_repeats_no_line_that_was_finished(desk: Desk, endpoint: Callable[..., Any]) -> None:
    desk.write(60)
    desk.environment["GREENSCALE_CONCURRENCY"] = "4"
    asked: dict[str, int] = {}
    for finished in (5, 30):
        process = await desk.start_batch(answers=finished)
        process.kill()
        await ended(process)
        counted = (await endpoint())["jobs"]
        asked |= {line["custom_id"]: counted[line["custom_id"]] for line in desk.answers()}
    assert (await desk.batch()).code == 0
    counted = (await endpoint())["jobs"]
    assert {name: counted[name] for name in asked} == asked
    assert sum(counted.values()) <= 60 + 2 * 4
    assert sorted(line["custom_id"] for line in desk.answers()) == sorted(f"a-{number}" for number in range(60))


@pytest.mark.usefixtures("endpoint")
async def test_a_full_disk_ends_it_and_costs_at_most_half_a_line(desk: Desk) -> None:
    desk.write(40)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    result = await desk.batch(preexec_fn=limit)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert "the batch ended early" in result.err
    finished = len(desk.answers())
    assert 0 < finished < 40
    result = await desk.batch("--json")
    assert result.code == 0
    assert orjson.loads(result.out)["earlier"] == finished
    assert sorted(line["custom_id"] for line in desk.answers()) == sorted(f"a-{number}" for number in range(40))


async def test_a_terminal_shows_a_bar_with_all_figures(desk: Desk, endpoint: Callable[..., Any]) -> None:
    desk.write(30)
    with desk.source.open("a") as file:
        file.write("bad\n")
    desk.environment["GREENSCALE_CONCURRENCY"] = "2"
    await endpoint(rate_429=0.1, retry_after=0.05)
    terminal = Terminal(desk)
    assert await terminal.run("batch", "in.jsonl", "out.jsonl") == 1
    assert max(map(len, terminal.lines)) <= 80
    assert re.search(r"\d+/31 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ lines/s, failed=[01], tokens=[\d,]+\]", terminal.text)
    summary = next(at for at, line in enumerate(terminal.lines) if line.startswith("30 answered, 1 failed in "))
    assert re.search(r"31/31 \[.*failed=1", terminal.lines[summary - 1])
    assert terminal.lines[summary + 1].startswith("  1 x not_json: line 31: not JSON: ")


async def test_lines_that_failed_are_told_by_code_with_one_reason_each(
    desk: Desk, endpoint: Callable[..., Any]
) -> None:
    desk.write(2)
    with desk.source.open("a") as file:
        file.write('{"prompt": " "}\nbad\n[]\n"worse"\n')
    result = await desk.batch("--json")
    assert (result.code, (await endpoint())["requests"]) == (1, 2)
    summary, *reasons, where = result.err.splitlines()
    assert summary.startswith("2 answered, 4 failed in ")
    assert sorted(line[:29] for line in reasons if not line.startswith("    ")) == [
        "  1 x bad_request: line 3: pr",
        "  1 x not_json: line 4: not J",
        "  2 x not_an_object: line 5: ",
    ]
    assert max(map(len, reasons)) < 80
    assert where == "Answers and errors are in out.jsonl."
    assert orjson.loads(result.out)["codes"] == {"not_an_object": 2, "bad_request": 1, "not_json": 1}


async def test_ctrl_c_in_a_terminal_where_the_log_appears_above_the_bar(
    desk: Desk, endpoint: Callable[..., Any]
) -> None:
    desk.write(200)
    desk.environment |= {"GREENSCALE_CONCURRENCY": "2", "GREENSCALE_LOG_LEVEL": "info"}
    terminal = Terminal(desk)
    assert await terminal.run("batch", "in.jsonl", "out.jsonl", interrupt_at="lines/s") == 130
    assert any(line.startswith("stopping: ") for line in terminal.lines)
    logged = [line for line in terminal.lines if "succeeded" in line]
    assert len(logged) == len(desk.answers()) == (await endpoint())["requests"]
    assert not any("%|" in line for line in logged)
