"""The commands that show jobs and wait for them; against a real Redis and in real processes."""

import asyncio
import os
import pty
import re
import signal
import subprocess  # noqa: TC003  a context manager gives it
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import orjson
import pytest
import redis

from greenscale_worker import queues
from greenscale_worker.cli import overview
from greenscale_worker.cli.listing import STATES
from greenscale_worker.job import Failed, Failure, Released, decode
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.redis.list import open_queue
from greenscale_worker.telemetry import Metrics
from harness.eventually import eventually
from harness.redis_server import RedisServer, free_port
from harness.terminal import read_terminal
from harness.worker_process import Fleet
from tests.support.shell import ANSWER, Shell, process

NOBODY = b"nothing moves: no worker is alive\n"
NOT_YET = b"x: no job with this id is known yet\n"


# --- result --wait ---


@contextmanager
def waiting_for(redis_url: str, job_id: str, *before: bytes) -> Iterator["subprocess.Popen[bytes]"]:
    """Wait for a job in another process, as soon as it does, and has said what comes `before` the rest."""
    with process("result", job_id, "--wait", "--timeout", "60s", environment={"REDIS_URL": redis_url}) as ask:
        assert ask.stderr is not None
        assert [ask.stderr.readline() for _ in (*before, NOBODY)] == [*before, NOBODY]
        yield ask


def test_a_job_is_waited_for_that_is_not_there_yet(shell: Shell, redis_url: str) -> None:
    with waiting_for(redis_url, "x", NOT_YET) as ask:
        shell("submit", "2+2", "--id", "x")
        shell.run(ANSWER)
        assert ask.communicate() == (b"4\n\n", b"")
        assert ask.returncode == 0


def test_a_job_that_was_cancelled_while_it_was_delayed_is_not_due(shell: Shell) -> None:
    shell("submit", "2+2", "--id", "x")
    shell.run(Released("overload", delay=600))
    assert "overload" in shell("jobs")[1]
    assert shell("cancel", "x")[0] == 0
    for command in (("jobs",), ("status", "x")):
        _, out, _ = shell(*command)
        assert "cancelled" in out
        assert "due" not in out
    assert "overload" not in shell("jobs")[1]


def test_a_job_that_has_ended_is_not_waited_for(shell: Shell) -> None:
    for job_id in ("good", "bad"):
        shell("submit", "2+2", "--id", job_id)
    shell.run(ANSWER, Failed("http_422", "no"))
    assert shell("result", "good", "--wait")[:2] == (0, "4\n\n")
    assert shell("result", "bad", "--wait")[::2] == (1, NOBODY.decode() + "bad failed: http_422: no\n")
    assert shell.json("result", "good", "--wait")["result"] == "4\n"


def test_while_a_result_is_waited_for_it_is_said_why(shell: Shell, redis_url: str) -> None:
    shell("submit", "2+2", "--id", "x")
    shell.run(Released("overload", delay=60))
    shell.client.hset("job:x", "error_message", "to\x1b[31mo much")
    with waiting_for(redis_url, "x") as ask:
        assert ask.stderr is not None
        assert ask.stderr.readline() == b"x delayed: overload: to [31mo much\n"
        shell("cancel", "x")
        assert ask.communicate() == (b"", b"x cancelled\n")
        assert ask.returncode == 1


def test_waiting_for_a_result_ends_in_time(shell: Shell) -> None:
    assert shell("result", "x", "--wait", "--timeout", "0.1s") == (
        3,
        "",
        (NOT_YET + NOBODY).decode() + "x: unknown or waiting\n",
    )
    shell("submit", "2+2", "--id", "x")
    code, out, err = shell("result", "x", "--wait", "--timeout", "0.1s")
    assert (code, out, err) == (4, "", NOBODY.decode() + "x has not finished yet: waiting\n")


def test_a_wait_says_why_nothing_moves_and_says_it_again_where_that_changes(shell: Shell, redis_url: str) -> None:
    shell("submit", "2+2", "--id", "x")
    shell("pause")
    with process("result", "x", "--wait", environment={"REDIS_URL": redis_url}) as ask:
        assert ask.stderr is not None
        paused = b"nothing moves: paused: `greenscale-worker resume` ends it; no worker is alive\n"
        first = ask.stderr.readline()
        shell("resume")
        second = ask.stderr.readline()
        shell.run(ANSWER)
        out, rest = ask.communicate()
    assert (first, second, out, rest) == (paused, NOBODY, b"4\n\n", b"")


def test_jobs_that_wait_say_that_the_queue_is_paused(shell: Shell) -> None:
    shell("submit", "2+2", "--id", "x")
    assert "paused" not in shell("jobs")[1]
    shell("pause")
    assert re.search(r"^x +waiting .* paused$", shell("jobs")[1], re.MULTILINE)


def test_what_can_never_come_is_not_waited_for(shell: Shell) -> None:
    assert shell("result", "x", "--timeout", "1s")[0] == 2
    code, out, err = shell("result", "a b", "--wait", "--timeout", "1s")
    assert (code, out, "is no job id" in err) == (2, "", True)
    shell.set(GREENSCALE_RESULT_TTL_SECONDS="0")
    for command in (["result", "x", "--wait"], ["submit", "2+2", "--wait"]):
        code, out, err = shell(*command)
        assert (code, out, err.count("\n"), "GREENSCALE_RESULT_TTL_SECONDS" in err) == (2, "", 1, True)
    assert shell.waiting() == []


def test_ctrl_c_ends_waiting_for_a_result(redis_url: str) -> None:
    with waiting_for(redis_url, "x", NOT_YET) as ask:
        ask.send_signal(signal.SIGINT)
        assert ask.communicate() == (b"", b"")
        assert ask.returncode == 130


def test_waiting_for_a_result_outlives_redis(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("appendonly yes", "appendfsync always")
    with waiting_for(server.url, "x", NOT_YET) as ask:
        assert ask.stderr is not None
        server.kill()
        assert ask.stderr.readline().startswith(b"Redis does not answer: ")
        server.start()
        with server.client() as client:
            client.set("result:x", "4")
            client.hset("job:x", "state", "succeeded")
        assert ask.communicate() == (b"4\n", b"")
        assert ask.returncode == 0


# --- jobs ---

EVERY_STATE: Final = [
    ("runs", "running"),
    ("runs-too", "running"),
    ("-", "waiting"),
    ("unwanted", "cancelling"),
    ("pushed", "waiting"),
    ("later", "delayed"),
    ("held", "held"),
    ("gone", "cancelled"),
    ("dead-2", "failed"),
    ("dead-1", "failed"),
    ("bad", "failed"),
    ("good", "succeeded"),
]


@pytest.fixture
def jobs(shell: Shell) -> Shell:
    """Jobs in every state that there is; one that waits has no name."""
    for name in ("good", "bad", "gone", "runs", "later", "dead-1", "dead-2", "held", "runs-too", "unwanted"):
        shell("submit", name, "--id", name)
    alike = Failure(code="http_400", message="no", prior="job", fingerprint="400")
    bad = Failed("http_422", "too \x1b[31mred\n" + "and so on " * 20)
    shell.run(ANSWER, bad, None, None, Released("overload", delay=600), alike, alike, alike, None)
    shell("cancel", "gone")
    shell("cancel", "unwanted")
    shell.client.lpush("jobs", "\x1b[31m", '{"job_id":"pushed","prompt":"x"}')
    return shell


def rows(said: tuple[int, str, str]) -> list[tuple[str, str]]:
    """Read a table that is all there: id and state of each job."""
    code, out, err = said
    head, *lines = out.splitlines()
    assert (code, err, head.split()) == (0, "", ["ID", "STATE", "AGE", "ATTEMPTS", "WORKER", "/", "WHY"])
    return [(line.split()[0], line.split()[1]) for line in lines]


def test_jobs_of_every_state_are_listed(jobs: Shell) -> None:
    assert set(STATES) == set(queues.STATES)
    assert sorted(rows(jobs("jobs"))) == sorted(EVERY_STATE)
    out = jobs("jobs")[1]
    assert "\x1b" not in out
    assert re.search(r"^runs +running +\S+s +1  \S+:\d+:\S+$", out, re.MULTILINE)
    assert re.search(r"^later +delayed +\S+s +0  due in 9 m \d+ s; overload$", out, re.MULTILINE)
    assert re.search(r"^held +held +\S+s +1  http_400: no$", out, re.MULTILINE)
    assert re.search(r"^bad +failed +\S+s +1  http_422: too  \[31mred and so on", out, re.MULTILINE)
    assert re.search(r"^pushed +waiting +- +0$", out, re.MULTILINE)


def test_jobs_are_chosen(jobs: Shell) -> None:
    def chosen(*options: str) -> list[str]:
        return sorted(name for name, _ in rows(jobs("jobs", *options)))

    assert chosen("--state", "running") == ["runs", "runs-too"]
    assert chosen("--state", "held", "--state", "delayed") == ["held", "later"]
    assert chosen("--state", "waiting") == ["-", "pushed"]
    assert chosen("--state", "cancelling") == ["unwanted"]
    assert chosen("--code", "http_400") == ["dead-1", "dead-2", "held"]
    assert chosen("--code", "http_400", "--state", "held") == ["held"]
    (worker,) = {job["worker"] for job in listed(jobs("jobs", "--state", "running", "--json"))}
    assert chosen("--worker", worker, "--state", "running") == ["runs", "runs-too"]
    for options in (("--worker", "nobody"), ("--state", "succeeded", "--code", "x"), ("--skip", "100")):
        assert jobs("jobs", *options) == (0, "", "there are no such jobs\n")


def test_a_crash_is_shown_where_people_look(shell: Shell) -> None:
    shell("submit", "2+2", "--id", "x")
    shell.run(Released("overload", delay=60))
    lines = []
    for crashes in (0, 1, 2):
        (id_,) = shell.client.hkeys("{jobs}:meta")
        first = int(1000 * time.time())
        shell.client.hset("{jobs}:meta", id_, f"token|worker|0|{crashes}|{first}|x")  # in format 1
        lines.append(shell("jobs")[1].splitlines()[1])
    assert ["crash" in line for line in lines] == [False, True, True]
    assert re.search(r"x +delayed +\S+s +0  1 crash; due in ", lines[1])
    assert re.search(r"x +delayed +\S+s +0  2 crashes; due in ", lines[2])


def listed(said: tuple[int, str, str]) -> list[dict[str, Any]]:
    """Read lines of JSON."""
    assert (said[0], said[2]) == (0, "")
    return [orjson.loads(line) for line in said[1].splitlines()]


def test_jobs_are_a_line_of_json_each(jobs: Shell) -> None:
    found = {job["job_id"]: job for job in listed(jobs("jobs", "--json"))}
    assert {(name or "-", job["state"]) for name, job in found.items()} == set(EVERY_STATE)
    held = found["held"]
    assert (held["code"], held["message"], held["attempts"], held["worker"]) == ("http_400", "no", 1, None)
    assert found["later"]["due_at"] > found["runs"]["claimed_at"] > 0
    code, out, err = jobs("jobs", "--json", "--limit", "2", "--skip", "1")
    assert (code, out.count("\n"), err) == (0, 2, "… 2 shown; for more: --skip 3, or --limit 0\n")


def test_a_page_of_jobs_says_what_is_behind_it(shell: Shell) -> None:
    shell.type(b"".join(b'{"job_id":"%d","prompt":"x"}\n' % number for number in range(1050)))
    shell("submit", "--jsonl", "-")
    code, out, err = shell("jobs")
    assert (code, out.count("\n"), err) == (0, 21, "… 20 shown; for more: --skip 20, or --limit 0\n")
    code, out, err = shell("jobs", "--state", "waiting", "--limit", "3", "--skip", "7")
    assert [line.split()[0] for line in out.splitlines()] == ["ID", "7", "8", "9"]
    assert err == "… 3 of 1,050 shown; for more: --skip 10, or --limit 0\n"
    assert shell("jobs", "--limit", "50", "--skip", "1000")[2] == "", "that was all"
    assert len(rows(shell("jobs", "--limit", "0"))) == len(listed(shell("jobs", "--json"))) == 1050


def test_no_jobs(shell: Shell) -> None:
    assert shell("jobs") == (0, "", "there are no jobs\n")
    assert shell("jobs", "--json") == (0, "", "")


@pytest.mark.parametrize("options", [["--state", "lost"], ["--limit", "-1"], ["--skip", "few"]], ids=" ".join)
def test_what_jobs_takes_is_told(options: list[str], shell: Shell) -> None:
    code, out, err = shell("jobs", *options)
    assert (code, out) == (2, "")
    assert "usage: greenscale-worker jobs" in err


def on_a_terminal(redis_url: str, *arguments: str) -> list[str]:
    """Run a command on a terminal of 80 columns; gives its lines, without what makes the head bold."""
    return re.sub("\x1b\\[[01]m", "", seen_on_a_terminal(redis_url, *arguments)).splitlines()


def seen_on_a_terminal(redis_url: str, *arguments: str, **environment: str) -> str:
    ours, theirs = pty.openpty()
    settings = {"REDIS_URL": redis_url, "TERM": "xterm", "COLUMNS": "80", **environment}
    with process(*arguments, environment=settings, stdout=theirs) as command:
        os.close(theirs)
        seen = read_terminal(ours)
        assert command.wait() == 0
    return seen


def test_no_color_is_honoured(shell: Shell, redis_url: str) -> None:
    shell("submit", "x")
    for command in (["jobs"], ["queue"], ["config"]):
        assert "\x1b[1m" in seen_on_a_terminal(redis_url, *command)
        assert "\x1b" not in seen_on_a_terminal(redis_url, *command, NO_COLOR="1")


def test_a_terminal_of_80_columns_shows_ids_and_reasons(shell: Shell, redis_url: str) -> None:
    long, wide = "c" * 128, "0123456789abcdef" * 2
    for job_id in (long, wide, "short"):
        shell("submit", "x", "--id", job_id)
    why = "the prompt is against the policy of the house, which is a long one, for it is an old house"
    shell.run(Failed("x", "no"), Failed("http_400", why), None)
    head, runs, *ended = on_a_terminal(redis_url, "jobs")
    assert re.fullmatch(rf"{'ID':<32}  STATE    AGE +ATTEMPTS  WORKER / WHY", head)
    assert re.fullmatch(r"short +running  \S+s +1  \S+:2-[0-9a-f]{8}", runs)
    assert len(runs) <= 80
    assert (ended[0][:43], ended[1]) == (f"{wide}  failed   ", f"    http_400: {why[:65]}…")
    assert (ended[2], ended[3][:43], ended[3][-7:]) == (long, f"{'':<32}  failed   ", "  x: no")
    letters = on_a_terminal(redis_url, "dead", "list")
    assert letters[2] == f"    {why[:75]}…"


def test_a_job_with_a_uuid_takes_one_line_of_80_columns(shell: Shell, redis_url: str) -> None:
    done, runs, waits, unwanted = ids = [str(uuid4()) for _ in range(4)]
    for job_id in ids:
        shell("submit", "x", "--id", job_id)
    shell.run(ANSWER, None)
    shell("cancel", unwanted)
    shell.client.hincrby(f"job:{done}", "finished_at_ms", -(3600 - 30) * 1000)  # an age of the widest kind
    head, *lines = on_a_terminal(redis_url, "jobs")
    assert head.split() == ["ID", "STATE", "AGE", "ATTEMPTS", "WORKER", "/", "WHY"]
    assert [line[:36] for line in lines] == [runs, waits, unwanted, done]
    assert max(map(len, (head, *lines))) <= 80
    for line in (lines[0], lines[-1]):
        assert re.search(r" 1  …\S*-[0-9a-f]{8}$", line), "the end of the worker's name, which --worker takes"


def test_a_heading_is_whole_or_not_there(shell: Shell, redis_url: str) -> None:
    shell("submit", "x", "--id", str(uuid4()))
    shell.run(Failed("http_400", "no"))
    head, *_ = on_a_terminal(redis_url, "dead", "list")
    assert head.split() == ["ID", "JOB", "DIED", "CODE"]


# --- queue ---


@asynccontextmanager
async def holding(redis_url: str, *job_ids: str) -> AsyncIterator[str]:
    """Be a worker that is alive and runs these jobs; gives its name."""
    async with aclosing(await open_queue(RedisOptions(url=redis_url), QueueOptions(), Metrics())) as queue:
        for job_id in job_ids:
            lease = await queue.lease()
            await queue.bind(lease, decode(lease.payload, max_bytes=1000))
            assert lease.job_id == job_id
        await queue.beat()
        with redis.Redis.from_url(redis_url) as client:
            (name,) = client.zrevrange("{jobs}:workers", 0, 0)
        yield name.decode()


async def test_each_worker_is_shown_with_what_it_runs(shell: Shell, redis_url: str) -> None:
    for job_id in ("a", "b", "c", "d"):
        await asyncio.to_thread(shell, "submit", "x", "--id", job_id)
    async with holding(redis_url, "a", "b") as busy, holding(redis_url, "c") as other, holding(redis_url) as idle:
        shell.client.hincrby("job:b", "claimed_ms", -90_000)
        found = await asyncio.to_thread(shell.json, "queue")
        loads = {each["name"]: (each["running"], each["longest_seconds"]) for each in found["workers"]}
        assert (loads[busy][0], loads[other][0], loads[idle]) == (2, 1, (0, None))
        assert 90 <= loads[busy][1] < 120
        assert found["why"] is None
        _, out, _ = await asyncio.to_thread(shell, "queue")
        assert re.search(rf"^{re.escape(busy)} +\S+ s ago +2  1 m \d+ s$", out, re.MULTILINE)
        assert re.search(rf"^{re.escape(idle)} +\S+ s ago +0  -$", out, re.MULTILINE)
        said = await asyncio.to_thread(shell, "jobs", "--worker", other[-8:])
        assert rows(said) == [("c", "running")]
        code, out, err = await asyncio.to_thread(shell, "jobs", "--worker", ":")
        assert (code, out, err.count("\n"), "part of 3 names" in err) == (2, "", 1, True)


async def test_where_too_much_runs_to_be_read_it_is_not_known(
    shell: Shell, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "MOST_READ", 1)
    for job_id in ("a", "b"):
        await asyncio.to_thread(shell, "submit", "x", "--id", job_id)
    async with holding(redis_url, "a", "b"):
        (worker,) = (await asyncio.to_thread(shell.json, "queue"))["workers"]
        assert (worker["running"], worker["longest_seconds"]) == (None, None)
        _, out, _ = await asyncio.to_thread(shell, "queue")
        assert re.search(r"s ago +\?  -$", out, re.MULTILINE)


async def test_the_rate_says_when_all_is_done(shell: Shell, redis_url: str) -> None:
    for number in range(20):
        await asyncio.to_thread(shell, "submit", "x", "--id", str(number))
    await asyncio.to_thread(shell.run, *[ANSWER] * 4)
    assert (await asyncio.to_thread(shell.json, "queue"))["eta_seconds"] is None, "nobody works"
    async with holding(redis_url, "4"):
        found = await asyncio.to_thread(shell.json, "queue")
        assert 0 < found["rate_per_second"] <= 4
        assert found["eta_seconds"] == pytest.approx(16 / found["rate_per_second"], rel=0.01)
        _, out, _ = await asyncio.to_thread(shell, "queue")
        assert re.search(r"^[\d.]+ jobs a (second|minute), all done in about \d", out, re.MULTILINE)
        await asyncio.to_thread(shell, "pause")
        assert (await asyncio.to_thread(shell.json, "queue"))["eta_seconds"] is None, "nothing moves"


async def test_what_waits_for_its_time_is_told(shell: Shell, redis_url: str) -> None:
    for job_id in ("a", "b"):
        await asyncio.to_thread(shell, "submit", "x", "--id", job_id)
    await asyncio.to_thread(shell.run, Released("overload", delay=600), Released("overload", delay=90))
    async with holding(redis_url):
        why = (await asyncio.to_thread(shell.json, "queue"))["why"]
        assert re.fullmatch(r"all wait for their time; the next is due in 1 m \d+ s", why)
        await asyncio.to_thread(shell, "submit", "x")
        assert (await asyncio.to_thread(shell.json, "queue"))["why"] is None, "there is something to do"
        await asyncio.to_thread(shell, "pause")
        why = (await asyncio.to_thread(shell.json, "queue"))["why"]
        assert why == "paused: `greenscale-worker resume` ends it"
    why = (await asyncio.to_thread(shell.json, "queue"))["why"]
    assert why == "paused: `greenscale-worker resume` ends it; no worker is alive"


@pytest.mark.parametrize(("failed", "told"), [(90, None), (-1, "no success for ")])
async def test_a_failure_of_before_the_call_that_runs_is_no_reason(
    shell: Shell, redis_url: str, failed: int, told: str | None
) -> None:
    """A worker with a wrong key was stopped, another one runs a slow job with a good key."""
    await asyncio.to_thread(shell, "submit", "x", "--id", "a")
    async with holding(redis_url, "a"):
        seconds, _ = shell.client.time()
        why = {"blamed": 1000 * (seconds - failed), "blamed_by": "http_401: the endpoint refuses the key"}
        shell.client.hset("{jobs}:control", mapping=why)
        found = (await asyncio.to_thread(shell.json, "queue"))["why"]
        assert (found and found[: len(told or "")]) == told
        code, _, err = await asyncio.to_thread(shell, "result", "a", "--wait", "--timeout", "0.2s")
        assert (code, "no success" in err) == (4, False), "one of this second is no reason to be told of yet"


async def test_what_keeps_every_worker_from_sending_is_told(shell: Shell, redis_url: str, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    await asyncio.to_thread(shell, "submit", "x")
    with Fleet(tmp_path, REDIS_URL=redis_url, NEYSA_API_URL=f"{address}/v1/chat/completions") as fleet:
        worker = fleet.start()
        await worker.says("waiting_for_backend")
        await eventually(lambda: shell.client.keys("{jobs}:why:*"))  # with the next heartbeat
        found = await asyncio.to_thread(shell.json, "queue")
        assert found["why"].startswith(f"no worker sends: waiting for the backend: {address}: ")
        assert found["why"].endswith(found["workers"][0]["why"])
        seconds, _ = shell.client.time()
        shell.client.hset(
            "{jobs}:control", mapping={"blamed": 1000 * (seconds - 90), "blamed_by": "of another backend"}
        )
        assert (await asyncio.to_thread(shell.json, "queue"))["why"] == found["why"], "what the worker says is newer"
        shell.client.hdel("{jobs}:control", "blamed", "blamed_by")
        async with holding(redis_url):
            assert (await asyncio.to_thread(shell.json, "queue"))["why"] is None, "the other one may send"
        await worker.stop()
    assert shell.client.keys("{jobs}:why:*") == []
