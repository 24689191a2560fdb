"""The deletion cost of the worker's pod, told to a real HTTPS server that plays the API server."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from greenscale_worker.config import load, own_pod
from greenscale_worker.deletion_cost import ANNOTATION, api_server, keep_deletion_cost
from greenscale_worker.errors import ConfigError
from harness.eventually import PATIENCE, eventually
from harness.redis_server import RedisServer, free_port
from harness.worker_process import INHERITED, ROOT, WorkerProcess
from tests.support.endpoint import CERTIFICATE, Endpoint, Received, Reply

POD: Final = "greenscale-worker-6d4cf56db6-x2x7k"
OFTEN: Final = 0.02
OLD_CLUSTER: Final = CERTIFICATE.with_name("old_cluster.pem")  # key and certificate of a server, then its authority
ACCEPTED: Final = Reply(json={"kind": "Pod"})
ANOTHER_AUTHORITY: Final = """\
-----BEGIN CERTIFICATE-----
MIIBezCCASGgAwIBAgIUDwBKV489TdoiGxDAAuRK8A1FQBgwCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHYW5vdGhlcjAgFw0yNjExMjExMTE0MzdaGA8yMTI2MTAyODEx
MTQzN1owEjEQMA4GA1UEAwwHYW5vdGhlcjBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABCiaLcUm/m+FLvgMgWXwEB2459Jh2P5GeP17V5a8qfkqOC9B1mdToLwgS/es
A2g3+aYIxewv/Moi9MnPG6ZrEFOjUzBRMB0GA1UdDgQWBBQ+QKopKV06iDttdxGh
L/ZezVGTDzAfBgNVHSMEGDAWgBQ+QKopKV06iDttdxGhL/ZezVGTDzAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIQDRXfE1KH1rLE2mfPQZUUwM5imy
Cf1GXN64TRXccgKTDgIgVtgsgzipeJADY7dYOAMtD7dalHhWF6/Cwq4c7jMaYAQ=
-----END CERTIFICATE-----
"""

Lines = list[MutableMapping[str, Any]]


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """What the component mounts."""
    directory = tmp_path / "account"
    directory.mkdir()
    (directory / "namespace").write_text("greenscale-system")
    (directory / "token").write_text("first\n")
    (directory / "ca.crt").write_bytes(CERTIFICATE.read_bytes())
    return directory


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged."""
    with capture_logs() as captured:
        yield captured


class Lanes:
    """A worker's number of jobs in flight: `numbers` one after the other, the last of them for ever."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)
        self.asked: list[float] = []

    def __call__(self) -> int:
        self.asked.append(asyncio.get_running_loop().time())
        return self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]

    async def are_asked(self, times: int) -> None:
        """Wait until that has happened so many times more."""
        before = len(self.asked)
        await eventually(lambda: len(self.asked) >= before + times)


def api(*script: Reply, default: Reply = ACCEPTED) -> Endpoint:
    return Endpoint(*script, default=default, tls=True)


@asynccontextmanager
async def keeping(
    port: int, lanes: Callable[[], int], account: Path, every: float = OFTEN
) -> AsyncIterator[asyncio.Task[None]]:
    server = api_server("127.0.0.1", str(port))
    task = asyncio.create_task(keep_deletion_cost(server, POD, lanes, account=account, every=every))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=PATIENCE)
        assert task.cancelled() or task.result() is None


def cost(request: Received) -> str:
    """What one request sets, and nothing else."""
    assert request.json.keys() == {"metadata"}
    assert request.json["metadata"].keys() == {"annotations"}
    assert request.json["metadata"]["annotations"].keys() == {ANNOTATION}
    value = request.json["metadata"]["annotations"][ANNOTATION]
    assert isinstance(value, str)
    return value


def costs(server: Endpoint) -> list[str]:
    return [cost(request) for request in server.received]


# --- what is told, and when ---


async def test_a_change_is_a_merge_patch_of_its_own_pod(account: Path) -> None:
    async with api() as server, keeping(server.port, Lanes(3), account):
        await eventually(lambda: server.received)
        (request,) = server.received
    assert request.method == "PATCH"
    assert request.path == f"/api/v1/namespaces/greenscale-system/pods/{POD}"
    assert request.headers["Content-Type"] == "application/merge-patch+json"
    assert request.headers["Authorization"] == "Bearer first"
    assert cost(request) == "3"
    assert ANNOTATION == "controller.kubernetes.io/pod-deletion-cost"


async def test_an_idle_worker_says_so_once(account: Path, lines: Lines) -> None:
    """Once it must: the annotation may be that of a container that this pod had before."""
    lanes = Lanes(0)
    async with api() as server, keeping(server.port, lanes, account):
        await lanes.are_asked(8)
        assert costs(server) == ["0"]
    assert lines == []


async def test_between_two_patches_there_is_time(account: Path) -> None:
    every, lanes = 0.1, Lanes(*range(100))
    async with api() as server, keeping(server.port, lanes, account, every):
        await eventually(lambda: len(server.received) == 4)
    assert costs(server)[:4] == ["0", "1", "2", "3"]
    assert all(after - before >= every * 0.99 for before, after in zip(lanes.asked, lanes.asked[1:], strict=False))


async def test_of_many_changes_the_last_is_told(account: Path) -> None:
    answered, lanes = asyncio.Event(), Lanes(1)
    async with api(Reply(wait=answered.wait)) as server, keeping(server.port, lanes, account):
        await eventually(lambda: server.received)
        lanes.numbers = [2]
        lanes.numbers = [3]
        answered.set()
        await lanes.are_asked(3)
        assert costs(server) == ["1", "3"]


async def test_what_may_have_been_done_or_not_is_told_anew(account: Path) -> None:
    async with api(ACCEPTED, Reply(cut=True)) as server, keeping(server.port, Lanes(3, 5, 3), account):
        await eventually(lambda: len(server.received) == 3)
        assert costs(server) == ["3", "5", "3"]


# --- what may pass ---


@pytest.mark.parametrize(
    "trouble", [Reply(status=503), Reply(status=500), Reply(status=429), Reply(status=409), Reply(cut=True)]
)
async def test_a_server_in_trouble_is_asked_again_and_logged_once(account: Path, lines: Lines, trouble: Reply) -> None:
    async with api(trouble, trouble, trouble) as server, keeping(server.port, Lanes(2), account):
        await eventually(lambda: len(server.received) == 4)
        assert costs(server) == ["2", "2", "2", "2"]
    assert [(line["event"], line["log_level"], line["pod"]) for line in lines] == [
        ("deletion_cost_delayed", "warning", POD)
    ]


async def test_a_server_that_is_away_is_waited_for(account: Path, lines: Lines) -> None:
    lanes = Lanes(2)
    async with keeping(free_port(), lanes, account) as task:
        await lanes.are_asked(5)
        assert not task.done()
    assert [line["event"] for line in lines] == ["deletion_cost_delayed"]


async def test_a_server_that_does_not_answer_is_given_up_for_now(
    account: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greenscale_worker.deletion_cost.CALL_SECONDS", 0.1)
    async with api(Reply(wait=asyncio.Event().wait)) as server, keeping(server.port, Lanes(2), account):
        await eventually(lambda: costs(server) == ["2", "2"])
    (line,) = lines
    assert line["error"].startswith("the API server cannot be asked: ")


async def test_a_token_that_was_replaced_is_read_again(account: Path) -> None:
    async with api(default=Reply(status=401)) as server, keeping(server.port, Lanes(2), account):
        await eventually(lambda: server.received)
        server.default = ACCEPTED
        (account / "token").write_text("second")
        await eventually(lambda: server.received[-1].headers["Authorization"] == "Bearer second")


async def test_a_token_that_cannot_be_sent_ends_nothing(account: Path, lines: Lines) -> None:
    (account / "token").write_text("a\nb")
    lanes = Lanes(2)
    async with api() as server, keeping(server.port, lanes, account) as task:
        await lanes.are_asked(3)
        assert not task.done()
        assert server.received == []
    assert [line["event"] for line in lines] == ["deletion_cost_delayed"]


async def test_the_token_is_not_sent_to_a_server_of_another_authority(account: Path, lines: Lines) -> None:
    (account / "ca.crt").write_text(ANOTHER_AUTHORITY)
    lanes = Lanes(2)
    async with api() as server, keeping(server.port, lanes, account):
        await lanes.are_asked(3)
        assert server.received == []
        (account / "ca.crt").write_bytes(CERTIFICATE.read_bytes())
        await eventually(lambda: costs(server) == ["2"])
    (line,) = lines
    assert "certificate verify failed" in line["error"]


async def test_the_authority_of_an_old_cluster_is_trusted(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither it nor what it signed has key identifiers, which Python 3.13 asks for by default."""
    monkeypatch.setattr("tests.support.endpoint.CERTIFICATE", OLD_CLUSTER)
    (account / "ca.crt").write_text("".join(OLD_CLUSTER.read_text().rpartition("-----BEGIN CERTIFICATE-----")[1:]))
    async with api() as server, keeping(server.port, Lanes(2), account):
        await eventually(lambda: costs(server) == ["2"])


# --- what does not ---


@pytest.mark.parametrize("status", [403, 404, 400, 422, 307])
async def test_where_it_is_refused_it_says_so_and_stops(account: Path, lines: Lines, status: int) -> None:
    refusal = Reply(status=status, headers={"Location": "/elsewhere"})
    async with api(default=refusal) as server, keeping(server.port, Lanes(1, 2, 3), account) as task:
        await asyncio.wait_for(task, PATIENCE)
        assert costs(server) == ["1"]
    (line,) = lines
    assert (line["event"], line["log_level"], line["pod"]) == ("deletion_cost_off", "warning", POD)
    assert f" {status} " in line["error"]
    assert "first" not in str(line)


@pytest.mark.parametrize("name", ["namespace", "token", "ca.crt"])
async def test_without_an_account_it_says_so_and_stops(account: Path, lines: Lines, name: str) -> None:
    (account / name).unlink()
    async with api() as server, keeping(server.port, Lanes(1), account) as task:
        await asyncio.wait_for(task, PATIENCE)
        assert server.received == []
    assert [line["event"] for line in lines] == ["deletion_cost_off"]


async def test_an_authority_that_is_none_is_an_account_that_is_none(account: Path, lines: Lines) -> None:
    (account / "ca.crt").write_text("nothing")
    async with keeping(free_port(), Lanes(1), account) as task:
        await asyncio.wait_for(task, PATIENCE)
    assert [line["event"] for line in lines] == ["deletion_cost_off"]


async def test_it_is_cancelled_in_mid_call(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenscale_worker.deletion_cost.CALL_SECONDS", 100 * PATIENCE)
    async with api(Reply(wait=asyncio.Event().wait)) as server, keeping(server.port, Lanes(1), account) as task:
        await eventually(lambda: server.received)
        task.cancel()
        await asyncio.wait({task}, timeout=PATIENCE)
        assert task.cancelled()


def test_an_ipv6_address_is_put_into_brackets() -> None:
    assert api_server("10.96.0.1", "443") == "https://10.96.0.1:443"
    assert api_server("fd00:10:96::1", "443") == "https://[fd00:10:96::1]:443"


# --- the worker ---


def test_only_a_setting_turns_it_on_and_then_the_pod_must_have_a_name() -> None:
    assert own_pod(load({})) is None
    assert own_pod(load({"GREENSCALE_POD_NAME": POD})) is None
    assert own_pod(load({"GREENSCALE_POD_DELETION_COST": "true", "GREENSCALE_POD_NAME": POD})) == POD
    with pytest.raises(ConfigError, match="GREENSCALE_POD_NAME is not set"):
        own_pod(load({"GREENSCALE_POD_DELETION_COST": "true"}))


WORKER: Final = """
import sys
from functools import partial
from pathlib import Path
from greenscale_worker import cli, deletion_cost
deletion_cost.keep_deletion_cost = partial(deletion_cost.keep_deletion_cost, account=Path(sys.argv[1]), every=0.05)
sys.exit(cli.main([]))
"""


def start(directory: Path, account: Path, redis_url: str, endpoint: Endpoint, **environment: str) -> WorkerProcess:
    """Start a worker whose account is in that directory, and which is less patient."""
    settings = {
        **{name: os.environ[name] for name in INHERITED if name in os.environ},
        "GREENSCALE_LOG_FORMAT": "json",
        "GREENSCALE_POD_DELETION_COST": "true",
        "GREENSCALE_POD_NAME": POD,
        "NEYSA_API_KEY": "",
        "NEYSA_API_URL": endpoint.url,
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": redis_url,
        **environment,
    }
    return WorkerProcess(directory, (sys.executable, "-c", WORKER, str(account)), settings)


def push(redis_server: RedisServer, *jobs: str) -> None:
    with redis_server.client() as client:
        client.lpush("jobs", *(f'{{"job_id": "{job}", "prompt": "x"}}' for job in jobs))


async def test_a_worker_tells_its_jobs_in_flight(
    redis_server: RedisServer, redis_url: str, account: Path, tmp_path: Path
) -> None:
    answered = asyncio.Event()
    async with api() as server, Endpoint(Reply(wait=answered.wait), Reply(wait=answered.wait)) as endpoint:
        there = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
        worker = start(tmp_path / "worker", account, redis_url, endpoint, **there)
        try:
            await eventually(lambda: costs(server) == ["0"])
            push(redis_server, "a", "b")
            await eventually(lambda: costs(server)[-1] == "2")
            answered.set()
            await eventually(lambda: costs(server)[-1] == "0")
            server.default = Reply(wait=asyncio.Event().wait)
            push(redis_server, "c")
            await worker.says("job", job_id="c")
            await worker.stop()
        finally:
            worker.process.kill()


async def test_without_the_right_a_worker_works_all_the_same(
    redis_server: RedisServer, redis_url: str, account: Path, tmp_path: Path
) -> None:
    async with api(default=Reply(status=403)) as server, Endpoint() as endpoint:
        there = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
        worker = start(tmp_path / "worker", account, redis_url, endpoint, **there)
        try:
            await worker.says("deletion_cost_off")
            push(redis_server, "a")
            await worker.says("job", job_id="a", outcome="succeeded")
            await worker.stop()
        finally:
            worker.process.kill()
        assert len(server.received) == len(worker.log("deletion_cost_off")) == 1


async def test_a_pod_without_a_name_is_one_line(redis_url: str, account: Path, tmp_path: Path) -> None:
    async with Endpoint() as endpoint:
        worker = start(tmp_path / "worker", account, redis_url, endpoint, GREENSCALE_POD_NAME="")
        assert await worker.exit_code() == 2
    assert "GREENSCALE_POD_NAME is not set" in worker.stderr
    assert worker.stderr.count("\n") == 1
