"""Redis as people have it: each way of setting it up works, or ends with one line that says what is needed."""

import asyncio
import gc
import importlib
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from types import NoneType
from typing import Any, Final

import orjson
import pytest
from redis.exceptions import RedisError

from greenscale_worker.cli import main
from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.job import Failed, Output, Released, Succeeded, decode
from greenscale_worker.queues import Lease, Queue, QueueOptions, RedisOptions
from greenscale_worker.queues.redis import connections, examination, factory
from greenscale_worker.queues.redis.connections import TLS, Plain, close, open_redis
from greenscale_worker.queues.redis.errors import mapped
from greenscale_worker.queues.redis.list import ListStore
from greenscale_worker.queues.redis.redis_py import KEEPS_CLUSTERS, UNNAMED
from greenscale_worker.queues.redis.script_loader import read_script
from greenscale_worker.queues.redis.stream import StreamStore
from greenscale_worker.queues.registry import open_client
from greenscale_worker.telemetry import Metrics
from harness.certificates import certify, certify_localhost
from harness.eventually import eventually
from harness.redis_server import CERTIFICATE, RedisServer, free_port
from harness.worker_process import Fleet
from tests.support.cases import Cases, at_once
from tests.support.strange_server import lying_proxy, strange_server
from tests.support.strict_tls import be_strict

ANSWER: Final = Succeeded(Output("4"))
PATIENCE: Final = 20.0
PASSWORD: Final = "s3cret"  # noqa: S105  the tests' own

StartRedis = Callable[..., RedisServer]

every_kind = pytest.mark.parametrize("kind", ["list", "stream"])
# Servers that break the protocol, or never answer, leave sockets of redis-py's to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected_here() -> Iterator[None]:
    """What such a server leaves behind is found in its own test, not in another's."""
    yield
    gc.collect()


@asynccontextmanager
async def opened(kind: str, options: RedisOptions, *, lease: float = 15.0) -> AsyncIterator[Queue]:
    module = importlib.import_module(f"greenscale_worker.queues.redis.{kind}")
    async with aclosing(await module.open_queue(options, QueueOptions(lease=lease), Metrics())) as queue:
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
        await asyncio.wait_for(_open_and_close(kind, options), PATIENCE)
    line = str(refused.value)
    assert "\n" not in line
    assert len(line) < 480
    return line


async def _open_and_close(kind: str, options: RedisOptions) -> None:
    async with opened(kind, options):
        pass


# Commands


# What is sent by no script.
SENT_BESIDE: Final = {"SUBSCRIBE", "INFO", "CONFIG", "CLIENT", "HELLO", "PING", "COMMAND", "SCRIPT", "SELECT"}


def used_by(kind: str) -> set[str]:
    """Every command that a worker, its scripts or a client sends."""
    names = ("prelude", f"{kind}_store", "seats", "append", "check_format", *factory.WORKER_SCRIPTS)
    text = "".join(read_script(name).decode() for name in names)
    found = set(re.findall(r"(?:call|run|call_with|pcall)\('([A-Z]+)'", text))
    mine = {"list": {"BLMOVE", "RPOP"}, "stream": {"XREAD"}}[kind]
    return found | mine | SENT_BESIDE | {"EVAL", "EVALSHA"}


def examined(kind: str) -> set[str]:
    """The commands that are tried at the start."""
    store = {"list": ListStore, "stream": StreamStore}[kind](QueueOptions())
    return {words[0] for words in (*examination.COMMANDS, *store.commands)} | {"HDEL", "SET", "DEL"}


# What a worker can do without, by what goes on without it; and what only a producer or a person uses.
SPARED: Final = SENT_BESIDE | {"PUBLISH", "LTRIM"}
SPARED_OF_KIND: Final = {"list": {"BLMOVE", "RPUSH"}, "stream": {"XREAD"}}


@every_kind
def test_whatever_a_worker_needs_is_tried_at_the_start(kind: str) -> None:
    assert used_by(kind) - examined(kind) == (SPARED | SPARED_OF_KIND[kind] | {"EVAL", "EVALSHA"}) & used_by(kind)


@every_kind
async def test_a_command_that_is_forbidden_is_done_without_or_named(start_redis: StartRedis, kind: str) -> None:
    server = start_redis()
    with server.client() as client:
        for command in sorted(used_by(kind)):
            client.flushall()
            client.execute_command(
                "ACL", "SETUSER", "u", "reset", "on", f">{PASSWORD}", "~*", "&*", "+@all", f"-{command}"
            )
            options = RedisOptions(url=server.url, username="u", password=PASSWORD)
            if command in SPARED | SPARED_OF_KIND[kind]:
                await works(kind, options, client)
            else:
                assert re.search(rf"\b{command}\b", (await refusal(kind, options)), re.IGNORECASE)
                assert command == "DEL" or not client.exists("{jobs}:claim:-")


def missing(which: str, kind: str) -> list[str]:
    """The commands of a case: all that a worker can do without, all the others that it looks for, or one by name."""
    if which == "spared":
        return sorted((SPARED & used_by(kind)) - {"SELECT"} | {"list": {"BLMOVE"}, "stream": {"XREAD"}}[kind])
    return sorted(examined(kind) - {"HDEL", "SET"}) if which == "rest" else [which]


@at_once
@every_kind
@pytest.mark.parametrize("which", ["spared", "rest", "EVAL", "EVALSHA", "HDEL", "SET"])
async def test_a_command_that_is_missing_is_done_without_or_named(cases: Cases, kind: str, which: str) -> None:
    commands = missing(which, kind)
    server = cases.start_redis(*(f'rename-command {command} ""' for command in commands))
    with server.client(protocol=2, **UNNAMED) as client:
        if set(commands) <= SPARED | SPARED_OF_KIND[kind]:
            await works(kind, RedisOptions(url=server.url), client)
        else:
            line = await refusal(kind, RedisOptions(url=server.url))
            assert [command for command in commands if command not in line] == [], line
            assert "6.2" in line


async def test_a_password_that_nobody_asks_for_is_no_harm(redis_server: RedisServer, redis_url: str) -> None:
    with redis_server.client() as client:
        await works("list", RedisOptions(url=redis_url, password=PASSWORD), client)


async def test_a_redis_before_6_is_given_the_password_alone() -> None:
    """It knows no user names; then it is told that it is too old, all the same."""

    async def answer(request: bytes) -> bytes | None:
        if b"AUTH" not in request:
            return info_of("5.0.6")
        return b"-ERR wrong number of arguments for 'auth' command\r\n" if b"default" in request else b"+OK\r\n"

    async with strange_server(answer) as port:
        assert "5.0.6" in await refusal("list", RedisOptions(url=f"redis://127.0.0.1:{port}", password=PASSWORD))


async def test_a_database_that_cannot_be_selected_is_told(start_redis: StartRedis) -> None:
    server = start_redis('rename-command SELECT ""')
    assert "SELECT" in await refusal("list", RedisOptions(url=f"{server.url}/1"))


async def test_a_password_is_not_repeated_by_a_server_that_knows_no_auth(start_redis: StartRedis) -> None:
    server = start_redis('rename-command AUTH ""')
    line = await refusal("list", RedisOptions(url=server.url, password=PASSWORD))
    assert "AUTH" in line
    assert PASSWORD not in line


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
    "protected": (b"-DENIED Redis is running in protected mode" + b" because" * 200 + b"\r\n", "protected mode"),
    "unlettered": (b"-\xff\xfe\r\n", "Redis answers with an error"),
    "cluster": (b"-MOVED 866 10.0.0.1:7001\r\n", "redis+cluster://"),
}


@pytest.mark.parametrize(("said", "word"), STRANGERS.values(), ids=STRANGERS)
async def test_a_server_that_is_no_redis_is_told(said: bytes, word: str) -> None:
    async with strange_server(said) as port:
        assert word in await refusal("list", RedisOptions(url=f"redis://127.0.0.1:{port}"))


@pytest.mark.parametrize(
    "said", [b"+OK\r\n", b":1\r\n", b"*0\r\n", b"$-1\r\n"], ids=["text", "number", "nothing", "nil"]
)
async def test_a_client_reads_no_answer_that_is_not_redis(said: bytes) -> None:
    """Each call gives what it promises, or raises one of our two errors."""
    async with strange_server(said) as port:
        admin = await open_client("list", RedisOptions(url=f"redis://127.0.0.1:{port}"))
        try:
            asked = (admin.record("a"), admin.result("a"), admin.cancel("a"), admin.workers(), admin.replay("a"))
            asked += (admin.dead_letter("a"), admin.dead_count(), admin.dead_codes(), admin.purge(older_than=0))
            for ask in asked:
                with suppress(ConfigError, QueueUnavailableError):
                    assert isinstance(await asyncio.wait_for(ask, PATIENCE), dict | bytes | list | int | NoneType)
        finally:
            await admin.aclose()


async def test_the_commands_say_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async with strange_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}")
        for arguments in (["queue"], ["submit", "hello"], ["dead", "list"], ["status", "one"], ["pause"]):
            assert await asyncio.to_thread(main, arguments) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "as of HTTP" in line


async def test_the_worker_ends_with_exit_code_2(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> None:
    with redis_server.client() as client:
        make_string(client)
    async with strange_server(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        with Fleet(tmp_path, GREENSCALE_BACKEND="echo") as fleet:
            workers = [fleet.start(REDIS_URL=f"redis://127.0.0.1:{port}"), fleet.start(REDIS_URL=redis_url)]
            for worker, word in zip(workers, ("as of SSH", "jobs is a string"), strict=True):
                assert await worker.exit_code() == 2
                (line,) = worker.stderr.splitlines()
                assert word in line


async def test_tls_where_there_is_none_and_none_where_there_is(
    start_redis: StartRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both may heal, as a proxy may come up: they are waited out, and the log says what is expected."""
    plain, tls = start_redis(), start_redis(tls=True)
    for url, word in (
        (plain.url.replace("redis:", "rediss:"), "redis://"),
        (tls.url.replace("rediss:", "redis:"), "rediss://"),
    ):
        task = asyncio.create_task(_open_and_close("list", RedisOptions(url=url)))
        await eventually(lambda word=word: word in capsys.readouterr().out)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# Kinds of queue


def make_stream(client: Any) -> None:
    client.xadd("jobs", {"job": "{}"})


def make_list(client: Any) -> None:
    client.lpush("jobs", "{}")


def make_string(client: Any) -> None:
    client.set("jobs", "x")


def make_zset(client: Any) -> None:
    client.zadd("jobs", {"x": 1})


def claim_from_list(client: Any) -> None:
    """As a worker of the list leaves it, with all its jobs claimed."""
    client.hset("{jobs}:open", "1", "{}")


def make_foreign_control(client: Any) -> None:
    client.set("{jobs}:control", "x")


WRONG_KINDS: Final = [
    ("list", make_stream, "jobs is a stream, a list is expected"),
    ("list", make_string, "jobs is a string, a list is expected"),
    ("list", make_zset, "jobs is a zset, a list is expected"),
    ("list", make_foreign_control, "{jobs}:control is a string, a hash is expected"),
    ("stream", make_list, "jobs is a list, a stream is expected"),
    ("stream", make_string, "jobs is a string, a stream is expected"),
    ("stream", claim_from_list, "{jobs}:open is in Redis"),
]


@pytest.mark.parametrize(("kind", "make", "said"), WRONG_KINDS)
async def test_a_queue_of_another_kind_is_refused(
    redis_server: RedisServer, redis_url: str, kind: str, make: Callable[[Any], None], said: str
) -> None:
    with redis_server.client() as client:
        make(client)
        line = await refusal(kind, RedisOptions(url=redis_url))
    assert said in line
    assert "GREENSCALE_QUEUE" in line


@pytest.mark.parametrize(("kind", "make", "said"), [WRONG_KINDS[0], WRONG_KINDS[4]])
def test_commands_refuse_it_too(  # noqa: PLR0913, PLR0917  fixtures
    redis_server: RedisServer,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    make: Callable[[Any], None],
    said: str,
) -> None:
    with redis_server.client() as client:
        make(client)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("GREENSCALE_QUEUE", kind)
    assert main(["submit", "hello"]) == 2
    assert said in capsys.readouterr().err
    assert main(["queue"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "GREENSCALE_QUEUE" in line


async def test_a_group_that_begins_in_the_middle_is_served_from_there(
    redis_server: RedisServer, redis_url: str
) -> None:
    """Whoever made it at `$` passed over what was there; it comes when the group is set back, and once."""
    with redis_server.client() as client:
        push(client, "stream", "passed-over")
        client.xgroup_create("jobs", "greenscale", "$")
        push(client, "stream", "first", "second")
        async with opened("stream", RedisOptions(url=redis_url)) as queue:
            running = await claim(queue)
            assert b"first" in running.payload
            assert await run_one(queue) == "second"
            client.xgroup_setid("jobs", "greenscale", "0")
            assert await run_one(queue) == "passed-over"
            assert await run_one(queue, running) == "first"
        assert client.xlen("jobs") == 0


async def test_what_another_consumer_of_the_group_left_is_taken_over(redis_server: RedisServer, redis_url: str) -> None:
    with redis_server.client() as client:
        client.xgroup_create("jobs", "greenscale", "0", mkstream=True)
        push(client, "stream", "theirs")
        client.xreadgroup("greenscale", "somebody", {"jobs": ">"})
        async with opened("stream", RedisOptions(url=redis_url), lease=0.5) as queue:
            await asyncio.sleep(0.5)
            await queue.beat()
            assert await run_one(queue) == "theirs"


# Sentinel


async def watched(start_redis: StartRedis, *config: str, password: str | None = PASSWORD) -> tuple[RedisServer, str]:
    """A master, and the URL by which a Sentinel names it."""
    master = start_redis(*([f"requirepass {password}"] if password else []))
    watch = [f"sentinel monitor mymaster 127.0.0.1 {master.port} 1"]
    watch += [f"sentinel auth-pass mymaster {password}"] if password else []
    sentinel = start_redis(*watch, *config, sentinel=True)
    return master, f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0"


OTHER: Final[dict[str, Any]] = {"sentinel_password": "other"}
SENTINELS: Final[dict[str, tuple[list[str], dict[str, Any]]]] = {
    "as_redis": ([f"requirepass {PASSWORD}"], {}),
    "own": (["requirepass other"], OTHER),
    "own_in_a_file": (["requirepass other"], {"sentinel_password": "old", "sentinel_password_file": "other\n"}),
    "none": ([], {}),
    "user": (["user s on >other +@all", "user default off"], OTHER | {"sentinel_username": "s"}),
}


@at_once
@pytest.mark.parametrize("password", SENTINELS)
async def test_sentinels_with_a_password(cases: Cases, password: str) -> None:
    """That of Redis, as Bitnami sets it up, or one of their own, in a file or not; none where they want none."""
    config, given = SENTINELS[password]
    if text := given.get("sentinel_password_file"):
        file = cases.directory / "sentinel"
        file.write_text(text)
        given = given | {"sentinel_password_file": str(file)}
    master, url = await watched(cases.start_redis, *config)
    with master.client(password=PASSWORD) as client:
        await works("list", RedisOptions(url=url, password=PASSWORD, **given), client)


async def test_a_password_that_sentinels_refuse_is_told(start_redis: StartRedis) -> None:
    _, url = await watched(start_redis, "requirepass other")
    _, open_url = await watched(start_redis, "requirepass other", password=None)
    plain = start_redis()
    for options in (
        RedisOptions(url=url, password=PASSWORD),
        RedisOptions(url=url, password=PASSWORD, sentinel_password="wrong"),  # noqa: S106  the test's own
        RedisOptions(url=open_url),
    ):
        line = await refusal("list", options)
        assert "REDIS_SENTINEL_PASSWORD" in line
        assert "redis.asyncio" not in line
    line = await refusal("list", RedisOptions(url=f"redis+sentinel://127.0.0.1:{plain.port}/mymaster"))
    assert "addresses of Sentinels are expected" in line


@pytest.mark.parametrize("name", ["other", "mymaster"])
async def test_a_master_that_no_sentinel_knows_is_waited_for(
    start_redis: StartRedis, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Under that name, or because no Sentinel answers; the log says which."""
    _, url = await watched(start_redis, password=None)
    url = url.replace("mymaster", name) if name == "other" else f"redis+sentinel://127.0.0.1:{free_port()}/mymaster"
    task = asyncio.create_task(_open_and_close("list", RedisOptions(url=url)))
    said = ""

    def told() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "queue_unavailable" in said

    await eventually(told)
    assert ("it knows mymaster" if name == "other" else "127.0.0.1") in said
    assert f"no master '{name}'" in said
    assert "redis.asyncio" not in said
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Cluster


async def test_a_cluster_that_refuses_us_is_told(start_redis: StartRedis) -> None:
    """A server that is in none, one whose password is another, and one that knows no COMMAND, which redis-py asks."""
    plain, locked = start_redis(), start_redis("cluster-enabled yes", f"requirepass {PASSWORD}")
    mute = start_redis("cluster-enabled yes", 'rename-command CLUSTER ""')
    cases: list[tuple[RedisServer, str | None, str]] = [
        (plain, None, "no part of a Cluster"),
        (locked, "wrong", "refuses this client"),
        (locked, None, "Authentication required"),
        (mute, None, "'CLUSTER'"),
    ]
    for server, password, word in cases:
        options = RedisOptions(url=f"redis+cluster://127.0.0.1:{server.port}", password=password)
        assert word in await refusal("list", options)
    with locked.client(password=PASSWORD) as client:
        client.execute_command("CLUSTER", "ADDSLOTS", 0)
    line = await refusal("list", RedisOptions(url=locked.url, password="wrong"))  # noqa: S106  the test's own
    assert "refuses this client" in line


# Passwords and certificates that are renewed


def renew(server: RedisServer, old: str, new: str, file: Path, text: str) -> None:
    """Change the password of a server and cut every connection, as a service does whose tokens last for hours."""
    with server.client(password=old) as client:
        client.config_set("requirepass", new)
        file.write_text(text)
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind, skipme=True)


async def with_password(cases: Cases, where: str) -> tuple[RedisServer, str]:
    """Start a server that wants one; gives the URL by which a worker finds it."""
    if where == "sentinel":
        return await watched(cases.start_redis)
    if where != "cluster":
        server = cases.start_redis(f"requirepass {PASSWORD}")
        return server, server.url
    server = cases.start_redis("cluster-enabled yes", f"requirepass {PASSWORD}")
    with server.client(password=PASSWORD) as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        await eventually(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
    return server, f"redis+cluster://127.0.0.1:{server.port}"


@at_once
@pytest.mark.parametrize("where", ["alone", "url", "sentinel", "cluster"])
async def test_a_password_in_a_file_may_be_renewed(cases: Cases, where: str) -> None:
    """Whether it is the password that is in the file, or the URL; alone, behind Sentinel, and in a Cluster."""
    server, url = await with_password(cases, where)
    file, holds_url, after = cases.directory / where, where == "url", "renewed"
    form = f"redis://:{{}}@127.0.0.1:{server.port}/0" if holds_url else "{}"
    file.write_text(form.format(PASSWORD) + "\n")
    given = {"url_file" if holds_url else "password_file": str(file)}
    options = RedisOptions(
        url=form.format(PASSWORD) if holds_url else url, password=None if holds_url else PASSWORD, **given
    )
    async with opened("list", options, lease=2.0) as queue:
        waiting = asyncio.create_task(claim(queue))
        renew(server, PASSWORD, after, file, form.format(after) + "\n")
        with server.client(password=after) as client:
            push(client, "list", "one")
            assert await run_one(queue, await waiting) == "one"
            result = "{jobs}:result:one" if where == "cluster" else "result:one"
            assert client.get(result) == b"4"
            await eventually(lambda: client.pubsub_numsub("{jobs}:bell")[0][1] == 1)


async def test_a_password_that_is_taken_away_and_renewed_later(
    start_redis: StartRedis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Redis refuses the worker, and a file that is empty or away for a moment changes nothing."""
    server, file = start_redis(f"requirepass {PASSWORD}"), tmp_path / "password"
    file.write_text(PASSWORD)
    options = RedisOptions(url=server.url, password=PASSWORD, password_file=str(file))
    async with opened("list", options, lease=1.0) as queue:
        renew(server, PASSWORD, "renewed", file, "")
        waiting = asyncio.create_task(claim(queue))
        with server.client(password="renewed") as client:  # noqa: S106  the test's own
            push(client, "list", "one")
            await queue.beat()
            await eventually(lambda: "refuses this client" in capsys.readouterr().out)
            file.unlink()
            await asyncio.sleep(0.2)
            file.write_text("renewed")
            assert await run_one(queue, await waiting) == "one"


async def test_an_authority_made_by_hand_is_trusted(
    start_redis: StartRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, certificate, key = certify_localhost(tmp_path)
    files = {"cert": certificate, "key": key, "ca-cert": authority}
    server = start_redis(*(f'tls-{kind}-file "{path}"' for kind, path in files.items()), tls=True)
    with server.client(ssl_cert_reqs="none") as client:  # with them, this one would refuse the authority
        be_strict(monkeypatch)
        async with asyncio.timeout(30):  # a worker would wait for ever
            await works("list", RedisOptions(url=server.url, ca_file=str(authority)), client)


@pytest.mark.parametrize("scheme", ["rediss", "rediss+sentinel", "rediss+cluster"])
async def test_no_connection_is_stricter_than_chain_and_name(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """As if this were Python 3.13."""
    if "cluster" in scheme and not KEEPS_CLUSTERS:
        pytest.skip("this redis-py is too old for a Cluster")
    be_strict(monkeypatch)
    path = "/mymaster/0" if "sentinel" in scheme else "/0"
    client = open_redis(RedisOptions(url=f"{scheme}://127.0.0.1:1{path}"))
    if "cluster" in scheme:
        made = [node.connection_class(**node.connection_kwargs) for node in client.nodes_manager.startup_nodes.values()]
    else:
        pools = [client.connection_pool]
        if "sentinel" in scheme:
            pools += [each.connection_pool for each in client.connection_pool.sentinel_manager.sentinels]
        made = [pool.make_connection() for pool in pools]
    for connection in made:
        assert isinstance(connection, TLS)
        context = connection._connection_arguments()["ssl"]  # noqa: SLF001  what it is about to connect with
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.check_hostname
        assert context.verify_mode == ssl.CERT_REQUIRED
    await close(client)


async def test_a_certificate_may_be_renewed(start_redis: StartRedis, tmp_path: Path) -> None:
    """A connection that is made anew shows the certificate that is in the file by then."""
    server = start_redis("tls-auth-clients yes", tls=True)
    ours = tmp_path / "ours.pem"
    ours.write_bytes(b"".join(path.read_bytes() for path in certify(tmp_path, "stranger")))
    options = RedisOptions(url=server.url, ca_file=str(CERTIFICATE), cert_file=str(ours), key_file=str(ours))
    client = open_redis(options)
    try:
        with pytest.raises(QueueUnavailableError), mapped():
            await client.ping()
        ours.write_bytes(CERTIFICATE.read_bytes())
        assert await client.ping()
    finally:
        await close(client)


# Connections and answers


@pytest.mark.parametrize("turns", range(1, 5))
async def test_a_client_whose_closing_is_cancelled_leaves_no_connection_open(redis_url: str, turns: int) -> None:
    client = open_redis(RedisOptions(url=redis_url))
    await client.ping()
    closing = asyncio.create_task(close(client))
    for _ in range(turns):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert not any(each.is_connected for each in client.connection_pool._available_connections)  # noqa: SLF001


async def test_a_closing_that_fails_after_it_was_cancelled_is_no_error_of_the_loop() -> None:
    told, fails = list[object](), asyncio.Event()

    class Client:
        async def aclose(self) -> None:
            await fails.wait()
            raise ConnectionError

    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    closing = asyncio.create_task(close(Client()))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.sleep(0)
    fails.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    del closing
    gc.collect()
    await asyncio.sleep(0)
    assert told == []


async def test_a_cancellation_while_a_command_is_sent_is_not_lost(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_redis(RedisOptions(url=redis_url))
    await client.ping()
    send: Any = Plain._send_packed_command  # noqa: SLF001  where redis-py waits

    async def send_and_be_cancelled(self: Plain, command: Any) -> None:
        await send(self, command)
        asking.cancel()

    with monkeypatch.context() as patch:
        patch.setattr(Plain, "_send_packed_command", send_and_be_cancelled)
        asking = asyncio.ensure_future(client.echo("to nobody"))
        await asyncio.wait({asking})
    assert asking.cancelled()
    assert await client.ping() is True
    await close(client)


async def test_connections_that_the_server_closes_while_idle_are_no_outage(
    start_redis: StartRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither by its `timeout` nor with a reset, however many jobs come at once."""
    server = start_redis("timeout 1")
    with server.client() as client:
        async with opened("list", RedisOptions(url=server.url), lease=600.0) as queue:

            async def burst(*names: str) -> None:
                push(client, "list", *names)
                assert set(await asyncio.gather(*(run_one(queue) for _ in names))) == set(names)

            def ours() -> list[str]:
                return [each["id"] for each in client.client_list(_type="normal") if "eval" in each["cmd"]]

            await burst("a", "b", "c")
            assert ours()
            await eventually(lambda: not ours())
            await burst("d", "e", "f")
            for id_ in ours():
                client.client_kill_filter(_id=id_)
            await eventually(lambda: not ours())
            await asyncio.sleep(0.05)
            await burst("g", "h", "i")
    assert "queue_unavailable" not in capsys.readouterr().out


ODD_ANSWERS: Final = {
    "nil": None,
    "number": 1,
    "text": b"OK",
    "list": [b"QUEUED"],
    "nested": [[b"OK", None], {}],
    "error": RedisError("who knows"),
    "unknown": ValueError("of somebody's parser"),
}


@pytest.mark.parametrize("odd", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
async def test_no_answer_ends_a_lane(redis_url: str, odd: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a script is answered, it is asked again until that is what it should be."""
    async with opened("list", RedisOptions(url=redis_url), lease=0.5) as queue:
        link: Any = queue._redis  # type: ignore[attr-defined]  # noqa: SLF001  where answers come in
        real, wrong = link._cache, dict.fromkeys(("claim", "bind", "settle", "heartbeat"), 2)  # noqa: SLF001

        class Mixed:
            """A proxy that gives others' answers now and then."""

            async def execute_command(self, name: str, sha: str, *words: Any) -> Any:
                script = next((each for each, one in scripts.items() if one.sha == sha), "")
                if wrong.get(script, 0):
                    wrong[script] -= 1
                    if isinstance(odd, Exception):
                        raise odd
                    return odd
                return await real.execute_command(name, sha, *words)

            async def drop_idle(self) -> None:
                await real.drop_idle()

        scripts = queue._scripts  # type: ignore[attr-defined]  # noqa: SLF001
        link._cache = Mixed()  # type: ignore[assignment]  # noqa: SLF001
        client = open_redis(RedisOptions(url=redis_url))
        await client.lpush("jobs", orjson.dumps({"job_id": "one"}))
        assert await run_one(queue) == "one"
        await queue.beat()
        assert await client.get("result:one") == b"4"
        await close(client)
        assert not any(wrong[name] for name in ("claim", "bind", "settle"))
    assert "queue_unavailable" in capsys.readouterr().out


LIES: Final = [
    *(said for said, _ in STRANGERS.values()),
    *(
        b"-%s of its own\r\n" % word
        for word in (b"ERR", b"WRONGTYPE", b"NOAUTH", b"NOPERM", b"OOM", b"BUSY", b"FOREIGN", b"X")
    ),
    *(b"$100\r\nhalf", b"*6\r\n:1\r\n", b"*-1\r\n", b"%1\r\n+a\r\n+b\r\n", b"_\r\n", b",1.5\r\n", b"#t\r\n", b"\r\n"),
    *(b"*6\r\n$1\r\n0\r\n:1\r\n:0\r\n*1\r\n:5\r\n*0\r\n$0\r\n\r\n", b"*4\r\n:0\r\n:0\r\n*1\r\n$1\r\n\xff\r\n*0\r\n"),
    *(b"*1\r\n$4\r\nWHAT\r\n", b"*1\r\n-NOSCRIPT no\r\n", b"-NOSCRIPT no\r\n", b"*1\r\n*1\r\n*1\r\n*0\r\n", b"\0" * 99),
]


@every_kind
@pytest.mark.usefixtures("redis_url")
async def test_lies_end_no_lane_and_lose_no_job(redis_server: RedisServer, kind: str) -> None:
    """Each one in turn, on whatever connection an answer comes: scripts, peek and bell."""
    lies: list[bytes] = []
    names = [f"job-{n}" for n in range(40)]

    async def lane(queue: Queue) -> None:
        while True:
            lease = await queue.lease()
            if await queue.bind(lease, decode(lease.payload, max_bytes=9999)) == "run":
                await queue.settle(lease, ANSWER)

    async with (
        lying_proxy(redis_server.port, lambda: lies.pop() if lies else None) as port,
        opened(kind, RedisOptions(url=f"redis://127.0.0.1:{port}"), lease=1.0) as queue,
    ):
        lanes = [asyncio.create_task(lane(queue)) for _ in range(4)]
        lies += LIES
        with redis_server.client() as client:
            for name in names:
                push(client, kind, name)
                await queue.beat()
            await eventually(lambda: not lies and all(client.exists(f"result:{name}") for name in names))
            assert not client.hlen("{jobs}:dead")
        assert not [task for task in lanes if task.done()]
        for task in lanes:
            task.cancel()
        await asyncio.wait(lanes)


def test_a_redis_py_that_forgets_the_nodes_of_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEPS_CLUSTERS", False)
    with pytest.raises(ConfigError, match=r"a Cluster needs redis-py 7\.2 or newer, found [\d.]+: pip install"):
        open_redis(RedisOptions(url="redis+cluster://127.0.0.1:1"))
