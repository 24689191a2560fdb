"""The users of kustomize/components/external-redis/users.acl have the rights that they need, and no others."""

import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from redis.exceptions import NoPermissionError

from greenscale_worker.cli import main
from tests.support.kustomize import TREE
from tests.support.redis_server import RedisServer, free_port, until

PASSWORD: Final = "s3cret"  # noqa: S105  the test's own
USERS: Final = (TREE / "components/external-redis/users.acl").read_text().replace("CHANGE-ME", PASSWORD).splitlines()
GRANTED: Final = {line.split()[1]: set(re.findall(r" \+(\S+)", line)) for line in USERS}
OPTIONAL: Final = {"config"}  # would show whether Redis persists, and its secrets too
COUNT: Final = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' then return redis.call('HLEN', KEYS[1]) end
return redis.call('LLEN', KEYS[1])
"""


@contextmanager
def working(server: RedisServer, monkeypatch: pytest.MonkeyPatch, *, database: int, side: str) -> Iterator[str]:
    """A worker that is the user of the list, as are the commands of this process; gives the URL of its metrics."""
    port = free_port()
    settings = {
        "REDIS_URL": f"{server.url}/{database}",
        "REDIS_USERNAME": "greenscale-worker",
        "REDIS_PASSWORD": PASSWORD,
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


def test_the_worker_and_its_commands_need_these_rights_and_no_others(
    start_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_redis(*USERS)
    for database, side in enumerate(["right", "left"]):
        with working(server, monkeypatch, database=database, side=side) as metrics:
            assert main(["submit", "--id", "one", "hello", "--wait"]) == 0
            assert main(["result", "one"]) == main(["status", "one"]) == main(["cancel", "nobody"]) == 0
            assert main(["pause"]) == main(["resume"]) == main(["queue"]) == 0
            with server.client(db=database) as client:
                client.lpush("jobs", '{"job_id":"bad"}')
                until(lambda client=client: client.hlen("{jobs}:dead") == 1)
            assert main(["dead", "list"]) == main(["dead", "replay", "bad"]) == 0
            with server.client(db=database) as client:
                until(lambda client=client: client.hlen("{jobs}:dead") == 1)
            assert main(["dead", "purge", "--older-than", "0"]) == 0
            with urllib.request.urlopen(metrics) as answer:  # noqa: S310  our own server
                assert b'greenscale_queue_jobs{state="dead"} 0' in answer.read()
    assert capsys.readouterr().out
    used, refused = commands(server)
    assert refused <= OPTIONAL
    assert GRANTED["greenscale-worker"] - used == set(), "granted and never used"


def test_keda_may_count_and_nothing_else(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(*USERS)
    with server.client(db=1) as client:
        client.lpush("jobs", "a", "b")
        client.hset("{jobs}:open", "1", "c")
        client.set("result:one", "the answer")
    with server.client(username="greenscale-keda", password=PASSWORD, db=1) as keda:
        assert keda.ping()
        assert keda.eval(COUNT, 1, "jobs") == 2
        assert keda.eval(COUNT, 1, "{jobs}:open") == 1
        for command in (["GET", "result:one"], ["LRANGE", "jobs", 0, 0], ["DEL", "jobs"], ["ACL", "LIST"]):
            with pytest.raises(NoPermissionError):
                keda.execute_command(*command)
    assert GRANTED["greenscale-keda"] - commands(server)[0] == set(), "granted and never used"


@pytest.mark.parametrize("command", [["GET", "others"], ["KEYS", "*"], ["FLUSHALL"], ["CONFIG", "GET", "*"]])
def test_the_worker_may_not_touch_what_is_not_its_own(
    start_redis: Callable[..., RedisServer], command: list[str]
) -> None:
    server = start_redis(*USERS)
    with (
        server.client(username="greenscale-worker", password=PASSWORD) as client,
        pytest.raises(NoPermissionError),
    ):
        client.execute_command(*command)


def commands(server: RedisServer) -> tuple[set[str], set[str]]:
    """The commands that somebody used since the server's start, and those that were refused to somebody."""
    with server.client() as client:
        stats = client.info("commandstats")
    names = {name: name.removeprefix("cmdstat_").partition("|")[0] for name in stats}
    used = {names[name] for name, counts in stats.items() if counts["calls"]}
    return used, {names[name] for name, counts in stats.items() if counts["rejected_calls"]}
