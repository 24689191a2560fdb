"""The commands: what they say, to whom, and with which exit code; against a real Redis and in real processes."""

import argparse
import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
import redis

from greenscale_worker.cli import parser
from greenscale_worker.cli.terminal import columns, moment, patience_of, seconds_of, since_of
from greenscale_worker.cli.worker import Process
from greenscale_worker.client.standing import Standing
from greenscale_worker.config import load
from greenscale_worker.for_people import age, fitted
from greenscale_worker.job import Failed, Failure, Released
from greenscale_worker.queues import Depth, Flow, QueueOptions, RedisOptions
from greenscale_worker.queues.redis.list import open_queue
from greenscale_worker.telemetry import Metrics
from harness.eventually import PATIENCE, eventually
from harness.redis_server import RedisServer, free_port
from harness.tcp_proxy import TcpProxy, Trap
from harness.terminal import read_terminal
from harness.worker_process import Fleet
from tests.support.shell import ANSWER, Shell, process

COMMANDS = (
    "submit",
    "status",
    "result",
    "cancel",
    "jobs",
    "queue",
    "report",
    "pause",
    "resume",
    "dead",
    "batch",
    "demo",
    "simulate",
    "config",
)


@pytest.fixture
def fleet(redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", REDIS_URL=redis_url, GREENSCALE_BACKEND="echo") as fleet:
        yield fleet


# --- help, version, usage ---


def test_version(shell: Shell) -> None:
    assert shell("--version") == (0, f"greenscale-worker {version('greenscale-worker')}\n", "")


def test_help_names_every_command_and_the_exit_codes(shell: Shell) -> None:
    code, out, err = shell("--help")
    assert (code, err) == (0, "")
    for word in (*COMMANDS, "exit codes", "examples", "NEYSA_API_KEY", "REDIS_HOST"):
        assert word in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches(command: str, shell: Shell) -> None:
    code, out, err = shell(command, "--help")
    assert (code, err) == (0, "")
    assert f"greenscale-worker {command}" in out.split("examples:")[-1]


def test_every_help_has_its_parts_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for each in every_parser(parser()):
        text = each.format_help()
        places = [text.find(f"\n{part}:\n") for part in ("options", "examples", "exit codes")]
        assert -1 < places[0] < places[1] < places[2], each.prog
        codes = text[places[2] :].splitlines()[2:]
        assert all(re.match(r" +(\d+  )?\S", line) for line in codes), f"{each.prog}: nothing stands below the codes"


@pytest.mark.parametrize("columns", [60, 100])
def test_help_fits_its_terminal_and_no_word_is_broken(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    whole = {each.prog: each.format_help() for each in every_parser(parser())}
    monkeypatch.setenv("COLUMNS", str(columns))
    for each in every_parser(parser()):
        text = each.format_help()
        assert max(map(len, text.splitlines())) <= columns, each.prog
        assert text.split() == whole[each.prog].split(), each.prog


# --- lines on a terminal ---


LONG_ERRORS: Final = (
    ["config", "--nonsense"],
    ["submit", "x", "--deadline", "yesterday"],
    ["up", "--latency", "-1"],
    ["dead", "replay"],
    ["jobs", "--state", "x"],
    ["simulate", "--rate-429", "1", "--rate-5xx", "1"],
    ["simulate", "--latency", "1", "--ttft", "1"],
    ["batch", "nowhere.jsonl", "out.jsonl"],
    ["batch", "in.jsonl", "out.jsonl"],
)


@pytest.mark.parametrize("arguments", LONG_ERRORS, ids=" ".join)
def test_no_line_of_an_error_is_broken_within_a_word(
    arguments: list[str], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.jsonl").write_text("")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    code, out, whole = shell(*arguments)
    assert (code, out) == (2, "")
    monkeypatch.setenv("COLUMNS", "40")
    _, _, broken = shell(*arguments)
    broken, whole = (text[text.rfind("greenscale-worker") :] for text in (broken, whole))  # below the usage
    assert max(len(line) for line in broken.splitlines() if " " in line.strip()) <= 40
    assert broken.split() == whole.split(), "every word is whole"


def test_an_error_fits_the_terminal_it_is_shown_on() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 50, 0, 0))
    environment = {"TERM": "xterm", "REDIS_URL": "redis://127.0.0.1:1"}
    with process("jobs", stdout=theirs, stderr=theirs, environment=environment) as jobs:
        os.close(theirs)
        assert jobs.wait() == 1
    text = read_terminal(ours)
    assert text.count("\r\n") > 3
    assert max(map(len, text.splitlines())) <= 50


def test_where_the_simulator_listens_fits_the_terminal() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
    with process("simulate", "--port", "0", stdout=theirs, environment={"TERM": "xterm"}) as simulator:
        os.close(theirs)
        text = b""
        while not text.endswith(b"/v1\r\n"):
            text += os.read(ours, 65536)
        simulator.terminate()
        assert simulator.wait() == 0
    os.close(ours)
    assert re.fullmatch(r"listening: NEYSA_API_URL=\S+ or\r\n  OPENAI_BASE_URL=\S+\r\n", text.decode())


def test_that_nothing_is_taken_back_fits_the_terminal(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = shell("cancel", "x", "--undo")
    assert out == "x: there is no cancellation that could\n  be taken back\n"


def test_a_path_stays_whole() -> None:
    path = "/a/long/path/" + "x-y" * 30
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        assert path in fitted(f"{path}: No such file or directory; expected: a file that can be read", sys.stderr)


@pytest.mark.parametrize("arguments", [["simulate", "--port", "0"], ["config"], []], ids=str)
def test_ctrl_c_while_a_command_starts_says_nothing(arguments: list[str]) -> None:
    """From the moment on in which our own code begins; sent by the process itself, so that the moment is known."""
    script = (
        "import os, signal, sys\n"
        "from greenscale_worker.cli import context, main\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] in ('argparse', 'pydantic', 'asyncio'):\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "for name in [name for name in sys.modules if name.partition('.')[0] in ('argparse', 'asyncio')]:\n"
        "    del sys.modules[name]\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"sys.exit(main({arguments}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603  our own
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def every_parser(top: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield top
    for action in top._actions:  # noqa: SLF001  argparse has no other way
        for each in getattr(action, "choices", None) or ():
            if isinstance(action.choices, dict):
                yield from every_parser(action.choices[each])


def test_help_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    helps = {each.prog: each.format_help() for each in every_parser(parser())}
    assert {f"greenscale-worker {name}" for name in (*COMMANDS, "up", "dead replay")} <= helps.keys()
    too_wide = [(prog, line) for prog, text in helps.items() for line in text.splitlines() if len(line) > 80]
    assert too_wide == []


def test_help_asks_for_no_library() -> None:
    heavy = ("redis", "aiohttp", "pydantic", "orjson", "structlog", "tqdm", "tenacity", "prometheus_client", "dotenv")
    script = (
        "import sys; from greenscale_worker.cli import main\n"
        "assert main(['--help']) == main(['--version']) == main(['submit', '--help']) == 0\n"
        f"sys.exit(','.join(name for name in {heavy} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603  our own
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["status"],
        ["queue", "--watch", "0"],
        ["dead"],
        ["dead", "purge"],
        ["dead", "purge", "--older-than", "1y"],
        ["dead", "list", "--limit", "-1"],
        ["dead", "list", "--since", "soon"],
        ["config", "--json", "--markdown"],
        ["submit", "a", "--jsonl", "b"],
        ["submit", "a", "--metadata", "b"],
        ["submit", "a", "--max-tokens", "-1"],
        ["submit", "a", "--max-tokens", "1.5"],
        ["submit", "a", "--max-tokens", "9" * 20],
        ["submit", "a", "--temperature", "9"],
        ["submit", "a", "--temperature", "nan"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_on_stderr(arguments: list[str], shell: Shell) -> None:
    code, out, err = shell(*arguments)
    assert (code, out) == (2, "")
    usage, error = err.split(": error: ")
    assert usage.startswith("usage: greenscale-worker")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--verison", "greenscale-worker: error: unknown option --verison; did you mean --version?"),
        ("-version", "greenscale-worker: error: unknown option -version; did you mean --version?"),
        ("--env-fil .env queue", "greenscale-worker: error: unknown option --env-fil; did you mean --env-file?"),
        ("--env-fil=.env queue", "greenscale-worker: error: unknown option --env-fil=.env; did you mean --env-file?"),
        ("sumbit x", "greenscale-worker: error: argument COMMAND: 'sumbit' is unknown; did you mean submit?"),
        ("dead lst", "greenscale-worker dead: error: argument ACTION: 'lst' is unknown; did you mean list?"),
        ("dead --jsno", "greenscale-worker dead: error: unknown option --jsno"),
        ("dead list --jsno", "greenscale-worker dead list: error: unknown option --jsno; did you mean --json?"),
        ("submit x --wiat", "greenscale-worker submit: error: unknown option --wiat; did you mean --wait?"),
        ("status a b", "greenscale-worker status: error: not expected: b"),
        ("jobs --state runing", "greenscale-worker jobs: error: argument --state: 'runing' is unknown; did you mean"),
        ("jobs --state x", "greenscale-worker jobs: error: argument --state: 'x' is unknown; expected: running, "),
        ("submit a --temperature nan", "'nan' is not accepted; a number from 0 to 2 is expected"),
        ("submit a --max-tokens -1", "'-1' is not accepted; a whole number from 1 to 1000000 is expected"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(typed: str, said: str, shell: Shell) -> None:
    code, out, err = shell(*typed.split())
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert len(err.splitlines()[-1]) <= 160


def test_what_looks_like_an_option_and_is_none(shell: Shell) -> None:
    assert shell("submit", "-2 + 2?", "--temperature", "1e-1", "--max-tok", "5", "--id", "a")[0] == 0
    assert shell("submit", "-7", "--id", "b")[0] == 0
    assert shell.waiting() == [
        {"job_id": "a", "temperature": 0.1, "max_tokens": 5, "prompt": "-2 + 2?"},
        {"job_id": "b", "prompt": "-7"},
    ]


def test_every_option_is_explained() -> None:
    actions = [action for action in parser()._actions if action.option_strings]  # noqa: SLF001  argparse has no other way
    assert all(action.help for action in actions)


# --- a file of settings ---


def test_a_file_that_is_named_is_trusted_by_every_command(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GREENSCALE_BACKEND=mine:handler\nREDIS_LIST_NAME=mine\n")
    assert shell("queue", "--env-file", ".env")[1].startswith("queue mine\n"), "it may stand behind the command, too"
    assert shell("dead", "list", "--env-file", ".env")[::2] == (0, "there are no dead letters\n")
    code, _, err = shell("queue")
    assert code == 2
    assert "GREENSCALE_BACKEND in .env would run code: mine:handler" in err
    assert err.endswith("the option --env-file .env\n")
    code, out, err = shell("--env-file", ".env", "queue")
    assert (code, err) == (0, "")
    assert out.startswith("queue mine\n")
    code, _, err = shell("--env-file", "nowhere", "queue")
    assert (code, err.count("\n")) == (2, 1)
    assert "nowhere: No such file or directory" in err


@pytest.mark.parametrize("named", [True, False])
def test_a_worker_runs_code_that_a_named_file_chooses(redis_url: str, tmp_path: Path, *, named: bool) -> None:
    (tmp_path / "mine.py").write_text("print('it ran', flush=True)\nraise SystemExit(7)\n")
    (tmp_path / ".env").write_text(f"GREENSCALE_BACKEND=mine:handler\nREDIS_URL={redis_url}\n")
    worker = process(*["--env-file", ".env"] * named, cwd=tmp_path)
    out, err = worker.communicate(timeout=30)
    assert (b"it ran" in out) == named
    assert named or err.startswith(b"greenscale-worker: GREENSCALE_BACKEND in .env would run code")


# --- submit ---


def test_a_prompt_is_handed_in(shell: Shell) -> None:
    code, out, err = shell("submit", "What is 2+2?", "--id", "test-001")
    assert (code, out, err) == (0, "test-001\n", "")
    assert shell.waiting() == [{"job_id": "test-001", "prompt": "What is 2+2?"}]


def test_what_the_options_say_is_in_the_job(shell: Shell) -> None:
    options = ["--model", "m", "--temperature", "0", "--max-tokens", "7", "--deadline", "2030-01-02T03:04:05Z"]
    job_id = shell.json("submit", "?", *options, "--metadata", "team=search", "--metadata", "a=b=c")["job_id"]
    assert shell.waiting() == [
        {
            "job_id": job_id,
            "prompt": "?",
            "model": "m",
            "temperature": 0.0,
            "max_tokens": 7,
            "deadline": "2030-01-02T03:04:05Z",
            "metadata": {"team": "search", "a": "b=c"},
        }
    ]


def test_a_deadline_that_has_passed_is_refused(shell: Shell) -> None:
    code, out, err = shell("submit", "x", "--deadline", "2020-01-02T03:04:05Z")
    told = "error: argument --deadline: '2020-01-02T03:04:05Z' has passed; a time to come is expected\n"
    assert (code, out, err.endswith(told)) == (2, "", True)
    Path("jobs.jsonl").write_bytes(orjson.dumps({"prompt": "1", "deadline": "2020-01-02T03:04:05Z"}))
    code, out, err = shell("submit", "--jsonl", "jobs.jsonl")
    assert (code, out, "jobs.jsonl line 1: deadline: 2020-01-02T03:04:05+00:00 has passed" in err) == (2, "", True)
    assert shell.waiting() == []


@pytest.mark.parametrize("job_id", ["", "a b"])
def test_an_id_that_no_job_can_have_names_its_option(job_id: str, shell: Shell) -> None:
    code, out, err = shell("submit", "x", "--id", job_id)
    assert (code, out, err.startswith(f"greenscale-worker: --id: {job_id!r} is no job id; ")) == (2, "", True)
    assert shell.waiting() == []


def test_what_is_accepted_is_said(shell: Shell) -> None:
    code, out, err = shell("dead")
    assert (code, out, err.startswith("usage: greenscale-worker dead [-h] ")) == (2, "", True)
    assert err.endswith("dead: error: an action is missing; expected: list, codes, show, replay, purge\n")
    assert "'-1' is not accepted; a whole number, 0 or more, is expected" in shell("jobs", "--limit", "-1")[2]


@pytest.mark.parametrize("deadline", ["yesterday", "2030-01-02", "2030-01-02T03:04:05", ""])
def test_a_deadline_that_is_no_time_is_told_in_our_words(deadline: str, shell: Shell) -> None:
    code, out, err = shell("submit", "x", "--deadline", deadline)
    accepted = "a time with its offset from UTC is expected, such as 2030-01-02T03:04:05Z (RFC 3339)"
    assert (code, out) == (2, "")
    assert err.endswith(f"error: argument --deadline: {deadline!r} is no such time; {accepted}\n")
    Path("jobs.jsonl").write_bytes(orjson.dumps({"prompt": "1", "deadline": deadline}))
    assert shell("submit", "--jsonl", "jobs.jsonl")[2].endswith(f"jobs.jsonl line 1: deadline: {accepted}\n")
    assert shell.waiting() == []


def test_a_text_file_and_stdin_are_prompts(shell: Shell) -> None:
    Path("question.txt").write_text("two\nlines é\n")
    assert shell("submit", "--file", "question.txt")[0] == 0
    for arguments in ([], ["-"]):
        shell.type(b"from stdin")
        assert shell("submit", *arguments)[0] == 0
    assert [job["prompt"] for job in shell.waiting()] == ["two\nlines é\n", "from stdin", "from stdin"]
    assert len({job["job_id"] for job in shell.waiting()}) == 3


def test_a_file_of_jobs_is_handed_in_in_order(shell: Shell) -> None:
    lines = [
        b'{"job_id": "a", "prompt": "1"}',
        b"",
        b'{"messages": [{"role": "user"}], "model": "own"}',
        b'{"prompt": "3"}',
    ]
    Path("jobs.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    code, out, _ = shell("submit", "--jsonl", "jobs.jsonl", "--model", "m")
    jobs = shell.waiting()
    assert (code, out.split()) == (0, [job["job_id"] for job in jobs])
    assert [job.get("prompt") for job in jobs] == ["1", None, "3"]
    assert [job["model"] for job in jobs] == ["m", "own", "m"]
    shell.type(b'{"prompt": "4"}')
    assert shell("submit", "--jsonl", "-")[0] == 0
    assert shell.waiting()[-1]["prompt"] == "4"


BAD_JOBS = {
    "no JSON": (b'{"prompt": "1"}\n{"prompt":', "jobs.jsonl line 2: not JSON"),
    "no object": (b"[1]", "jobs.jsonl line 1: an array; a JSON object is expected"),
    "no prompt": (b'{"prompt": "1"}\n\n{"model": "m"}', "jobs.jsonl line 3: prompt: is missing"),
    "an id twice": (b'{"job_id":"a","prompt":"1"}\n' * 2, "jobs.jsonl line 2: job_id a"),
    "a bad id": (b'{"job_id":"a b","prompt":"1"}', "jobs.jsonl line 1: job_id is not usable"),
    "a bad deadline": (b'{"prompt":"1","deadline":"soon"}', "jobs.jsonl line 1: deadline"),
    "no UTF-8": (b'{"prompt":"\xff"}', "jobs.jsonl: it is not UTF-8"),
    "too large": (b'{"prompt":"%s"}' % (b"x" * 1024 * 1024), "jobs.jsonl line 1: 10"),
    "nothing": (b"\n", "jobs.jsonl: it is empty"),
}


@pytest.mark.parametrize(("text", "said"), BAD_JOBS.values(), ids=BAD_JOBS)
def test_nothing_is_handed_in_where_a_line_is_wrong(text: bytes, said: str, shell: Shell) -> None:
    Path("jobs.jsonl").write_bytes(text)
    code, out, err = shell("submit", "--jsonl", "jobs.jsonl")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"greenscale-worker: {said}")
    assert shell.waiting() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([" "], "prompt: a string that is not blank is expected"),
        (["a\ud800"], "prompt: it is not UTF-8"),
        (["?", "--id", "a b"], "--id: 'a b' is no job id"),
        (["?", "--timeout", "1s"], "--timeout is for --wait"),
        (["--jsonl", "x", "--id", "y"], "--id is for a single job"),
        (["--file", "nowhere.txt"], "nowhere.txt: No such file"),
        (["--file", "."], ".: Is a directory"),
    ],
)
def test_a_job_that_is_wrong_is_not_handed_in(arguments: list[str], said: str, shell: Shell) -> None:
    code, out, err = shell("submit", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"greenscale-worker: {said}")
    assert shell.waiting() == []


def lines_of(number: int, **fields: Any) -> bytes:
    return b"".join(orjson.dumps({"prompt": f"<{line}>", **fields}) + b"\n" for line in range(1, number + 1))


def test_a_line_without_an_id_has_that_of_what_it_says(shell: Shell) -> None:
    Path("jobs.jsonl").write_bytes(b'{"prompt": "1"}\n{"prompt": "2", "job_id": null}\n{"prompt": "1"}\n')
    code, out, err = shell("submit", "--jsonl", "jobs.jsonl")
    ids = out.split()
    assert (code, len(set(ids)), err) == (0, 3, ""), "two lines that are alike are two jobs"
    assert shell("submit", "--jsonl", "jobs.jsonl") == (
        0,
        out,
        "3 of 3 were known already, and are not handed in twice\n",
    )
    assert [job["job_id"] for job in shell.waiting()] == ids
    shell.run(ANSWER, Failed("no", ""))
    assert shell("submit", "--jsonl", "jobs.jsonl")[1:] == (
        out,
        "2 of 3 were known already, and are not handed in twice\n",
    )
    assert [job["job_id"] for job in shell.waiting()] == [ids[2], ids[1]], "what has failed is run again"
    for again in (["--metadata", "run=2"], ["--model", "m"]):
        _, out, err = shell("submit", "--jsonl", "jobs.jsonl", *again)
        assert (len(set(out.split()) - set(ids)), err) == (3, "")
        ids += out.split()


def test_a_redis_that_is_full_is_called_so_and_what_was_accepted_is_named(
    shell: Shell, start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis("maxmemory-policy noeviction")
    shell.set(REDIS_URL=server.url)
    Path("jobs.jsonl").write_bytes(lines_of(1000, padding="x" * 3000))
    with server.client() as client:
        assert shell("submit", "first", "--id", "first")[0] == 0
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 1_500_000)
        code, out, err = shell("submit", "--jsonl", "jobs.jsonl")
        accepted = client.llen("jobs") - 1
        assert 0 < accepted < 1000
        assert (code, out.count("\n"), err.count("\n")) == (1, accepted, 1)
        assert err.startswith("greenscale-worker: Redis is full (maxmemory): ")
        assert f"; handed in: jobs.jsonl lines 1 to {accepted}; " in err
        assert err.endswith(f"; not handed in: jobs.jsonl lines {accepted + 1} to 1000\n")
        client.config_set("maxmemory", 0)
        code, out, err = shell("submit", "--jsonl", "jobs.jsonl")
        assert (code, out.count("\n"), err.split()[:3]) == (0, 1000, [str(accepted), "of", "1000"])
        assert client.llen("jobs") == 1001, "the same command again loses and doubles nothing"
        client.config_set("maxmemory", 1)
        code, out, err = shell("submit", "x", "--id", "x")
        assert (code, out, err.endswith("; nothing was handed in\n")) == (1, "", True)


async def test_whoever_is_cut_off_says_what_was_accepted(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_bytes(lines_of(1000))
    async with TcpProxy(redis_server.port) as proxy:
        proxy.set(Trap(b"<501>"))
        arguments = ["submit", "--jsonl", "jobs.jsonl"]
        environment = {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}"}
        submit = process(*arguments, environment=environment, cwd=tmp_path)
        out, err = await asyncio.to_thread(submit.communicate)
        assert (submit.returncode, out.count(b"\n")) == (1, 500)
        assert b"; handed in: jobs.jsonl lines 1 to 500; " in err
        unknown = b"it is not known whether jobs.jsonl lines 501 to 600 were handed in; submit the file again, which"
        assert b"; " + unknown + b" hands no job in twice; " in err
        assert err.endswith(b"; not handed in: jobs.jsonl lines 601 to 1000\n")
        submit = process(*arguments, environment=environment, cwd=tmp_path)
        out, err = await asyncio.to_thread(submit.communicate)
        assert (submit.returncode, out.count(b"\n")) == (0, 1000)
        assert err == b"600 of 1000 were known already, and are not handed in twice\n"
    with redis_server.client() as client:
        assert client.llen("jobs") == 1000


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_an_id_whose_job_has_not_ended_is_refused(shell: Shell, state: str) -> None:
    """With another prompt the new job would be a dead letter, and its sender be given the answer to the first."""
    assert shell("submit", "first", "--id", "a")[0] == 0
    shell.client.hset("job:a", "state", state)
    code, out, err = shell("submit", "second", "--id", "a")
    assert (code, out) == (2, "")
    assert f"--id: job a has not ended yet ({state}); expected: another id, or `greenscale-worker result a" in err
    assert shell.client.llen("jobs") == 1


@pytest.mark.usefixtures("redis_url")  # where no job has this id
async def test_ctrl_c_while_it_is_handed_in_leaves_the_id(redis_server: RedisServer) -> None:
    async with TcpProxy(redis_server.port) as proxy:
        proxy.set(trap := Trap(b'"prompt"', cut=False))
        environment = {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}"}
        submit = process("submit", "x", "--id", "a", environment=environment)
        async with asyncio.timeout(PATIENCE):
            await trap.sprung.wait()
        submit.send_signal(signal.SIGINT)
        out, err = await asyncio.to_thread(submit.communicate)
    assert (submit.returncode, out, err) == (130, b"", NOT_KNOWN)


SAYS_SO: Final = b" handed in; `greenscale-worker status %b` says so, before it is submitted again\n"
NOT_KNOWN: Final = b"it is not known whether job a was" + SAYS_SO % b"a"


@pytest.mark.usefixtures("redis_url")  # where no job has this id
async def test_a_lost_answer_is_told_with_what_to_do(redis_server: RedisServer) -> None:
    async with TcpProxy(redis_server.port) as proxy:
        proxy.set(Trap(b'"prompt"'))
        submit = process("submit", "x", "--id", "a", environment={"REDIS_URL": f"redis://127.0.0.1:{proxy.port}"})
        out, err = await asyncio.to_thread(submit.communicate)
    assert (submit.returncode, out) == (1, b"")
    assert err.startswith(b"greenscale-worker: Redis does not answer: ")
    assert err.endswith(b"; " + NOT_KNOWN)
    assert b".;" not in err


async def test_lines_with_ids_of_their_own_are_not_said_to_be_safe_to_submit_again(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """They would run again, where the first ones have ended by then."""
    (tmp_path / "jobs.jsonl").write_bytes(b'{"job_id": "a", "prompt": "?"}\n{"job_id": "b", "prompt": "?"}\n')
    async with TcpProxy(redis_server.port) as proxy:
        proxy.set(Trap(b"EVALSHA"))
        environment = {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}"}
        submit = process("submit", "--jsonl", "jobs.jsonl", environment=environment, cwd=tmp_path)
        out, err = await asyncio.to_thread(submit.communicate)
    assert (submit.returncode, out) == (1, b"")
    assert err.endswith(b"; it is not known whether jobs.jsonl lines 1 to 2 were" + SAYS_SO % b"ID")


def test_without_a_connection_nothing_was_handed_in(shell: Shell) -> None:
    shell.set(REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    Path("jobs.jsonl").write_bytes(lines_of(200))
    for arguments in (["x"], ["--jsonl", "jobs.jsonl"]):
        code, out, err = shell("submit", *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert ": Connection refused; nothing was handed in; REDIS_URL, or REDIS_HOST and REDIS_PORT, say " in err
        assert "not known" not in err


def test_a_host_without_an_address_is_told_in_our_words(shell: Shell) -> None:
    shell.set(REDIS_URL="redis://nohost.invalid:6379")
    code, out, err = shell("jobs")
    assert (code, out, err.count("\n")) == (1, "", 1)
    told = "Redis does not answer: nohost.invalid:6379: the name of this host cannot be resolved; REDIS_URL, "
    assert err.startswith(f"greenscale-worker: {told}")


def test_a_redis_that_is_not_there_is_told_with_what_to_do(shell: Shell) -> None:
    port = free_port()
    shell.set(REDIS_URL=f"redis://127.0.0.1:{port}")
    code, out, err = shell("queue")
    assert (code, out) == (1, "")
    assert err.startswith(
        f"greenscale-worker: Redis does not answer: 127.0.0.1:{port}: Connection refused; REDIS_URL, "
    )
    assert err.endswith("`greenscale-worker up` brings one\n")
    assert err.count("\n") == 1


def test_ctrl_c_while_it_waits_leaves_the_ids(redis_url: str) -> None:
    with process("submit", "x", "--wait", environment={"REDIS_URL": redis_url}) as ask:
        assert ask.stderr is not None
        job_id = ask.stderr.readline().split()[1].decode()
        ask.send_signal(signal.SIGINT)
        assert ask.wait() == 130
    with redis.Redis.from_url(redis_url) as client:
        assert client.hget(f"job:{job_id}", "state") == b"waiting"


TWO: Final = b'{"job_id": "a", "prompt": "first?"}\n{"job_id": "b", "prompt": "second?"}\n'


@contextmanager
def two_waited_for(redis_url: str, *options: str) -> Iterator[Any]:
    """Submit two jobs, and wait for them in another process, as soon as it does."""
    arguments = ["submit", "--jsonl", "-", "--wait", *options]
    with process(*arguments, environment={"REDIS_URL": redis_url}, stdin=subprocess.PIPE) as ask:
        assert ask.stdin is not None
        assert ask.stderr is not None
        ask.stdin.write(TWO)
        ask.stdin.close()
        said = [ask.stderr.readline() for _ in range(3)]
        assert said == [b"submitted a\n", b"submitted b\n", b"nothing moves: no worker is alive\n"]
        yield ask


def test_while_it_waits_it_says_why_and_answers_come_in_order(shell: Shell, redis_url: str) -> None:
    with two_waited_for(redis_url) as ask:
        shell.run(None, ANSWER)
        why = {"state": "delayed", "error_code": "http_503", "error_message": "no\x1b[31mbody is in"}
        shell.client.hset("job:a", mapping=why)
        assert ask.stderr.readline() == b"a delayed: http_503: no [31mbody is in\n"
        shell.client.set("result:a", "1")
        shell.client.hset("job:a", mapping={"state": "succeeded"})
        assert ask.stdout.read() == b"# a  first?\n1\n# b  second?\n4\n\n"
        assert ask.wait() == 0


def test_when_the_time_is_over_what_has_ended_is_written(shell: Shell, redis_url: str) -> None:
    with two_waited_for(redis_url, "--json", "--timeout", "2s") as ask:
        shell.run(None, ANSWER)
        (line,) = ask.stdout.read().splitlines()
        assert orjson.loads(line)["job_id"] == "b"
        assert (ask.stderr.read(), ask.wait()) == (b"not finished yet: 1 of 2\n", 4)


def test_a_backend_of_ones_own_takes_any_payload(shell: Shell) -> None:
    shell.set(GREENSCALE_BACKEND="package.module:handler")
    Path("jobs.jsonl").write_bytes(b'{"image": "cat.png"}')
    assert shell("submit", "--jsonl", "jobs.jsonl")[0] == 0


async def test_the_answer_is_waited_for(fleet: Fleet, redis_url: str) -> None:
    worker = fleet.start()
    await worker.says("ready")
    environment = {"REDIS_URL": redis_url}
    ask = process("submit", "What is 2+2?", "--wait", environment=environment)
    lines = b'{"job_id": "a", "prompt": "1"}\n{"job_id": "b", "messages": [{"role": "user", "content": "2"}]}\n'
    many = process("submit", "--jsonl", "-", "--wait", "--json", environment=environment, stdin=subprocess.PIPE)
    text = process("submit", "--jsonl", "-", "--wait", environment=environment, stdin=subprocess.PIPE)
    both = many.communicate(lines), text.communicate(lines.replace(b'"a"', b'"c"').replace(b'"b"', b'"d"'))
    out, err = ask.communicate()
    assert (out, re.fullmatch(rb"submitted [0-9a-f]{32}\n", err) is not None) == (b"What is 2+2?\n", True)
    assert [each.returncode for each in (ask, many, text)] == [0, 0, 0]
    records = {record["job_id"]: record for record in map(orjson.loads, both[0][0].splitlines())}
    assert {job_id: record["prompt"] for job_id, record in records.items()} == {"a": "1", "b": "2"}
    assert {job_id: record["result"] for job_id, record in records.items()} == {"a": "1", "b": "2"}
    assert {record["state"] for record in records.values()} == {"succeeded"}
    assert both[1][0] == b"# c  1\n1\n# d  2\n2\n"
    assert [err for _, err in both] == [b"submitted a\nsubmitted b\n", b"submitted c\nsubmitted d\n"]
    await worker.stop()


async def test_failures_and_answers_that_do_not_come_are_told(fleet: Fleet, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "fleet" / "worker-0").parent.mkdir(parents=True, exist_ok=True)
    waiting = process("submit", "x", "--id", "x", "--wait", "--timeout", "0.3s", environment={"REDIS_URL": redis_url})
    out, err = waiting.communicate()
    assert (waiting.returncode, out) == (4, b"")
    assert err.decode().splitlines() == [
        "submitted x",
        "nothing moves: no worker is alive",
        "not finished yet: 1 of 1",
    ]
    worker = fleet.start(GREENSCALE_MAX_PAYLOAD_BYTES="1024")
    await worker.says("job", job_id="x")
    big = process("submit", "y" * 2000, "--id", "y", "--wait", environment={"REDIS_URL": redis_url})
    out, err = big.communicate()
    assert (big.returncode, out) == (1, b"")
    assert err.startswith(b"submitted y\ny failed: too_large: ")


async def test_waiting_outlives_redis(fleet: Fleet, start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("appendonly yes", "appendfsync always")
    ask = process("submit", "x", "--wait", environment={"REDIS_URL": server.url})
    assert ask.stderr is not None
    assert ask.stderr.readline().startswith(b"submitted ")
    assert ask.stderr.readline().startswith(b"nothing moves: no worker is alive")
    server.kill()
    assert ask.stderr.readline().startswith(b"Redis does not answer: ")
    server.start()
    worker = fleet.start(REDIS_URL=server.url)
    assert ask.communicate() == (b"x\n", b"")
    await worker.stop()


# --- status, result, cancel ---


def test_a_job_that_nobody_knows(shell: Shell) -> None:
    assert shell("status", "x") == (3, "x: unknown or waiting\n", "")
    assert shell.json("status", "x", code=3) == {"job_id": "x", "state": "unknown_or_waiting"}
    assert shell("result", "x") == (3, "", "x: unknown or waiting\n")
    assert shell.json("result", "x", code=3) == {"job_id": "x", "state": "unknown_or_waiting", "result": None}
    code, out, err = shell("cancel", "x")
    told = "x has no record: if it waits in the queue, or comes within seven days, it is cancelled when a worker claims"
    assert (code, out.startswith(told), err) == (3, True, "")
    assert out.splitlines()[1:] == ["  greenscale-worker cancel x --undo"]
    assert shell.json("cancel", "x", code=3) == {"job_id": "x", "cancellation": "unknown"}


def test_a_waiting_job_is_cancelled_when_it_comes_up(shell: Shell) -> None:
    shell("submit", "1", "--id", "x")
    assert shell("cancel", "x") == (
        0,
        "x will be cancelled when a worker claims it; this takes that back:\n  greenscale-worker cancel x --undo\n",
        "",
    )
    assert shell.json("status", "x")["state"] == "cancelling"
    assert shell("result", "x") == (4, "", "x has not finished yet: cancelling\n")
    assert 6 * 86_400 < shell.client.ttl("{jobs}:cancel:x") <= 7 * 86_400, "as long as a live record"


def test_a_cancellation_is_taken_back(shell: Shell) -> None:
    shell("submit", "1", "--id", "x")
    for job_id in ("x", "slip"):
        shell("cancel", job_id)
        said = f"{job_id}: the cancellation is taken back; a job with this id will run\n"
        assert shell("cancel", job_id, "--undo") == (0, said, "")
        said = f"{job_id}: there is no cancellation that could be taken back\n"
        assert shell("cancel", job_id, "--undo") == (3, said, "")
    assert shell.json("cancel", "slip", "--undo", code=3) == {"job_id": "slip", "undone": False}
    shell("submit", "2", "--id", "slip")
    shell.run(ANSWER, ANSWER)
    assert [shell("result", job_id)[0] for job_id in ("x", "slip")] == [0, 0]


@pytest.mark.parametrize("job_id", ["a b", "", "\ud800", "a|b"])
def test_what_no_job_can_be_called_is_told(job_id: str, shell: Shell) -> None:
    for command in ("cancel", "status", "result"):
        code, out, err = shell(command, job_id)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "is no job id; 1 to 128 of letters, digits" in err


def test_a_command_to_copy_is_not_broken(shell: Shell) -> None:
    shell.set(COLUMNS="40")
    job_id = "c0ffee00-0000-0000-0000-000000000000"
    assert f"\n  greenscale-worker cancel {job_id} --undo\n" in shell("cancel", job_id)[1]


def test_a_job_that_was_pushed_by_hand_is_cancelled_as_was_said(shell: Shell) -> None:
    shell.client.lpush("jobs", '{"job_id": "x", "prompt": "2+2"}')
    assert shell("cancel", "x")[1].startswith("x has no record: if it waits in the queue, ")
    shell.client.lpush("jobs", '{"job_id": "y", "prompt": "2+2"}')
    shell.run(ANSWER)
    assert shell.json("status", "x")["state"] == "cancelled"


def test_a_job_from_waiting_to_succeeded(shell: Shell) -> None:
    shell("submit", "2+2", "--id", "x", "--metadata", "team=search")
    assert shell.json("status", "x")["state"] == "waiting"
    assert shell("result", "x") == (4, "", "x has not finished yet: waiting\n")
    shell.run(ANSWER)
    code, out, err = shell("status", "x")
    assert (code, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["state"] == "succeeded"
    assert (rows["attempts"], rows["total_tokens"], rows["metadata"]) == ("1", "4", '{"team":"search"}')
    for name in ("submitted", "claimed", "finished"):
        stamp, passed = re.fullmatch(r"(\S+Z)  \((.*) s ago\)", rows[name]).groups()  # type: ignore[union-attr]
        assert abs(datetime.now().astimezone() - datetime.fromisoformat(stamp)) < timedelta(minutes=1)
        assert float(passed) < 60
    assert len({line.index(rows[line.split()[0]]) for line in out.splitlines()}) == 1, "the values are aligned"
    record = shell.json("status", "x")
    assert (record["state"], record["attempts"], record["total_tokens"]) == ("succeeded", 1, 4)
    assert (record["metadata"], type(record["finished_ms"])) == ({"team": "search"}, int)
    assert shell("result", "x") == (0, "4\n\n", "")
    assert shell.json("result", "x")["result"] == "4\n"
    assert shell("cancel", "x") == (1, "x had finished before\n", "")
    assert shell.json("cancel", "x", code=1) == {"job_id": "x", "cancellation": "finished"}


def test_a_job_that_is_delayed_or_running_can_be_cancelled(shell: Shell) -> None:
    shell("submit", "1", "--id", "later")
    shell.run(Released("overload", delay=60))
    code, out, _ = shell("status", "later")
    assert (code, out.split()[:2]) == (0, ["state", "delayed"])
    assert re.search(r"due +\S+Z  \(in \d+ s\)", out)
    assert shell("result", "later") == (4, "", "later has not finished yet: delayed\n")
    assert shell("cancel", "later") == (0, "later is cancelled\n", "")
    assert shell("result", "later") == (1, "", "later cancelled\n")


def test_a_job_that_failed_has_no_result(shell: Shell) -> None:
    shell("submit", "1", "--id", "x")
    shell.run(Failed("http_422", "too\x1b[31m red"))
    assert shell("result", "x") == (1, "", "x failed: http_422: too [31m red\n")
    code, out, _ = shell("status", "x")
    assert (code, "\x1b" in out) == (0, False)


def test_an_old_answer_is_not_taken_for_that_of_a_new_job(shell: Shell) -> None:
    shell("submit", "1", "--id", "x")
    shell.run(ANSWER)
    shell("submit", "2", "--id", "x")
    assert shell("result", "x") == (4, "", "x has not finished yet: waiting\n")


def test_an_answer_whose_time_is_over(shell: Shell) -> None:
    shell("submit", "1", "--id", "x")
    shell.run(ANSWER)
    shell.client.delete("result:x")
    assert shell("result", "x") == (3, "", "x: the answer is kept no longer\n")


# --- queue, pause, resume ---


def test_the_queue_is_counted(shell: Shell) -> None:
    for number in range(12):
        shell("submit", str(number))
    shell.run(Released("overload", delay=60), Failed("no", ""))
    found = shell.json("queue")
    assert found.pop("workers") == []
    assert found.pop("oldest_seconds") is None  # nothing that waits says when it was made
    counts = {"waiting": 10, "running": 0, "delayed": 1, "held": 0, "dead": 1, "scheduled": 0}
    counts |= {"interactive": 0, "background": 0}
    why = {"paused": False, "failing_seconds": None, "failing_by": None, "why": "no worker is alive"}
    flow = {"held_back": None, "limit": None, "engine_unseen": None}
    assert found == {"queue": "jobs", **counts, **why, **flow, "rate_per_second": 0.0, "eta_seconds": None}
    code, out, _ = shell("queue")
    assert code == 0
    rows = ["waiting  10", "running   0", "delayed   1", "held      0", "dead      1", "workers   0"]
    assert out.splitlines() == ["queue jobs", *rows, "", "no worker is alive"]


def test_the_queue_says_why_nothing_succeeds(shell: Shell, redis_url: str) -> None:
    shell("submit", "first")
    shell("submit", "second")
    said = "http_401: HTTP 401: \x1b[31mthe endpoint refuses the key"
    why = {"blamed": int(1000 * time.time()) - 90_000, "blamed_by": said}
    with redis.Redis.from_url(redis_url) as client:
        client.hset("{jobs}:control", mapping=why)
    _, out, _ = shell("queue")
    assert re.search(r"^no worker is alive; no success for 1 m 3\d s: http_401: HTTP 401: ", out, re.MULTILINE)
    assert "\x1b" not in out
    assert shell.json("queue")["failing_by"].startswith("http_401")


def test_the_queue_says_why_the_engine_cannot_be_seen(shell: Shell, redis_url: str) -> None:
    said = "http://vllm:8000/metrics: HTTP 404 Not Found"
    with redis.Redis.from_url(redis_url) as client:
        client.hset("{jobs}:control", mapping={"format": "2", "flow": "1"})
        client.hset("{jobs}:flow", mapping={"limit": "engine 40", "engine": "5", "engine_why": said})
    out = " ".join(shell("queue")[1].split())
    assert f"the engine cannot be seen, so the limit does not grow: {said}" in out
    found = shell.json("queue")
    assert (found["engine_unseen"], found["limit"]) == (said, 5)


def test_jobs_that_wait_for_a_success_are_counted_as_held(shell: Shell) -> None:
    alike = Failure(code="http_400", message="no", prior="job", fingerprint="400")
    for number in range(5):
        shell("submit", str(number))
    shell.run(alike, alike, alike, alike, None)  # two are dead; the last claim finds that the others are due
    assert re.search(r"^held +2\ndead +2$", shell("queue")[1], re.MULTILINE)


def test_a_record_is_shown_in_one_order_however_long_it_is(shell: Shell) -> None:
    shell("submit", "1", "--id", "x")
    shell.run(Failed("http_422", "long" * 100))
    names = [line.split()[0] for line in shell("status", "x")[1].splitlines()]
    assert names[-7:] == ["attempts", "crashes", "worker", "backend", "error_code", "error_message", "class"]


async def test_workers_that_live_are_listed(fleet: Fleet, redis_url: str) -> None:
    worker = fleet.start()
    await worker.says("ready")
    out, _ = process("queue", environment={"REDIS_URL": redis_url}).communicate()
    head = "worker +heartbeat +running +longest"
    assert re.search(rf"\n{head}\n\S+:{worker.pid}:\S+ +\S+ s ago +0 +-\n$", out.decode())
    await worker.stop()


def test_a_pause_holds_until_it_is_ended(shell: Shell) -> None:
    code, out, _ = shell("pause")
    assert code == 0
    assert out == "The queue 'jobs' is paused: what runs goes on, nothing more is claimed.\n"
    assert shell("pause")[1].startswith("The queue 'jobs' was paused already: ")
    assert "KEDA stops all its workers soon" in shell("pause", "--scale-to-zero")[1]
    assert shell.json("queue")["paused"] is True
    assert shell("queue")[1].endswith("\n\npaused: `greenscale-worker resume` ends it\n")
    code, out, _ = shell("resume")
    assert code == 0
    assert out == "The queue 'jobs' goes on.\n"
    assert shell("resume")[1] == "The queue 'jobs' was not paused.\n"
    assert shell.json("queue")["paused"] is False


def test_the_queue_says_which_limit_holds_jobs_back() -> None:
    depth = Depth(waiting=2, running=4, delayed=0, dead=0, oldest_seconds=None, paused=False)
    flow = Flow(waiting=2, open=4, in_flight=4, limit=4, held="limit")
    said = Standing(depth, [], None, tries_anew=False, flow=flow).held_back
    assert said == "as many calls are open as all workers together may have: 4"


def test_watching_goes_on_until_ctrl_c(redis_url: str) -> None:
    watch = process("queue", "--watch", "0.05", "--json", environment={"REDIS_URL": redis_url})
    assert watch.stdout is not None
    assert [orjson.loads(watch.stdout.readline())["queue"] for _ in range(3)] == ["jobs"] * 3
    watch.send_signal(signal.SIGINT)
    assert watch.communicate()[1] == b""
    assert watch.returncode == 130


def on_a_terminal(redis_url: str, **environment: str) -> str:
    """Watch the queue on a terminal until it has been drawn twice."""
    ours, theirs = pty.openpty()
    settings = {"REDIS_URL": redis_url, "TERM": "xterm", **environment}
    watch = process("queue", "--watch", "0.05", environment=settings, stdout=theirs)
    os.close(theirs)
    seen = b""
    while seen.count(b"\x1b[H\x1b[J") < 3:
        seen += os.read(ours, 1000)
    watch.send_signal(signal.SIGINT)
    watch.communicate()
    os.close(ours)
    return seen.decode()


def test_on_a_terminal_the_screen_is_drawn_anew(redis_url: str) -> None:
    seen = on_a_terminal(redis_url)
    assert seen.startswith("\x1b[2J\x1b[H\x1b[Jqueue \x1b[1mjobs\x1b[0m\r\nwaiting  0")
    assert "\x1b[1m" not in on_a_terminal(redis_url, NO_COLOR="1")


def test_watching_outlives_redis(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    watch = process("queue", "--watch", "0.05", environment={"REDIS_URL": server.url})
    assert watch.stdout is not None
    assert watch.stdout.readline() == b"queue jobs\n"
    server.kill()
    while not (line := watch.stdout.readline()).startswith(b"Redis does not answer"):
        assert line
    server.start()
    while watch.stdout.readline() != b"queue jobs\n":
        pass
    watch.send_signal(signal.SIGINT)
    watch.communicate()


# --- dead letters ---


@pytest.fixture
def letters(shell: Shell) -> Shell:
    """Three dead letters: of two jobs, and one that is no job at all."""
    for job_id in ("a", "b"):
        shell("submit", job_id, "--id", job_id)
    shell.run(Failed("http_422", "no"), Failed("timeout", "no answer\x1b]0;title\x07 in time"))

    async def bury() -> None:
        async with aclosing(await open_queue(RedisOptions(url=shell.url), QueueOptions(), Metrics())) as queue:
            shell.client.lpush("jobs", b"\xff\x1b[2J")
            await queue.settle(await queue.lease(), Failed("not_json", "not JSON"))

    asyncio.run(bury())
    return shell


def test_dead_letters_are_listed(letters: Shell) -> None:
    code, out, err = letters("dead", "list")
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["ID", "JOB", "DIED", "CODE", "MESSAGE"]
    assert "\x1b" not in out
    assert [row.split()[1] for row in rows] == ["-", "b", "a"]
    assert rows[1].endswith(" s ago  timeout   no answer ]0;title  in time")
    lines = [orjson.loads(line) for line in letters("dead", "list", "--json")[1].splitlines()]
    assert [(line["job_id"], line["code"]) for line in lines] == [
        (None, "not_json"),
        ("b", "timeout"),
        ("a", "http_422"),
    ]
    assert all("payload" not in line for line in lines)


def test_no_dead_letters(shell: Shell) -> None:
    assert shell("dead", "list") == (0, "", "there are no dead letters\n")
    assert shell("dead", "list", "--json")[:2] == (0, "")


def test_a_dead_letter_is_shown_with_its_payload(letters: Shell) -> None:
    code, out, _ = letters("dead", "show", "a")
    assert code == 0
    assert out.endswith('\n\n{"job_id":"a","prompt":"a"}\n')
    letter = letters.json("dead", "show", "a")
    assert letters.json("dead", "show", letter["id"]) == letter
    assert (letter["code"], letter["payload"]) == ("http_422", '{"job_id":"a","prompt":"a"}')
    nameless = orjson.loads(letters("dead", "list", "--json")[1].splitlines()[0])["id"]
    assert letters.json("dead", "show", nameless)["payload_hex"] == "ff1b5b324a"
    assert letters("dead", "show", nameless)[1].endswith("\\xff\ufffd[2J\n")
    assert letters("dead", "show", "nobody") == (3, "", "nobody: there is no such dead letter\n")


def test_attempts_are_one_word_and_one_number_everywhere(shell: Shell) -> None:
    shell("submit", "x", "--id", "a")
    shell.run(Failure(code="timeout", message="no answer", used=0.2))
    shell.run(Failed("http_400", "no"))
    for command in ("status a", "dead show a"):
        assert ["attempts", "2"] in [line.split() for line in shell(*command.split())[1].splitlines()]
    head, row = shell("jobs", "--state", "failed")[1].splitlines()
    assert row[head.index("ATTEMPTS") :].split()[0] == "2"
    for command in ("status a", "dead show a", "dead list", "jobs"):
        assert shell.json(*command.split())["attempts"] == 2, command


def test_dead_letters_are_counted_by_code(letters: Shell) -> None:
    assert letters.json("dead", "codes") == {"http_422": 1, "not_json": 1, "timeout": 1}
    code, out, err = letters("dead", "codes")
    assert (code, [line.split() for line in out.splitlines()][1:], err) == (
        0,
        [["1", "http_422"], ["1", "not_json"], ["1", "timeout"]],
        "",
    )


def test_a_list_of_dead_letters_ends_where_it_should(letters: Shell) -> None:
    code, out, err = letters("dead", "list", "--limit", "2")
    last = out.splitlines()[-1].split()[0]
    assert (code, out.count("\n")) == (0, 3)
    assert err == f"… 2 of 3 shown; for more: --after {last}, or --limit 0\n"
    code, out, err = letters("dead", "list", "--after", last)
    assert (code, [row.split()[1] for row in out.splitlines()[1:]], err) == (0, ["a"], "")
    assert letters("dead", "list", "--after", "nobody") == (3, "", "nobody: there is no such dead letter\n")
    assert letters("dead", "list", "--code", "timeout")[1].count("\n") == 2
    code, out, err = letters("dead", "list", "--code", "time")
    assert (code, out, err.startswith("no dead letter has the code 'time'; there are: ")) == (0, "", True)
    nothing = (0, "", "there are no dead letters of this kind\n")
    assert letters("dead", "list", "--code", "timeout", "--since", "0s") == nothing
    assert letters("dead", "list", "--since", "1h")[1].count("\n") == 4
    assert letters("dead", "list", "--since", "2030-01-02T03:04:05Z")[2] == "there are no dead letters of this kind\n"
    assert len(letters("dead", "list", "--json", "--limit", "2")[1].splitlines()) == 2
    code, out, err = letters("dead", "list", "--limit", "0")
    assert (code, out.count("\n"), err) == (0, 4, "")


def test_many_dead_letters_are_listed_a_hundred_at_a_time_and_as_json_all(shell: Shell) -> None:
    header = orjson.dumps(
        {"code": "x", "message": "m", "job_id": "", "token": "", "tries": 1, "crashes": 0}
        | {"first_claimed_ms": "1", "died_ms": "1"}
    )
    shell.client.hset("{jobs}:dead", mapping={str(number): header + b"\npayload" for number in range(1201)})
    code, out, err = shell("dead", "list")
    assert (code, out.count("\n"), err[:22]) == (0, 101, "… 100 of 1,201 shown; ")
    lines = [orjson.loads(line) for line in shell("dead", "list", "--json")[1].splitlines()]
    assert {line["id"] for line in lines} == {str(number) for number in range(1201)}
    assert shell("dead", "replay", "--all", "--limit", "1000", "--dry-run") == (0, "to be replayed: 1000\n", "")
    assert shell("dead", "replay", "--all", "--limit", "1000") == (0, "replayed: 1000\n", "")
    assert shell("dead", "purge", "--older-than", "1h") == (0, "purged: 201\n", "")
    assert shell.client.exists("{jobs}:dead", "{jobs}:dead:payload", "{jobs}:dead:index") == 0


def test_nothing_is_done_where_it_is_only_asked_for(letters: Shell) -> None:
    before = letters("dead", "list", "--json")
    assert letters("dead", "replay", "a", "b", "c", "--dry-run")[:2] == (1, "to be replayed: 2\n")
    assert letters("dead", "replay", "--since", "1h", "--dry-run") == (0, "to be replayed: 3\n", "")
    assert letters("dead", "purge", "--older-than", "0", "--dry-run") == (0, "to be purged: 3\n", "")
    assert letters("dead", "purge", "--older-than", "0", "--code", "timeout", "--dry-run")[1] == "to be purged: 1\n"
    assert letters("dead", "list", "--json") == before


@pytest.mark.parametrize("arguments", [[], ["x", "--all"], ["x", "--code", "y"], ["x", "--since", "1h"]], ids=" ".join)
def test_what_is_to_be_replayed_is_said_in_one_way(arguments: list[str], shell: Shell) -> None:
    code, out, err = shell("dead", "replay", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    said = "ids and a choice exclude each other" if arguments else "nothing is chosen"
    assert f"dead replay: {said}; expected: ids, or else --all" in err


def test_dead_letters_are_replayed(letters: Shell) -> None:
    assert letters("dead", "replay", "a") == (0, "replayed: 1\n", "")
    assert letters.json("queue")["waiting"] == 1
    code, out, err = letters("dead", "replay", "a", "b")
    assert (code, out, err) == (1, "replayed: 1\n", "a: there is no such dead letter\n")
    assert letters("dead", "replay", "a") == (3, "replayed: 0\n", "a: there is no such dead letter\n")
    assert letters("dead", "replay", "--code", "not_json", "--since", "0s") == (0, "replayed: 0\n", "")
    assert letters("dead", "replay", "--code", "not_json") == (0, "replayed: 1\n", "")
    assert letters.json("queue")["dead"] == 0


def test_all_dead_letters_are_replayed(letters: Shell) -> None:
    assert letters("dead", "replay", "--all") == (0, "replayed: 3\n", "")


@pytest.mark.parametrize("arguments", ["replay --code x", "replay --code x --dry-run", "purge --code x --older-than 0"])
def test_a_code_that_no_dead_letter_has_is_told_with_those_there_are(arguments: str, letters: Shell) -> None:
    code, out, err = letters("dead", *arguments.split())
    counts = letters.json("dead", "codes")
    assert (code, out.endswith("ed: 0\n")) == (3, True)
    assert err.startswith("no dead letter has the code 'x'; there are: ")
    assert all(f"{name} ({count})" in err for name, count in counts.items())
    assert letters.json("dead", "codes") == counts


def test_where_there_is_no_dead_letter_no_code_is_known(shell: Shell) -> None:
    said = "no dead letter has the code 'x'; there are: no dead letters at all\n"
    assert shell("dead", "replay", "--code", "x") == (3, "replayed: 0\n", said)
    assert shell("dead", "list", "--code", "x") == (0, "", said)


def test_dead_letters_are_purged_by_age(letters: Shell) -> None:
    assert letters("dead", "purge", "--older-than", "7d") == (0, "purged: 0\n", "")
    assert letters("dead", "purge", "--older-than", "0") == (0, "purged: 3\n", "")


# --- config ---


def test_config_shows_values_and_sources_and_masks_secrets(shell: Shell, tmp_path: Path) -> None:
    Path(".env").write_text("GREENSCALE_DRAIN_SECONDS=2.5\nFOREIGN=x\n")
    (tmp_path / "secret").write_text("pa55word\n")
    shell.set(NEYSA_API_KEY="k3y", GREENSCALE_CONCURRENCY="3", REDIS_PASSWORD_FILE=str(tmp_path / "secret"))
    shell.set(NEYSA_API_URL="https://user:pa55@h/v1/chat/completions", OPENAI_API_KEY="")
    shell.set(REDIS_URL=shell.url.replace("://", "://user@"), GREENSCALE_MODLE="x")
    code, out, err = shell("config")
    assert code == 0
    assert err == "GREENSCALE_MODLE: there is no such setting; the nearest is GREENSCALE_MODEL\n"
    assert not re.search("k3y|pa55|user", out)
    for name, *rest in (
        ("GREENSCALE_CONCURRENCY", "environment", "3"),
        ("GREENSCALE_DRAIN_SECONDS", ".env", "2.5"),
        ("GREENSCALE_LEASE_SECONDS", "default", "15"),
        ("REDIS_PASSWORD", r"REDIS_PASSWORD_FILE in environment", r"\*+"),
        ("NEYSA_API_URL", "environment", r"https://\*\*\*@h/v1/chat/completions"),
        ("OPENAI_API_KEY", "environment", r"\(empty\)"),
        ("GREENSCALE_MODEL", "default", "-"),
    ):
        assert re.search(rf"^  {name} +{' +'.join(rest)}$", out, re.MULTILINE), name
    found = shell.json("config")
    assert found["settings"]["GREENSCALE_CONCURRENCY"] == {"value": 3, "source": "environment"}
    assert found["endpoint"]["url"] == "https://***@h/v1/chat/completions"
    assert not re.search("k3y|pa55|user@", str(found))


def test_config_says_why_the_worker_would_not_start(shell: Shell) -> None:
    shell.set(REDIS_HOST="h")
    found = shell.json("config")
    assert found["endpoint"]["error"].startswith("none is set: `greenscale-worker up` simulates one; ")
    assert found["redis"]["error"].startswith("REDIS_URL and REDIS_HOST contradict")
    code, out, _ = shell("config")
    assert (code, "`greenscale-worker up` simulates one" in out) == (0, True)
    shell.set(NEYSA_API_URL="https://h/v1/chat/completions")
    error = shell.json("config")["endpoint"]["error"]
    assert error.startswith("NEYSA_API_URL is set without NEYSA_API_KEY; expected: the key of that endpoint, or ")
    shell.set(GREENSCALE_CONCURRENCY="0")
    assert shell("config")[:2] == (2, "")


def test_the_page_of_the_documentation_is_written_without_reading_settings(shell: Shell) -> None:
    shell.set(GREENSCALE_CONCURRENCY="0")
    code, out, _ = shell("config", "--markdown")
    assert (code, out.startswith("<!-- Written by")) == (0, True)


# --- what goes wrong around a command ---


@pytest.mark.parametrize("arguments", [["status", "x"], ["queue"], ["dead", "list"], ["pause"], ["submit", "x"]])
def test_commands_on_the_queue_ask_for_no_key_but_for_redis(arguments: list[str], shell: Shell) -> None:
    assert shell(*arguments)[0] in (0, 3)
    shell.set(REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    code, out, err = shell(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("greenscale-worker: Redis does not answer: ")


def test_a_wrong_password_is_told_in_one_line(shell: Shell, start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("requirepass right")
    for password in ("wrong", ""):
        shell.set(REDIS_URL=server.url, REDIS_PASSWORD=password)
        code, out, err = shell("queue")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "refuses" in err
    shell.set(REDIS_PASSWORD="right")  # noqa: S106  of a server of our own
    assert shell("queue")[0] == 0


def test_a_reader_that_has_gone_ends_a_command_quietly(redis_url: str) -> None:
    read, write = os.pipe()
    os.close(read)
    commands = (["queue"], ["--help"], ["config", "--json"])
    started = [process(*arguments, environment={"REDIS_URL": redis_url}, stdout=write) for arguments in commands]
    os.close(write)
    for command in started:
        assert (command.communicate()[1], command.returncode) == (b"", 141)


# --- the worker as a process ---


WRONG_SETTINGS: dict[str, dict[str, str]] = {
    "no endpoint is set; expected: NEYSA_API_KEY": {},
    "GREENSCALE_CONCURRENCY: '0' is not accepted": {"GREENSCALE_CONCURRENCY": "0"},
    "REDIS_URL and REDIS_HOST contradict": {"NEYSA_API_KEY": "", "REDIS_URL": "redis://h", "REDIS_HOST": "h"},
    "GREENSCALE_BACKEND: backend nonsense: there is no such one": {"GREENSCALE_BACKEND": "nonsense"},
}


def test_a_wrong_setting_stops_the_start_with_one_line(tmp_path: Path) -> None:
    workers = {said: process(environment=environment, cwd=tmp_path) for said, environment in WRONG_SETTINGS.items()}
    for said, worker in workers.items():
        out, err = worker.communicate()
        assert (worker.returncode, out, err.count(b"\n")) == (2, b"", 1)
        assert err.decode().startswith(f"greenscale-worker: {said}")


async def fetch(port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def test_while_redis_is_away_the_worker_lives_and_is_not_ready(
    fleet: Fleet, start_redis: Callable[..., RedisServer]
) -> None:
    server, port = start_redis(), free_port()
    server.kill()
    worker = fleet.start(REDIS_URL=server.url, GREENSCALE_HEALTH_PORT=port, GREENSCALE_LEASE_SECONDS=1)
    await worker.says("queue_unavailable")
    assert (await fetch(port, "/livez"))[0] == 200
    code, body = await fetch(port, "/readyz")
    assert (code, "the queue does not answer" in body) == (503, True)
    assert "greenscale_queue_jobs{" not in (await fetch(port, "/metrics"))[1]
    server.start()
    await worker.says("ready")
    assert (await fetch(port, "/readyz"))[0] == 200
    assert 'greenscale_queue_jobs{state="dead"} 0.0' in (await fetch(port, "/metrics"))[1]
    await worker.stop()


async def test_told_to_stop_while_it_waits_for_redis_the_worker_stops(fleet: Fleet) -> None:
    worker = fleet.start(REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    await worker.says("queue_unavailable")
    await worker.stop()
    assert [line["event"] for line in worker.log()] == ["queue_unavailable", "stopped"]


async def test_told_to_stop_at_any_moment_of_connecting_the_worker_stops() -> None:
    """Against a server that is silent, whatever goes on after it was cancelled would go on for ever."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as silent:
        url = f"redis://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        for steps in range(100):
            worker = Process(load({"REDIS_URL": url, "GREENSCALE_BACKEND": "echo"}))
            running = asyncio.create_task(worker.run())
            for _ in range(steps):
                await asyncio.sleep(0)
            worker.stop()
            async with asyncio.timeout(4.0):  # less than redis-py waits for an answer
                assert await running


async def test_a_port_in_use_and_a_wrong_password_stop_the_start(
    fleet: Fleet, start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis("requirepass right")
    for worker in fleet.start(GREENSCALE_HEALTH_PORT=server.port), fleet.start(REDIS_URL=server.url):
        assert await worker.exit_code() == 2
        assert worker.stderr.startswith("greenscale-worker: ")
        assert worker.stderr.count("\n") == 1


async def test_redis_gone_at_the_end_is_told_and_is_exit_code_1(
    fleet: Fleet, start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text("import asyncio\n\n\nasync def run(job):\n    await asyncio.sleep(60)\n")
    server = start_redis()
    own = {"GREENSCALE_BACKEND": "slow:run", "PYTHONPATH": str(tmp_path), "GREENSCALE_DRAIN_SECONDS": "0"}
    worker = fleet.start(breakpoint_at=None, REDIS_URL=server.url, **own)
    await worker.says("ready")
    with server.client() as client:
        client.lpush("jobs", b'{"job_id": "x", "prompt": "x"}')
        await eventually(lambda: client.exists("job:x"))
    server.kill()
    await worker.stop(code=1)
    assert worker.stderr == ""
    (line,) = (line for line in worker.log() if line["level"] == "error")
    assert line["event"] == "stopped"


async def test_prompts_and_answers_are_logged_only_where_a_setting_says_so(fleet: Fleet, shell: Shell) -> None:
    logs = {name: fleet.start(GREENSCALE_LOG_CONTENT=name, REDIS_LIST_NAME=name) for name in ("false", "true")}
    for name, worker in logs.items():
        shell.client.lpush(name, orjson.dumps({"job_id": name, "prompt": "hush"}))
        await worker.says("job", job_id=name, outcome="succeeded")
        await worker.stop()
    assert [str(worker.log()).count("hush") for worker in logs.values()] == [0, 2]


async def test_a_slip_of_the_pen_is_logged(fleet: Fleet) -> None:
    worker = fleet.start(GREENSCALE_DRAINN="1", REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    said = await worker.says("unknown_setting", name="GREENSCALE_DRAINN")
    assert "GREENSCALE_DRAIN_SECONDS" in said["hint"]


def test_ctrl_c_ends_the_worker_as_sigterm_does(redis_url: str, tmp_path: Path) -> None:
    worker = process(environment={"REDIS_URL": redis_url, "GREENSCALE_BACKEND": "echo"}, cwd=tmp_path)
    assert worker.stdout is not None
    while b'"ready"' not in worker.stdout.readline():
        pass
    worker.send_signal(signal.SIGINT)
    out, err = worker.communicate()
    assert (worker.returncode, err, out.splitlines()[-1].count(b'"stopped"')) == (0, b"", 1)


# --- how things look ---


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12.3, "12 s"),
        (60, "1 m 0 s"),
        (3725, "1 h 2 m"),
        (200_000, "2 d 7 h"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_moments() -> None:
    assert moment(0).startswith("1970-01-01T00:00:00.000Z  (")
    assert re.search(r"\(in \d+ d \d+ h\)$", moment(4_102_444_800))
    assert moment(1e18) == "1e+18 s since 1970"


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("1.5m", 90), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600), ("0", 0)]
)
def test_time_spans(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("1.5", 1.5), ("0", 0), ("2m", 120)])
def test_how_long_to_wait_may_be_seconds_without_a_unit(text: str, seconds: float) -> None:
    assert patience_of(text) == seconds


def test_a_number_without_a_unit_is_no_time_span(shell: Shell) -> None:
    """Who types `--older-than 7` means days; taken for seconds, it deleted nearly all."""
    shell("submit", "x", "--id", "x")
    shell.run(Failed("http_400", ""))
    for arguments in (
        ["dead", "purge", "--older-than", "7"],
        ["dead", "list", "--since", "7"],
        ["dead", "replay", "--since", "7"],
    ):
        code, out, err = shell(*arguments)
        assert (code, out) == (2, "")
        assert f"argument {arguments[-2]}: '7': a unit is missing; 45s, 30m, 12h, 7d or 2w are accepted" in err
    assert shell("dead", "purge", "--older-than", "0") == (0, "purged: 1\n", "")


def test_times_since_when() -> None:
    assert since_of("2030-01-02T03:04:05Z") == since_of("2030-01-02 03:04:05") == (1893553445.0, None)
    assert since_of("2030-01-02T04:04:05+01:00") == (1893553445.0, None)
    assert (since_of("2h"), since_of("0")) == ((None, 7200.0), (None, 0.0))
    now = datetime.now(UTC)
    for minutes in (-61, -1, 2):
        word = f"{now + timedelta(minutes=minutes):%H:%M}"
        since, none = since_of(word)
        assert since is not None
        assert none is None
        assert -86_400 <= since - now.timestamp() <= 0, "in the last 24 hours"
        assert f"{datetime.fromtimestamp(since, UTC):%H:%M:%S}" == f"{word}:00"
    for wrong in ("soon", "25:00", "2030-13-01", "", "1y"):
        with pytest.raises(ArgumentTypeError, match="is no time; 2030-01-02"):
            since_of(wrong)


def test_columns_are_aligned_and_one_line_each() -> None:
    assert columns([("a", "b\nc"), ("long", "d")], head=("X", "Y")) == "X     Y\na     b c\nlong  d"
