"""A network between worker and Redis that cuts, stalls, truncates and dawdles: no job is run twice for it, or lost."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from greenscale_worker.queues.redis.connections import READ_SECONDS
from tests.support.eventually import PATIENCE, eventually, together
from tests.support.redis_server import RedisServer
from tests.support.scene import Scene, play
from tests.support.tcp_proxy import TcpProxy, Trap

LANES: Final = 4


@asynccontextmanager
async def through_a_proxy(
    server: RedisServer, tmp_path: Path, name: str, *, kind: str = "list", latency: float = 0.0, **environment: object
) -> AsyncIterator[tuple[Scene, TcpProxy]]:
    """Set a scene whose workers reach Redis through a proxy."""
    async with TcpProxy(server.port) as proxy:
        settings = {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}", "GREENSCALE_CONCURRENCY": LANES, **environment}
        async with play(tmp_path, server, name, kind=kind, latency=latency, **settings) as scene:
            yield scene, proxy


async def everything_once(scene: Scene, jobs: list[str]) -> None:
    await scene.all_ended()
    scene.jobs.check()
    scene.jobs.undisturbed(jobs)
    assert scene.endpoint.calls == Counter(jobs)


async def cut(server: RedisServer, tmp_path: Path, kind: str) -> None:
    """Every connection is reset, again and again, wherever it stands."""
    async with through_a_proxy(server, tmp_path, f"cut-{kind}", kind=kind, latency=0.01) as (scene, proxy):
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


async def stalled_for_longer_than_the_lease(server: RedisServer, tmp_path: Path) -> None:
    """One worker is cut off, half-open; another takes its jobs. Reached again, it loses its calls and goes on."""
    async with through_a_proxy(server, tmp_path, "stalled", GREENSCALE_LEASE_SECONDS=2) as (scene, proxy):
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


async def stalled_for_a_moment(server: RedisServer, tmp_path: Path) -> None:
    """What is finished meanwhile is recorded as soon as Redis is reached again; nothing was done twice."""
    async with through_a_proxy(server, tmp_path, "moment") as (scene, proxy):
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


async def broken_off(server: RedisServer, tmp_path: Path, name: str, trap: Trap, kind: str) -> None:
    """The answer to a request breaks off; where the connection is not cut, the rest never comes."""
    async with through_a_proxy(server, tmp_path, name, kind=kind) as (scene, proxy):
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


async def no_answer_at_the_start(server: RedisServer, tmp_path: Path) -> None:
    """The first connection is half-open; the second is not."""
    async with through_a_proxy(server, tmp_path, "start") as (scene, proxy):
        proxy.set(Trap(b"INFO", cut=False))
        worker = scene.start()
        await worker.says("queue_unavailable", READ_SECONDS + PATIENCE)
        await everything_once(scene, scene.jobs.push(*range(LANES)))
        await worker.stop()


async def slow(server: RedisServer, tmp_path: Path) -> None:
    """Half a second for each round trip; jobs share round trips, and a drain has the time it needs."""
    async with through_a_proxy(server, tmp_path, "slow") as (scene, proxy):
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


@pytest.mark.usefixtures("redis_url")
async def test_a_bad_network(
    redis_server: RedisServer, start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    def broken(name: str, trap: Trap, kind: str = "list") -> Coroutine[Any, Any, None]:
        return broken_off(start_redis(), tmp_path, name, trap, kind)

    await together(
        cut=cut(redis_server, tmp_path, "list"),
        cut_stream=cut(redis_server, tmp_path, "stream"),
        stalled=stalled_for_longer_than_the_lease(redis_server, tmp_path),
        stalled_for_a_moment=stalled_for_a_moment(redis_server, tmp_path),
        no_answer_at_the_start=no_answer_at_the_start(redis_server, tmp_path),
        slow=slow(redis_server, tmp_path),
        claim_truncated=broken("c", Trap(b"{c}:claim:", keep=500)),
        claim_unanswered=broken("d", Trap(b"{d}:claim:", cut=False)),
        claim_truncated_stream=broken("s", Trap(b"{s}:claim:", keep=500), "stream"),
        settle_truncated=broken("e", Trap(b"succeeded", keep=2)),
        settle_truncated_stream=broken("t", Trap(b"succeeded", keep=2), "stream"),
        settle_unanswered=broken("f", Trap(b"succeeded", cut=False)),
        bind_truncated=broken("g", Trap(b":cancel:", keep=2)),
    )
