"""The reconciler between a real database and a real door: what is wanted comes about, whatever fails meanwhile."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.eventually import POLL

from doors import PATIENCE, Platform
from kubeserve.database import Database
from kubeserve.deployments import Deployments
from kubeserve.domain import Deployment, DeploymentState, Desired, File, Format, Model, Spec, Version, VersionState
from kubeserve.errors import NotFoundError, UnavailableError
from kubeserve.places.local import LocalPlace
from kubeserve.places.workload import Workload
from kubeserve.reconciler import FAULT, Reconciler
from kubeserve.registry import Registry
from models import of_python
from people import make_user, walk

State = DeploymentState
ONE, TWO = of_python("return ['one' for row in rows]"), of_python("return ['two' for row in rows]")


@pytest.fixture(params=["sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Control:
    """A control plane with one owner and one model, whose reconciler runs."""

    def __init__(self, platform: Platform, registry: Registry, deployments: Deployments) -> None:
        self.platform, self.registry, self.deployments = platform, registry, deployments
        self.owner = ""
        self.model: Model | None = None
        self.purged = list[str]()
        self.place: LocalPlace = platform.place
        self.running: asyncio.Task[None] | None = None

    async def begin(self, database: Database) -> None:
        self.owner = await make_user(database)
        self.model = await self.registry.create_model(self.owner, "model")
        self.start()

    def start(self) -> None:
        made = Reconciler(
            self.deployments, self.registry, self.place, environment=lambda _: self.platform.science, purge=self._purge
        )
        self.running = asyncio.create_task(made.run())

    async def stop(self) -> None:
        assert self.running is not None
        assert not self.running.done()
        self.running.cancel()
        await asyncio.wait({self.running})

    async def _purge(self, deployment_id: str) -> None:
        self.purged.append(deployment_id)

    async def version(self, script: str) -> Version:
        assert self.model is not None
        source = await asyncio.to_thread(self.platform.model, script)
        version = await self.registry.create_version(self.owner, self.model.id, f"v-{uuid.uuid4()}")
        await self.registry.record_files(version.id, [File("model.pkl", 1, "0" * 64, source.key)])
        await walk(self.registry, version, VersionState.CHECKING)
        proved = {"format": Format.PICKLE, "environment": "science"}
        return await self.registry.set_state(
            version.id, VersionState.READY, "as usual", expected={VersionState.CHECKING}, **proved
        )

    async def deploy(self, script: str, **spec: int) -> Deployment:
        version = await self.version(script)
        assert self.model is not None
        return await self.deployments.create(self.owner, self.model.id, "live", Spec(version.id, **spec))

    async def until(self, deployment: Deployment, state: State, active: int | None = None) -> Deployment:
        async with asyncio.timeout(PATIENCE):
            while True:
                seen = await self.deployments.by_id(deployment.id)
                settled = seen.generation == seen.observed and seen.state is state
                if settled and active in {None, seen.active}:
                    return seen
                await asyncio.sleep(POLL)

    async def ask(self, deployment: Deployment) -> object:
        prediction_id = await self.platform.predictions.submit(deployment.id, [[1]])
        answer = await self.platform.predictions.wait(prediction_id, PATIENCE)
        assert answer.answer is not None, answer
        return answer.answer["predictions"][0]


@pytest.fixture
async def control(
    platform: Platform, registry: Registry, deployments: Deployments, database: Database
) -> AsyncIterator[Control]:
    made = Control(platform, registry, deployments)
    await made.begin(database)
    yield made
    await made.stop()


async def test_a_wish_is_carried_out_stopped_begun_again_and_deleted(control: Control) -> None:
    made = await control.deploy(ONE)
    await control.until(made, State.READY)
    assert await control.ask(made) == "one"
    await control.deployments.want(control.owner, made.id, Desired.STOPPED)
    stopped = await control.until(made, State.STOPPED)
    assert (stopped.active, stopped.replicas) == (None, 0)
    assert control.platform.zygotes() == []
    await control.deployments.want(control.owner, made.id, Desired.RUNNING)
    await control.until(made, State.READY)
    assert await control.ask(made) == "one"
    await control.deployments.want(control.owner, made.id, Desired.DELETED)
    with pytest.raises(NotFoundError):
        await control.until(made, State.DELETED)
    assert control.purged == [made.id]
    assert list(control.platform.layout.workloads.iterdir()) == []


async def test_the_last_of_quick_wishes_holds(control: Control) -> None:
    made = await control.deploy(ONE)
    first = made.revisions[0].spec
    second = Spec((await control.version(TWO)).id)
    for _ in range(3):
        await control.deployments.revise(control.owner, made.id, second)
        await control.deployments.rollback(control.owner, made.id, 1)
    revised = await control.deployments.revise(control.owner, made.id, second)
    seen = await control.until(made, State.READY, active=revised.target)
    assert await control.ask(made) == "two"
    await control.deployments.rollback(control.owner, made.id, 1)
    assert (await control.until(made, State.ASLEEP if seen.replicas == 0 else State.READY, active=1)).target == 1
    assert first == (await control.deployments.by_id(made.id)).revisions[0].spec
    assert await control.ask(made) == "one"


async def test_a_revision_that_does_not_load_is_told_and_the_next_wish_is_tried_at_once(control: Control) -> None:
    made = await control.deploy(ONE)
    await control.until(made, State.READY)
    bad = await control.version(TWO)
    Path(bad.files[0].key).write_bytes(b"not a model")
    await control.deployments.revise(control.owner, made.id, Spec(bad.id))
    seen = await control.until(made, State.DEGRADED, active=1)
    assert "revision 2" in seen.state_reason
    assert await control.ask(made) == "one"
    await control.deployments.rollback(control.owner, made.id, 1)
    await control.until(made, State.READY, active=1)


async def test_a_door_that_is_away_is_told_and_no_wish_is_lost(control: Control) -> None:
    made = await control.deploy(ONE)
    await control.until(made, State.READY)
    await control.platform.close()
    seen = await control.until(made, State.DEGRADED, active=1)
    assert "door" in seen.state_reason
    await control.deployments.revise(control.owner, made.id, Spec((await control.version(TWO)).id))
    control.platform.open()
    await control.until(made, State.READY, active=2)
    assert await control.ask(made) == "two"


async def test_a_restarted_control_plane_changes_nothing_that_runs(control: Control) -> None:
    made = await control.deploy(ONE)
    await control.until(made, State.READY)
    before = control.platform.replicas()
    await control.stop()
    assert await control.ask(made) == "one"
    control.start()
    await asyncio.gather(*(control.until(made, State.READY) for _ in range(3)))
    assert control.platform.replicas() == before


class Odd(LocalPlace):
    """A place that has no room for one deployment, and a fault of its own for another."""

    full = faulty = slow = ""

    async def apply(self, workload: Workload) -> None:
        if workload.id == self.full:
            raise UnavailableError("no space left")
        if workload.id == self.faulty:
            raise ZeroDivisionError
        if workload.id == self.slow:
            await asyncio.sleep(10 * PATIENCE)
        await super().apply(workload)


@pytest.mark.parametrize(
    ("how", "state", "why"),
    [("full", State.PENDING, "no space left"), ("faulty", State.FAILED, FAULT), ("slow", State.PENDING, "created")],
)
async def test_what_fails_for_one_deployment_is_told_and_no_other_waits(
    control: Control, how: str, state: State, why: str
) -> None:
    await control.stop()
    place = Odd(control.platform.layout, control.platform.fetch)
    control.place = place
    made = await control.deploy(ONE)
    setattr(place, how, made.id)
    version = made.revisions[0].spec.version_id
    other = await control.deployments.create(control.owner, made.model_id, "other", Spec(version))
    control.start()
    await control.until(other, State.READY)
    async with asyncio.timeout(PATIENCE):
        while why not in (seen := await control.deployments.by_id(made.id)).state_reason:  # noqa: ASYNC110  as a person asks
            await asyncio.sleep(POLL)
    assert seen.state is state
    setattr(place, how, "")
    if how != "slow":
        await control.until(made, State.READY)
    await place.aclose()


async def test_many_that_are_observed_at_once_cost_the_door_one_answer(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await control.deploy(ONE)
    await control.until(made, State.READY)
    await control.stop()
    asked = list[str]()
    ask = control.place._ask  # noqa: SLF001  what goes over the socket

    async def counted(method: str, path: str) -> bytes:
        asked.append(path)
        return await ask(method, path)

    monkeypatch.setattr(control.place, "_ask", counted)
    seen = await asyncio.gather(*(control.place.observe(made.id) for _ in range(20)))
    assert seen == [seen[0]] * 20
    assert asked == ["/status"]
    control.start()


async def test_a_spec_of_any_size_that_is_accepted_is_carried_out(control: Control) -> None:
    made = await control.deploy(ONE, concurrency=1024)
    await control.until(made, State.READY)
