"""Models, versions and aliases. On SQLite and on PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import product

import pytest

from kubeserve import registry as registry_module
from kubeserve.database import Database
from kubeserve.database.values import new_id
from kubeserve.deployments import Deployments
from kubeserve.domain import Desired, File, Format, Outcome, Quota, Spec, Step, VersionState
from kubeserve.errors import ConflictError, KubeServeError, LimitedError, NotFoundError
from kubeserve.registry import SOURCES, Registry
from people import make_ready, make_user, outcomes, walk

Connect = Callable[[], Awaitable[Database]]
State = VersionState


@pytest.fixture
async def owner(database: Database) -> str:
    return await make_user(database)


async def test_a_model_is_made_read_changed_and_deleted(registry: Registry, owner: str) -> None:
    model = await registry.create_model(owner, "churn", "who leaves")
    assert await registry.model(owner, model.id) == model
    changed = await registry.update_model(owner, model.id, name="churn-2", description="who stays")
    assert (changed.name, changed.description, changed.created_at) == ("churn-2", "who stays", model.created_at)
    assert changed.updated_at > model.updated_at
    assert await registry.delete_model(owner, model.id) == []
    with pytest.raises(NotFoundError, match="there is no such model"):
        await registry.model(owner, model.id)
    told = [event.action for event in await registry.events(owner, model.id)]
    assert told == ["created", "changed", "deleted"]


async def test_the_newest_version_of_each_model_is_told_to_its_owner(
    database: Database, registry: Registry, owner: str
) -> None:
    some, none = await registry.create_model(owner, "some"), await registry.create_model(owner, "none")
    for tag in ("v2", "v10", "v1"):
        last = await registry.create_version(owner, some.id, tag)
    assert await registry.newest(owner, [some.id, none.id]) == {some.id: (3, last)}
    assert await registry.newest(await make_user(database, "eve"), [some.id]) == {}
    assert await registry.newest(owner, []) == {}


@pytest.mark.parametrize("name", ["", "A", "a/b", "../x", "-a", "a-", "a" * 64, "ä", "a\0", "a b", "\ud800", "."])
async def test_a_name_that_is_not_safe_in_a_path_is_refused(registry: Registry, owner: str, name: str) -> None:
    with pytest.raises(KubeServeError, match="name: 1 to 63 of a-z, 0-9") as refused:
        await registry.create_model(owner, name)
    assert [fault.field for fault in refused.value.faults] == ["name"]
    model = await registry.create_model(owner, "sound")
    with pytest.raises(KubeServeError, match="tag: 1 to 63"):
        await registry.create_version(owner, model.id, name)


@pytest.mark.parametrize("text", ["a" * 2001, "a\0b", "\ud800", "\x1b[31m"])
async def test_a_description_that_cannot_be_kept_is_refused(registry: Registry, owner: str, text: str) -> None:
    with pytest.raises(KubeServeError, match="description: at most 2000 characters that can be printed"):
        await registry.create_model(owner, "model", text)


@pytest.mark.parametrize("strange", ["", "1", "../../etc/passwd", "a" * 100_000, "\0", "\ud800", "' OR 1=1 --", "%"])
async def test_what_cannot_be_an_id_is_of_nothing(registry: Registry, owner: str, strange: str) -> None:
    for call in (registry.model, registry.version, registry.delete_model, registry.versions, registry.events):
        with pytest.raises(NotFoundError):
            await call(owner, strange)
    with pytest.raises(NotFoundError):
        await registry.models(owner, after=strange)


async def test_one_of_two_that_race_for_a_name_gets_it(connect: Connect, owner: str) -> None:
    both = [Registry(await connect()) for _ in range(2)]
    made = await outcomes(each.create_model(owner, "champion") for each in both * 3)
    assert made == ["ConflictError"] * 5 + ["done"]
    model = (await both[0].models(owner))[0]
    made = await outcomes(each.create_version(owner, model.id, "v1") for each in both * 3)
    assert made == ["ConflictError"] * 5 + ["done"]
    assert len(await both[1].versions(owner, model.id)) == 1


async def test_two_users_may_use_one_name(registry: Registry, database: Database, owner: str) -> None:
    other = await make_user(database, "ben")
    mine, his = await registry.create_model(owner, "same"), await registry.create_model(other, "same")
    assert await registry.models(owner) == [mine]
    assert await registry.models(other) == [his]


async def test_lists_are_read_in_pages(registry: Registry, owner: str) -> None:
    made = [await registry.create_model(owner, f"m{number}") for number in range(5)]
    assert await registry.models(owner, limit=2) == made[:2]
    assert await registry.models(owner, after=made[1].id, limit=2) == made[2:4]
    assert await registry.models(owner, after=made[4].id) == []
    assert await registry.models(owner, limit=-1) == made[:1]
    versions = [await registry.create_version(owner, made[0].id, f"v{number}") for number in range(3)]
    assert await registry.versions(owner, made[0].id, after=versions[0].id, limit=10**9) == versions[1:]


async def test_a_user_may_not_fill_the_registry(
    registry: Registry, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "MOST_MODELS", 2)
    monkeypatch.setattr(registry_module, "MOST_VERSIONS", 2)
    made = await outcomes(registry.create_model(owner, f"m{number}") for number in range(4))
    assert made == ["LimitedError"] * 2 + ["done"] * 2
    model = (await registry.models(owner))[0]
    made = await outcomes(registry.create_version(owner, model.id, f"v{number}") for number in range(4))
    assert made == ["LimitedError"] * 2 + ["done"] * 2
    with pytest.raises(LimitedError, match="a user may have 2 models: delete one first"):
        await registry.create_model(owner, "more")


async def test_a_model_with_versions_keeps_the_name_that_their_files_have(registry: Registry, owner: str) -> None:
    model = await registry.create_model(owner, "model")
    await registry.create_version(owner, model.id, "v1")
    with pytest.raises(ConflictError, match="'model' has versions"):
        await registry.update_model(owner, model.id, name="other")
    same = await registry.update_model(owner, model.id, name="model", description="new")
    assert same.description == "new"


async def test_a_version_goes_its_way_with_all_that_is_told_of_it(registry: Registry, owner: str) -> None:
    model = await registry.create_model(owner, "model")
    draft = await registry.create_version(owner, model.id, "v1")
    assert (draft.state, draft.files, draft.steps, draft.attempt) == (State.DRAFT, (), (), 0)
    await registry.set_state(draft.id, State.RECEIVING, "", expected={State.DRAFT})
    files = [File("a.pkl", 500 * 1024**2, "0" * 64, "k/a.pkl"), File("requirements.txt", 1, "1" * 64, "k/r")]
    assert (await registry.record_files(draft.id, files)).files == tuple(files)
    assert (await registry.record_files(draft.id, files[:1])).files == tuple(files[:1])
    await registry.set_state(draft.id, State.SCANNING, "", expected={State.RECEIVING}, s3_path="k/", attempt=1)
    steps = [Step("received", Outcome.DONE, 0.5, "500 MiB"), Step("hashed", Outcome.RUNNING, None, "")]
    assert await registry.set_steps(draft.id, 1, steps)
    assert [version.id for version in await registry.unfinished()] == [draft.id]
    await registry.set_state(draft.id, State.BUILDING, "", expected={State.SCANNING}, format=Format.PICKLE)
    await registry.set_state(draft.id, State.CHECKING, "", expected={State.BUILDING}, environment="abc")
    told = {"signature": {"kind": "tabular", "features": 4}, "level": {"landlock": 4, "seccomp": True}}
    ready = await registry.set_state(draft.id, State.READY, "all is well", expected={State.CHECKING}, **told)
    assert ready == await registry.version(owner, draft.id) == await registry.find(draft.id)
    assert (ready.s3_path, ready.format, ready.environment, ready.attempt) == ("k/", Format.PICKLE, "abc", 1)
    assert {"signature": ready.signature, "level": ready.level} == told
    assert (ready.steps, ready.state_reason) == (tuple(steps), "all is well")
    assert await registry.unfinished() == []
    with pytest.raises(ConflictError, match="the version is ready: its files do not change any more"):
        await registry.record_files(draft.id, [])
    states = [(event.detail["from"], event.detail["to"]) for event in (await registry.events(owner, draft.id))[1:]]
    assert states[0] == ("draft", "receiving")
    assert states[-1] == ("checking", "ready")


@pytest.mark.parametrize("before", list(State))
async def test_only_legal_steps_are_made(registry: Registry, owner: str, before: State) -> None:
    model = await registry.create_model(owner, "model")
    for after in State:
        version = await walk(registry, await registry.create_version(owner, model.id, f"to-{after}"), before)
        move = registry.set_state(version.id, after, "", expected=set(State), attempt=1)
        if before in SOURCES[after]:
            assert (await move).state is after
        else:
            with pytest.raises(ConflictError, match=f"is {before}: it does not become {after} from there"):
                await move
            assert (await registry.version(owner, version.id)).state is before


async def test_one_of_two_that_move_a_version_does(connect: Connect, registry: Registry, owner: str) -> None:
    model = await registry.create_model(owner, "model")
    version = await registry.create_version(owner, model.id, "v1")
    both = [Registry(await connect()) for _ in range(2)]
    await walk(registry, version, State.CHECKING)
    calls = [
        each.set_state(version.id, state, "", expected={State.CHECKING})
        for each, state in product(both, (State.READY, State.REJECTED, State.FAILED))
    ]
    assert await outcomes(calls) == ["ConflictError"] * 5 + ["done"]


async def test_a_proof_is_begun_again_by_one_and_the_former_says_nothing_more(
    connect: Connect, registry: Registry, owner: str
) -> None:
    model = await registry.create_model(owner, "model")
    version = await walk(registry, await registry.create_version(owner, model.id, "v1"), State.BUILDING)
    with pytest.raises(ConflictError, match="it is begun again with a new attempt only"):
        await registry.set_state(version.id, State.SCANNING, "", expected={State.BUILDING})
    both = [Registry(await connect()) for _ in range(2)]
    begun = [each.set_state(version.id, State.SCANNING, "", expected={State.BUILDING}, attempt=1) for each in both * 2]
    assert await outcomes(begun) == ["ConflictError"] * 3 + ["done"]
    assert not await registry.set_steps(version.id, 0, [])
    with pytest.raises(ConflictError, match="the version is in its attempt 1, not in 0"):
        await registry.set_state(version.id, State.REJECTED, "", expected={State.SCANNING}, during=0)
    assert (await registry.set_state(version.id, State.BUILDING, "", expected={State.SCANNING}, during=1)).attempt == 1


async def test_what_was_said_by_a_model_is_kept_as_one_line(registry: Registry, owner: str) -> None:
    model = await registry.create_model(owner, "model")
    version = await walk(registry, await registry.create_version(owner, model.id, "v1"), State.CHECKING)
    said = "Traceback:\n  \0\x1b[31m\ud800 no!\n" + "x" * 100_000
    refused = await registry.set_state(version.id, State.REJECTED, said, expected={State.CHECKING})
    assert refused.state_reason.startswith("Traceback: [31m no! xxx")
    assert len(refused.state_reason) <= 500


async def test_a_field_that_does_not_go_with_a_state_is_a_mistake(registry: Registry, owner: str) -> None:
    model = await registry.create_model(owner, "model")
    version = await registry.create_version(owner, model.id, "v1")
    with pytest.raises(TypeError, match="owner_id"):
        await registry.set_state(version.id, State.RECEIVING, "", expected={State.DRAFT}, owner_id="x")


async def test_an_alias_names_a_version_that_is_ready_and_events_tell_the_former(
    registry: Registry, owner: str
) -> None:
    model, first = await make_ready(registry, owner)
    second = await registry.create_version(owner, model.id, "v2")
    with pytest.raises(ConflictError, match="'v2' is draft; one that is ready is accepted"):
        await registry.set_alias(owner, model.id, "champion", second.id)
    await walk(registry, second, State.READY)
    await registry.set_alias(owner, model.id, "champion", first.id)
    alias = await registry.set_alias(owner, model.id, "champion", second.id)
    assert await registry.aliases(owner, model.id) == [alias]
    history = [event.detail for event in await registry.events(owner, model.id) if event.action == "alias_set"]
    assert [(each["before"], each["version"]) for each in history] == [(None, first.id), (first.id, second.id)]
    with pytest.raises(ConflictError, match="an alias names the version 'v2'"):
        await registry.delete_version(owner, second.id)
    other, _ = await make_ready(registry, owner, "other")
    with pytest.raises(ConflictError, match="is one of another model"):
        await registry.set_alias(owner, other.id, "champion", second.id)
    await registry.remove_alias(owner, model.id, "champion")
    assert (await registry.delete_version(owner, second.id)).tag == "v2"
    with pytest.raises(NotFoundError, match="no such alias"):
        await registry.remove_alias(owner, model.id, "champion")


async def test_two_that_set_an_alias_at_once_leave_one(connect: Connect, registry: Registry, owner: str) -> None:
    model, version = await make_ready(registry, owner)
    both = [Registry(await connect()) for _ in range(2)]
    done = await outcomes(each.set_alias(owner, model.id, "champion", version.id) for each in both * 3)
    assert done == ["done"] * 6
    assert len(await registry.aliases(owner, model.id)) == 1


async def test_what_is_deployed_is_not_deleted(registry: Registry, deployments: Deployments, owner: str) -> None:
    model, version = await make_ready(registry, owner)
    deployed = await deployments.create(owner, model.id, "live", Spec(version.id))
    for call, thing in ((registry.delete_model, model.id), (registry.delete_version, version.id)):
        with pytest.raises(ConflictError, match="is deployed as 'live': delete what runs from it first"):
            await call(owner, thing)
    await deployments.want(owner, deployed.id, Desired.DELETED)
    with pytest.raises(ConflictError):
        await registry.delete_model(owner, model.id)
    assert await deployments.remove(deployed.id)
    gone = await registry.delete_model(owner, model.id)
    assert [each.id for each in gone] == [version.id]
    with pytest.raises(NotFoundError):
        await registry.find(version.id)


async def test_deploying_and_deleting_at_once_leaves_no_deployment_of_nothing(connect: Connect, owner: str) -> None:
    one, other = await connect(), await connect()
    registry, deployments = Registry(one), Deployments(other, Quota())
    for number in range(5):
        model, version = await make_ready(registry, owner, f"m{number}")
        spec = Spec(version.id, memory=64 * 1024**2)
        done = await asyncio.gather(
            registry.delete_model(owner, model.id),
            deployments.create(owner, model.id, f"d{number}", spec),
            return_exceptions=True,
        )
        refused = [each for each in done if isinstance(each, KubeServeError)]
        assert [type(each) in (ConflictError, NotFoundError) for each in refused] == [True], done


async def test_an_archived_version_is_put_away_once(registry: Registry, owner: str) -> None:
    _, version = await make_ready(registry, owner)
    archived = await registry.archive_version(owner, version.id)
    assert (archived.state, archived.state_reason) == (State.ARCHIVED, "archived by its owner")
    with pytest.raises(ConflictError, match="'v1' is archived: it does not become archived from there"):
        await registry.archive_version(owner, version.id)


async def test_of_a_version_that_is_gone_nothing_is_said(registry: Registry) -> None:
    nothing = new_id()
    assert not await registry.set_steps(nothing, 1, [])
    with pytest.raises(NotFoundError):
        await registry.set_state(nothing, State.FAILED, "", expected={State.CHECKING})
