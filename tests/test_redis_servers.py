"""Redis as people have it: each way of setting it up works, or ends with one line that says what is needed."""

import asyncio
import importlib
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from redis.exceptions import RedisError

from greenscale_worker import queues
from greenscale_worker.cli import main
from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.job import Failed, Output, Released, Succeeded, decode
from greenscale_worker.queues import Lease, Queue, QueueOptions, RedisOptions
from greenscale_worker.queues.redis_common.connections import TLS, close, open_client
from greenscale_worker.queues.redis_common.errors import mapped
from greenscale_worker.queues.redis_common.link import Link
from greenscale_worker.queues.redis_list import ListStore
from greenscale_worker.queues.redis_protocol import examination, opening
from greenscale_worker.queues.redis_stream import StreamStore
from greenscale_worker.telemetry import Metrics
from tests.support.eventually import eventually, together
from tests.support.redis_server import CERTIFICATE, RedisServer, free_port
from tests.support.strange_server import strange_server

ANSWER: Final = Succeeded(Output("4"))
QUEUES: Final = Path(queues.__file__).parent
PATIENCE: Final = 20.0
PASSWORD: Final = "s3cret"  # noqa: S105  the tests' own

StartRedis = Callable[..., RedisServer]

every_kind = pytest.mark.parametrize("kind", ["list", "stream"])


@asynccontextmanager
async def opened(kind: str, options: RedisOptions, *, lease: float = 15.0) -> AsyncIterator[Queue]:
    room = importlib.import_module(f"greenscale_worker.queues.redis_{kind}")
    async with aclosing(await room.open_queue(options, QueueOptions(lease=lease), Metrics())) as queue:
        yield queue


async def claim(queue: Queue) -> Lease:
    return await asyncio.wait_for(queue.lease(), PATIENCE)


def push(client: Any, kind: str, *names: str) -> None:
    for name in names:
        payload = orjson.dumps({"job_id": name, "prompt": name})
        if kind == "list":
            client.lpush("jobs", payload)
        else:
            client.xadd("jobs", {"job": payload})


async def run_one(queue: Queue, lease: Lease | None = None) -> str:
    """Run the next job to its end; gives its id."""
    lease = lease or await claim(queue)
    job = decode(lease.payload, max_bytes=9999, default_job_id=lease.default_job_id)
    assert await queue.bind(lease, job) == "run"
    assert await queue.settle(lease, ANSWER)
    return job.job_id


async def works(kind: str, options: RedisOptions, client: Any) -> None:
    """A queue goes through everything that a worker does with one."""
    async with opened(kind, options, lease=2.0) as queue:
        push(client, kind, "one", "two", "three")
        first, second = await claim(queue), await claim(queue)
        for lease, outcome in ((first, Released("overload", delay=0.05)), (second, Failed("bad_request", "no"))):
            await queue.bind(lease, decode(lease.payload, max_bytes=999))
            assert await queue.settle(lease, outcome)
        await queue.beat()
        assert {await run_one(queue), await run_one(queue)} == {"one", "three"}
        assert client.get("result:one") == client.get("result:three") == b"4"
        assert client.hlen("{jobs}:dead") == 1


async def refusal(kind: str, options: RedisOptions) -> str:
    """The one line by which a start is refused."""
    with pytest.raises(ConfigError) as refused:
        async with asyncio.timeout(PATIENCE):
            async with opened(kind, options):
                pass
    line = str(refused.value)
    assert "\n" not in line
    assert len(line) < 400
    return line


# Commands


def used_by(kind: str) -> set[str]:
    """Every command that a worker, its scripts or a client sends."""
    scripts = [QUEUES / "redis_protocol" / f"{name}.lua" for name in ("prelude", "agree", *opening.WORKER_SCRIPTS)]
    text = "".join(path.read_text() for path in [*scripts, QUEUES / f"redis_{kind}" / "store.lua"])
    found = set(re.findall(r"(?:call|run|call_with|pcall)\('([A-Z]+)'", text))
    mine = {"list": {"BLMOVE", "RPOP"}, "stream": {"XREAD"}}[kind]
    sent = {"EVAL", "EVALSHA", "SUBSCRIBE", "INFO", "CONFIG", "CLIENT", "HELLO", "PING", "COMMAND", "SCRIPT", "SELECT"}
    return found | mine | sent


def examined(kind: str) -> set[str]:
    """The commands that are tried at the start."""
    store = {"list": ListStore, "stream": StreamStore}[kind](QueueOptions())
    return {words[0] for words in (*examination.COMMANDS, *store.commands)} | {"HDEL", "SET", "DEL"}


# What a worker can do without, by what goes on without it; and what only a producer or a person uses.
SPARED: Final = {"PUBLISH", "SUBSCRIBE", "INFO", "CONFIG", "CLIENT", "HELLO", "PING", "COMMAND", "SCRIPT", "SELECT"}
SPARED_OF_KIND: Final = {"list": {"BLMOVE", "LPUSH", "RPUSH", "LLEN"}, "stream": {"XREAD", "XADD", "XLEN"}}


@every_kind
def test_whatever_a_worker_needs_is_tried_at_the_start(kind: str) -> None:
    assert used_by(kind) - examined(kind) == (SPARED | SPARED_OF_KIND[kind] | {"EVAL", "EVALSHA"}) & used_by(kind)


@every_kind
async def test_a_command_that_is_forbidden_is_done_without_or_named(start_redis: StartRedis, kind: str) -> None:
    server = start_redis()
    with server.client() as client:
        for command in sorted(used_by(kind)):
            client.flushall()
            client.execute_command("ACL", "SETUSER", "u", "reset", "on", f">{PASSWORD}", "~*", "&*", "+@all", f"-{command}")
            options = RedisOptions(url=server.url, username="u", password=PASSWORD)
            if command in SPARED | SPARED_OF_KIND[kind]:
                await works(kind, options, client)
            else:
                assert re.search(rf"\b{command}\b", (await refusal(kind, options)), re.IGNORECASE)
                assert command == "DEL" or not client.exists("{jobs}:claim:-")


async def _renamed(start_redis: StartRedis, kind: str, *commands: str) -> None:
    server = start_redis(*(f'rename-command {command} ""' for command in commands))
    with server.client(protocol=2, driver_info=None) as client:
        if set(commands) <= SPARED | SPARED_OF_KIND[kind]:
            await works(kind, RedisOptions(url=server.url), client)
        else:
            line = await refusal(kind, RedisOptions(url=server.url))
            assert [command for command in commands if command not in line] == [], line
            assert "6.2" in line


@every_kind
async def test_a_command_that_is_missing_is_done_without_or_named(start_redis: StartRedis, kind: str) -> None:
    spared = sorted((SPARED & used_by(kind)) - {"SELECT"} | {"list": {"BLMOVE"}, "stream": {"XREAD"}}[kind])
    rest = sorted(examined(kind) - {"HDEL", "SET"})
    cases = {"spared": spared, "rest": rest, **{name: [name] for name in ("EVAL", "EVALSHA", "HDEL", "SET")}}
    await together(**{name: _renamed(start_redis, kind, *commands) for name, commands in cases.items()})


async def test_a_database_that_cannot_be_selected_is_told(start_redis: StartRedis) -> None:
    server = start_redis('rename-command SELECT ""')
    assert "'SELECT'" in await refusal("list", RedisOptions(url=f"{server.url}/1"))


# Other servers


def info_of(version: str) -> bytes:
    text = f"# Server\r\nredis_version:{version}\r\n".encode()
    return b"$%d\r\n%s\r\n" % (len(text), text)


@pytest.mark.parametrize("version", ["5.0.6", "6.0.16", "4.0.14", "2.8.24"])
async def test_a_redis_that_is_too_old_is_told(version: str) -> None:
    async with strange_server(info_of(version)) as port:
        line = await refusal("list", RedisOptions(url=f"redis://127.0.0.1:{port}"))
    assert line == f"Redis 6.2 or newer is needed (found {version})"


STRANGERS: Final = {
    "http": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "as of HTTP"),
    "html": (b"<html>", "as of HTTP"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", "as of SSH"),
    "memcached": (b"ERROR\r\n", "Memcached"),
    "postgresql": (b"E\0\0\0\x85SFATAL\0", "PostgreSQL"),
    "smtp": (b"220 mail ESMTP\r\n", "SMTP"),
    "mysql": (b"J\0\0\0\x0a8.0.36\0", "'J'"),
    "tls": (b"\x15\x03\x01\0\x02\x02\x16", "rediss://"),
    "imap": (b"* OK ready\r\n", "not Redis"),
    "pop3": (b"+OK Dovecot ready.\r\n", "does not answer as Redis does"),
    "nil": (b"$-1\r\n", "does not answer as Redis does"),
    "number": (b":1\r\n", "does not answer as Redis does"),
    "nothing": (b"*0\r\n", "does not answer as Redis does"),
    "error": (b"-ERR who are you\r\n", "who are you"),
    "unlettered": (b"-\xff\xfe\r\n", "Redis answers with an error"),
    "cluster": (b"-MOVED 866 10.0.0.1:7001\r\n", "redis+cluster://"),
}


@pytest.mark.parametrize(("said", "word"), STRANGERS.values(), ids=STRANGERS)
async def test_a_server_that_is_no_redis_is_told(said: bytes, word: str) -> None:
    async with strange_server(said) as port:
        assert word in await refusal("list", RedisOptions(url=f"redis://127.0.0.1:{port}"))


async def test_the_commands_say_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async with strange_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}")
        for arguments in (["queue"], ["submit", "hello"], ["dead", "list"], ["status", "one"], ["pause"]):
            assert await asyncio.to_thread(main, arguments) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "as of HTTP" in line


async def test_tls_where_there_is_none_and_none_where_there_is(
    start_redis: StartRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both may heal, as a proxy may come up: they are waited out, and the log says what is expected."""
    plain, tls = start_redis(), start_redis(tls=True)
    for url, word in ((plain.url.replace("redis:", "rediss:"), "redis://"), (tls.url.replace("rediss:", "redis:"), "rediss://")):
        task = asyncio.create_task(_open_and_close(url))
        await eventually(lambda word=word: word in capsys.readouterr().out)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def _open_and_close(url: str) -> None:
    async with opened("list", RedisOptions(url=url)):
        pass
