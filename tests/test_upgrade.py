"""A busy queue is upgraded worker by worker, from the version before: nothing is lost, nothing is doubled.

`data/version_before.tar.xz` is that version (format 1 of the keys), made by
`git archive d682d4e src/greenscale_worker | xz -9e >tests/data/version_before.tar.xz`.
"""

import asyncio
import contextlib
import signal
import tarfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from greenscale_worker.queues import CLASSES, JobClass, QueueClient, QueueOptions, RedisOptions
from greenscale_worker.queues.registry import open_client
from harness.eventually import eventually
from harness.worker_process import WorkerProcess
from tests.support.cases import Cases, at_once
from tests.support.jobs import KINDS
from tests.support.scene import Scene, play

BEFORE: Final = Path(__file__).parent / "data/version_before.tar.xz"
LEASE: Final = 2
LANES: Final = 4
LIMIT: Final = LANES + 2
PAUSE: Final = 0.02  # between two jobs of the producer
NEVER: Final = 4e12  # ms since the epoch: a delay that somebody has to end


def version_before(directory: Path) -> Path:
    """Unpack the version before; gives what is to be put on PYTHONPATH."""
    with tarfile.open(BEFORE) as archive:
        archive.extractall(directory, filter="data")
    return directory / "src"


@dataclass
class Upgrade:
    """One queue while its fleet is replaced. `explained` counts the calls that crashes may have added to each job."""

    scene: Scene
    admin: QueueClient
    before: Path
    explained: Counter[str] = field(default_factory=Counter)

    def old(self, **environment: object) -> WorkerProcess:
        return self.scene.start(PYTHONPATH=self.before, **environment)

    @property
    def format(self) -> bytes | None:
        found: bytes | None = self.scene.jobs.client.hget(self.key("control"), "format")
        return found

    def key(self, part: str) -> str:
        return self.scene.jobs.keys.of(part)

    def explain(self) -> None:
        """Somebody has crashed: what is leased may be called once more."""
        self.explained.update(self.scene.jobs.leased())

    async def works(self, worker: WorkerProcess) -> None:
        """Wait until this one has answered jobs, too."""
        done = worker.outcomes()["succeeded"]
        await eventually(lambda: worker.outcomes()["succeeded"] >= done + 3)

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Hand in jobs all the time."""

        async def produce() -> None:
            for number in count():
                if number % 10:
                    self.scene.jobs.push(number)
                else:  # of a class, which workers of the version before do not know
                    await self.put(number, CLASSES[number // 10 % 3])
                await asyncio.sleep(PAUSE)

        producer = asyncio.create_task(produce())
        try:
            yield
        finally:
            producer.cancel()
            await asyncio.wait({producer})
        if not producer.cancelled():
            producer.result()

    async def put(self, number: int, job_class: JobClass) -> None:
        job_id = self.scene.jobs.id(number)
        self.scene.jobs.pushed.append(job_id)
        await self.admin.put([(job_id, orjson.dumps({"job_id": job_id, "prompt": job_id}))], job_class=job_class)

    async def fail(self) -> tuple[str, str]:
        """Let one job be buried and one delayed, by workers of the version before."""
        jobs, client = self.scene.jobs, self.scene.jobs.client
        dead, delayed = jobs.id("dead"), jobs.id("delayed")
        self.scene.endpoint.refused |= {dead: 400, delayed: 500}
        jobs.push("dead", "delayed")
        await eventually(lambda: jobs.size("dead") == 1)

        def is_put_off() -> bool:
            ids = client.zrange(self.key("delayed"), 0, -1)
            return bool(ids) and client.zadd(self.key("delayed"), {ids[0]: NEVER}, xx=True, ch=True) == 1

        await eventually(is_put_off)
        (id_,) = client.zrange(self.key("delayed"), 0, -1)
        assert int(client.hget(self.key("meta"), id_).split(b"|")[2]) == self.scene.endpoint.calls[delayed]
        return dead, delayed

    async def replace(self) -> tuple[WorkerProcess, list[WorkerProcess]]:
        """Replace three workers of the version before; gives the one that sleeps over it, and the new ones."""
        first, second, sleeper = self.old(), self.old(), self.old()
        for each in (first, second, sleeper):
            await self.works(each)
        new = [self.scene.start()]
        await self.works(new[0])
        await first.stop()
        new.append(self.scene.start())
        await self.works(new[1])
        await self.works(second)
        assert self.format == b"1", "a worker of the version before is still there"
        sleeper.signal(signal.SIGSTOP)
        self.explain()
        second.kill()
        self.explain()
        await eventually(lambda: self.format == b"2")
        for each in new:
            await self.works(each)
        return sleeper, new

    async def wake(self, sleeper: WorkerProcess, *, new: list[WorkerProcess]) -> None:
        """Let it wake when all others are busy, so that there is something for it to take. It must not touch that."""
        client = self.scene.jobs.client
        self.scene.endpoint.hold()
        await self.scene.in_flight(LANES * len(new))
        client.zadd(self.key("delayed"), dict.fromkeys(client.zrange(self.key("delayed"), 0, -1), 1), xx=True)
        sleeper.signal(signal.SIGCONT)
        await eventually(lambda: not sleeper.alive)
        assert self.scene.endpoint.waiting.total() == LANES * len(new)
        self.scene.endpoint.let_go()

    async def is_refused(self) -> None:
        """A worker of the version before that starts now says why it does not, in one line."""
        late = self.old()
        assert await late.exit_code() == 2
        (line,) = late.stderr.splitlines()
        assert "has format b'2'; this version knows 1" in line

    async def check(self) -> None:
        """Each job has exactly one result, and was called no more often than crashes explain."""
        jobs, calls = self.scene.jobs, self.scene.endpoint.calls
        for job_id in jobs.pushed:
            record, answer = jobs.record(job_id), jobs.result(job_id)
            assert (job_id, record.get("state")) == (job_id, "succeeded")
            assert answer is not None
            assert answer.startswith(f"{job_id} #")
            refused = job_id in {jobs.id("dead"), jobs.id("delayed")}
            assert refused or calls[job_id] <= 1 + self.explained[job_id], job_id
        assert sum(calls.values()) - len(jobs.pushed) <= 2 * LANES + calls[jobs.id("dead")] + calls[jobs.id("delayed")]
        assert jobs.left() == jobs.size("dead") == 0
        for part in ("meta", "lease", "ready", "suspect", "delayed", "held", "bound"):
            assert jobs.size(part) == 0, part


@at_once
@pytest.mark.parametrize("kind", KINDS)
async def test_a_busy_queue_is_upgraded_worker_by_worker(cases: Cases, kind: str) -> None:
    server, before = cases.redis(kind), version_before(cases.directory / kind)
    settings: dict[str, Any] = {"GREENSCALE_CONCURRENCY": LANES, "GREENSCALE_LEASE_SECONDS": LEASE}
    async with play(cases.directory, server, f"{kind}-jobs", kind=kind, latency=0.05, **settings) as scene:
        admin = await open_client(kind, RedisOptions(url=server.url), QueueOptions(name=scene.jobs.name))
        async with contextlib.aclosing(admin):
            this = Upgrade(scene, admin, before)
            witness = this.old()
            dead, delayed = await this.fail()
            await witness.stop()
            tries = scene.endpoint.calls[delayed]
            async with this.busy():
                sleeper, new = await this.replace()
                scene.endpoint.refused.clear()
                await this.wake(sleeper, new=new)
                await this.is_refused()
                await eventually(lambda: scene.jobs.record(delayed)["state"] == "succeeded")
                assert scene.jobs.record(delayed)["attempts"] == str(tries + 1)
                (letter,) = [letter async for letter in admin.dead()]
                assert (letter.job_id, letter.code) == (dead, "http_400")
                assert dead.encode() in letter.payload
                assert await admin.replay(letter.id)
                await eventually(lambda: scene.jobs.record(dead)["state"] == "succeeded")
            await eventually(lambda: scene.jobs.left() == 0)
            await this.check()
            await eventually(lambda: not scene.jobs.client.exists(this.key("class")))  # what the old left of it
            for worker in new:
                await worker.stop()
            assert this.format == b"2"


@at_once
@pytest.mark.parametrize("kind", KINDS)
async def test_a_limit_is_harmless_beside_workers_of_the_version_before(cases: Cases, kind: str) -> None:
    server, before = cases.redis(f"limit-{kind}"), version_before(cases.directory / f"limit-{kind}")
    settings: dict[str, Any] = {"GREENSCALE_CONCURRENCY": LANES, "GREENSCALE_LEASE_SECONDS": LEASE}
    bounds = {"GREENSCALE_LIMIT": LIMIT, "GREENSCALE_REQUESTS_PER_MINUTE": 6000, "GREENSCALE_TOKENS_PER_MINUTE": 10**7}
    directory = cases.directory / f"limit-{kind}"
    async with play(directory, server, f"limit-{kind}-jobs", kind=kind, latency=0.05, **settings) as scene:
        admin = await open_client(kind, RedisOptions(url=server.url), QueueOptions(name=scene.jobs.name))
        async with contextlib.aclosing(admin):
            this = Upgrade(scene, admin, before)
            first, second = this.old(), this.old()
            await eventually(lambda: this.format == b"1")
            async with this.busy():
                for old in (first, second):
                    await this.works(old)
                new = scene.start(**bounds)
                for each in (new, first, second, new):
                    await this.works(each)
                assert scene.jobs.client.llen(this.key("room")) == LIMIT + 1
                await first.stop()
                this.explain()
                second.kill()
                await eventually(lambda: this.format == b"2")
                await this.works(new)
            await eventually(lambda: scene.jobs.left() == 0)
            await this.check()
            assert scene.jobs.client.hget(this.key("control"), "flow") == b"1"
            await new.stop()
