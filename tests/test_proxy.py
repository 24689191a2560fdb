"""A network between worker and Redis that cuts, stalls, truncates and dawdles: no job is run twice for it, or lost."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from greenscale_worker.queues.redis.connections import READ_SECONDS
from harness.eventually import PATIENCE, eventually
from harness.redis_server import RedisServer
from harness.tcp_proxy import TcpProxy, Trap
from tests.support.cases import Cases, at_once
from tests.support.jobs import KINDS
from tests.support.scene import Scene, play

LANES: Final = 4


@asynccontextmanager
async def through_a_proxy(
    directory: Path,
    server: RedisServer,
    name: str = "jobs",
    *,
    kind: str = "list",
    latency: float = 0.0,
    **environment: object,
) -> AsyncIterator[tuple[Scene, TcpProxy]]:
    """Set a scene whose workers reach Redis through a proxy."""
    async with TcpProxy(server.port) as proxy:
        settings = {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}", "GREENSCALE_CONCURRENCY": LANES, **environment}
        async with play(directory, server, name, kind=kind, latency=latency, **settings) as scene:
            yield scene, proxy


async def everything_once(scene: Scene, jobs: list[str]) -> None:
    await scene.all_ended()
    scene.jobs.check()
    scene.jobs.undisturbed(jobs)
    assert scene.endpoint.calls == Counter(jobs)


@at_once
@pytest.mark.parametrize("kind", KINDS)
async def test_every_connection_is_reset_again_and_again(cases: Cases, kind: str) -> None:
    """Wherever it stands."""
    server = cases.redis("all")
    async with through_a_proxy(cases.directory, server, f"cut-{kind}", kind=kind, latency=0.01) as (scene, proxy):
        jobs = scene.jobs.push(*range(40 * LANES))
        worker = scene.start()

        async def cut_after(ended: int) -> None:
            await eventually(lambda: scene.jobs.ended() >= ended and proxy.connected > 1)
            proxy.cut()

        for ended in range(0, len(jobs) - LANES, 2 * LANES):
            await cut_after(ended)
        await everything_once(scene, jobs)
        assert proxy.cuts >= 2 * 20
        await worker.stop()


@at_once
async def test_stalled_for_longer_than_the_lease(cases: Cases) -> None:
    """One worker is cut off, half-open; another takes its jobs. Reached again, it loses its calls and goes on."""
    server = cases.redis("all")
    async with through_a_proxy(cases.directory, server, "stalled", GREENSCALE_LEASE_SECONDS=2) as (scene, proxy):
        scene.endpoint.hold()
        jobs = scene.jobs.push(*range(LANES))
        partitioned = scene.start()
        await scene.in_flight(LANES)
        proxy.stall()
        scene.endpoint.hold()
        other = scene.start(REDIS_URL=server.url)
        await scene.in_flight(2 * LANES)
        proxy.flow()
        await eventually(lambda: partitioned.outcomes() == {"lost": LANES})
        await eventually(lambda: scene.endpoint.hung_up == Counter(jobs))
        scene.endpoint.let_go()
        await scene.all_ended()
        scene.jobs.check()
        assert [scene.jobs.result(job_id) for job_id in jobs] == [f"{job_id} #2" for job_id in jobs]
        await other.stop()
        scene.jobs.push("later")
        await scene.all_ended()
        await partitioned.stop()
        assert partitioned.outcomes()["succeeded"] == 1


@at_once
async def test_stalled_for_a_moment(cases: Cases) -> None:
    """What is finished meanwhile is recorded as soon as Redis is reached again; nothing was done twice."""
    async with through_a_proxy(cases.directory, cases.redis("all"), "moment") as (scene, proxy):
        scene.endpoint.hold()
        jobs = scene.jobs.push(*range(3 * LANES))
        worker = scene.start()
        await scene.in_flight(LANES)
        proxy.stall()
        scene.endpoint.let_go()
        await worker.says("queue_unavailable")
        proxy.flow()
        await everything_once(scene, jobs)
        await worker.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The answer to the first `request` breaks off after `keep` bytes; where it is not `cut`, the rest never comes."""

    request: bytes
    keep: int = 0
    cut: bool = True
    kind: str = "list"


BROKEN: Final = {
    "claim_truncated": Broken(request=b"{jobs}:claim:", keep=500),
    "claim_unanswered": Broken(request=b"{jobs}:claim:", cut=False),
    "claim_truncated_stream": Broken(request=b"{jobs}:claim:", keep=500, kind="stream"),
    "settle_truncated": Broken(request=b"succeeded", keep=2),
    "settle_truncated_stream": Broken(request=b"succeeded", keep=2, kind="stream"),
    "settle_unanswered": Broken(request=b"succeeded", cut=False),
    "bind_truncated": Broken(request=b":cancel:", keep=2),
}


@at_once
@pytest.mark.parametrize("what", BROKEN)
async def test_an_answer_that_breaks_off(cases: Cases, what: str) -> None:
    broken = BROKEN[what]
    trap = Trap(broken.request, keep=broken.keep, cut=broken.cut)
    async with through_a_proxy(cases.directory / what, cases.start_redis(), kind=broken.kind) as (scene, proxy):
        worker = scene.start()
        jobs = scene.jobs.push("first")
        await scene.all_ended()  # so that Redis knows the scripts
        await scene.idle()
        proxy.set(trap)
        jobs += scene.jobs.push(*range(2 * LANES), filler="x" * 10_000)
        await eventually(trap.sprung.is_set)
        await everything_once(scene, jobs)
        await worker.stop()
        assert worker.outcomes() == {"succeeded": len(jobs)}


@at_once
async def test_no_answer_at_the_start(cases: Cases) -> None:
    """The first connection is half-open; the second is not."""
    async with through_a_proxy(cases.directory, cases.redis("all"), "start") as (scene, proxy):
        proxy.set(Trap(b"INFO", cut=False))
        worker = scene.start()
        await worker.says("queue_unavailable", READ_SECONDS + PATIENCE)
        await everything_once(scene, scene.jobs.push(*range(LANES)))
        await worker.stop()


@at_once
async def test_half_a_second_for_each_round_trip(cases: Cases) -> None:
    """Jobs share round trips, and a drain has the time it needs."""
    async with through_a_proxy(cases.directory, cases.redis("all"), "slow") as (scene, proxy):
        proxy.delay = 0.25
        worker = scene.start()
        jobs = scene.jobs.push(*range(2 * LANES))
        await everything_once(scene, jobs)
        scene.endpoint.hold()
        rest = scene.jobs.push(*range(2 * LANES, 4 * LANES))
        await scene.in_flight(LANES)
        worker.terminate()
        await worker.says("draining")
        scene.endpoint.let_go()
        assert await worker.exit_code() == 0
        worker.is_clean()
        assert scene.jobs.queued() == rest[LANES:]
        scene.jobs.nothing_left_behind()
