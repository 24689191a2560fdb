"""A job of many steps: each ends with a snooze, and whatever happens to its workers, the job goes on."""

import asyncio
import math
from contextlib import aclosing
from pathlib import Path
from typing import Final

import pytest

from greenscale_worker.errors import Snooze
from greenscale_worker.execution import Policy
from greenscale_worker.job import Job
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.registry import open_client, open_queue
from greenscale_worker.telemetry import Metrics
from greenscale_worker.worker import Worker
from harness.eventually import PATIENCE, eventually
from tests.support.cases import Cases, at_once
from tests.support.jobs import KINDS
from tests.support.scene import play

STEPS: Final = 4
LEASE: Final = 3
HANDLER: Final = """
import os, time
from pathlib import Path

from greenscale_worker import Snooze

seen = Path(__file__).with_name("seen")

def handler(job):
    with seen.open("a") as file:
        file.write(f"{os.getpid()} {job.attempt}\\n")
    done = len(seen.read_text().splitlines())
    if done == 2:
        time.sleep(60 * (os.environ["HANGS"] == "1"))
    if done < 4:
        raise Snooze(3 if done == 1 else 0)
    return str(done)
"""


@pytest.mark.parametrize("delay", [0.0, 0.02])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_snoozed_job_runs_again_and_no_try_is_used(kind: str, delay: float, redis_url: str) -> None:
    runs: list[int] = []

    async def step(job: Job) -> str:
        runs.append(job.attempt)
        if len(runs) <= STEPS:
            raise Snooze(delay)
        return "done"

    redis, options, metrics = RedisOptions(url=redis_url), QueueOptions(name=f"snoozed-{kind}-{delay}"), Metrics()
    async with aclosing(await open_client(kind, redis, options)) as client:
        queue = await open_queue(kind, redis, options, metrics)
        async with Worker(queue, step, policy=Policy(max_tries=1, max_age=math.inf), metrics=metrics):
            await client.put([("long", b'{"job_id":"long","prompt":"x"}')])
            async with asyncio.timeout(PATIENCE):
                while await client.result("long") != b"done":  # noqa: ASYNC110  another client has no Event
                    await asyncio.sleep(0.01)
        record = await client.record("long")
        assert (record["state"], record["attempts"], record["crashes"]) == ("succeeded", "1", "0")
        assert (await client.depth()).failing_by is None
    assert runs == [1] * (STEPS + 1)
    ended = {"outcome": "released", "code": "snoozed"}
    assert metrics.registry.get_sample_value("greenscale_jobs_total", ended) == STEPS


@at_once
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("hangs", "kills"), [(False, False), (False, True), (True, True)])
async def test_a_snoozed_job_outlives_its_workers(cases: Cases, kind: str, hangs: bool, kills: bool) -> None:  # noqa: FBT001  columns
    directory = cases.directory / f"{kind}-{hangs}-{kills}"
    directory.mkdir(parents=True)
    (directory / "steps.py").write_text(HANDLER)
    seen = directory / "seen"
    settings = {"GREENSCALE_BACKEND": "steps:handler", "PYTHONPATH": directory, "GREENSCALE_LEASE_SECONDS": LEASE}
    async with play(directory, cases.redis(kind), f"steps-{hangs}-{kills}", kind=kind, **settings) as scene:
        (job_id,) = scene.jobs.push(1)
        first = scene.start(HANGS=int(hangs), GREENSCALE_DRAIN_SECONDS=0.5)
        await eventually(lambda: runs(seen) == 1 + hangs and scene.jobs.size("delayed") == 1 - hangs)
        if kills:
            first.kill()
        else:
            await first.stop()
        fresh = scene.start(HANGS=0)
        await eventually(lambda: scene.jobs.record(job_id).get("state") == "succeeded")
        assert scene.jobs.record(job_id)["attempts"] == "1"
        assert runs(seen) == STEPS
        assert {line.split()[1] for line in seen.read_text().splitlines()} == {"1"}
        await fresh.stop()


def runs(seen: Path) -> int:
    return len(seen.read_text().splitlines()) if seen.exists() else 0
