"""The users in kustomize/components/external-redis have the rights that they need, and no others."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from openai import OpenAI
from redis import Redis
from redis.exceptions import NoPermissionError

from greenscale_worker import SyncClient
from greenscale_worker.cli import beside, main
from greenscale_worker.config import load
from greenscale_worker.execution import Policy
from greenscale_worker.job import Failed, Output, Released, Succeeded
from greenscale_worker.queues import QueueOptions, RedisOptions, TenantLimits
from greenscale_worker.queues.redis.keys import OF_LISTS, TURN_PAYLOADS
from greenscale_worker.queues.redis.script_loader import SCRIPTS
from greenscale_worker.queues.redis.stream import open_client, open_queue
from greenscale_worker.telemetry import Metrics
from harness.eventually import eventually
from harness.redis_server import RedisServer, free_port, until
from tests.support.batches import line_of
from tests.support.kustomize import TREE

PASSWORD: Final = "s3cret"  # noqa: S105  the test's own
FILES: Final = {"list": "users.acl", "stream": "users-stream.acl"}
OPTIONAL: Final = {"config", "config|get"}  # would show whether Redis persists, and its secrets too
CONTAINERS: Final = {"XGROUP", "XINFO"}  # their rights are given by the subcommand
EVENTS: Final = ["batch.completed"]
ANSWER: Final = Succeeded(Output("4"))
COUNT: Final = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' then return redis.call('HLEN', KEYS[1]) end
return redis.call('LLEN', KEYS[1])
"""

every_kind = pytest.mark.parametrize("kind", FILES)


def users(kind: str) -> list[str]:
    """The lines for a kind of queue, as a server's configuration."""
    text = (TREE / "components/external-redis" / FILES[kind]).read_text()
    return text.replace("CHANGE-ME", PASSWORD).splitlines()


def granted(kind: str, user: str) -> set[str]:
    """The commands that a user may use."""
    (line,) = (line for line in users(kind) if line.split()[1] == user)
    return set(re.findall(r" \+(\S+)", line))


@contextmanager
def working(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, *, kind: str, database: int, side: str
) -> Iterator[str]:
    """A worker that is the user of the queue, as are the commands of this process; gives the URL of its metrics."""
    port = free_port()
    settings = {
        "REDIS_URL": f"{server.url}/{database}",
        "REDIS_USERNAME": "greenscale-worker",
        "REDIS_PASSWORD": PASSWORD,
        "GREENSCALE_QUEUE": kind,
        "GREENSCALE_TAKE_FROM": side,
        "GREENSCALE_BACKEND": "echo",
        "GREENSCALE_HEALTH_PORT": str(port),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    process = subprocess.Popen([sys.executable, "-m", "greenscale_worker"], env=os.environ | settings)
    try:
        until(lambda: is_served(port))
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def is_served(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def leave_a_stray(client: Redis) -> None:
    """Read a job as somebody else of the worker's group, long ago: a heartbeat takes it over."""
    with client.pipeline(transaction=True) as pipe:  # before the worker can read it
        pipe.xadd("jobs", {"job": b'{"job_id":"stray","prompt":"hello"}'})
        pipe.xreadgroup("greenscale", "somebody", {"jobs": ">"})
        _, read = pipe.execute()
    client.xclaim("jobs", "greenscale", "somebody", 0, [read[0][1][0][0]], idle=60_000, justid=True)


def run_a_batch(redis: Any, directory: Path) -> None:
    """Run a batch by a gateway that is the user of the queue, and tell of it: both have queues of their own."""
    port = free_port()
    settings = {
        "GREENSCALE_GATEWAY_PORT": str(port),
        "GREENSCALE_FILES": str(directory),
        "GREENSCALE_WEBHOOKS_ALLOW_PRIVATE": "true",
    }
    process = subprocess.Popen([sys.executable, "-m", "greenscale_worker", "serve"], env=os.environ | settings)
    try:
        until(lambda: is_served(port))
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused") as client:
            url = f"http://127.0.0.1:{free_port()}"  # nobody is there, so it is tried again
            client.post("/webhook_endpoints", body={"name": "n", "url": url, "event_types": EVENTS}, cast_to=object)
            file = client.files.create(file=("in.jsonl", line_of("a")), purpose="batch")
            batch = client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            until(lambda: client.batches.retrieve(batch.id).status == "completed")
        until(lambda: len([*redis.scan_iter("webhooks:job:evt_*")]) == 2)
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


@every_kind
def test_worker_gateway_and_commands_need_these_rights_and_no_others(
    start_redis: Callable[..., RedisServer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    kind: str,
) -> None:
    server = start_redis(*users(kind))
    for database, side in enumerate(["right", "left"]):
        with working(server, monkeypatch, kind=kind, database=database, side=side) as metrics:
            assert main(["submit", "--id", "one", "hello", "--wait"]) == 0
            assert (main(["result", "one"]), main(["status", "one"]), main(["cancel", "nobody"])) == (0, 0, 3)
            assert main(["tenants", "set", "search", "--weight", "2"]) == main(["tenants", "list"]) == 0
            assert main(["tenants", "delete", "search"]) == 0
            assert main(["pause"]) == main(["resume"]) == main(["queue"]) == main(["jobs"]) == 0
            with server.client(db=database) as client, SyncClient.from_env() as reader:
                add(client, kind, b'{"job_id":"shown","prompt":"hello","tokens":true,"keep":"body"}')
                assert [piece.text for piece in reader.tokens("shown")] == ["hello"]
                assert reader.body("shown") is None
            with server.client(db=database) as client:
                if database == 0:
                    run_a_batch(client, tmp_path)
                step_the_clock_back(client)
                add(client, kind, b'{"job_id":"bad"}')
                client.lpush("{jobs}:background", b'{"job_id":"classed","prompt":"hello"}')
                until(lambda client=client: client.hlen("{jobs}:dead") == client.exists("result:classed") == 1)
            assert main(["dead", "list"]) == main(["dead", "replay", "bad"]) == 0
            with server.client(db=database) as client:
                until(lambda client=client: client.hlen("{jobs}:dead") == 1)
                client.hset("{jobs}:meta", mapping={"1": "of jobs", "2": "that are", "3": "nowhere"})
                until(lambda client=client: not client.exists("{jobs}:meta"))
                if kind == "stream" and database == 0:
                    leave_a_stray(client)
                    until(lambda client=client: client.exists("result:stray") == 1)
            assert main(["dead", "purge", "--older-than", "0"]) == 0
            with urllib.request.urlopen(metrics) as answer:  # noqa: S310  our own server
                assert b'greenscale_queue_jobs{state="dead"} 0' in answer.read()
    assert capsys.readouterr().out
    used, refused = commands(server)
    assert refused <= OPTIONAL
    assert unused(granted(kind, "greenscale-worker"), used) == set(), "granted and never used"


async def test_a_gateway_without_rights_to_a_queue_of_its_own_says_so_once(
    start_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(beside, "AGAIN_SECONDS", 0.01)
    server = start_redis(*(line.replace(" ~webhooks:*", "") for line in users("list")))
    settings = load({"REDIS_URL": server.url, "REDIS_USERNAME": "greenscale-worker", "REDIS_PASSWORD": PASSWORD})
    stopping, hurry = asyncio.Event(), asyncio.Event()
    with server.client() as client:

        def refusals() -> int:
            return int(client.info("commandstats").get("cmdstat_evalsha", {"rejected_calls": 0})["rejected_calls"])

        own = beside.beside(
            settings, "webhooks", lambda _: "", lanes=1, policy=Policy(), stopping=stopping, hurry=hurry
        )
        async with own:
            await eventually(lambda: refusals() > 2)
    said = capsys.readouterr().out
    assert said.count("queue_unavailable") == 1
    assert "{jobs}:webhooks: Redis refuses this client" in said


@every_kind
def test_whatever_a_script_may_send_is_granted(kind: str) -> None:
    other = {"list": "stream", "stream": "list"}[kind]
    scripts = [path for path in SCRIPTS.iterdir() if path.name != f"{other}_store.lua"]
    sent = set()
    for script in scripts:
        calls = re.findall(r"call\('([A-Z]+)'(?:, '([A-Z]+)')?", script.read_text())
        sent |= {f"{name}|{part}".lower() if name in CONTAINERS else name.lower() for name, part in calls}
    assert sent - granted(kind, "greenscale-worker") == set()


def unused(rights: set[str], used: set[str]) -> set[str]:
    """Rights that nobody made use of. Before Redis 7, XGROUP CREATE is counted as XGROUP."""
    return {right for right in rights if not {right, right.partition("|")[0]} & used}


def step_the_clock_back(client: Any) -> None:
    """Let the scripts believe that the server's clock was an hour ahead, beside a worker of the version before."""
    seconds, _ = client.time()
    ahead = (seconds + 3600) * 1000
    client.zadd("{jobs}:delayed", {"1-1": 2 * ahead})
    client.hset("{jobs}:control", mapping={"format": "1", "clock": ahead})
    until(lambda: client.hget("{jobs}:control", "format") == b"2")  # that one is gone


def add(client: Any, kind: str, payload: bytes) -> None:
    """Hand in a job as a producer does."""
    if kind == "list":
        client.lpush("jobs", payload)
    else:
        client.xadd("jobs", {"job": payload})


def test_keda_may_count_and_nothing_else(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(*users("list"))
    with server.client(db=1) as client:
        client.lpush("jobs", "a", "b")
        client.hset("{jobs}:open", "1", "c")
        client.lpush("{jobs}:interactive", "d")
        client.hset("{jobs}:turns:payload", "w|standard|a|1", "e")
        client.rpush("{jobs}:room", "", "")
        client.set("result:one", "the answer")
    with server.client(username="greenscale-keda", password=PASSWORD, db=1) as keda:
        assert keda.ping()
        assert keda.eval(COUNT, 1, "jobs") == 2
        assert keda.eval(COUNT, 1, "{jobs}:open") == keda.eval(COUNT, 1, "{jobs}:interactive") == 1
        assert keda.eval(COUNT, 1, "{jobs}:turns:payload") == 1
        assert keda.eval(COUNT, 1, "{jobs}:room") == 2
        assert keda.eval(COUNT, 1, "{jobs}:background") == 0, "there is none"
        for command in (["GET", "result:one"], ["LRANGE", "jobs", 0, 0], ["DEL", "jobs"], ["ACL", "LIST"]):
            with pytest.raises(NoPermissionError):
                keda.execute_command(*command)
    assert unused(granted("list", "greenscale-keda"), commands(server)[0]) == set(), "granted and never used"


async def test_what_keda_counts_of_a_stream_is_all_work_there_is(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(*users("stream"))
    redis = RedisOptions(url=f"{server.url}/1")
    with server.client(username="greenscale-keda", password=PASSWORD, db=1) as keda:

        async def counted(waiting: int, delayed: int, running: int, dead: int) -> int:
            depth = await admin.depth()
            assert (depth.waiting, depth.delayed, depth.running, depth.dead) == (waiting, delayed, running, dead)
            classes = [keda.eval(COUNT, 1, f"{{jobs}}:{part}") for part in (*OF_LISTS, TURN_PAYLOADS)]
            return int(keda.xlen("jobs")) + sum(map(int, classes))

        assert keda.ping()
        assert keda.eval(COUNT, 1, "{jobs}:room") == 0, "nothing bounds it"
        async with (
            aclosing(await open_client(redis, QueueOptions())) as admin,
            aclosing(await open_queue(redis, QueueOptions(), Metrics())) as queue,
        ):
            assert await counted(waiting=0, delayed=0, running=0, dead=0) == 0, "no stream, no work"
            await admin.put([(name, b"{}") for name in ("a", "b", "c", "d", "e")])
            assert await counted(waiting=5, delayed=0, running=0, dead=0) == 5, "wakes from zero"
            a, b, c, d = [await queue.lease() for _ in range(4)]
            assert await counted(waiting=1, delayed=0, running=4, dead=0) == 5
            await queue.settle(c, ANSWER)
            assert await counted(waiting=1, delayed=0, running=3, dead=0) == 4
            await queue.settle(d, Released("overload", delay=600))
            assert await counted(waiting=1, delayed=1, running=2, dead=0) == 4
            await queue.settle(b, Failed("bad_request", "no"))
            assert await counted(waiting=1, delayed=1, running=1, dead=1) == 3
            (letter,) = [letter async for letter in admin.dead()]
            assert await admin.replay(letter.id)
            assert await counted(waiting=2, delayed=1, running=1, dead=0) == 4
            await queue.settle(a, ANSWER)
            assert await counted(waiting=2, delayed=1, running=0, dead=0) == 3
            await admin.put([("f", b"{}"), ("g", b"{}")], job_class="interactive")
            await admin.put([("h", b"{}")], job_class="background")
            await admin.put([("i", b"{}")], not_before=time.time() + 600)
            assert await counted(waiting=5, delayed=1, running=0, dead=0) == 6, "what is not due needs no pod"
            await queue.lease()
            assert await counted(waiting=4, delayed=1, running=1, dead=0) == 6, "claimed, it is in the stream"
            await admin.set_tenant("a", TenantLimits())
            await admin.put([("j", b"{}")], tenant="a")
            assert await counted(waiting=5, delayed=1, running=1, dead=0) == 7, "in a line"
        for command in (["XRANGE", "jobs", "-", "+"], ["DEL", "jobs"], ["XLEN", "{jobs}:open"], ["ACL", "LIST"]):
            with pytest.raises(NoPermissionError):
                keda.execute_command(*command)
    assert unused(granted("stream", "greenscale-keda"), commands(server)[0]) == set(), "granted and never used"


@every_kind
def test_a_producer_may_push_and_nothing_else(start_redis: Callable[..., RedisServer], kind: str) -> None:
    server = start_redis(*users(kind))
    with server.client(username="greenscale-producer", password=PASSWORD, db=1) as producer:
        add(producer, kind, b"{}")
        for command in (["DEL", "jobs"], ["GET", "result:one"], ["XLEN", "jobs"], ["LLEN", "jobs"], ["KEYS", "*"]):
            with pytest.raises(NoPermissionError):
                producer.execute_command(*command)
    assert unused(granted(kind, "greenscale-producer"), commands(server)[0]) == set(), "granted and never used"


@every_kind
@pytest.mark.parametrize("command", [["GET", "others"], ["KEYS", "*"], ["FLUSHALL"], ["CONFIG", "GET", "*"]])
def test_the_worker_may_not_touch_what_is_not_its_own(
    start_redis: Callable[..., RedisServer], kind: str, command: list[str]
) -> None:
    server = start_redis(*users(kind))
    with (
        server.client(username="greenscale-worker", password=PASSWORD) as client,
        pytest.raises(NoPermissionError),
    ):
        client.execute_command(*command)


def commands(server: RedisServer) -> tuple[set[str], set[str]]:
    """The commands that somebody used since the server's start, and those that were refused to somebody."""
    with server.client() as client:
        stats = client.info("commandstats")
    names = {name: name.removeprefix("cmdstat_") for name in stats}
    # What is only tried at the start, where it can change nothing, fails.
    used = {names[name] for name, counts in stats.items() if counts["calls"] > counts["failed_calls"]}
    return used, {names[name] for name, counts in stats.items() if counts["rejected_calls"]}
