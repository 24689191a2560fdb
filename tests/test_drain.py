"""SIGTERM, at whatever moment: exit code 0, nothing held, the order kept, nothing counted, nothing sent in vain."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest

from greenscale_worker.blame import LEAST_ANSWERS
from greenscale_worker.queues import RedisOptions
from greenscale_worker.queues.registry import open_queue
from harness.eventually import eventually
from harness.redis_server import RedisServer, free_port
from harness.tcp_proxy import TcpProxy, Trap
from harness.worker_process import WorkerProcess
from tests.support.cases import Cases, at_once
from tests.support.jobs import KINDS
from tests.support.scene import Scene, play

LANES: Final = 4
LONG: Final = 60.0  # a drain that ends only because everything is done, or because of a second signal
RELEASE_SECONDS: Final = 2.0  # what a drain may take beyond its time
SLACK: Final = 8.0  # for a process to end, on a loaded machine

Play = Callable[..., AbstractAsyncContextManager[Scene]]


def stage_on(common: RedisServer, directory: Path, kind: str = "list") -> Play:
    """Set scenes on a server, each with a list or a stream of its own, or on another server."""

    @asynccontextmanager
    async def play_here(name: str, server: RedisServer = common, **environment: Any) -> AsyncIterator[Scene]:
        settings = {"GREENSCALE_CONCURRENCY": LANES, **environment}
        async with play(directory, server, name, kind=kind, **settings) as scene:
            yield scene

    return play_here


@pytest.fixture
def stage(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> Play:
    assert redis_url == f"{redis_server.url}/0"
    return stage_on(redis_server, tmp_path)


async def stopped(worker: WorkerProcess, *, within: float) -> None:
    """Tell it to stop, and see that it ends as it should within the drain time and what it takes to hand back."""
    worker.terminate()
    assert await worker.exit_code(within + RELEASE_SECONDS + SLACK) == 0, worker.stderr
    worker.is_clean()


async def the_rest_is_run_in_order(scene: Scene, jobs: list[str]) -> None:
    """Nobody has counted anything, and a worker with one lane runs what is left in the order in which it was pushed."""
    assert scene.jobs.queued() == jobs
    assert scene.jobs.counted() <= {("0", "0")}
    scene.jobs.nothing_left_behind()
    scene.endpoint.let_go()
    before = len(scene.endpoint.arrived)
    fresh = scene.start(GREENSCALE_CONCURRENCY=1)
    await scene.all_ended()
    assert scene.endpoint.arrived[before:] == jobs
    scene.jobs.check()
    scene.jobs.undisturbed(jobs)
    await fresh.stop()
    scene.jobs.nothing_left_behind()


async def idle(stage: Play, server: RedisServer) -> None:
    async with stage("idle", server) as scene:
        worker = scene.start()
        await scene.idle()
        await stopped(worker, within=0)
        scene.jobs.nothing_left_behind()


async def claiming(stage: Play, server: RedisServer) -> None:
    """The claim has been carried out, its answer is still on the wire."""
    async with TcpProxy(server.port) as proxy, stage("claiming", server) as scene:
        url = f"redis://127.0.0.1:{proxy.port}"
        worker = scene.start(REDIS_URL=url, GREENSCALE_DRAIN_SECONDS=LONG)
        await scene.idle()
        trap = Trap(b"{claiming}:claim:", cut=False)
        proxy.set(trap)
        jobs = scene.jobs.push(*range(2 * LANES))
        await trap.sprung.wait()
        assert scene.jobs.size("lease") == LANES
        worker.terminate()
        await worker.says("draining")
        trap.opened.set()
        assert await worker.exit_code() == 0
        worker.is_clean()
        assert scene.endpoint.arrived == []
        await the_rest_is_run_in_order(scene, jobs)


async def running(stage: Play) -> None:
    async with stage("running") as scene:
        jobs = scene.jobs.push(*range(3 * LANES))
        scene.endpoint.hold()
        worker = scene.start(GREENSCALE_DRAIN_SECONDS=LONG)
        await scene.in_flight(LANES)
        worker.terminate()
        await worker.says("draining")
        scene.endpoint.let_go()
        assert await worker.exit_code() == 0
        worker.is_clean()
        assert worker.outcomes() == {"succeeded": LANES}
        assert sorted(scene.jobs.answered()) == sorted(jobs[:LANES])
        await the_rest_is_run_in_order(scene, jobs[LANES:])
        assert set(scene.endpoint.calls.values()) == {1}


async def cut_short(stage: Play, drain: float) -> None:
    async with stage(f"drain-{drain:g}") as scene:
        jobs = scene.jobs.push(*range(3 * LANES))
        scene.endpoint.hold()
        worker = scene.start(GREENSCALE_DRAIN_SECONDS=drain)
        await scene.in_flight(LANES)
        await stopped(worker, within=drain)
        await eventually(lambda: scene.endpoint.hung_up.total() == LANES)
        assert worker.outcomes() == {"released": LANES}
        await the_rest_is_run_in_order(scene, jobs)


async def signalled_twice(stage: Play) -> None:
    async with stage("twice") as scene:
        jobs = scene.jobs.push(*range(3 * LANES))
        scene.endpoint.hold()
        worker = scene.start(GREENSCALE_DRAIN_SECONDS=LONG)
        await scene.in_flight(LANES)
        worker.terminate()
        await worker.says("draining")
        assert worker.alive
        await stopped(worker, within=0)
        await the_rest_is_run_in_order(scene, jobs)


async def waiting_to_retry(stage: Play) -> None:
    """The endpoint has asked for two seconds: the jobs wait for them in the queue, and nobody waits for the jobs."""
    async with stage("retry") as scene:
        scene.endpoint.faults.extend([(503, {"Retry-After": "2"})] * LANES)
        scene.jobs.push(*range(LANES))
        worker = scene.start(GREENSCALE_DRAIN_SECONDS=LONG)
        await eventually(lambda: scene.jobs.size("delayed") == LANES)
        await stopped(worker, within=0)
        assert scene.jobs.counted() == {("0", "0")}
        fresh = scene.start()
        await scene.all_ended()
        scene.jobs.check()
        await fresh.stop()
        scene.jobs.nothing_left_behind()
        assert set(scene.endpoint.calls.values()) == {2}


async def gate_shut(stage: Play) -> None:
    """The endpoint has asked for ten minutes: the jobs that were told so wait in the queue, no other was touched."""
    async with stage("gate", GREENSCALE_CONCURRENCY=1) as scene:
        told = LEAST_ANSWERS // 2
        scene.endpoint.faults.extend([(429, {"Retry-After": "600"})] * told)
        jobs = scene.jobs.push(*range(told + LANES))
        worker = scene.start()
        await worker.says("gate_shut")
        await eventually(lambda: scene.jobs.size("delayed") == told)
        await stopped(worker, within=0)
        assert scene.endpoint.arrived == jobs[:told]
        assert scene.jobs.queued() == jobs[told:]
        assert scene.jobs.counted() == {("0", "0")}
        scene.jobs.nothing_left_behind()


async def waiting_for_the_backend(stage: Play) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/v1/chat/completions"
    async with stage("backend", NEYSA_API_URL=nowhere) as scene:
        jobs = scene.jobs.push(*range(LANES))
        worker = scene.start()
        await worker.says("waiting_for_backend")
        await stopped(worker, within=0)
        assert scene.jobs.queued() == jobs
        scene.jobs.nothing_left_behind()


async def waiting_for_redis(stage: Play) -> None:
    async with stage("absent", REDIS_URL=f"redis://127.0.0.1:{free_port()}") as scene:
        worker = scene.start()
        await worker.says("queue_unavailable")
        await stopped(worker, within=0)


STATES: Final[Mapping[str, Callable[[Play], Awaitable[None]]]] = {
    "running": running,
    "drain_of_1": partial(cut_short, drain=1),
    "signalled_twice": signalled_twice,
    "gate_shut": gate_shut,
}
ON_SERVERS_OF_THEIR_OWN: Final[Mapping[str, Callable[[Play, RedisServer], Awaitable[None]]]] = {
    "idle": idle,
    "claiming": claiming,
}
WHATEVER_THE_KIND: Final[Mapping[str, Callable[[Play], Awaitable[None]]]] = {
    "drain_of_0": partial(cut_short, drain=0),
    "waiting_to_retry": waiting_to_retry,
    "waiting_for_the_backend": waiting_for_the_backend,
    "waiting_for_redis": waiting_for_redis,
}


@at_once
@pytest.mark.parametrize(
    ("state", "kind"),
    [*product(STATES | ON_SERVERS_OF_THEIR_OWN, KINDS), *product(WHATEVER_THE_KIND, ["list"])],
)
async def test_sigterm_in_every_state(cases: Cases, state: str, kind: str) -> None:
    stage = stage_on(cases.redis(kind), cases.directory / f"{state}-{kind}", kind)
    if state in ON_SERVERS_OF_THEIR_OWN:
        await ON_SERVERS_OF_THEIR_OWN[state](stage, cases.start_redis())
    else:
        await (STATES | WHATEVER_THE_KIND)[state](stage)


async def test_fifty_in_flight_are_finished_and_the_queued_left_alone(stage: Play) -> None:
    async with stage("jobs", GREENSCALE_CONCURRENCY=50) as scene:
        jobs = scene.jobs.push(*range(250))
        scene.endpoint.hold()
        worker = scene.start()
        await scene.in_flight(50)
        worker.terminate()
        await worker.says("draining")
        async with asyncio.timeout(25):
            scene.endpoint.let_go()
            assert await worker.exit_code() == 0
        worker.is_clean()
        assert sorted(scene.jobs.answered()) == sorted(jobs[:50])
        await the_rest_is_run_in_order(scene, jobs[50:])
        assert set(scene.endpoint.calls.values()) == {1}, "something was sent twice"


async def test_a_drain_too_short_for_fifty_leaves_all_of_them_at_the_head(stage: Play) -> None:
    async with stage("jobs", GREENSCALE_CONCURRENCY=50, GREENSCALE_DRAIN_SECONDS=0.5) as scene:
        jobs = scene.jobs.push(*range(250))
        scene.endpoint.hold()
        worker = scene.start()
        await scene.in_flight(50)
        await stopped(worker, within=0.5)
        assert worker.outcomes() == {"released": 50}
        await the_rest_is_run_in_order(scene, jobs)


async def test_a_job_that_drains_cut_again_is_named_with_what_to_change(stage: Play) -> None:
    async with stage("again", GREENSCALE_DRAIN_SECONDS=0.1) as scene:
        (job,) = scene.jobs.push(0)
        scene.endpoint.hold()
        said = []
        for _ in range(3):
            worker = scene.start()
            await scene.in_flight(1)
            await stopped(worker, within=0.1)
            await eventually(lambda: scene.endpoint.waiting.total() == 0)
            said.append([(line["job_id"], line["drains"]) for line in worker.log("job_cut_again")])
        assert said == [[], [(job, 2)], [(job, 3)]]
        (line,) = worker.log("job_cut_again")
        assert line["level"] == "warning"
        assert "GREENSCALE_DRAIN_SECONDS" in line["hint"]
        await the_rest_is_run_in_order(scene, [job])


async def test_without_redis_it_ends_with_one_line(stage: Play, start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    async with stage("away", server, GREENSCALE_DRAIN_SECONDS=0.2) as scene:
        scene.endpoint.hold()
        scene.jobs.push(*range(LANES))
        worker = scene.start()
        await scene.in_flight(LANES)
        server.kill()
        worker.terminate()
        assert await worker.exit_code(0.2 + RELEASE_SECONDS + SLACK) == 1
        errors = [line for line in worker.log() if line["level"] == "error"]
        assert ([line["event"] for line in errors], worker.stderr) == (["stopped"], "")


async def test_without_redis_an_idle_worker_ends_too(stage: Play, start_redis: Callable[..., RedisServer]) -> None:
    """With 0 where it knows that it holds nothing, with 1 where the answer to a claim may have been lost."""
    server = start_redis()
    async with stage("away", server) as scene:
        worker = scene.start()
        await worker.says("ready")
        server.kill()
        await worker.says("queue_unavailable")
        worker.terminate()
        code = await worker.exit_code(RELEASE_SECONDS + SLACK)
        errors = tuple(line["event"] for line in worker.log() if line["level"] == "error")
        assert (code, errors, worker.stderr) in {(0, (), ""), (1, ("stopped",), "")}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_queue_is_closed_in_time_whatever_it_is_doing(redis_url: str, kind: str) -> None:
    """At each step between opening it and its first peek, which no cancellation must miss."""
    for steps in range(150):
        queue = await open_queue(kind, RedisOptions(url=redis_url))
        lease = asyncio.create_task(queue.lease())
        for _ in range(steps):
            await asyncio.sleep(0)
        lease.cancel()
        async with asyncio.timeout(RELEASE_SECONDS):
            await queue.aclose()
