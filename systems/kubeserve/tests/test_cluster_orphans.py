"""What a cluster has of those whom the database does not know: removed, in time, and nothing else is."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Collection

import pytest
import redis
from greenscale_worker import RedisOptions
from harness.eventually import eventually
from harness.redis_server import RedisServer
from structlog.testing import capture_logs

from clusters import SECRET, SETTINGS, Site, cluster_of
from kubeserve.database import Database, name_of_installation
from kubeserve.errors import ForbiddenError, UnavailableError
from kubeserve.manifests import namespace_of, redis_user_of
from kubeserve.places import Known
from kubeserve.places.cluster import Cluster, RedisUsers, orphans
from kubeserve.places.cluster.orphans import Orphans
from kubeserve.places.workload import Workload

USER = str(uuid.uuid4())


class World:
    """A cluster with the objects of `workload`, whose user is there and has a namespace; and who looks for orphans."""

    def __init__(self, site: Site, cluster: Cluster, db: redis.Redis) -> None:
        self.site, self.cluster, self.db = site, cluster, db
        self.users: Collection[str] = [USER]
        self.deployments: Collection[str] = []
        self.is_away = False
        self.orphans = self.of(SETTINGS.installation)

    def of(self, installation: str) -> Orphans:
        return Orphans(self.cluster, RedisUsers(self.site.redis_options, SECRET, installation))

    async def apply(self, tenant: str = USER) -> Workload:
        made = self.site.workload().model_copy(update={"tenant": tenant})
        await self.site.apply(made)
        return made

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.orphans.look(Known(self._users, self._deployments))

    def stands(self, workload: Workload) -> bool:
        return self.site.key(workload) in self.site.api.objects and self.logs_in(workload.id)

    def is_gone(self, workload: Workload) -> bool:
        kinds = ("deployments", "services", "secrets", "configmaps", "scaledobjects")
        left = [each for kind in kinds for each in self.site.api.of(kind, deployment=workload.id)]
        return all("deletionTimestamp" in each["metadata"] for each in left) and not self.logs_in(workload.id)

    def logs_in(self, deployment_id: str) -> bool:
        return redis_user_of(deployment_id) in self.db.acl_users()

    def has_namespace(self, user_id: str) -> bool:
        found = self.site.api.objects.get(("namespaces", "", namespace_of(user_id)))
        return found is not None and "deletionTimestamp" not in found["metadata"]

    async def _users(self) -> Collection[str]:
        if self.is_away:
            raise UnavailableError("the database does not answer")
        return self.users

    async def _deployments(self) -> Collection[str]:
        return self.deployments


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look finds that it is time."""
    monkeypatch.setattr(orphans, "UNKNOWN_SECONDS", 1e-9)


@pytest.fixture
async def world(redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[World]:
    before = set(db.acl_users())
    async with Site.open(RedisOptions(url=f"{redis_server.url}/0")) as site:
        cluster = cluster_of(site.api)
        yield World(site, cluster, db)
        await cluster.aclose()
    for user in set(db.acl_users()) - before:
        db.acl_deluser(user)


async def test_a_deployment_without_a_row_is_removed_at_the_second_look(world: World) -> None:
    kept, orphan = await world.apply(), await world.apply()
    world.deployments = [kept.id]
    await world.look()
    assert world.stands(orphan), "its row may have been read amiss"
    await world.look()
    assert world.is_gone(orphan)
    assert world.stands(kept)
    assert world.has_namespace(USER)


async def test_a_user_of_redis_without_a_deployment_is_removed(world: World) -> None:
    name = str(uuid.uuid4())
    await world.site.redis.keep(name, USER)
    await world.look(2)
    assert not world.logs_in(name)


async def test_the_namespace_of_a_user_without_a_row_is_removed_with_all_in_it(world: World) -> None:
    orphan, kept = await world.apply(str(uuid.uuid4())), await world.apply()
    world.deployments = [kept.id]
    await world.look(2)
    assert not world.has_namespace(orphan.tenant)
    assert world.is_gone(orphan)
    assert world.has_namespace(USER)
    assert world.stands(kept)


async def test_a_namespace_that_only_carries_our_labels_stays(world: World) -> None:
    await world.apply()
    labels = world.site.api.of("namespaces", user=USER)[0]["metadata"]["labels"] | {"kubeserve/user": "somebody"}
    theirs = ("namespaces", "", "theirs")
    world.site.api.change(theirs, {"metadata": {"name": "theirs", "labels": labels}})
    await world.look(2)
    assert "deletionTimestamp" not in world.site.api.objects[theirs]["metadata"]


async def test_what_another_installation_has_made_stays(world: World) -> None:
    theirs = await world.apply(str(uuid.uuid4()))
    world.orphans = world.of(str(uuid.uuid4()))  # its Redis and its secret may be the same
    await world.look(2)
    assert world.stands(theirs)
    assert world.has_namespace(theirs.tenant)


async def test_a_database_that_knows_nobody_removes_nothing_and_it_is_told_once(world: World) -> None:
    orphan = await world.apply()
    world.users = []
    with capture_logs() as logs:
        await world.look(3)
    assert world.stands(orphan)
    assert [each["event"] for each in logs] == ["database_knows_nobody"]
    world.users = [USER]
    await world.look()
    assert world.stands(orphan), "what was noted before is forgotten"
    await world.look()
    assert world.is_gone(orphan)


async def test_a_row_that_comes_back_begins_its_time_anew(world: World) -> None:
    workload = await world.apply()
    await world.look()
    world.deployments = [workload.id]
    await world.look()
    world.deployments = []
    await world.look()
    assert world.stands(workload)


async def test_a_database_that_is_away_is_not_one_that_knows_nothing(world: World) -> None:
    workload = await world.apply()
    await world.look()
    world.is_away = True
    with pytest.raises(UnavailableError):
        await world.look()
    assert world.stands(workload)


async def test_a_row_that_comes_back_while_others_are_removed_is_seen(world: World) -> None:
    made = sorted([await world.apply(), await world.apply()], key=lambda each: each.id)
    await world.look()

    async def restored() -> Collection[str]:
        return [] if world.stands(made[0]) else [made[1].id]

    await world.orphans.look(Known(world._users, restored))  # noqa: SLF001  as it looks
    assert world.is_gone(made[0])
    assert world.stands(made[1])


async def test_what_another_one_may_have_seen_meanwhile_begins_its_time_anew(world: World) -> None:
    workload = await world.apply()
    await world.look()
    with capture_logs() as logs:
        tending = asyncio.create_task(world.orphans.tend(Known(world._users, world._deployments)))  # noqa: SLF001
        await eventually(lambda: logs)
    tending.cancel()
    await asyncio.wait({tending})
    assert [each["event"] for each in logs] == ["orphan_seen"]
    assert world.stands(workload)


async def test_what_cannot_be_removed_keeps_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = sorted([await world.apply(), await world.apply()], key=lambda each: each.id)
    delete = world.cluster.delete

    async def refused(kind: str, namespace: str, name: str) -> None:
        if first.id in name:
            raise ForbiddenError("the cluster forbids it: a webhook")
        await delete(kind, namespace, name)

    monkeypatch.setattr(world.cluster, "delete", refused)
    with capture_logs() as logs:
        await world.look(2)
    assert world.stands(first)
    assert world.is_gone(second)
    assert [each["deployment"] for each in logs if each["event"] == "orphan_stays"] == [first.id]


async def test_what_is_to_be_removed_is_told_first(world: World) -> None:
    orphan = await world.apply()
    with capture_logs() as logs:
        await world.look(2)
    told = [(each["event"], each["deployment"]) for each in logs if each["event"].startswith("orphan")]
    assert told == [("orphan_seen", orphan.id), ("orphan_removed", orphan.id)]


async def test_an_installation_is_its_database_in_its_namespace(database: Database) -> None:
    here = await name_of_installation(database, "kubeserve")
    assert await name_of_installation(database, "kubeserve") == here, "after a restart, too"
    assert await name_of_installation(database, "staging") != here, "of a copy of the database"
