"""The push scaler as its own process: beside a worker, killed, stopped, without Redis, without what it needs."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from greenscale_worker.cli import main, scaler
from harness.eventually import PATIENCE, eventually
from harness.redis_server import CERTIFICATE, RedisServer, free_port
from harness.worker_process import Fleet, WorkerProcess
from tests.support.jobs import Jobs
from tests.support.keda import FIRST_WAIT, keda_of

QUICK = 0.05  # of a second, in which KEDA waits twice as long as in so many of ours


@pytest.fixture
def fleet(tmp_path: Path, redis_url: str) -> Iterator[Fleet]:
    with Fleet(tmp_path, REDIS_URL=redis_url, GREENSCALE_BACKEND="echo") as fleet:
        yield fleet


async def a_scaler(fleet: Fleet, port: int = 0, **environment: object) -> tuple[WorkerProcess, int]:
    """Start one, and wait until it listens."""
    process = fleet.start("scaler", GREENSCALE_SCALER_LISTEN=f"127.0.0.1:{port}", **environment)
    said = await process.says("scaler_started")
    return process, int(said["port"])


async def test_a_worker_that_is_woken_ends_the_calling(fleet: Fleet, client: Redis) -> None:
    process, port = await a_scaler(fleet)
    jobs = Jobs(client)
    async with keda_of(port, listName="jobs") as keda, keda.listening():
        assert await keda.poll() == (0, False)
        (job,) = jobs.push("a")
        await eventually(lambda: len(keda.heard) >= 2)
        fleet.start()
        await eventually(lambda: jobs.result(job) is not None)
        async with asyncio.timeout(PATIENCE):
            while await keda.poll() != (0, False):
                continue
        heard = len(keda.heard)
        (job,) = jobs.push("b")
        await eventually(lambda: jobs.result(job) is not None)
        assert len(keda.heard) <= heard + 1, "where somebody works a job is told once, if it lasts until it is seen"
    await process.stop()


async def test_sigterm_ends_the_stream_well_and_the_next_scaler_is_heard_soon(fleet: Fleet, client: Redis) -> None:
    process, port = await a_scaler(fleet, free_port())
    async with keda_of(port, QUICK, listName="jobs") as keda, keda.listening():
        assert await keda.poll() == (0, False)
        await process.stop()
        assert keda.ends[0] == "EOF"
        assert keda.waits[0] == FIRST_WAIT
        client.lpush("jobs", "{}")
        process, _ = await a_scaler(fleet, port)
        await eventually(lambda: keda.heard)
        process.kill()
        await eventually(lambda: keda.ends[-1] == "UNAVAILABLE")
        heard = len(keda.heard)
        await a_scaler(fleet, port)
        await eventually(lambda: len(keda.heard) > heard)


async def test_redis_is_killed_and_comes_back(tmp_path: Path, start_redis: Callable[..., RedisServer]) -> None:
    redis = start_redis("appendonly yes", "appendfsync always")
    with Fleet(tmp_path / "fleet", REDIS_URL=redis.url) as fleet:
        health = free_port()
        process, port = await a_scaler(fleet, GREENSCALE_HEALTH_PORT=health)
        async with keda_of(port, listName="jobs") as keda, keda.listening():
            assert await keda.poll() == (0, False)
            redis.kill()
            await process.says("queue_unavailable", kept_seconds=30)
            assert await keda.poll() == (0, False)
            status, text = await get(health, "/readyz")
            assert (status, text.splitlines()[0]) == (200, "ok"), "it answers from memory"
            assert "Redis does not answer" in text
            assert (await get(health, "/livez"))[0] == 200
            redis.start()
            await process.says("queue_back")
            with redis.client() as client:
                client.lpush("jobs", "{}")
            await eventually(lambda: keda.heard)
            _, text = await get(health, "/metrics")
            names = {family.name for family in text_string_to_metric_families(text)}
            assert {f"greenscale_scaler_{name}" for name in ("calls", "queues", "streams", "wakes")} <= names
        await process.stop()


async def get(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_it_starts_before_redis_does(fleet: Fleet) -> None:
    process, port = await a_scaler(fleet, REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    async with keda_of(port, listName="jobs") as keda:
        code, text = await keda.refusal()
        assert code == "UNAVAILABLE"
        assert "Connection refused" in text
        assert await keda.target() == ("greenscale-work", 16)
    await process.stop()


async def test_by_tls_from_files(fleet: Fleet) -> None:
    pem = str(CERTIFICATE)
    files = {f"GREENSCALE_SCALER_{name}_FILE": pem for name in ("CERT", "KEY", "CA")}
    process, port = await a_scaler(fleet, **files)
    async with keda_of(port, ca=CERTIFICATE.read_bytes(), listName="jobs") as keda:
        assert await keda.poll() == (0, False)
    assert (await process.says("scaler_started"))["tls"] is True
    await process.stop()


async def test_a_trigger_may_leave_the_queue_to_the_settings(fleet: Fleet, client: Redis) -> None:
    client.lpush("mine", "{}")
    _, port = await a_scaler(fleet, REDIS_LIST_NAME="mine", GREENSCALE_CONCURRENCY=4)
    async with keda_of(port) as keda:
        assert await keda.target() == ("greenscale-work", 4)
        assert await keda.poll() == (1, True)
    _, port = await a_scaler(fleet)
    async with keda_of(port) as keda:
        assert (await keda.refusal())[0] == "INVALID_ARGUMENT", "a name that nobody wrote is no queue"


async def test_a_port_in_use_is_said(fleet: Fleet) -> None:
    _, port = await a_scaler(fleet, free_port())
    second = fleet.start("scaler", GREENSCALE_SCALER_LISTEN=f"127.0.0.1:{port}")
    assert await second.exit_code() == 2
    said = (
        f"GREENSCALE_SCALER_LISTEN: cannot listen on 127.0.0.1:{port}; an address of this machine and a free port are"
    )
    assert second.stderr == f"greenscale-worker: {said} accepted\n"


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"LISTEN": "6000"}, "host:port, such as 0.0.0.0:6000 or [::]:6000"),
        ({"LISTEN": "::1:6000"}, "host:port"),
        ({"LISTEN": "0.0.0.0:66000"}, "host:port"),
        ({"CERT_FILE": str(CERTIFICATE)}, "TLS of the scaler is incomplete; expected: GREENSCALE_SCALER_CERT_FILE and"),
        ({"CA_FILE": str(CERTIFICATE)}, "TLS of the scaler is incomplete"),
    ],
)
def test_a_wrong_setting_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: dict[str, str], said: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"GREENSCALE_SCALER_{name}", value)
    assert main(["scaler"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("bare")
def test_without_the_extra_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaler, "find_spec", lambda name: None if name == "grpc" else name)
    assert main(["scaler"]) == 2
    assert "pip install 'greenscale-worker[scaler]'" in capsys.readouterr().err
