"""The commands that show jobs and wait for them; against a real Redis and in real processes."""

import signal
import subprocess  # noqa: TC003  a context manager gives it
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from greenscale_worker.job import Failed, Released
from tests.support.redis_server import RedisServer
from tests.support.shell import ANSWER, Shell, process

NOBODY = b"no worker is alive at the moment; waiting for one\n"


# --- result --wait ---


@contextmanager
def waiting_for(redis_url: str, job_id: str, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Wait for a job in another process, as soon as it does."""
    with process("result", job_id, "--wait", *options, environment={"REDIS_URL": redis_url}) as ask:
        assert ask.stderr is not None
        assert ask.stderr.readline() == NOBODY
        yield ask


def test_a_job_is_waited_for_that_is_not_there_yet(shell: Shell, redis_url: str) -> None:
    with waiting_for(redis_url, "x") as ask:
        shell("submit", "2+2", "--id", "x")
        shell.run(ANSWER)
        assert ask.communicate() == (b"4\n\n", b"")
        assert ask.returncode == 0


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
    assert shell("result", "x", "--wait", "--timeout", "0.1s") == (3, "", NOBODY.decode() + "x: unknown or waiting\n")
    shell("submit", "2+2", "--id", "x")
    code, out, err = shell("result", "x", "--wait", "--timeout", "0.1s")
    assert (code, out, err) == (4, "", NOBODY.decode() + "x has not finished yet: waiting\n")


def test_what_can_never_come_is_not_waited_for(shell: Shell) -> None:
    assert shell("result", "x", "--timeout", "1s")[0] == 2
    code, out, err = shell("result", "a b", "--wait")
    assert (code, out, "is no job id" in err) == (2, "", True)
    shell.set(GREENSCALE_RESULT_TTL_SECONDS="0")
    for command in (["result", "x", "--wait"], ["submit", "2+2", "--wait"]):
        code, out, err = shell(*command)
        assert (code, out, err.count("\n"), "GREENSCALE_RESULT_TTL_SECONDS" in err) == (2, "", 1, True)
    assert shell.waiting() == []


def test_ctrl_c_ends_waiting_for_a_result(redis_url: str) -> None:
    with waiting_for(redis_url, "x") as ask:
        ask.send_signal(signal.SIGINT)
        assert ask.communicate() == (b"", b"")
        assert ask.returncode == 130


def test_waiting_for_a_result_outlives_redis(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("appendonly yes", "appendfsync always")
    with waiting_for(server.url, "x") as ask:
        assert ask.stderr is not None
        server.kill()
        assert ask.stderr.readline().startswith(b"Redis does not answer: ")
        server.start()
        with server.client() as client:
            client.set("result:x", "4")
            client.hset("job:x", "state", "succeeded")
        assert ask.communicate() == (b"4\n", b"")
        assert ask.returncode == 0
