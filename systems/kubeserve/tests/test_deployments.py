"""Deployments: wishes, observations, the quota. On SQLite and on PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from kubeserve.database import Database
from kubeserve.database.values import new_id
from kubeserve.deployments import Deployments, service
from kubeserve.deployments.spec import check_spec
from kubeserve.domain import DeploymentState, Desired, Model, Quota, Spec, Version, VersionState
from kubeserve.errors import ConflictError, KubeServeError, LimitedError, NotFoundError
from kubeserve.registry import Registry
from people import make_ready, make_user, outcomes, walk

Connect = Callable[[], Awaitable[Database]]
State = DeploymentState
MIB = 1024**2
SMALL = 64 * MIB


@pytest.fixture
async def owner(database: Database) -> str:
    return await make_user(database)


@pytest.fixture
async def ready(registry: Registry, owner: str) -> tuple[Model, Version]:
    return await make_ready(registry, owner)


@pytest.fixture
def model(ready: tuple[Model, Version]) -> Model:
    return ready[0]


@pytest.fixture
def version(ready: tuple[Model, Version]) -> Version:
    return ready[1]


async def test_a_deployment_is_made_carried_out_and_removed(
    deployments: Deployments, owner: str, model: Model, version: Version
) -> None:
    spec = Spec(version.id, minimum=1, sample=[[1.5, "a", None]])
    made = await deployments.create(owner, model.id, "live", spec)
    assert (made.state, made.desired, made.generation, made.observed) == (State.PENDING, Desired.RUNNING, 1, 0)
    assert (made.target, made.active, made.replicas, made.revisions[0].spec) == (1, None, 0, spec)
    assert await deployments.pending() == [made]
    assert await deployments.observe(made.id, 1, State.STARTING, "it loads", active=None, replicas=0)
    assert len(await deployments.pending()) == 1, "what starts is not settled"
    assert await deployments.observe(made.id, 1, State.READY, "it answers", active=1, replicas=1)
    assert await deployments.pending() == []
    live = await deployments.by_id(made.id)
    assert live == await deployments.get(owner, made.id) == (await deployments.list(owner))[0]
    assert (live.state, live.state_reason, live.active, live.replicas) == (State.READY, "it answers", 1, 1)
    await deployments.want(owner, made.id, Desired.DELETED)
    assert [each.desired for each in await deployments.pending()] == [Desired.DELETED]
    assert await deployments.observe(made.id, 2, State.STOPPING, "", active=None, replicas=0)
    assert await deployments.remove(made.id)
    assert not await deployments.remove(made.id)
    assert await deployments.all() == []
    told = [event.action for event in await deployments.events(owner, made.id)]
    assert told == ["created", "state", "state", "wanted", "state", "removed"]


async def test_what_an_event_tells_holds_no_sample(
    deployments: Deployments, owner: str, model: Model, version: Version
) -> None:
    made = await deployments.create(owner, model.id, "live", Spec(version.id, sample=[["a person's name"]]))
    await deployments.revise(owner, made.id, Spec(version.id, sample=[["a person's name"]]))
    assert "a person's name" not in str(await deployments.events(owner, made.id))


async def test_events_are_read_on_from_the_last_one(
    deployments: Deployments, owner: str, model: Model, version: Version
) -> None:
    made = await deployments.create(owner, model.id, "live", Spec(version.id))
    for desired in (Desired.STOPPED, Desired.RUNNING) * 3:
        await deployments.want(owner, made.id, desired)
    every = await deployments.events(owner, made.id)
    assert len(every) == 7
    assert await deployments.events(owner, made.id, after=every[2].id, limit=2) == every[3:5]
    assert await deployments.events(owner, made.id, after=10**30) == []


async def test_the_same_observation_again_is_no_event(
    deployments: Deployments, owner: str, model: Model, version: Version
) -> None:
    made = await deployments.create(owner, model.id, "live", Spec(version.id))
    for replicas in (1, 2, 3):
        assert await deployments.observe(made.id, 1, State.READY, "it answers", active=1, replicas=replicas)
    assert [event.action for event in await deployments.events(owner, made.id)] == ["created", "state"]
    assert (await deployments.by_id(made.id)).replicas == 3


async def test_an_observation_of_a_former_wish_is_not_written(
    deployments: Deployments, owner: str, model: Model, version: Version
) -> None:
    made = await deployments.create(owner, model.id, "live", Spec(version.id))
    await deployments.want(owner, made.id, Desired.STOPPED)
    assert not await deployments.observe(made.id, 1, State.READY, "", active=1, replicas=1)
    assert (await deployments.by_id(made.id)).state is State.PENDING
    assert not await deployments.observe(new_id(), 1, State.READY, "", active=1, replicas=1)


async def test_revisions_are_added_and_a_former_one_is_wanted_again(
    deployments: Deployments, registry: Registry, owner: str, model: Model, version: Version
) -> None:
    made = await deployments.create(owner, model.id, "live", Spec(version.id))
    await deployments.observe(made.id, 1, State.READY, "", active=1, replicas=0)
    second = await walk(registry, await registry.create_version(owner, model.id, "v2"), VersionState.READY)
    revised = await deployments.revise(owner, made.id, Spec(second.id))
    assert (revised.target, revised.active, revised.generation) == (2, 1, 2)
    assert [each.spec.version_id for each in revised.revisions] == [version.id, second.id]
    await registry.archive_version(owner, version.id)
    back = await deployments.rollback(owner, made.id, 1)
    assert (back.target, back.generation, len(back.revisions)) == (1, 3, 2)
    with pytest.raises(ConflictError, match="'v1' is archived; one that is ready is accepted"):
        await deployments.revise(owner, made.id, Spec(version.id))
    for number in (0, 3, -1, 10**30):
        with pytest.raises(NotFoundError, match="there is no such revision; 1 to 2 are there"):
            await deployments.rollback(owner, made.id, number)


async def test_old_revisions_go_but_not_those_that_run(
    deployments: Deployments, owner: str, model: Model, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_REVISIONS", 3)
    made = await deployments.create(owner, model.id, "live", Spec(version.id))
    await deployments.observe(made.id, 1, State.READY, "", active=1, replicas=0)
    for idle in range(1, 5):
        made = await deployments.revise(owner, made.id, Spec(version.id, idle=idle))
    assert [each.number for each in made.revisions] == [1, 4, 5]
    assert made.target == 5


async def test_only_a_version_of_the_model_that_is_ready_is_deployed(
    deployments: Deployments, registry: Registry, owner: str, model: Model, version: Version
) -> None:
    other, foreign = await make_ready(registry, owner, "other")
    draft = await registry.create_version(owner, model.id, "v2")
    with pytest.raises(ConflictError, match="the version 'v2' is draft; one that is ready is accepted"):
        await deployments.create(owner, model.id, "live", Spec(draft.id))
    for model_id, version_id in ((model.id, new_id()), (new_id(), version.id), ("x", "y")):
        with pytest.raises(NotFoundError):
            await deployments.create(owner, model_id, "live", Spec(version_id))
    for model_id, version_id in ((model.id, foreign.id), (other.id, version.id)):
        with pytest.raises(ConflictError, match="is one of another model"):
            await deployments.create(owner, model_id, "live", Spec(version_id))
    made = await deployments.create(owner, model.id, "live", Spec(version.id))
    with pytest.raises(ConflictError, match="is one of another model"):
        await deployments.revise(owner, made.id, Spec(foreign.id))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("maximum", 0),
        ("maximum", 6),
        ("minimum", -1),
        ("minimum", 6),
        ("concurrency", 0),
        ("idle", float("nan")),
        ("idle", float("inf")),
        ("timeout", 0.0),
        ("timeout", 1e9),
        ("memory", MIB),
        ("memory", 2**80),
        ("sample", [[float("nan")]]),
        ("sample", ["x" * 70_000]),
    ],
)
def test_a_spec_that_is_not_accepted_names_the_field(field: str, value: object) -> None:
    check_spec(Spec(new_id()), Quota())
    with pytest.raises(KubeServeError, match=rf"{field}: .* accepted") as refused:
        check_spec(replace(Spec(new_id()), **{field: value}), Quota())  # type: ignore[arg-type]
    assert [fault.field for fault in refused.value.faults] == [field]


def test_what_is_accepted_is_told_in_numbers() -> None:
    with pytest.raises(KubeServeError) as refused:
        check_spec(Spec(new_id(), minimum=9, maximum=3, memory=MIB), Quota())
    said = {fault.field: fault.message for fault in refused.value.faults}
    assert said == {"minimum": "0 to 3, the maximum, are accepted", "memory": "64 to 4096 MiB are accepted"}


async def test_a_spec_that_is_not_accepted_is_not_deployed(
    deployments: Deployments, owner: str, model: Model, version: Version
) -> None:
    made = await deployments.create(owner, model.id, "live", Spec(version.id))
    with pytest.raises(KubeServeError, match="maximum: 1 to 5 replicas are accepted"):
        await deployments.revise(owner, made.id, Spec(version.id, maximum=6))
    with pytest.raises(KubeServeError, match="maximum: 1 to 5 replicas are accepted"):
        await deployments.create(owner, model.id, "other", Spec(version.id, maximum=6))


async def test_the_same_wish_again_changes_nothing_but_what_failed_is_tried_again(
    deployments: Deployments, owner: str, model: Model, version: Version
) -> None:
    made = await deployments.create(owner, model.id, "live", Spec(version.id))
    assert (await deployments.want(owner, made.id, Desired.RUNNING)).generation == 1
    await deployments.observe(made.id, 1, State.FAILED, "it does not load", active=None, replicas=0)
    assert await deployments.pending() == []
    assert (await deployments.want(owner, made.id, Desired.RUNNING)).generation == 2
    assert len(await deployments.pending()) == 1


async def test_to_be_deleted_is_for_good(deployments: Deployments, owner: str, model: Model, version: Version) -> None:
    made = await deployments.create(owner, model.id, "live", Spec(version.id))
    assert not await deployments.remove(made.id), "nobody wants it to be deleted"
    await deployments.want(owner, made.id, Desired.DELETED)
    assert (await deployments.want(owner, made.id, Desired.DELETED)).generation == 2
    for call in (
        deployments.want(owner, made.id, Desired.RUNNING),
        deployments.revise(owner, made.id, Spec(version.id)),
        deployments.rollback(owner, made.id, 1),
    ):
        with pytest.raises(ConflictError, match="'live' is being deleted: make a new deployment"):
            await call
    with pytest.raises(ConflictError, match="'live' is to be deleted: it does not become ready"):
        await deployments.observe(made.id, 2, State.READY, "", active=1, replicas=1)


async def test_one_of_two_that_race_for_a_name_gets_it(
    connect: Connect, owner: str, model: Model, version: Version
) -> None:
    both = [Deployments(await connect(), Quota()) for _ in range(2)]
    spec = Spec(version.id, memory=SMALL)
    done = await outcomes(each.create(owner, model.id, "live", spec) for each in both * 2)
    assert done == ["ConflictError"] * 3 + ["done"]


async def test_those_that_race_for_the_last_of_a_quota_do_not_pass_it(
    connect: Connect, owner: str, model: Model, version: Version
) -> None:
    both = [Deployments(await connect(), Quota()) for _ in range(2)]
    spec = Spec(version.id, memory=SMALL)
    done = await outcomes(each.create(owner, model.id, f"d{n}", spec) for n, each in enumerate(both * 4))
    assert done == ["LimitedError"] * 3 + ["done"] * 5
    for deployment in await both[0].list(owner):
        await both[0].want(owner, deployment.id, Desired.STOPPED)
        await both[0].revise(owner, deployment.id, replace(spec, minimum=2))
    stopped = await both[0].list(owner)
    done = await outcomes(both[n % 2].want(owner, each.id, Desired.RUNNING) for n, each in enumerate(stopped))
    assert done == ["LimitedError"] * 3 + ["done"] * 2


async def test_what_is_over_the_quota_is_told_with_the_numbers(
    deployments: Deployments, owner: str, model: Model, version: Version
) -> None:
    made = await deployments.create(owner, model.id, "one", Spec(version.id, minimum=3, memory=1024 * MIB))
    beside = "beside the 3 of your other deployments are over your quota of 5"
    with pytest.raises(LimitedError, match=f"replicas: 3 more {beside}") as refused:
        await deployments.create(owner, model.id, "two", Spec(version.id, minimum=3, memory=SMALL))
    assert (refused.value.code, refused.value.retry_after) == ("quota", None)
    beside = "beside the 3072 MiB of your other deployments are over your quota of 4096 MiB"
    with pytest.raises(LimitedError, match=f"memory: 2000 MiB more {beside}"):
        await deployments.create(owner, model.id, "two", Spec(version.id, memory=2000 * MIB))
    with pytest.raises(LimitedError, match="memory: 5120 MiB more beside the 0 MiB"):
        await deployments.revise(owner, made.id, Spec(version.id, minimum=5, memory=1024 * MIB))
    assert (await deployments.get(owner, made.id)).target == 1, "a revision that has no room is not kept"


async def test_the_quota_is_each_users_own(deployments: Deployments, database: Database, registry: Registry) -> None:
    for name in ("anna", "ben"):
        owner = await make_user(database, name)
        model, version = await make_ready(registry, owner)
        await deployments.create(owner, model.id, "live", Spec(version.id, minimum=4))


async def test_wishes_at_once_are_a_generation_each(
    connect: Connect, deployments: Deployments, owner: str, model: Model, version: Version
) -> None:
    made = await deployments.create(owner, model.id, "live", Spec(version.id))
    both = [Deployments(await connect(), Quota()) for _ in range(2)]
    done = await outcomes(each.revise(owner, made.id, Spec(version.id, idle=n + 1)) for n, each in enumerate(both * 4))
    assert done == ["done"] * 8
    after = await deployments.get(owner, made.id)
    assert (after.generation, after.target) == (9, 9)
    assert [each.number for each in after.revisions] == list(range(1, 10))


async def test_a_wish_and_an_observation_at_once_lose_neither(
    connect: Connect, deployments: Deployments, owner: str, model: Model, version: Version
) -> None:
    other = Deployments(await connect(), Quota())
    for number in range(5):
        made = await deployments.create(owner, model.id, f"d{number}", Spec(version.id))
        seen, wanted = await asyncio.gather(
            other.observe(made.id, 1, State.READY, "", active=1, replicas=1),
            deployments.want(owner, made.id, Desired.DELETED),
        )
        after = await deployments.by_id(made.id)
        assert (wanted.generation, after.generation, after.desired) == (2, 2, Desired.DELETED)
        assert (after.observed, after.state) == ((1, State.READY) if seen else (0, State.PENDING))


async def test_a_list_is_read_in_pages(deployments: Deployments, owner: str, model: Model, version: Version) -> None:
    made = [await deployments.create(owner, model.id, f"d{n}", Spec(version.id, memory=SMALL)) for n in range(3)]
    assert await deployments.list(owner, limit=2) == made[:2]
    assert await deployments.list(owner, after=made[1].id) == made[2:]
