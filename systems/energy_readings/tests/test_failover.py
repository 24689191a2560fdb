"""A server that is not the right one any more: its connections are dropped, and the name is looked up again."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from greenscale_worker import Job, TransientError
from harness.redis_server import RedisServer
from harness.tcp_proxy import Trap

from conftest import Client
from energy_readings import connection
from energy_readings.ingest import ingestion
from energy_readings.processing import Processing
from energy_readings.readings import stored
from energy_readings.settings import read
from moving import Name, Stub

Serve = Callable[[web.Application], Awaitable[Client]]
StartRedis = Callable[..., RedisServer]
READING = {"site_id": "site-001", "device_id": "meter-42", "power_reading": 1500.5, "timestamp": "2024-01-15T10:30:00Z"}
PATH = "/sites/site-001/readings"
REFUSALS = [
    b"-READONLY You can't write against a read only replica.\r\n",
    b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    b"-LOADING Redis is loading the dataset in memory\r\n",
    b"-NOREPLICAS Not enough good replicas to write.\r\n",
    b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n",
    b"-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.\r\n",
    b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n",
    b"-CLUSTERDOWN The cluster is down\r\n",
    b"-MOVED 3999 127.0.0.1:6381\r\n",
    b"-NOPERM this user has no permissions to run this command\r\n",
    b"-ERR upstream is gone\r\n",
]
NONSENSE = [
    b":1\r\n",
    b"+QUEUED\r\n",
    b"_\r\n",
    b"*1\r\n:7\r\n",
    b"%1\r\n+a\r\n+b\r\n",
    b"$2\r\n\xff\xfe\r\n",
    b"#t\r\n",
]
STRANGERS = [
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x00\xff" * 50,
    b"",
]


class Roles:
    """All that talks to Redis, by one name."""

    def __init__(self, ingest: Client, readings: Client, backend: Processing) -> None:
        self._ingest = ingest
        self._readings = readings
        self._backend = backend

    async def work(self) -> list[bool]:
        """Say whether each of them does what it is for: ingestion, readings, worker."""
        return list(await asyncio.gather(self.post(), self.get(), self.store()))

    async def health(self) -> list[bool]:
        """Say what each of them says of itself."""
        return list(
            await asyncio.gather(
                self._is(200, self._ingest.get("/health")),
                self._is(200, self._readings.get("/health")),
                self._backend.ready(),
            )
        )

    async def post(self) -> bool:
        return await self._is(202, self._ingest.post("/readings", data=json.dumps(READING)))

    async def get(self) -> bool:
        return await self._is(200, self._readings.get(PATH))

    async def store(self) -> bool:
        fields = {name: str(value) for name, value in READING.items()}
        try:
            await self._backend.infer(Job(job_id="1-0", payload=fields))
        except TransientError:
            return False
        return True

    async def _is(self, status: int, asked: Any) -> bool:
        async with asked as reply:
            assert reply.status in {status, 503}, await reply.text()
            return bool(reply.status == status)


@pytest.fixture
async def name(shared_server: RedisServer) -> AsyncIterator[Name]:
    async with Name(shared_server.port) as name:
        yield name


@pytest.fixture
async def roles(name: Name, serve: Serve, db: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Roles]:
    assert db.ping()
    for each in ("connection.ANSWER_SECONDS", "ingest.ANSWER_SECONDS"):
        monkeypatch.setattr(f"energy_readings.{each}", 0.5)
    monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
    monkeypatch.setenv("REDIS_PORT", str(name.port))
    settings = read({"REDIS_PORT": str(name.port)})
    backend = Processing()
    yield Roles(await serve(ingestion(settings)), await serve(stored(settings)), backend)
    await backend.aclose()


async def test_a_master_that_was_demoted_with_its_connections_open(
    start_redis: StartRedis, name: Name, roles: Roles
) -> None:
    old, new = start_redis("min-replicas-max-lag 10"), start_redis()
    name.move(old.port)
    assert await roles.work() == [True] * 3
    with old.client() as db:
        db.replicaof("127.0.0.1", new.port)
        assert await roles.health() == [False, True, False], "what cannot be written is said, and readers go on"
        name.move(new.port)
        assert await roles.health() == [True] * 3
        assert await roles.work() == [True] * 3
        assert db.client_list(_type="normal"), "nothing closed the connections but we"
    with new.client() as db:
        assert db.xlen("energy_readings") == 1
        assert db.llen("site_readings:site-001") == 1


@pytest.mark.parametrize("answer", REFUSALS, ids=lambda answer: answer.split()[0].decode())
async def test_what_a_server_refuses_another_is_asked_for(name: Name, roles: Roles, answer: bytes) -> None:
    async with Stub(answer) as stub:
        await heals(name, roles, stub.port)


@pytest.mark.parametrize("answer", STRANGERS, ids=["http", "ssh", "bytes", "silence"])
async def test_a_server_that_is_none(name: Name, roles: Roles, answer: bytes) -> None:
    async with Stub(answer, greets=False) as stub:
        await heals(name, roles, stub.port)


async def test_a_server_that_falls_silent(name: Name, roles: Roles) -> None:
    async with Stub(b"") as stub:
        await heals(name, roles, stub.port)


async def heals(name: Name, roles: Roles, wrong: int) -> None:
    """Be there while the name is at the wrong server, and when it is at the right one again."""
    right = name.target
    name.move(wrong)
    name.cut()
    assert await roles.work() == [False] * 3
    assert await roles.health() == [False] * 3
    name.move(right)
    assert await roles.work() == [True] * 3, "the connections were dropped at the first refusal"
    assert await roles.health() == [True] * 3


@pytest.mark.parametrize("answer", NONSENSE)
async def test_nonsense_is_an_answer_too(name: Name, roles: Roles, answer: bytes) -> None:
    right = name.target
    async with Stub(answer) as stub:
        name.move(stub.port)
        name.cut()
        await roles.work()
        await roles.health()
        name.move(right)
        name.cut()
        assert await roles.work() == [True] * 3


async def test_connections_that_were_killed_cost_a_call_at_most(name: Name, roles: Roles, db: Any) -> None:
    assert await roles.work() == [True] * 3
    db.client_kill_filter(_type="normal", skipme=True)
    await roles.work()
    assert await roles.work() == [True] * 3
    assert name.port


async def test_connections_that_are_cut_amid_a_call_cost_that_call(name: Name, roles: Roles) -> None:
    assert await roles.work() == [True] * 3
    for request in (b"XADD", b"EVALSHA"):
        name.set(Trap(request, keep=1))
    assert False in await roles.work()
    assert await roles.work() == [True] * 3


async def test_connections_that_are_half_open_cost_one_time_limit(
    start_redis: StartRedis, name: Name, roles: Roles
) -> None:
    old = start_redis()
    right = name.target
    name.move(old.port)
    assert all(await asyncio.gather(*(roles.get() for _ in range(10))))
    old.freeze()  # as a NAT does that has forgotten them, or a node that is gone: nobody is told
    name.move(right)
    assert not await roles.get()
    assert all(await asyncio.gather(*(roles.get() for _ in range(10)))), "all were dropped with the one that failed"
    old.thaw()


async def test_a_failover_amid_a_call(start_redis: StartRedis, name: Name, roles: Roles) -> None:
    old = start_redis()
    right = name.target
    name.move(old.port)
    assert await roles.work() == [True] * 3
    old.freeze()
    calls = asyncio.create_task(roles.work())
    await asyncio.sleep(0)
    name.move(right)
    assert await calls == [False] * 3
    assert await roles.work() == [True] * 3
    old.thaw()


async def test_a_name_that_moves_from_a_server_that_goes_on_is_followed(
    start_redis: StartRedis, name: Name, roles: Roles, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = start_redis()
    right = name.target
    name.move(old.port)
    assert await roles.work() == [True] * 3
    name.move(right)
    assert await roles.work() == [True] * 3
    assert not db.exists("energy_readings"), "nobody said anything"
    monkeypatch.setattr(connection, "RENEW_SECONDS", -1.0)
    assert await roles.work() == [True] * 3
    assert db.xlen("energy_readings") == 1


async def test_a_fault_of_one_connection_does_not_make_the_others_fail(name: Name, roles: Roles, db: Any) -> None:
    db.set("{site_readings:site-001}:by_time", "not an ordered set")
    before = db.info("stats")["total_connections_received"]
    assert not any(await asyncio.gather(*(roles.get() for _ in range(200))))
    assert await roles.post()
    assert db.info("stats")["total_connections_received"] - before <= connection.MOST_CONNECTIONS + 1
    assert name.port
