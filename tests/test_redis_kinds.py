"""The ways of running Redis, and of using a list or a stream: the whole worker on each of them."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.registry import open_client
from harness.eventually import eventually
from harness.redis_server import CERTIFICATE, RedisServer, is_master
from harness.worker_process import WorkerProcess
from tests.support.cases import Cases, at_once
from tests.support.jobs import KINDS
from tests.support.scene import Scene, play

LANES: Final = 4
JOBS: Final = 3 * LANES
UNHURRIED: Final[dict[str, Any]] = {"GREENSCALE_CONCURRENCY": LANES, "GREENSCALE_LEASE_SECONDS": 600}

StartRedis = Callable[..., RedisServer]


async def everything_once(scene: Scene, worker: WorkerProcess, *names: object, right: bool = False) -> None:
    """What is pushed is answered, one call a job; the worker drains without a word."""
    before = set(scene.jobs.pushed)
    jobs = scene.jobs.push(*(names or range(JOBS)), right=right)
    await scene.all_ended()
    scene.jobs.undisturbed(jobs)
    scene.jobs.check(cancelled=before)
    await worker.stop()
    scene.jobs.nothing_left_behind()
    assert scene.endpoint.calls == Counter(scene.jobs.pushed)


async def the_bell_is_heard(scene: Scene, url: str, kind: str) -> None:
    """A job is cancelled amid its call, long before a heartbeat would tell its worker."""
    scene.endpoint.hold()
    (job_id,) = scene.jobs.push("unwanted")
    await scene.in_flight(1)
    async with aclosing(await open_client(kind, RedisOptions(url=url))) as admin:
        assert await admin.cancel(job_id) == "cancelled"
    await eventually(lambda: scene.endpoint.hung_up[job_id] == 1, UNHURRIED["GREENSCALE_LEASE_SECONDS"] / 10)
    scene.endpoint.let_go()


@at_once
@pytest.mark.parametrize("kind", KINDS)
async def test_a_cluster(cases: Cases, kind: str) -> None:
    """Results and records carry the hash tag of list or stream there."""
    server = cases.start_redis("cluster-enabled yes")
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        await eventually(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
    url = f"redis+cluster://127.0.0.1:{server.port}"
    async with play(cases.directory / f"cluster-{kind}", server, kind=kind, REDIS_URL=url, **UNHURRIED) as scene:
        scene.jobs.keys = replace(scene.jobs.keys, cluster=True)
        worker = scene.start()
        await the_bell_is_heard(scene, url, kind)
        await everything_once(scene, worker)
        assert scene.jobs.client.get("{jobs}:result:jobs-0") == b"jobs-0 #1"
        async with aclosing(await open_client(kind, RedisOptions(url=url), QueueOptions())) as client:
            await client.put([("told", b'{"job_id":"told","prompt":"x"}')], not_before=time.time() + 600, notify=True)
            assert await client.cancel("told") == "cancelled"
            (notice,) = await client.notices()
            assert notice.job_id == "told"
            await client.acknowledge_notices([notice.id])
            assert await client.notices() == []
            assert await client.bodies(["told", "jobs-0"]) == [None, None]
            assert await client.forget(["told", "jobs-0", "unknown"]) == 2
            assert not scene.jobs.client.exists("{jobs}:result:jobs-0", "{jobs}:job:told")


@at_once
@pytest.mark.parametrize("kind", KINDS)
async def test_a_failover(cases: Cases, kind: str) -> None:
    """Jobs that run while the master dies are finished on its replica, which had all writes."""
    master = cases.start_redis()
    replica = cases.start_redis(f"replicaof 127.0.0.1 {master.port}", "repl-diskless-sync-delay 0")
    watch = f"sentinel monitor main 127.0.0.1 {master.port} 1"
    sentinel = cases.start_redis(watch, "sentinel down-after-milliseconds main 500", sentinel=True)
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0"
    directory = cases.directory / f"failover-{kind}"
    async with play(directory, master, kind=kind, REDIS_URL=url, GREENSCALE_CONCURRENCY=LANES) as scene:
        with sentinel.client(decode_responses=True) as watcher:
            scene.endpoint.hold()
            worker = scene.start()
            jobs = scene.jobs.push(*range(JOBS))
            await scene.in_flight(LANES)
            await eventually(lambda: len(watcher.execute_command("SENTINEL", "REPLICAS", "main")) == 1)
            await eventually(lambda: scene.jobs.client.wait(1, 100) == 1)
            master.kill()
            scene.endpoint.let_go()
            await eventually(lambda: is_master(replica))
        with replica.client() as scene.jobs.client:
            await worker.says("queue_back")
            await scene.all_ended()
            scene.jobs.check()
            scene.jobs.undisturbed(jobs)
            assert scene.endpoint.calls == Counter(jobs)
            await worker.stop()
            scene.jobs.nothing_left_behind()


async def test_a_cluster_over_tls(start_redis: StartRedis, tmp_path: Path) -> None:
    server = start_redis("cluster-enabled yes", "tls-cluster yes", tls=True)
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        await eventually(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
    url = f"rediss+cluster://127.0.0.1:{server.port}"
    async with play(tmp_path, server, REDIS_URL=url, GREENSCALE_REDIS_CA_FILE=CERTIFICATE) as scene:
        scene.jobs.keys = replace(scene.jobs.keys, cluster=True)
        await everything_once(scene, scene.start())


@pytest.mark.parametrize(
    ("certificate", "kind"),
    [(None, "list"), (CERTIFICATE, "list"), (None, "stream")],
    ids=["ca", "client-certificate", "stream"],
)
async def test_tls(start_redis: StartRedis, tmp_path: Path, certificate: Path | None, kind: str) -> None:
    server = start_redis(*(["tls-auth-clients yes"] if certificate else []), tls=True)
    settings: dict[str, Any] = {"GREENSCALE_REDIS_CA_FILE": CERTIFICATE, "GREENSCALE_REDIS_CERT_FILE": certificate}
    async with play(tmp_path, server, kind=kind, **settings) as scene:
        await everything_once(scene, scene.start(GREENSCALE_REDIS_KEY_FILE=certificate))


async def test_an_untrusted_certificate_is_waited_out(start_redis: StartRedis, tmp_path: Path) -> None:
    """It may be renewed; until then nothing is said to whoever shows it."""
    server = start_redis(tls=True)
    async with play(tmp_path, server) as scene:
        worker = scene.start()
        said = await worker.says("queue_unavailable")
        assert "certificate" in said["error"]
        await worker.stop()


@pytest.mark.usefixtures("redis_url")
async def test_a_database_and_a_list_that_producers_rpush_to(redis_server: RedisServer, tmp_path: Path) -> None:
    """Named by its parts instead of a URL; the oldest job comes first all the same."""
    parts: dict[str, Any] = {"REDIS_URL": None, "REDIS_HOST": redis_server.url.partition("//")[2].partition(":")[0]}
    parts |= {"REDIS_PORT": redis_server.port, "REDIS_DB": 3, "GREENSCALE_TAKE_FROM": "left"}
    async with play(tmp_path, redis_server, **parts, GREENSCALE_CONCURRENCY=1) as scene:
        with redis_server.client(db=3) as client:
            scene.jobs.client = client
            worker = scene.start()
            await everything_once(scene, worker, *range(JOBS), right=True)
            assert scene.endpoint.arrived == scene.jobs.pushed
        with redis_server.client() as client:
            assert client.dbsize() == 0


@pytest.mark.parametrize(
    ("name", "prefix", "kind"),
    [
        ("{tenant-a}:jobs", "{tenant-a}:jobs:", "list"),
        ("work: [1] é", "{work: [1] é}:", "list"),
        ("{tenant-a}:jobs", "{tenant-a}:jobs:", "stream"),
    ],
    ids=["tag", "odd", "stream"],
)
@pytest.mark.usefixtures("redis_url")
async def test_a_name_with_a_hash_tag_or_odd_characters(
    redis_server: RedisServer, tmp_path: Path, name: str, prefix: str, kind: str
) -> None:
    async with play(tmp_path, redis_server, kind=kind, **{KINDS[kind].named_by: name}) as scene:
        scene.jobs.keys = replace(scene.jobs.keys, name=name)
        await everything_once(scene, scene.start())
        assert scene.jobs.client.exists(f"{prefix}control")
