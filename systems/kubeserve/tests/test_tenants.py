"""Two tenants: each tries every method with the other's ids. On SQLite and on PostgreSQL.

A method that takes an `owner_id` and is not in the table below fails the first test.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from kubeserve.accounts import Accounts
from kubeserve.database import Database
from kubeserve.database.tables import metadata
from kubeserve.database.values import new_id
from kubeserve.deployments import Deployments
from kubeserve.domain import Deployment, Desired, Key, Model, Spec, Version
from kubeserve.errors import NotFoundError
from kubeserve.registry import Registry
from people import make_ready, make_user


@dataclass
class Tenant:
    """A user, and one thing of each kind."""

    id: str
    model: Model
    version: Version
    deployment: Deployment
    key: Key


Try = Callable[[Any, Tenant, Tenant], Awaitable[object]]
TRIES: dict[tuple[type, str], list[Try]] = {
    (Registry, "model"): [lambda r, me, other: r.model(me.id, other.model.id)],
    (Registry, "update_model"): [lambda r, me, other: r.update_model(me.id, other.model.id, description="mine")],
    (Registry, "delete_model"): [lambda r, me, other: r.delete_model(me.id, other.model.id)],
    (Registry, "create_version"): [lambda r, me, other: r.create_version(me.id, other.model.id, "v9")],
    (Registry, "versions"): [lambda r, me, other: r.versions(me.id, other.model.id)],
    (Registry, "version"): [lambda r, me, other: r.version(me.id, other.version.id)],
    (Registry, "delete_version"): [lambda r, me, other: r.delete_version(me.id, other.version.id)],
    (Registry, "archive_version"): [lambda r, me, other: r.archive_version(me.id, other.version.id)],
    (Registry, "receive"): [lambda r, me, other: r.receive(me.id, other.version.id, storage=1, most=1)],
    (Registry, "set_alias"): [
        lambda r, me, other: r.set_alias(me.id, other.model.id, "champion", other.version.id),
        lambda r, me, other: r.set_alias(me.id, me.model.id, "champion", other.version.id),
        lambda r, me, other: r.set_alias(me.id, other.model.id, "champion", me.version.id),
    ],
    (Registry, "remove_alias"): [lambda r, me, other: r.remove_alias(me.id, other.model.id, "stable")],
    (Registry, "aliases"): [lambda r, me, other: r.aliases(me.id, other.model.id)],
    (Deployments, "create"): [
        lambda d, me, other: d.create(me.id, other.model.id, "mine", Spec(other.version.id)),
        lambda d, me, other: d.create(me.id, me.model.id, "mine", Spec(other.version.id)),
        lambda d, me, other: d.create(me.id, other.model.id, "mine", Spec(me.version.id)),
    ],
    (Deployments, "get"): [lambda d, me, other: d.get(me.id, other.deployment.id)],
    (Deployments, "revise"): [
        lambda d, me, other: d.revise(me.id, other.deployment.id, Spec(other.version.id)),
        lambda d, me, other: d.revise(me.id, other.deployment.id, Spec(me.version.id)),
        lambda d, me, other: d.revise(me.id, me.deployment.id, Spec(other.version.id)),
    ],
    (Deployments, "rollback"): [lambda d, me, other: d.rollback(me.id, other.deployment.id, 1)],
    (Deployments, "limit"): [lambda d, me, other: d.limit(me.id, other.deployment.id, 60)],
    (Deployments, "want"): [
        lambda d, me, other: d.want(me.id, other.deployment.id, Desired.DELETED),
        lambda d, me, other: d.want(me.id, other.deployment.id, Desired.RUNNING),
    ],
    (Accounts, "create_key"): [lambda a, me, other: a.create_key(me.id, "mine", other.deployment.id)],
    (Accounts, "limit_key"): [lambda a, me, other: a.limit_key(me.id, other.key.id, 60)],
    (Accounts, "revoke_key"): [lambda a, me, other: a.revoke_key(me.id, other.key.id)],
}
# Those answer with what is one's own, whatever ids are named.
OWN: dict[tuple[type, str], Try] = {
    (Registry, "models"): lambda r, me, other: r.models(me.id, after=other.model.id),
    (Registry, "newest"): lambda r, me, other: r.newest(me.id, [other.model.id]),
    (Registry, "events"): lambda r, me, other: r.events(me.id, other.model.id),
    (Deployments, "events"): lambda d, me, other: d.events(me.id, other.deployment.id),
    (Deployments, "list"): lambda d, me, other: d.list(me.id, after=other.deployment.id),
    (Registry, "stored"): lambda r, me, _other: r.stored(me.id),
    (Deployments, "names"): lambda d, me, _other: d.names(me.id),
    (Accounts, "keys"): lambda a, me, _other: a.keys(me.id),
}
ALONE = {(Registry, "create_model")}  # names no other thing


@pytest.fixture
def services(accounts: Accounts, registry: Registry, deployments: Deployments) -> dict[type, Any]:
    return {Accounts: accounts, Registry: registry, Deployments: deployments}


@pytest.fixture
async def tenants(database: Database, services: dict[type, Any]) -> list[Tenant]:
    made = []
    for name in ("anna", "ben"):
        owner = await make_user(database, name)
        model, version = await make_ready(services[Registry], owner)
        await services[Registry].set_alias(owner, model.id, "stable", version.id)
        deployment = await services[Deployments].create(owner, model.id, "live", Spec(version.id))
        key, _ = await services[Accounts].create_key(owner, "laptop", deployment.id)
        made.append(Tenant(owner, model, version, deployment, key))
    return made


async def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    async with database.read() as connection:
        return {
            name: [tuple(row) for row in await connection.execute(table.select().order_by(*table.primary_key))]
            for name, table in metadata.tables.items()
        }


def test_every_method_of_an_owner_is_tried() -> None:
    methods = {
        (service, name)
        for service in (Accounts, Registry, Deployments)
        for name, method in inspect.getmembers(service, inspect.iscoroutinefunction)
        if not name.startswith("_") and "owner_id" in inspect.signature(method).parameters
    }
    assert methods == TRIES.keys() | OWN.keys() | ALONE


async def test_what_is_foreign_is_not_found_and_nothing_changes(
    services: dict[type, Any], tenants: list[Tenant], database: Database
) -> None:
    before = await everything(database)
    for me, other in (tenants, tenants[::-1]):
        for (service, name), tries in TRIES.items():
            for attempt in tries:
                with pytest.raises(NotFoundError) as refused:
                    await attempt(services[service], me, other)
                assert "no such" in str(refused.value), name
        for (service, name), attempt in OWN.items():
            shown = str(await attempt(services[service], me, other))
            assert other.id not in shown, name
            assert not any(each.id in shown for each in (other.model, other.version, other.deployment, other.key)), name
    assert await everything(database) == before


async def test_what_is_foreign_is_refused_in_the_words_for_what_is_not_there(
    services: dict[type, Any], tenants: list[Tenant]
) -> None:
    me, other = tenants
    things = (other.model, other.version, other.deployment, other.key)
    nothing = Tenant("", *(replace(each, id=new_id()) for each in things))  # type: ignore[arg-type]
    for (service, name), tries in TRIES.items():
        for attempt in tries:
            with pytest.raises(NotFoundError) as foreign:
                await attempt(services[service], me, other)
            with pytest.raises(NotFoundError) as absent:
                await attempt(services[service], me, nothing)
            assert str(foreign.value) == str(absent.value), name
