"""The gateway against doors that are written here: whatever one of them does, a call has an answer or becomes a job."""

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from harness.eventually import eventually

from kubeserve.domain import Deployment, DeploymentState, Desired
from kubeserve.gateway import Address, ClusterDoors, Doors, Gateway, gateway
from kubeserve.gateway.doors import PORT

NOW = dt.datetime.now(dt.UTC)
DEPLOYMENT = Deployment(
    id=str(uuid.uuid4()), owner_id=str(uuid.uuid4()), model_id=str(uuid.uuid4()), name="d", desired=Desired.RUNNING,
    state=DeploymentState.READY, state_reason="", target=1, active=1, generation=1, observed=1, replicas=1,
    revisions=(), created_at=NOW, updated_at=NOW,
)  # fmt: skip
RIGHT = {"predictions": [7], "revision": 1, "version": "v1"}
Script = Callable[["Scripted", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def http(status: int, told: object, **headers: object) -> bytes:
    body = told if isinstance(told, bytes) else orjson.dumps(told)
    lines = {"Content-Type": "application/json", "Content-Length": len(body), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Something\r\n{head}\r\n".encode() + body


class Scripted:
    """A door that does as its script says with each request, and counts."""

    def __init__(self, path: Path, script: Script | bytes) -> None:
        self.address = Address(path=str(path))
        self.script = script
        self.asked = list[bytes]()
        self.connections = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Scripted"]:
        server = await asyncio.start_unix_server(self._serve, self.address.path)
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                self.asked.append(await reader.readexactly(size))
                if isinstance(self.script, bytes):
                    writer.write(self.script)
                    await writer.drain()
                else:
                    await self.script(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Fixed(Doors):
    def __init__(self, *doors: Address) -> None:
        self.doors = doors

    async def of(self, deployment: Deployment) -> Sequence[Address]:
        del deployment
        return self.doors

    def close(self) -> None:
        pass


Open = Callable[..., Awaitable[tuple[Gateway, list[Scripted]]]]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    """Opens doors of these scripts, and a gateway to them."""
    async with AsyncExitStack() as stack:

        async def open_(*scripts: Script | bytes) -> tuple[Gateway, list[Scripted]]:
            doors = [
                await stack.enter_async_context(Scripted(tmp_path / f"{number}.sock", script).open())
                for number, script in enumerate(scripts)
            ]
            made = Gateway(Fixed(*(door.address for door in doors)))
            stack.push_async_callback(made.aclose)
            return made, doors

        yield open_


async def breaks(_door: Scripted, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    raise ConnectionResetError


async def breaks_within(_door: Scripted, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(http(200, RIGHT)[:-4])
    await writer.drain()
    raise ConnectionResetError


async def gives_gigabytes(_door: Scripted, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(http(200, b"", Content_Length=2 << 30))
    while True:
        writer.write(b"x" * (1 << 20))
        await writer.drain()


async def gives_gigabytes_of_head(_door: Scripted, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * (1 << 20))
        await writer.drain()


async def is_slow(_door: Scripted, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in http(200, RIGHT):
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)


async def is_silent(_door: Scripted, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def ask(to: Gateway, seconds: float = 30.0) -> object:
    answer = await to.ask(DEPLOYMENT, [[1, 2]], seconds)
    return answer and (answer.answer or answer.error)


NO_ANSWERS = {
    "breaks": breaks,
    "breaks within": breaks_within,
    "2 GB": gives_gigabytes,
    "2 GB of head": gives_gigabytes_of_head,
    "rubbish": b"\x00\xff rubbish\r\n\r\n",
    "no JSON": http(200, b"{"),
    "another shape": http(200, {"predictions": 7}),
    "another number": http(200, RIGHT | {"predictions": [1, 2]}),
    "a list": http(200, [1]),
    "no length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "too much": http(200, RIGHT) + b"more",
    "another server": http(404, b"404: Not Found"),
    "a mistake": http(500, {"error": {"code": "internal", "message": "x"}}),
    "no reason": http(422, {"error": "x"}),
    "asleep": http(503, {"error": {"code": "asleep", "message": ""}}),
    "draining": http(503, {"error": {"code": "draining", "message": ""}}),
}


@pytest.mark.parametrize("script", NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_what_is_no_answer_makes_a_job_or_is_asked_of_another_door_once(opened: Open, script: Script) -> None:
    to, (door,) = await opened(script)
    assert await ask(to) is None
    assert door.asked == [b"[[1,2]]"]
    bad = Scripted(Path(f"{door.address.path}.2"), script)
    good = Scripted(Path(f"{door.address.path}.3"), http(200, RIGHT))
    async with bad.open(), good.open():
        to = Gateway(Fixed(bad.address, good.address))
        for _ in range(12):
            assert await ask(to) == RIGHT
        await to.aclose()
    assert len(good.asked) == 12  # 12 of 12: a refusal is never taken for an answer, and nobody is asked twice
    assert len(bad.asked) < 12


async def test_two_doors_that_break_are_asked_once_each_and_a_third_is_not(opened: Open) -> None:
    to, doors = await opened(breaks, breaks, breaks)
    assert await ask(to) is None
    assert sorted(len(door.asked) for door in doors) == [0, 1, 1]


async def test_a_refusal_of_the_model_is_an_end(opened: Open) -> None:
    to, doors = await opened(*2 * [http(422, {"error": {"code": "bad_instance", "message": "[0.x] no"}})])
    assert await ask(to) == ("bad_instance", "[0.x] no")
    assert sum(len(door.asked) for door in doors) == 1


@pytest.mark.parametrize("script", [is_slow, is_silent])
async def test_a_slow_door_takes_no_more_time_than_the_caller_has(opened: Open, script: Script) -> None:
    to, _ = await opened(script)
    async with asyncio.timeout(5):
        assert await ask(to, 0.3) is None


async def test_connections_are_used_again_and_a_closed_one_costs_no_call(opened: Open) -> None:
    async def twice(door: Scripted, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(200, RIGHT))
        await writer.drain()
        if len(door.asked) % 10 == 0:  # as a door does that has ended
            raise ConnectionResetError

    to, (door,) = await opened(twice)
    for _ in range(30):
        assert await ask(to) == RIGHT
        await asyncio.sleep(0)
    assert len(door.asked) == 30
    assert door.connections == 3


async def test_a_door_that_says_close_is_connected_to_anew(opened: Open) -> None:
    to, (door,) = await opened(http(200, RIGHT, Connection="close"))
    assert [await ask(to) for _ in range(3)] == [RIGHT] * 3
    assert door.connections == 3


async def test_a_door_that_is_gone_is_left_alone_for_a_while(opened: Open, tmp_path: Path) -> None:
    _, (door,) = await opened(http(200, RIGHT))
    gone = Address(path=str(tmp_path / "gone.sock"))
    to = Gateway(Fixed(gone, door.address))
    assert [await ask(to) for _ in range(20)] == [RIGHT] * 20
    assert list(to._shunned) == [gone]  # noqa: SLF001  it was tried
    other = Gateway(Fixed(gone))
    assert await ask(other) is None
    await other.aclose()
    await to.aclose()


async def test_a_machine_that_is_gone_without_a_word_is_noticed_by_the_system(tmp_path: Path) -> None:
    door = Scripted(tmp_path / "unused", is_silent)
    async with await asyncio.start_server(door._serve, "127.0.0.1") as server:  # noqa: SLF001  as of a pod
        port = server.sockets[0].getsockname()[1]
        to = Gateway(Fixed(Address(host="127.0.0.1", port=port)))
        asked = asyncio.create_task(ask(to))
        await eventually(lambda: door.asked)
        assert _timers(port) == ["02"]  # keepalive
        await to.aclose()
        assert await asked is None


def _timers(port: int) -> list[str]:
    """Return which timer the system runs for each connection to a port (proc(5), `tr`)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [fields[5].partition(":")[0] for fields in lines if fields[2].endswith(f":{port:04X}") and fields[3] == "01"]


async def test_who_waits_when_it_is_closed_gets_a_job_at_once(opened: Open) -> None:
    to, doors = await opened(is_silent, is_silent)
    asked = [asyncio.create_task(ask(to)) for _ in range(4)]
    await eventually(lambda: sum(len(door.asked) for door in doors) == 4)
    assert {len(door.asked) for door in doors} == {2}  # each door has as many
    await to.aclose()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*asked) == [None] * 4
    assert await ask(to) is None
    assert sum(len(door.asked) for door in doors) == 4


async def test_calls_beyond_what_a_gateway_holds_become_jobs(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "MOST_CALLS", 3)
    to, (door,) = await opened(is_silent)
    asked = [asyncio.create_task(ask(to)) for _ in range(3)]
    await eventually(lambda: len(door.asked) == 3)
    assert await ask(to) is None
    await to.aclose()
    await asyncio.gather(*asked)
    assert not to._calls  # noqa: SLF001  nothing is left of them


async def test_the_flood_of_one_owner_leaves_room_for_others(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "MOST_CALLS", 20)

    async def answers_others(door: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if door.asked[-1] == b"[0]":
            await reader.read(1)
        writer.write(http(200, RIGHT))
        await writer.drain()

    to, (door,) = await opened(answers_others)
    flood = [asyncio.create_task(to.ask(DEPLOYMENT, [0], 30)) for _ in range(40)]
    await eventually(lambda: len(door.asked) + sum(task.done() for task in flood) == 40)
    assert len(door.asked) == 16  # the others became jobs
    other = replace(DEPLOYMENT, id=str(uuid.uuid4()), owner_id=str(uuid.uuid4()))
    assert await to.ask(other, [1], 5) is not None
    assert door.asked[-1] == b"[1]"
    await to.aclose()
    await asyncio.gather(*flood)
    assert not to._owners  # noqa: SLF001  nothing is left of them


async def test_rows_that_the_queue_would_not_take_are_not_asked(opened: Open) -> None:
    to, (door,) = await opened(http(200, RIGHT))
    assert await to.ask(DEPLOYMENT, ["x" * (4 << 20)], 5) is None
    assert await to.ask(DEPLOYMENT, [orjson.loads("[" * 600 + "]" * 600)], 5) is None
    assert door.asked == []


class Resolver:
    """What a name server would say: addresses, an error, or nothing for ever."""

    def __init__(self) -> None:
        self.says: list[str] | None = ["10.0.0.1"]
        self.silent = False
        self.names = list[str]()

    async def __call__(self, name: str) -> list[str]:
        self.names.append(name)
        if self.silent:
            await asyncio.Event().wait()
        if self.says is None:
            raise OSError("no such name")
        return self.says


async def test_the_pods_of_a_cluster_are_looked_up_once_in_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver()
    doors = ClusterDoors(resolver)
    first = Address(host="10.0.0.1", port=PORT)
    assert {tuple(await doors.of(DEPLOYMENT)) for _ in range(50)} == {(first,)}
    assert resolver.names == [f"d-{DEPLOYMENT.id}.ks-{DEPLOYMENT.owner_id}.svc"]
    monkeypatch.setattr("kubeserve.gateway.doors.FRESH_SECONDS", 0.0)
    resolver.says = ["10.0.0.1", "fd00::2"]
    assert await doors.of(DEPLOYMENT) == (first, Address(host="fd00::2"))
    resolver.silent = True
    assert len(await doors.of(DEPLOYMENT)) == 2  # for a moment
    monkeypatch.setattr("kubeserve.gateway.doors.STALE_SECONDS", 0.0)
    assert await doors.of(DEPLOYMENT) == ()
    await asyncio.gather(*(doors.of(DEPLOYMENT) for _ in range(20)))
    assert len(resolver.names) == 3  # one is under way
    doors.close()


async def test_no_pod_is_no_door(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver()
    resolver.says = None
    doors = ClusterDoors(resolver)
    assert await doors.of(DEPLOYMENT) == ()
    assert await doors.of(DEPLOYMENT) == ()
    assert len(resolver.names) == 1
    monkeypatch.setattr("kubeserve.gateway.doors.FRESH_SECONDS", 0.0)
    resolver.says = ["10.0.0.1"]
    assert len(await doors.of(DEPLOYMENT)) == 1
    doors.close()


async def test_the_system_resolves_names() -> None:
    doors = ClusterDoors()
    assert "127.0.0.1" in await doors._ask_system("localhost")  # noqa: SLF001  no name of a cluster is known here
    assert await doors.of(DEPLOYMENT) == ()
    doors.close()
