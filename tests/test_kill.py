"""Workers that die without a word: a fresh one finishes everything, and nothing is recorded twice."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.registry import open_client
from harness.eventually import POLL, eventually
from harness.redis_server import RedisServer
from tests.support.cases import Cases, at_once
from tests.support.jobs import KINDS
from tests.support.scene import Scene, play

LEASE: Final = 3
LANES: Final = 4
JOBS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """Where a worker dies, and what must be true of the queue then: it shows that it died there.

    `at` is the breakpoint; None: it is killed once its lanes are all busy; `drains`: after SIGTERM.
    """

    at: str | None = None
    drains: bool = False
    drain: float = 25.0
    holds: bool = False
    leaves: Callable[[Scene], bool]


DEATHS: Final = {
    "before_claim": Death(at="claim before 1", leaves=lambda s: len(s.jobs.unclaimed()) == JOBS),
    "claim_sent": Death(at="claim sent 1", leaves=lambda s: s.jobs.size("lease") == LANES and not s.endpoint.arrived),
    "claimed": Death(at="claim answered 1", leaves=lambda s: s.jobs.size("lease") == LANES and not s.endpoint.arrived),
    "bind_sent": Death(at="bind sent 1", leaves=lambda s: s.jobs.size("bound") > 0 and not s.endpoint.arrived),
    "mid_call": Death(holds=True, leaves=lambda s: len(s.endpoint.arrived) == LANES and not s.jobs.answered()),
    "response_read": Death(at="infer answered 1", leaves=lambda s: bool(s.endpoint.arrived) and s.jobs.ended() == 0),
    "settle_sent": Death(at="settle sent 1", leaves=lambda s: 1 <= s.jobs.ended() <= LANES),
    "settled": Death(at="settle answered 2", leaves=lambda s: 2 <= s.jobs.ended() <= 2 * LANES),
    "drain": Death(holds=True, drains=True, leaves=lambda s: s.jobs.size("lease") == LANES),
    "release_sent": Death(
        at="release sent 1", holds=True, drains=True, drain=0, leaves=lambda s: s.jobs.size("ready") > 0
    ),
    "before_unregister": Death(
        at="unregister before 1", holds=True, drains=True, drain=0, leaves=lambda s: s.jobs.size("workers") == 1
    ),
    "unregister_sent": Death(
        at="unregister sent 1", holds=True, drains=True, drain=0, leaves=lambda s: s.jobs.size("workers") == 0
    ),
}


async def die(death: Death, scene: Scene) -> None:
    """Let a worker come to its end, and see that it did so in the right place."""
    if death.holds:
        scene.endpoint.hold()
    doomed = scene.start(breakpoint_at=death.at, GREENSCALE_DRAIN_SECONDS=death.drain)
    if death.holds:
        await scene.in_flight(LANES)
    if death.drains:
        doomed.terminate()
        await doomed.says("draining")
    if death.at is None:
        doomed.kill()
    assert await doomed.exit_code() == -signal.SIGKILL
    await eventually(lambda: death.leaves(scene))
    await eventually(lambda: scene.endpoint.connected == 0)  # what the dead one has sent counts as before its death
    scene.endpoint.let_go()


@at_once
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("death", DEATHS)
async def test_kill_9_at_every_breakpoint(cases: Cases, death: str, kind: str) -> None:
    settings: dict[str, Any] = {"GREENSCALE_CONCURRENCY": LANES, "GREENSCALE_LEASE_SECONDS": LEASE}
    async with play(cases.directory / kind, cases.redis(kind), death, kind=kind, **settings) as scene:
        jobs = scene.jobs.push(*range(JOBS))
        await die(DEATHS[death], scene)
        held, done, before = scene.jobs.leased(), scene.jobs.answered(), scene.endpoint.calls
        fresh = scene.start()
        await scene.all_ended()
        scene.jobs.check()
        for job_id in jobs:
            sent, record = scene.endpoint.calls[job_id] - before[job_id], scene.jobs.record(job_id)
            assert sent == (0 if job_id in done else 1), "an answered job was sent again, or another twice"
            assert record["attempts"] == "1", "a crash was counted as a try"
            assert record["crashes"] == ("1" if job_id in held else "0")
        await fresh.stop()


@at_once
@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_cancelled_while_its_worker_lies_dead_is_not_run_again(cases: Cases, kind: str) -> None:
    settings: dict[str, Any] = {"GREENSCALE_CONCURRENCY": 1, "GREENSCALE_LEASE_SECONDS": LEASE}
    server = cases.redis(kind)
    async with play(cases.directory / kind, server, "cancelled", kind=kind, **settings) as scene:
        jobs = scene.jobs.push(*range(3))
        scene.endpoint.hold()
        doomed = scene.start()
        await scene.in_flight(1)
        doomed.kill()
        admin = await open_client(kind, RedisOptions(url=server.url), QueueOptions(name="cancelled"))
        async with aclosing(admin):
            assert await admin.cancel(jobs[0]) == "cancelled"
            assert await admin.cancel(jobs[2]) == "unknown", "nobody has claimed it, and who pushed it wrote no record"
        scene.endpoint.let_go()
        fresh = scene.start()
        await scene.all_ended()
        scene.jobs.check(cancelled={jobs[0], jobs[2]})
        assert scene.endpoint.arrived == jobs[:2]
        await fresh.stop()


@pytest.mark.usefixtures("redis_url")
async def test_fifty_in_flight_are_answered_within_twenty_seconds(redis_server: RedisServer, tmp_path: Path) -> None:
    """The promise of the default lease: a lease, a heartbeat, and 2 s to spare; the call itself takes no time here."""
    async with play(tmp_path, redis_server, GREENSCALE_CONCURRENCY=50) as scene:
        jobs = scene.jobs.push(*range(50))
        scene.endpoint.hold()
        doomed = scene.start()
        await scene.in_flight(50)
        doomed.kill()
        async with asyncio.timeout(20):
            scene.endpoint.let_go()
            fresh = scene.start()
            await scene.all_ended()
        scene.jobs.check()
        assert scene.endpoint.calls == Counter(jobs + jobs)
        await fresh.stop()
        assert fresh.outcomes() == {"succeeded": 50}


POISON: Final = """
import asyncio, os

async def handler(job):
    if job.payload["prompt"] == job.payload["poison"]:
        os._exit(9)
    await asyncio.sleep(0.2)
    return job.payload["prompt"]
"""


@pytest.mark.usefixtures("redis_url")
async def test_a_job_that_kills_its_worker_ends_and_its_neighbours_succeed(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """Somebody starts the worker again each time, as Kubernetes does. Nobody is buried for the company it keeps."""
    (tmp_path / "poison.py").write_text(POISON)
    backend: dict[str, Any] = {"GREENSCALE_BACKEND": "poison:handler", "PYTHONPATH": tmp_path}
    lease: dict[str, Any] = {"GREENSCALE_LEASE_SECONDS": 1, "GREENSCALE_CONCURRENCY": 2 * LANES}
    async with play(tmp_path, redis_server, **backend, **lease) as scene:
        jobs = scene.jobs.push(*range(JOBS), poison=scene.jobs.id(2))
        deaths = 0
        worker = scene.start()
        while not scene.jobs.all_ended():
            if not worker.alive:
                deaths += 1
                worker = scene.start()
            await asyncio.sleep(POLL)
        scene.jobs.check(failed={jobs[2]: "crashed"})
        ((letter, payload),) = scene.jobs.letters()
        assert payload == orjson.dumps({"job_id": jobs[2], "prompt": jobs[2], "poison": jobs[2]})
        assert deaths == letter["crashes"] == 4, "it is not run again once it has killed so many"
        await worker.stop()
