"""The deployments of a database."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from kubeserve.database import Database
from kubeserve.database.events import LARGEST_PAGE, PLATFORM, read_events, write_event
from kubeserve.database.locks import lock
from kubeserve.database.rows import read_deployments
from kubeserve.database.tables import deployments, models, revisions, versions
from kubeserve.database.text import line, named, per_minute
from kubeserve.database.values import known, new_id, now
from kubeserve.deployments.spec import check_spec
from kubeserve.domain import Deployment, DeploymentState, Desired, Event, Quota, Spec, VersionState
from kubeserve.errors import ConflictError, LimitedError, NotFoundError

Found = list[Deployment]
MOST_DEPLOYMENTS: Final = 100  # of a user, stopped ones included
MOST_REVISIONS: Final = 50  # of a deployment; the oldest go, but the ones that run
FINAL: Final = frozenset(
    {DeploymentState.READY, DeploymentState.ASLEEP, DeploymentState.FAILED, DeploymentState.STOPPED}
)
ENDING: Final = frozenset({DeploymentState.STOPPING, DeploymentState.DELETED, DeploymentState.FAILED})
DEPLOYABLE: Final = frozenset({VersionState.READY})
ROLLBACK: Final = frozenset({VersionState.READY, VersionState.ARCHIVED})  # a revision is immutable, so is its version
ITS_OWN: Final = "a deployment runs versions of its own model; make a new deployment for another one"
MIB: Final = 1024**2


class Deployments:
    """Deployments and their revisions. Of two wishes at once each is a generation of its own, and the later holds.

    What is foreign, or is not there, is a NotFoundError; a database that is away an UnavailableError.
    """

    def __init__(self, database: Database, quota: Quota) -> None:
        self._database = database
        self._quota = quota

    async def create(
        self, owner_id: str, model_id: str, name: str, spec: Spec, requests_per_minute: int | None = None
    ) -> Deployment:
        """Deploy a version that is ready. Raises ConflictError if the name is taken, LimitedError over the quota."""
        check_spec(spec, self._quota)
        at = now()
        row: dict[str, Any] = {"id": new_id(), "owner_id": owner_id, "model_id": model_id, "name": named("name", name)}
        row |= {"desired": Desired.RUNNING, "state": DeploymentState.PENDING, "state_reason": "just created"}
        row |= {"requests_per_minute": per_minute(requests_per_minute)}
        row |= {"target": 1, "generation": 1, "observed": 0, "replicas": 0, "created_at": at, "updated_at": at}
        try:
            async with self._database.begin() as connection:
                await lock(connection, f"deployments of {owner_id}")
                await _deployable(connection, owner_id, model_id, spec.version_id, DEPLOYABLE)
                await self._room(connection, owner_id, None, spec)
                await connection.execute(insert(deployments).values(row))
                await _add_revision(connection, row["id"], 1, spec)
                made = await _deployment(connection, row["id"])
                await write_event(connection, "deployment.created", made, {"name": name, **_told(spec)})
                return made
        except IntegrityError:
            raise ConflictError(f"you have a deployment called {name!r} already: choose another name") from None

    async def get(self, owner_id: str, deployment_id: str) -> Deployment:
        """Find a deployment of the owner."""
        async with self._database.read() as connection:
            return await _deployment(connection, deployment_id, owner_id)

    async def by_id(self, deployment_id: str) -> Deployment:
        """Find a deployment of whomever, for the platform's own parts."""
        async with self._database.read() as connection:
            return await _deployment(connection, deployment_id)

    async def revise(self, owner_id: str, deployment_id: str, spec: Spec) -> Deployment:
        """Add a revision, and want it. The former one answers until the new one is ready."""
        check_spec(spec, self._quota)
        async with self._database.begin() as connection:
            await lock(connection, f"deployments of {owner_id}")
            old = await _wanted(connection, owner_id, deployment_id)
            await _deployable(connection, owner_id, old.model_id, spec.version_id, DEPLOYABLE)
            if old.desired is Desired.RUNNING:
                await self._room(connection, owner_id, deployment_id, spec)
            number = old.revisions[-1].number + 1
            await _add_revision(connection, deployment_id, number, spec)
            await _prune(connection, old)
            await _wish(connection, old, {"target": number})
            await write_event(connection, "deployment.revised", old, {"revision": number, **_told(spec)})
            return await _deployment(connection, deployment_id)

    async def rollback(self, owner_id: str, deployment_id: str, number: int) -> Deployment:
        """Want a former revision again."""
        async with self._database.begin() as connection:
            await lock(connection, f"deployments of {owner_id}")
            old = await _wanted(connection, owner_id, deployment_id)
            specs = {revision.number: revision.spec for revision in old.revisions}
            if number not in specs:
                first, last = min(specs), max(specs)
                raise NotFoundError(f"there is no such revision; {first} to {last} are there")
            await _deployable(connection, owner_id, old.model_id, specs[number].version_id, ROLLBACK)
            if old.desired is Desired.RUNNING:
                await self._room(connection, owner_id, deployment_id, specs[number])
            await _wish(connection, old, {"target": number})
            await write_event(connection, "deployment.rolled_back", old, {"from": old.target, "to": number})
            return await _deployment(connection, deployment_id)

    async def limit(self, owner_id: str, deployment_id: str, requests_per_minute: int | None) -> Deployment:
        """Let all who call it send so many requests a minute together, None: as many as they like. It is no wish."""
        new = {"requests_per_minute": per_minute(requests_per_minute)}
        async with self._database.begin() as connection:
            old = await _wanted(connection, owner_id, deployment_id)
            if new["requests_per_minute"] == old.requests_per_minute:
                return old
            here = deployments.c.id == old.id
            await connection.execute(update(deployments).where(here).values(**new, updated_at=now()))
            await write_event(connection, "deployment.limited", old, new)
            return await _deployment(connection, deployment_id)

    async def want(self, owner_id: str, deployment_id: str, desired: Desired) -> Deployment:
        """Want it to run, to stop, or to be deleted; the latter for good. The same wish again changes nothing.

        To want what has failed to run is to try it again. Raises LimitedError if the quota has no room for it now.
        """
        async with self._database.begin() as connection:
            await lock(connection, f"deployments of {owner_id}")
            old = await _deployment(connection, deployment_id, owner_id, lock=True)
            if desired is old.desired and (desired is Desired.DELETED or old.state is not DeploymentState.FAILED):
                return old
            _not_deleted(old)
            if desired is Desired.RUNNING:
                await self._room(connection, owner_id, deployment_id, _target(old))
            await _wish(connection, old, {"desired": desired})
            await write_event(connection, "deployment.wanted", old, {"from": old.desired, "to": desired})
            return await _deployment(connection, deployment_id)

    async def pending(self) -> Found:
        """List those, of whomever, that are not yet as they are wanted: the reconciler's work."""
        unsettled = deployments.c.state.not_in(FINAL)
        return await self._all(or_(deployments.c.generation != deployments.c.observed, unsettled))

    async def all(self) -> Found:
        """List those of everyone: what a place should hold."""
        return await self._all(deployments.c.id.is_not(None))

    async def observe(  # noqa: PLR0913  what is observed at once is written at once
        self,
        deployment_id: str,
        generation: int,
        state: DeploymentState,
        reason: str,
        *,
        active: int | None,
        replicas: int,
    ) -> bool:
        """Write what the reconciler saw and did. False if there is a newer wish, or the deployment is gone."""
        async with self._database.begin() as connection:
            query = select(deployments).where(deployments.c.id == known("deployment", deployment_id))
            found = await read_deployments(connection, query.with_for_update())
            if not found or found[0].generation != generation:
                return False
            old = found[0]
            if old.desired is Desired.DELETED and state not in ENDING:
                raise ConflictError(f"{old.name!r} is to be deleted: it does not become {state}")
            new: dict[str, Any] = {"state": state, "state_reason": line(reason), "active": active, "replicas": replicas}
            new |= {"observed": generation, "updated_at": now()}
            await connection.execute(update(deployments).where(deployments.c.id == old.id).values(new))
            if (state, active, new["state_reason"]) != (old.state, old.active, old.state_reason):
                detail = {"from": old.state, "to": state, "reason": new["state_reason"], "active": active}
                await write_event(connection, "deployment.state", old, detail, PLATFORM)
            return True

    async def remove(self, deployment_id: str) -> bool:
        """Forget a deployment that is to be deleted, when all else of it is gone. False if nothing was to be done."""
        async with self._database.begin() as connection:
            here = (deployments.c.id == deployment_id) & (deployments.c.desired == Desired.DELETED)
            found = await read_deployments(connection, select(deployments).where(here).with_for_update())
            for gone in found:
                await connection.execute(delete(deployments).where(here))
                await write_event(connection, "deployment.removed", gone, {"name": gone.name}, PLATFORM)
            return bool(found)

    async def events(self, owner_id: str, subject_id: str, after: int = 0, limit: int = 100) -> list[Event]:
        """List what happened to a deployment, also to one that is gone, after the event with the id `after`."""
        async with self._database.read() as connection:
            return await read_events(connection, owner_id, known("deployment", subject_id), after, limit)

    async def list(self, owner_id: str, after: str | None = None, limit: int = 100) -> Found:
        """List the owner's, oldest first, after the one with the id `after`: at most `limit`, which is 1 to 1000."""
        query = select(deployments).where(deployments.c.owner_id == owner_id).order_by(deployments.c.id)
        if after is not None:
            query = query.where(deployments.c.id > known("place to read on from", after))
        async with self._database.read() as connection:
            return await read_deployments(connection, query.limit(max(1, min(limit, LARGEST_PAGE))))

    async def names(self, owner_id: str) -> dict[str, str]:
        """Give the names of the owner's, by their ids."""
        query = select(deployments.c.id, deployments.c.name).where(deployments.c.owner_id == owner_id)
        async with self._database.read() as connection:
            return {row.id: row.name for row in await connection.execute(query)}

    async def _all(self, those: ColumnElement[bool]) -> Found:
        async with self._database.read() as connection:
            return await read_deployments(connection, select(deployments).where(those).order_by(deployments.c.id))

    async def _room(self, connection: AsyncConnection, owner_id: str, but: str | None, spec: Spec) -> None:
        """Raise LimitedError unless the owner's quota has room for `spec` beside all deployments `but` that one."""
        others = await read_deployments(connection, select(deployments).where(deployments.c.owner_id == owner_id))
        if but is None and len(others) >= MOST_DEPLOYMENTS:
            raise LimitedError(f"a user may have {MOST_DEPLOYMENTS} deployments: delete one first", code="quota")
        running = [_target(each) for each in others if each.desired is Desired.RUNNING and each.id != but]
        replicas, memory = _sure(spec), _sure(spec) * spec.memory
        used_replicas, used_memory = sum(map(_sure, running)), sum(_sure(each) * each.memory for each in running)
        if used_replicas + replicas > self._quota.replicas:
            used = f"{replicas} more beside the {used_replicas} of your other deployments"
            raise LimitedError(f"replicas: {used} are over your quota of {self._quota.replicas}", code="quota")
        if used_memory + memory > self._quota.memory:
            used = f"{memory // MIB} MiB more beside the {used_memory // MIB} MiB of your other deployments"
            raise LimitedError(f"memory: {used} are over your quota of {self._quota.memory // MIB} MiB", code="quota")


def _sure(spec: Spec) -> int:
    return max(1, spec.minimum)


def _target(deployment: Deployment) -> Spec:
    return next(revision.spec for revision in deployment.revisions if revision.number == deployment.target)


def _told(spec: Spec) -> Mapping[str, Any]:
    return {"spec": asdict(replace(spec, sample=None))}  # what a caller sends is not for the events


def _not_deleted(deployment: Deployment) -> None:
    if deployment.desired is Desired.DELETED:
        raise ConflictError(f"{deployment.name!r} is being deleted: make a new deployment")


async def _wanted(connection: AsyncConnection, owner_id: str, deployment_id: str) -> Deployment:
    found = await _deployment(connection, deployment_id, owner_id, lock=True)
    _not_deleted(found)
    return found


async def _wish(connection: AsyncConnection, old: Deployment, new: dict[str, Any]) -> None:
    new |= {"generation": old.generation + 1, "updated_at": now()}
    await connection.execute(update(deployments).where(deployments.c.id == old.id).values(new))


async def _add_revision(connection: AsyncConnection, deployment_id: str, number: int, spec: Spec) -> None:
    row = {"deployment_id": deployment_id, "number": number, "version_id": spec.version_id, "spec": asdict(spec)}
    await connection.execute(insert(revisions).values(**row, created_at=now()))


async def _prune(connection: AsyncConnection, old: Deployment) -> None:
    spare = [each.number for each in old.revisions if each.number not in (old.active, old.target)]
    extra = spare[: max(0, len(old.revisions) + 1 - MOST_REVISIONS)]
    these = (revisions.c.deployment_id == old.id) & revisions.c.number.in_(extra)
    await connection.execute(delete(revisions).where(these))


async def _deployable(
    connection: AsyncConnection, owner_id: str, model_id: str, version_id: str, states: frozenset[VersionState]
) -> None:
    """Hold the model and the version as they are until the end; an error says so if one is foreign, or not ready."""
    mine = (models.c.id == known("model", model_id)) & (models.c.owner_id == owner_id)
    if await connection.scalar(select(models.c.id).where(mine).with_for_update(read=True)) is None:
        raise NotFoundError("there is no such model")
    its = (versions.c.id == known("version", version_id)) & (versions.c.owner_id == owner_id)
    query = select(versions.c.tag, versions.c.state, versions.c.model_id).where(its)
    found = (await connection.execute(query.with_for_update(read=True))).first()
    if found is None:
        raise NotFoundError("there is no such version")
    if found.model_id != model_id:
        raise ConflictError(f"the version {found.tag!r} is one of another model: {ITS_OWN}")
    if found.state not in states:
        raise ConflictError(f"the version {found.tag!r} is {found.state}; one that is ready is accepted")


async def _deployment(
    connection: AsyncConnection, deployment_id: str, owner_id: str | None = None, *, lock: bool = False
) -> Deployment:
    query = select(deployments).where(deployments.c.id == known("deployment", deployment_id))
    if owner_id is not None:
        query = query.where(deployments.c.owner_id == owner_id)
    found = await read_deployments(connection, query.with_for_update() if lock else query)
    if not found:
        raise NotFoundError("there is no such deployment")
    return found[0]
