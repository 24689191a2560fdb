"""The reconciler between a real database and a scripted API server: from any state to what is wanted."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from greenscale_worker import RedisOptions
from harness.eventually import POLL
from harness.redis_server import RedisServer

from clusters import Site
from kube_api import FAULTS, Object, foreign, intact
from kubeserve import reconciler
from kubeserve.accounts import Accounts
from kubeserve.database import Database
from kubeserve.deployments import Deployments
from kubeserve.domain import Deployment, DeploymentState, Desired, File, Format, Spec, VersionState
from kubeserve.errors import KubeServeError, NotFoundError
from kubeserve.manifests import name_of, namespace_of
from kubeserve.places import Known
from kubeserve.places.cluster import orphans, watch
from kubeserve.reconciler import Reconciler
from kubeserve.registry import Registry
from people import make_user, walk

State = DeploymentState
PATIENCE = 60.0
Services = tuple[Registry, Deployments, Accounts]
SETTLED = {State.READY, State.ASLEEP}


@pytest.fixture(params=["sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are those of a test."""
    monkeypatch.setattr(reconciler, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(reconciler, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(reconciler, "AGAIN_SECONDS", 0.2)
    monkeypatch.setattr(watch, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(watch, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(orphans, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(orphans, "UNKNOWN_SECONDS", 0.5)


class Control:
    """A control plane with one owner and one model, and everything that may happen to it."""

    def __init__(self, site: Site, registry: Registry, deployments: Deployments, accounts: Accounts) -> None:
        self.site, self.registry, self.deployments, self.accounts = site, registry, deployments, accounts
        self.owner = self.model = ""
        self.running: asyncio.Task[None] | None = None

    async def begin(self, database: Database) -> None:
        self.owner = await make_user(database)
        self.model = (await self.registry.create_model(self.owner, "model")).id
        self.start()

    def start(self) -> None:
        place = self.site.place
        made = Reconciler(
            self.deployments,
            self.registry,
            place,
            environment=lambda name: Path("/environments") / name,
            purge=_nothing,
        )
        self.site.poke = made.poke

        async def work() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(made.run())
                group.create_task(place.tend(Known(self.accounts.ids, self.ids)))

        self.running = asyncio.create_task(work())

    async def stop(self) -> None:
        assert self.running is not None
        assert not self.running.done()
        self.running.cancel()
        await asyncio.wait({self.running})

    async def ids(self) -> list[str]:
        return [each.id for each in await self.deployments.all()]

    async def restart(self) -> None:
        """As after SIGKILL: nothing that was in memory is left."""
        await self.stop()
        await self.site.restart()
        self.start()

    async def spec(self, **changes: int) -> Spec:
        version = await self.registry.create_version(self.owner, self.model, f"v-{uuid.uuid4()}")
        key = f"models/{version.id}/model.pkl"
        await self.registry.record_files(version.id, [File("model.pkl", 9, "a" * 64, key)])
        await walk(self.registry, version, VersionState.CHECKING)
        proved = {"format": Format.PICKLE, "environment": "base"}
        await self.registry.set_state(version.id, VersionState.READY, "", expected={VersionState.CHECKING}, **proved)
        return Spec(version.id, **{"minimum": 1, "memory": 256 << 20, **changes})

    async def deploy(self, name: str = "live") -> Deployment:
        return await self.deployments.create(self.owner, self.model, name, await self.spec())

    async def until(self, deployment: Deployment, holds: Callable[[Deployment], bool]) -> Deployment:
        seen = deployment
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    seen = await self.deployments.by_id(deployment.id)
                    if seen.generation == seen.observed and holds(seen):
                        return seen
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise AssertionError((seen, self.left_of(seen.id))) from None

    async def gone(self, deployment: Deployment) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await self.deployments.by_id(deployment.id)
                except NotFoundError:
                    return
                await asyncio.sleep(POLL)

    def left_of(self, deployment_id: str) -> list[tuple[str, str, str]]:
        label = "kubeserve/deployment"
        objects = self.site.api.objects.items()
        return [key for key, each in objects if (each["metadata"].get("labels") or {}).get(label) == deployment_id]


async def _nothing(deployment_id: str) -> None:
    del deployment_id


@pytest.fixture
def services(registry: Registry, deployments: Deployments, accounts: Accounts) -> Services:
    return registry, deployments, accounts


@pytest.fixture
async def control(
    redis_server: RedisServer, db: redis.Redis, services: Services, database: Database
) -> AsyncIterator[Control]:
    db.ping()
    async with Site.open(RedisOptions(url=f"{redis_server.url}/0"), patience=0.5, resync=0.5) as site:
        made = Control(site, *services)
        await made.begin(database)
        yield made
        await made.stop()


async def test_a_wish_is_carried_out_stopped_begun_again_and_deleted(control: Control) -> None:
    made = await control.deploy()
    await control.until(made, lambda seen: seen.state is State.READY)
    await control.deployments.want(control.owner, made.id, Desired.STOPPED)
    await control.until(made, lambda seen: seen.state is State.STOPPED and seen.active is None)
    assert control.left_of(made.id) == []
    await control.deployments.want(control.owner, made.id, Desired.RUNNING)
    await control.until(made, lambda seen: seen.state is State.READY)
    await control.deployments.want(control.owner, made.id, Desired.DELETED)
    await control.gone(made)
    assert control.left_of(made.id) == []


async def test_a_deploy_that_fails_cleans_up_and_says_why(control: Control) -> None:
    control.site.api.fates["1"] = "crash"
    made = await control.deploy()
    seen = await control.until(made, lambda seen: "given up" in seen.state_reason)
    assert seen.state is State.FAILED
    assert "ValueError: not a model" in seen.state_reason
    async with asyncio.timeout(PATIENCE):
        while control.left_of(made.id):  # noqa: ASYNC110  its pods end
            await asyncio.sleep(POLL)
    control.site.api.fates.clear()
    await control.deployments.want(control.owner, made.id, Desired.RUNNING)  # the owner tries it again
    await control.until(made, lambda seen: seen.state is State.READY)


async def test_the_former_revision_answers_on_after_one_that_fails(control: Control) -> None:
    made = await control.deploy()
    await control.until(made, lambda seen: seen.state is State.READY)
    control.site.api.fates["2"] = "crash"
    await control.deployments.revise(control.owner, made.id, await control.spec())
    seen = await control.until(made, lambda seen: "given up" in seen.state_reason)
    assert (seen.state, seen.active, seen.replicas) == (State.DEGRADED, 1, 1)
    await control.deployments.rollback(control.owner, made.id, 1)
    await control.until(made, lambda seen: seen.state is State.READY and seen.active == 1)


async def test_a_restart_tries_what_was_given_up_once_more_and_the_former_revision_answers_on(control: Control) -> None:
    made = await control.deploy()
    await control.until(made, lambda seen: seen.state is State.READY)
    control.site.api.fates["2"] = "crash"
    await control.deployments.revise(control.owner, made.id, await control.spec())
    await control.until(made, lambda seen: "given up" in seen.state_reason)
    (former,) = control.site.api.of("pods", revision="1")
    await control.restart()
    await control.until(made, lambda seen: "given up" not in seen.state_reason)
    seen = await control.until(made, lambda seen: "given up" in seen.state_reason)
    assert (seen.state, seen.active, seen.replicas) == (State.DEGRADED, 1, 1)
    assert [each["metadata"]["uid"] for each in control.site.api.of("pods", revision="1")] == [
        former["metadata"]["uid"]
    ]


async def test_a_cluster_that_is_away_is_told_and_no_wish_is_lost(control: Control) -> None:
    made = await control.deploy()
    await control.until(made, lambda seen: seen.state is State.READY)
    control.site.api.away = True
    await control.deployments.revise(control.owner, made.id, await control.spec())
    seen = await control.until(made, lambda seen: seen.state is State.DEGRADED)
    assert seen.active == 1
    assert "the cluster does not answer" in seen.state_reason
    control.site.api.away = False
    await control.until(made, lambda seen: seen.state is State.READY and seen.active == 2)


async def test_a_restart_changes_nothing_that_runs(control: Control) -> None:
    made = await control.deploy()
    await control.until(made, lambda seen: seen.state is State.READY)
    pods = [each["metadata"]["uid"] for each in control.site.api.of("pods")]
    await control.restart()
    await asyncio.sleep(1)  # two resyncs
    await control.until(made, lambda seen: seen.state is State.READY)
    assert [each["metadata"]["uid"] for each in control.site.api.of("pods")] == pods


async def test_every_user_has_a_namespace_and_gets_it_back(control: Control, database: Database) -> None:
    control.site.api.away = True
    other = await make_user(database, "other@example.org")
    control.site.api.away = False
    async with asyncio.timeout(PATIENCE):
        for _ in range(2):
            while not _stands(control.site, other):  # noqa: ASYNC110  the cluster tells nobody
                await asyncio.sleep(POLL)
            control.site.api.delete(("namespaces", "", namespace_of(other)))
    quota = control.site.api.objects["resourcequotas", namespace_of(control.owner), "quota"]
    assert quota["spec"]["hard"]["pods"] == "5"


async def test_a_namespace_that_does_not_go_keeps_no_other_user_from_theirs(
    control: Control, database: Database
) -> None:
    key = ("namespaces", "", namespace_of(control.owner))
    async with asyncio.timeout(PATIENCE):
        while not _stands(control.site, control.owner):  # noqa: ASYNC110  as above
            await asyncio.sleep(POLL)
        control.site.api.terminating = 1_000_000_000
        control.site.api.delete(key)
        other, number = "", 0
        while other < control.owner:  # users are looked at in this order
            other, number = await make_user(database, f"other{number}@example.org"), number + 1
        while not _stands(control.site, other):  # noqa: ASYNC110  as above
            await asyncio.sleep(POLL)
    assert control.site.api.objects[key]["metadata"]["deletionTimestamp"]


def _stands(site: Site, user: str) -> bool:
    namespace = site.api.objects.get(("namespaces", "", namespace_of(user)), {"metadata": {"deletionTimestamp": ""}})
    policies = [key for key in site.api.objects if key[:2] == ("networkpolicies", namespace_of(user))]
    return "deletionTimestamp" not in namespace["metadata"] and len(policies) >= 2


class Walk:
    """Random wishes, and random harm by faults, by restarts and by other hands."""

    def __init__(self, control: Control, db: redis.Redis, seed: int) -> None:
        self.control, self.db, self.api = control, db, control.site.api
        self.random = random.Random(seed)
        self.numbers = iter(range(1000))
        self.log = list[str]()

    async def step(self) -> None:
        acts = [self.deploy, self.deploy, self.revise, self.revise, self.rollback, self.want, self.want, self.want,
                self.restart, self.orphan, self.remove, self.remove, self.edit, self.scale, self.forget, self.faults,
                self.away, self.namespace, self.pods]  # fmt: skip
        act = self.random.choice(acts)
        self.log.append(act.__name__)
        with suppress(KubeServeError):  # the quota, or a wish that does not fit
            await act()
        await asyncio.sleep(self.random.choice((0, 0, 0.02, 0.2)))

    async def one(self) -> Deployment:
        known = await self.control.deployments.all()
        if not known:
            return await self.deploy()
        return self.random.choice(known)

    async def deploy(self) -> Deployment:
        return await self.control.deploy(f"d{next(self.numbers)}")

    async def revise(self) -> None:
        made = await self.one()
        self.api.fates[str(made.revisions[-1].number + 1)] = self.random.choice(
            ("ready", "ready", "crash", "image", "room")
        )
        await self.control.deployments.revise(self.control.owner, made.id, await self.control.spec())

    async def rollback(self) -> None:
        made = await self.one()
        number = self.random.choice(made.revisions).number
        await self.control.deployments.rollback(self.control.owner, made.id, number)

    async def want(self) -> None:
        await self.control.deployments.want(
            self.control.owner, (await self.one()).id, self.random.choice(list(Desired))
        )

    async def restart(self) -> None:
        await self.control.restart()

    async def orphan(self) -> None:
        """As a control plane does that stalled: what it applies has been deleted, or was never wished."""
        tenant = self.random.choice((self.control.owner, str(uuid.uuid4())))
        await self.control.site.place.apply(self.control.site.workload().model_copy(update={"tenant": tenant}))

    def ours(self) -> list[tuple[str, str, str]]:
        return sorted(key for key, each in self.api.objects.items() if "kubeserve/user" in each["metadata"]["labels"])

    async def remove(self) -> None:
        for key in self.random.sample(self.ours(), min(3, len(self.ours()))):
            if key in self.api.objects:
                self.api.delete(key)

    async def edit(self) -> None:
        for key in self.random.sample(self.ours(), min(3, len(self.ours()))):
            if key[0] in {"configmaps", "secrets"}:
                new: Object = {**self.api.objects[key], "data": {"foreign": "by another hand"}}
                self.api.change(key, new)
            elif key[0] in {"services", "networkpolicies", "resourcequotas"}:
                self.api.change(key, {**self.api.objects[key], "spec": {"hard": {"pods": "5"}}})

    async def scale(self) -> None:
        for key in [key for key in self.api.objects if key[0] == "deployments"]:
            self.api.edit(key, replicas=self.random.choice((0, 1, 1, 2)))

    async def pods(self) -> None:
        for key in [key for key in self.api.objects if key[0] == "pods"]:
            self.api.delete(key)

    async def namespace(self) -> None:
        key = ("namespaces", "", namespace_of(self.control.owner))
        if key in self.api.objects and self.random.random() < 0.3:
            self.api.delete(key)

    async def forget(self) -> None:
        self.api.compact()
        self.forget_users()

    def forget_users(self) -> None:
        for user in self.db.acl_users():
            if user.startswith("ks-"):
                self.db.acl_deluser(user)

    async def faults(self) -> None:
        self.api.broken = tuple(self.random.sample(FAULTS, 3))
        self.api.chance = self.random.choice((0.0, 0.1, 0.3))

    async def away(self) -> None:
        self.api.away = not self.api.away

    async def settle(self) -> None:
        """Peace: what happens from here on is ours alone."""
        self.api.broken, self.api.away = (), False
        self.api.fates.clear()
        for key in [key for key in self.api.objects if key[0] == "deployments"]:
            self.api.edit(key, replicas=1)  # the autoscaler, whose minimum is one
        for made in await self.control.deployments.all():
            if made.desired is Desired.RUNNING:  # the owner tries again what was given up
                await self.control.deployments.rollback(self.control.owner, made.id, made.target)

    async def check(self) -> None:
        for made in await self.control.deployments.all():
            if made.desired is Desired.DELETED:
                await self.control.gone(made)
            elif made.desired is Desired.STOPPED:
                await self.control.until(made, lambda seen: seen.state is State.STOPPED)
            else:
                await self.control.until(made, lambda seen: seen.state in SETTLED and seen.active == seen.target)
                await self.holds(made)
        known = {made.id for made in await self.control.deployments.all() if made.desired is Desired.RUNNING}
        async with asyncio.timeout(PATIENCE):
            while self.there() != ({self.control.owner}, known, known):  # noqa: ASYNC110  the cluster tells nobody
                await asyncio.sleep(POLL)

    def there(self) -> tuple[set[str], set[str], set[str]]:
        """Whose namespaces there are, whose objects, and whose users of Redis."""
        labels = [each["metadata"]["labels"] for each in self.api.objects.values()]
        users = {user.removeprefix("ks-") for user in self.db.acl_users() if user.startswith("ks-")}
        spaces = {each["metadata"]["labels"].get("kubeserve/user") for each in self.api.of("namespaces")}
        deployments = {each.get("kubeserve/deployment") for each in labels}
        return spaces - {None}, deployments - {None}, users

    async def holds(self, made: Deployment) -> None:
        """Wait until its objects are those of its target, all of them, as they were rendered."""
        seen = await self.control.deployments.by_id(made.id)
        number, place = str(seen.target), (namespace_of(seen.owner_id), name_of(seen.id))
        wanted = {("deployments", *place), ("services", *place), ("scaledobjects", *place)}
        wanted |= {("configmaps", place[0], f"{place[1]}-r{number}"), ("secrets", place[0], f"{place[1]}-redis")}
        async with asyncio.timeout(PATIENCE):
            while not self.is_as_wanted(made.id, wanted, number):  # noqa: ASYNC110  the cluster tells nobody
                await asyncio.sleep(POLL)

    def is_as_wanted(self, deployment_id: str, wanted: set[tuple[str, str, str]], number: str) -> bool:
        there = wanted <= self.api.objects.keys()
        return there and self.is_intact(deployment_id) and self.revisions(deployment_id) == {number}

    def is_intact(self, deployment_id: str) -> bool:
        return all(intact(self.api.objects[key]) for key in self.control.left_of(deployment_id))

    def revisions(self, deployment_id: str) -> set[str]:
        found = self.api.of("pods", deployment=deployment_id) + self.api.of("configmaps", deployment=deployment_id)
        return {each["metadata"]["labels"]["kubeserve/revision"] for each in found}


@pytest.mark.parametrize("seed", range(3))
async def test_from_any_state_it_reaches_what_is_wanted(control: Control, db: redis.Redis, seed: int) -> None:
    await _walked(Walk(control, db, seed), 30)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(100, 120))
async def test_from_any_state_at_length(control: Control, db: redis.Redis, seed: int) -> None:
    await _walked(Walk(control, db, seed), 100)


async def _walked(walked: Walk, steps: int) -> None:
    for key, labels in ((("secrets", "default", "d-ours"), {"app": "theirs"}), (("namespaces", "", "default"), {})):
        walked.api.change(key, {"metadata": {"name": key[2], "namespace": key[1], "labels": labels}})
    walked.forget_users()
    theirs = list(foreign(walked.api))
    try:
        for _ in range(steps):
            await walked.step()
        await walked.settle()
        await walked.check()
    except (AssertionError, TimeoutError) as error:
        raise AssertionError(walked.log) from error
    assert list(foreign(walked.api)) == theirs
