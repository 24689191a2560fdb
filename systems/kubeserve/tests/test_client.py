"""The Python client: its calls, its errors, and an upload through a network that breaks."""

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp.test_utils import TestServer
from harness.eventually import eventually
from harness.tcp_proxy import TcpProxy, Trap

from kubeserve.client import KubeServe
from kubeserve.domain import Outcome, Step, VersionState
from kubeserve.errors import (
    ConflictError,
    KubeServeError,
    LimitedError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    UnprocessableError,
)
from stub_api import Stub, application

MIB = 1024 * 1024
EMAIL, PASSWORD = "a@example.org", "correct horse battery"

Result = TypeVar("Result")


class Case:
    """The stub, a proxy before it, and a client that has logged in through the proxy, for its calls in threads."""

    def __init__(self, stub: Stub, proxy: TcpProxy, data: Path) -> None:
        self.stub = stub
        self.calls = stub.calls
        self.unavailable = stub.unavailable
        self.proxy = proxy
        self.data = data
        self.url = f"http://127.0.0.1:{proxy.port}"
        self.client = KubeServe(self.url, patience=20.0)

    async def do(self, call: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        return await asyncio.to_thread(call, *args, **kwargs)

    async def version(self, tag: str = "v1") -> str:
        models = await self.do(self.client.models)
        model = models[0] if models else await self.do(self.client.create_model, "churn")
        return str((await self.do(self.client.create_version, model["id"], tag))["id"])


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    data = tmp_path / "data"
    data.mkdir()
    app, stub = await application(data, str(tmp_path / "objects"))
    async with TestServer(app) as server, TcpProxy(server.port or 0) as proxy:
        case = Case(stub, proxy, data)
        await case.do(case.client.register, EMAIL, PASSWORD)
        await case.do(case.client.login, EMAIL, PASSWORD)
        yield case
        case.client.close()


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file of five chunks and a bit."""
    path = tmp_path / "model.pkl"
    path.write_bytes(os.urandom(40 * MIB + 11))
    return path


async def test_an_account_and_its_keys(case: Case) -> None:
    assert (await case.do(case.client.me))["email"] == EMAIL
    made = await case.do(case.client.create_key, "laptop")
    assert [key["name"] for key in await case.do(case.client.keys)] == ["laptop"]
    with KubeServe(case.url, key=made["key"]) as other:
        assert (await case.do(other.me))["email"] == EMAIL
        limited = await case.do(case.client.limit_key, made["id"], 60)
        assert (limited["id"], limited["requests_per_minute"]) == (made["id"], 60)
        await case.do(case.client.revoke_key, made["id"])
        with pytest.raises(UnauthenticatedError, match="revoked"):
            await case.do(other.me)


async def test_models_and_versions(case: Case) -> None:
    version = await case.version()

    model = (await case.do(case.client.models))[0]
    assert [each["tag"] for each in await case.do(case.client.versions, model["id"])] == ["v1"]
    assert (await case.do(case.client.version, version))["state"] == "draft"
    await case.do(case.client.delete_version, version)
    with pytest.raises(NotFoundError, match="no such version"):
        await case.do(case.client.version, version)


async def test_an_upload_and_its_proof(case: Case, big: Path) -> None:
    version, told = await case.version(), []
    sha256 = await case.do(case.client.upload, version, big, progress=lambda *how: told.append(how))
    size = big.stat().st_size
    assert told == [(min(n * 8 * MIB, size), size) for n in range(7)]
    (requirements := big.with_name("needs")).write_text("numpy\n")
    await case.do(case.client.upload, version, requirements, "requirements.txt")
    finished = await case.do(case.client.finish, version)
    assert finished["state"] == "scanning"
    assert finished["files"][0]["sha256"] == sha256 == hashlib.sha256(big.read_bytes()).hexdigest()

    steps: list[tuple[str, str]] = []
    waiting = asyncio.create_task(
        case.do(case.client.wait_until_ready, version, lambda step: steps.append((step["name"], step["outcome"])))
    )
    await eventually(lambda: len(steps) == 2)
    for outcome in (Outcome.RUNNING, Outcome.DONE):
        done = (await case.stub.registry.find(version)).steps[:2]
        await case.stub.registry.set_steps(version, 0, [*done, Step("identified", outcome, 0.1, "")])
        await eventually(lambda outcome=outcome: steps[-1] == ("identified", outcome))
    for before, after in zip(["scanning", "building", "checking"], ["building", "checking", "ready"], strict=True):
        await case.stub.registry.set_state(version, VersionState(after), "", expected={VersionState(before)})
    assert (await waiting)["state"] == "ready"
    assert len(steps) == 4


async def test_a_proof_that_ends_otherwise(case: Case, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"x")
    for tag, state, kind in (("a", "rejected", UnprocessableError), ("b", "failed", UnavailableError)):
        version = await case.version(tag)
        await case.do(case.client.upload, version, tmp_path / "x.pkl")
        await case.do(case.client.finish, version)
        with pytest.raises(UnavailableError, match="scanning"):
            await case.do(case.client.wait_until_ready, version, timeout=0.1)
        await case.stub.registry.set_state(
            version, VersionState(state), "it is no model", expected={VersionState.SCANNING}
        )
        with pytest.raises(kind, match="it is no model"):
            await case.do(case.client.wait_until_ready, version)


async def test_connections_cut_within_chunks(case: Case, big: Path) -> None:
    version, traps = await case.version(), []
    with big.open("r+b") as file:
        for size in (3, 11, 22, 37):  # what the proxy looks for: the connection ends where it comes by
            word = b"cut at %02d;" % size
            file.seek(size * MIB)
            file.write(word * 20_000)
            traps.append(Trap(word, half=True))
            case.proxy.set(traps[-1])
    await case.do(case.client.upload, version, big)

    assert all(trap.sprung.is_set() for trap in traps)
    finished = await case.do(case.client.finish, version)
    assert finished["files"][0]["sha256"] == hashlib.sha256(big.read_bytes()).hexdigest()


async def test_answers_that_are_lost(case: Case, big: Path) -> None:
    """The first chunk's, the last one's, and that to the finish."""
    version = await case.version()
    for request in (b"PUT /api", f"-{40 * MIB + 10}/".encode(), b"/finish"):
        case.proxy.set(Trap(request))
    await case.do(case.client.upload, version, big)

    assert (await case.do(case.client.finish, version))["state"] == "scanning"
    assert case.calls.count(f"POST /api/v1/versions/{version}/finish") == 2


async def test_an_upload_goes_on_in_another_process(case: Case, big: Path) -> None:
    def stop(sent: int, _: int) -> None:
        if sent >= 16 * MIB:
            raise KeyboardInterrupt

    version, told = await case.version(), []
    with pytest.raises(BaseException, match="stopped"):
        await case.do(_stopped, case.client.upload, version, big, None, stop)
    with KubeServe(case.url) as other:
        await case.do(other.login, EMAIL, PASSWORD)
        await case.do(other.upload, version, big, progress=lambda *how: told.append(how))
        assert told[0] == (16 * MIB, big.stat().st_size)
        await case.do(other.finish, version)


async def test_another_file_of_the_name_begins_anew(case: Case, big: Path, tmp_path: Path) -> None:
    def stop(sent: int, _: int) -> None:
        if sent >= 16 * MIB:
            raise KeyboardInterrupt

    version = await case.version()
    with pytest.raises(BaseException, match="stopped"):
        await case.do(_stopped, case.client.upload, version, big, None, stop)
    other = tmp_path / "other"
    other.write_bytes(os.urandom(big.stat().st_size))
    await case.do(case.client.upload, version, other, "model.pkl")

    finished = await case.do(case.client.finish, version)
    assert finished["files"][0]["sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()


async def test_a_whole_file_that_is_another_one_is_not_taken_for_ours(case: Case, tmp_path: Path) -> None:
    version = await case.version()
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.write_bytes(b"ours")
    other.write_bytes(b"else")
    with KubeServe(case.url) as second:
        await case.do(second.login, EMAIL, PASSWORD)
        await case.do(second.upload, version, other, "model.pkl")
    await case.do(case.client.upload, version, ours, "model.pkl")
    with pytest.raises(UnprocessableError, match="send it again"):
        await case.do(case.client.finish, version)
    await case.do(case.client.upload, version, ours, "model.pkl")
    assert (await case.do(case.client.finish, version))["files"][0]["size"] == 4


def _stopped(call: Callable[..., object], *args: object) -> None:
    """A KeyboardInterrupt does not pass through a thread's future: it becomes another exception."""
    try:
        call(*args)
    except KeyboardInterrupt:
        raise RuntimeError("stopped") from None


async def test_two_clients_at_once_mix_nothing(case: Case, big: Path, tmp_path: Path) -> None:
    version = await case.version()
    other = tmp_path / "other"
    other.write_bytes(os.urandom(big.stat().st_size))
    with KubeServe(case.url, patience=20.0) as second:
        await case.do(second.login, EMAIL, PASSWORD)
        ends = await asyncio.gather(
            case.do(case.client.upload, version, big, "model.pkl"),
            case.do(second.upload, version, other, "model.pkl"),
            return_exceptions=True,
        )
    assert all(isinstance(end, str | ConflictError) for end in ends), ends
    with KubeServe(case.url) as third:
        await case.do(third.login, EMAIL, PASSWORD)
        finished = await case.do(third.finish, version)
    assert finished["files"][0]["sha256"] in ends


async def test_an_upload_that_is_refused_is_not_repeated(case: Case, tmp_path: Path) -> None:
    version = await case.version()
    (tmp_path / "x.exe").write_bytes(b"x")

    with pytest.raises(KubeServeError, match=r"\.joblib") as refused:
        await case.do(case.client.upload, version, tmp_path / "x.exe")
    assert refused.value.code == "bad_name"
    (tmp_path / "x.pkl").write_bytes(b"x")
    await case.do(case.client.upload, version, tmp_path / "x.pkl")
    with pytest.raises(ConflictError, match="has one model"):
        await case.do(case.client.upload, version, tmp_path / "x.pkl", "y.pkl")
    (tmp_path / "requirements.txt").write_bytes(b"")
    await case.do(case.client.upload, version, tmp_path / "requirements.txt")
    assert len((await case.do(case.client.finish, version))["files"]) == 2


async def test_503_is_asked_again(case: Case, tmp_path: Path) -> None:
    version = await case.version()
    (tmp_path / "x.pkl").write_bytes(b"x")
    for call in (
        case.client.me,
        lambda: case.client.create_model("other"),
        lambda: case.client.upload(version, tmp_path / "x.pkl"),
        lambda: case.client.finish(version),
    ):
        case.unavailable += [503, 503]
        await case.do(call)
        assert not case.unavailable


async def test_a_server_that_stays_away(case: Case, big: Path) -> None:
    version = await case.version()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with KubeServe(f"http://127.0.0.1:{port}", key="ks_a_b", patience=0.5) as client:
        for call in (client.me, lambda: client.upload(version, big), lambda: client.predict("d1", [1])):
            begun = time.monotonic()
            with pytest.raises(UnavailableError, match=f"127.0.0.1:{port}"):
                await case.do(call)
            assert time.monotonic() - begun < 10


async def test_a_call_that_may_have_been_done_is_not_repeated(case: Case) -> None:
    case.proxy.set(Trap(b"POST /api/v1/models"))

    with pytest.raises(UnavailableError):
        await case.do(case.client.create_model, "churn")
    assert case.calls.count("POST /api/v1/models") == 1
    case.proxy.set(Trap(b"POST /api/v1/predict"))
    assert await case.do(case.client.predict, "d1", [4]) == {"predictions": [8]}


async def test_errors_are_those_of_the_server(case: Case) -> None:
    with pytest.raises(KubeServeError, match="name: 1 to 63") as bad:
        await case.do(case.client.create_model, "Not A Name")
    assert bad.value.faults[0].field == "name"
    await case.do(case.client.create_model, "churn")
    with pytest.raises(ConflictError, match="churn"):
        await case.do(case.client.create_model, "churn")
    with pytest.raises(NotFoundError):
        await case.do(case.client.version, "../../me")
    case.unavailable.append(418)
    with pytest.raises(KubeServeError, match="a proxy's page") as odd:
        await case.do(case.client.me)
    assert odd.value.status == 418
    case.unavailable.append(429)
    with pytest.raises(LimitedError):
        await case.do(case.client.me)


async def test_deployments(case: Case) -> None:
    client = case.client
    made = await case.do(client.deploy, "m1", "prod", "v1", minimum=1, idle=5.0)
    assert made["body"] == {"model_id": "m1", "name": "prod", "version_id": "v1", "minimum": 1, "idle": 5.0}
    assert await case.do(client.deployments) == [{"id": "d1"}]
    assert (await case.do(client.rollback, "d1", 2))["body"] == {"revision": 2}
    assert (await case.do(client.stop, "d1"))["asked"] == "/api/v1/deployments/d1/stop"
    assert (await case.do(client.start, "d1"))["asked"] == "/api/v1/deployments/d1/start"
    assert (await case.do(client.deployment, "d1"))["id"] == "d1"
    await case.do(client.delete, "d1")
    assert case.calls[-1] == "DELETE /api/v1/deployments/d1"


async def test_predictions(case: Case) -> None:
    client = case.client
    assert await case.do(client.predict, "d1", [1]) == {"predictions": [2]}
    assert await case.do(client.predict, "d1", [1, 2]) == {"predictions": [2, 4]}  # by way of 202
    with pytest.raises(UnavailableError, match="'j1'"):
        await case.do(client.predict, "d1", [1, 2], 0.0)
    prediction = await case.do(client.predict_async, "d1", [3])
    assert await case.do(client.result, prediction) is None
    assert await case.do(client.result, prediction) == {"predictions": [6]}
    with pytest.raises(UnprocessableError, match="instance 0") as refused:
        await case.do(client.predict, "d1", ["x"])
    assert refused.value.faults[0].field == "instances.0"
