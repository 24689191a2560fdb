"""Models and their versions: what was uploaded, in which state, under which aliases. An owner sees only his own."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from kubeserve.database import Database
from kubeserve.database.events import LARGEST_PAGE, PLATFORM, read_events, write_event
from kubeserve.database.locks import lock
from kubeserve.database.rows import read_versions, steps_as_json
from kubeserve.database.tables import aliases, deployments, files, models, revisions, versions
from kubeserve.database.text import line, named, written
from kubeserve.database.values import known, new_id, now
from kubeserve.domain import Alias, Event, File, Model, Step, Version, VersionState
from kubeserve.errors import ConflictError, LimitedError, NotFoundError

State = VersionState
MOST_MODELS: Final = 1000  # of a user
MOST_VERSIONS: Final = 1000  # of a model
WORKING: Final = frozenset({State.SCANNING, State.BUILDING, State.CHECKING})  # on its way through the proof
OPEN: Final = frozenset({State.DRAFT, State.RECEIVING})  # its files may still change
# From where a version may come into a state. After a crash a proof is begun again: to `scanning` from its own states.
SOURCES: Final[Mapping[VersionState, frozenset[VersionState]]] = {
    State.DRAFT: frozenset(),
    State.RECEIVING: frozenset({State.DRAFT, State.REJECTED, State.FAILED}),  # from the latter two, with other files
    State.SCANNING: frozenset({State.RECEIVING, State.FAILED}) | WORKING,
    State.BUILDING: frozenset({State.SCANNING}),
    State.CHECKING: frozenset({State.BUILDING}),
    State.READY: frozenset({State.CHECKING}),
    State.ARCHIVED: frozenset({State.READY}),
    State.REJECTED: frozenset({State.RECEIVING}) | WORKING,
    State.FAILED: frozenset({State.RECEIVING}) | WORKING,
}
FIELDS: Final = frozenset({"s3_path", "format", "signature", "environment", "level", "steps", "attempt"})


class Registry:
    """Models and versions. Of two calls that change the same thing at once, each sees the other's change or none of it.

    What is foreign, or is not there, is a NotFoundError; a database that is away an UnavailableError.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_model(self, owner_id: str, name: str, description: str = "") -> Model:
        """Make a model. Raises ConflictError if the owner has one of this name."""
        at = now()
        model = Model(new_id(), owner_id, named("name", name), written("description", description), at, at)
        try:
            async with self._database.begin() as connection:
                await lock(connection, f"models of {owner_id}")
                await _room(connection, models.c.owner_id == owner_id, MOST_MODELS, "models", "a user")
                await connection.execute(insert(models).values(_row(model)))
                await write_event(connection, "model.created", model, {"name": name})
        except IntegrityError:
            raise ConflictError(f"you have a model called {name!r} already: choose another name") from None
        return model

    async def models(self, owner_id: str, after: str | None = None, limit: int = 100) -> list[Model]:
        """List models, oldest first, after the one with the id `after`: at most `limit`, which is 1 to 1000."""
        query = select(models).where(models.c.owner_id == owner_id)
        async with self._database.read() as connection:
            rows = await connection.execute(_page(query, models.c.id, after, limit))
            return [Model(**row) for row in rows.mappings()]

    async def newest(self, owner_id: str, model_ids: Sequence[str]) -> dict[str, tuple[int, Version]]:
        """Give for each of these models that has versions how many it has, and the newest of them."""
        mine = (versions.c.owner_id == owner_id) & versions.c.model_id.in_(model_ids)
        last = func.max(versions.c.id).label("last")  # ids rise with time
        query = select(versions.c.model_id, func.count().label("count"), last).where(mine).group_by(versions.c.model_id)
        async with self._database.read() as connection:
            counts = (
                {row["last"]: row["count"] for row in (await connection.execute(query)).mappings()} if model_ids else {}
            )
            found = await read_versions(connection, select(versions).where(versions.c.id.in_(counts)))
        return {version.model_id: (counts[version.id], version) for version in found}

    async def model(self, owner_id: str, model_id: str) -> Model:
        """Find a model."""
        async with self._database.read() as connection:
            return await _model(connection, owner_id, model_id)

    async def update_model(
        self, owner_id: str, model_id: str, *, name: str | None = None, description: str | None = None
    ) -> Model:
        """Change what is given. Raises ConflictError if the name is taken, or if the model has versions."""
        new: dict[str, Any] = {} if name is None else {"name": named("name", name)}
        new |= {} if description is None else {"description": written("description", description)}
        try:
            async with self._database.begin() as connection:
                old = await _model(connection, owner_id, model_id, lock=True)
                if new.get("name", old.name) != old.name and await _exists(connection, versions.c.model_id == model_id):
                    raise ConflictError(f"{old.name!r} has versions, whose files are kept under this name: it stays")
                await connection.execute(update(models).where(models.c.id == model_id).values(**new, updated_at=now()))
                await write_event(connection, "model.changed", old, new)
                return await _model(connection, owner_id, model_id)
        except IntegrityError:
            raise ConflictError(f"you have a model called {name!r} already: choose another name") from None

    async def delete_model(self, owner_id: str, model_id: str) -> list[Version]:
        """Delete a model, and give the versions that went with it. Raises ConflictError while it is deployed."""
        try:
            async with self._database.begin() as connection:
                model = await _model(connection, owner_id, model_id, lock=True)
                gone = await read_versions(connection, select(versions).where(versions.c.model_id == model_id))
                await _undeployed(connection, deployments.c.model_id == model_id, f"the model {model.name!r}")
                await connection.execute(delete(models).where(models.c.id == model_id))
                await write_event(connection, "model.deleted", model, {"name": model.name})
                return gone
        except IntegrityError:
            raise ConflictError("the model has just been deployed: delete its deployments first") from None

    async def create_version(self, owner_id: str, model_id: str, tag: str) -> Version:
        """Make a version, a draft without files. Raises ConflictError if the model has one of this tag."""
        version_id, at = new_id(), now()
        row: dict[str, Any] = {"id": version_id, "model_id": model_id, "owner_id": owner_id, "tag": named("tag", tag)}
        row |= {"steps": [], "created_at": at, "updated_at": at}
        row |= {"state": State.DRAFT, "state_reason": "no files yet", "s3_path": "", "attempt": 0}
        try:
            async with self._database.begin() as connection:
                model = await _model(connection, owner_id, model_id, lock=True)
                await _room(connection, versions.c.model_id == model_id, MOST_VERSIONS, "versions", "a model")
                await connection.execute(insert(versions).values(row))
                version = await _version(connection, version_id, owner_id)
                await write_event(connection, "version.created", version, {"tag": tag, "model": model.name})
                return version
        except IntegrityError:
            raise ConflictError(f"the model has a version {tag!r} already: choose another tag") from None

    async def versions(self, owner_id: str, model_id: str, after: str | None = None, limit: int = 100) -> list[Version]:
        """List the versions of a model, oldest first, after the one with the id `after`."""
        query = _page(select(versions).where(versions.c.model_id == model_id), versions.c.id, after, limit)
        async with self._database.read() as connection:
            await _model(connection, owner_id, model_id)
            return await read_versions(connection, query)

    async def version(self, owner_id: str, version_id: str) -> Version:
        """Find a version."""
        async with self._database.read() as connection:
            return await _version(connection, version_id, owner_id)

    async def delete_version(self, owner_id: str, version_id: str) -> Version:
        """Delete a version, and give what it was. Raises ConflictError while a deployment or an alias names it."""
        try:
            async with self._database.begin() as connection:
                gone = await _version(connection, version_id, owner_id, lock=True)
                those = deployments.c.id.in_(
                    select(revisions.c.deployment_id).where(revisions.c.version_id == version_id)
                )
                await _undeployed(connection, those, f"the version {gone.tag!r}")
                if await _exists(connection, aliases.c.version_id == version_id):
                    raise ConflictError(f"an alias names the version {gone.tag!r}: set it to another one first")
                await connection.execute(delete(versions).where(versions.c.id == version_id))
                await write_event(connection, "version.deleted", gone, {"tag": gone.tag, "state": gone.state})
                return gone
        except IntegrityError:
            raise ConflictError("the version has just been deployed, or given an alias") from None

    async def archive_version(self, owner_id: str, version_id: str) -> Version:
        """Put a ready version away: what runs goes on, and nothing new is deployed from it."""
        new = {"state": State.ARCHIVED, "state_reason": "archived by its owner"}
        async with self._database.begin() as connection:
            old = await _version(connection, version_id, owner_id, lock=True)
            _may_move(old, State.ARCHIVED, {State.READY}, None, None)
            return await _move(connection, old, new, owner_id)

    async def record_files(self, version_id: str, uploaded: Sequence[File]) -> Version:
        """Say what files a version has, in place of those said before. Raises ConflictError once its proof begins."""
        async with self._database.begin() as connection:
            version = await _version(connection, version_id, lock=True)
            if version.state not in OPEN:
                raise ConflictError(f"the version is {version.state}: its files do not change any more")
            await connection.execute(delete(files).where(files.c.version_id == version_id))
            for file in uploaded:
                row = {"name": file.name, "size": file.size, "sha256": file.sha256, "key": file.key}
                await connection.execute(insert(files).values(version_id=version_id, **row))
            return await _version(connection, version_id)

    async def set_state(
        self,
        version_id: str,
        state: VersionState,
        reason: str,
        *,
        expected: AbstractSet[VersionState],
        during: int | None = None,
        **fields: Any,
    ) -> Version:
        """Move a version from one of the states `expected`, and with it the `fields` (see FIELDS). One of two wins.

        With `during`, only while that is its attempt; with a new `attempt`, only if it is higher than the last one.
        Raises ConflictError if the version is elsewhere, or if no such step exists (see SOURCES).
        """
        if unknown := fields.keys() - FIELDS:
            raise TypeError(f"no fields of a version that go with its state: {', '.join(sorted(unknown))}")
        async with self._database.begin() as connection:
            old = await _version(connection, version_id, lock=True)
            _may_move(old, state, expected, fields.get("attempt"), during)
            return await _move(connection, old, {"state": state, "state_reason": reason, **fields}, PLATFORM)

    async def receive(self, owner_id: str, version_id: str, *, storage: int, most: int) -> Version:
        """Let a version take files, in place of those that were rejected or failed. The same again changes nothing.

        Raises LimitedError if the owner's files take `storage` bytes already, or if `most` of his versions receive
        files; ConflictError if the version takes files no more.
        """
        async with self._database.begin() as connection:
            await lock(connection, f"uploads of {owner_id}")
            old = await _version(connection, version_id, owner_id, lock=True)
            if old.state is State.RECEIVING:
                return old
            _may_move(old, State.RECEIVING, SOURCES[State.RECEIVING], None, None)
            stored, coming = await _stored(connection, owner_id)
            if stored >= storage:
                message = f"your files take {stored:,} bytes, and {storage:,} are yours: delete a version first"
                raise LimitedError(message, code="quota")
            if coming >= most:
                raise LimitedError(f"{coming} uploads are not finished: finish or delete one first", code="quota")
            new = {"state": State.RECEIVING, "state_reason": "files are coming", "steps": []}
            return await _move(connection, old, new, PLATFORM)

    async def set_steps(self, version_id: str, attempt: int, steps: Sequence[Step]) -> bool:
        """Show how a proof stands. False if that attempt is not the last one any more, or the version is gone."""
        query = update(versions).where(versions.c.id == version_id, versions.c.attempt == attempt)
        async with self._database.begin() as connection:
            return bool((await connection.execute(query.values(steps=steps_as_json(steps)))).rowcount)

    async def unfinished(self) -> list[Version]:
        """List all versions, of whomever, whose proof has begun and has no end: after a crash it is begun again."""
        async with self._database.read() as connection:
            query = select(versions).where(versions.c.state.in_(WORKING)).order_by(versions.c.id)
            return await read_versions(connection, query)

    async def stored(self, owner_id: str) -> tuple[int, int]:
        """Give the bytes of all files of the owner's versions, and how many versions are receiving files."""
        async with self._database.read() as connection:
            return await _stored(connection, owner_id)

    async def places(self) -> set[str]:
        """Name where the files of all versions are, or will be: `models/OWNER/MODEL/TAG`."""
        query = select(models.c.owner_id, models.c.name, versions.c.tag).join_from(versions, models)
        async with self._database.read() as connection:
            return {f"models/{owner_id}/{name}/{tag}" for owner_id, name, tag in await connection.execute(query)}

    async def environments(self) -> set[str]:
        """Name the environments that versions need."""
        query = select(versions.c.environment).where(versions.c.environment.is_not(None)).distinct()
        async with self._database.read() as connection:
            return set((await connection.scalars(query)).all())

    async def find(self, version_id: str) -> Version:
        """Find a version of whomever, for the platform's own parts."""
        async with self._database.read() as connection:
            return await _version(connection, version_id)

    async def set_alias(self, owner_id: str, model_id: str, name: str, version_id: str) -> Alias:
        """Let an alias of a model name a version that is ready; which one it named before is told by the events."""
        named("name", name)
        async with self._database.begin() as connection:
            model = await _model(connection, owner_id, model_id, lock=True)
            version = await _version(connection, version_id, owner_id, lock=True)
            if version.model_id != model_id:
                raise ConflictError(f"the version {version.tag!r} is one of another model: an alias names its own's")
            if version.state is not State.READY:
                raise ConflictError(f"the version {version.tag!r} is {version.state}; one that is ready is accepted")
            here = (aliases.c.model_id == model_id) & (aliases.c.name == name)
            before = await connection.scalar(select(aliases.c.version_id).where(here))
            await connection.execute(delete(aliases).where(here))
            alias = Alias(model_id, name, version_id, now())
            await connection.execute(insert(aliases).values(_row(alias)))
            detail = {"name": name, "version": version_id, "before": before}
            await write_event(connection, "model.alias_set", model, detail)
            return alias

    async def remove_alias(self, owner_id: str, model_id: str, name: str) -> None:
        """Remove an alias of a model."""
        async with self._database.begin() as connection:
            model = await _model(connection, owner_id, model_id, lock=True)
            here = (aliases.c.model_id == model_id) & (aliases.c.name == name)
            before = await connection.scalar(select(aliases.c.version_id).where(here))
            if before is None:
                raise NotFoundError("the model has no such alias")
            await connection.execute(delete(aliases).where(here))
            detail = {"name": name, "before": before}
            await write_event(connection, "model.alias_removed", model, detail)

    async def aliases(self, owner_id: str, model_id: str) -> list[Alias]:
        """List the aliases of a model by name; `events` of the model tell what they named before."""
        async with self._database.read() as connection:
            await _model(connection, owner_id, model_id)
            query = select(aliases).where(aliases.c.model_id == model_id).order_by(aliases.c.name)
            return [Alias(**row) for row in (await connection.execute(query)).mappings()]

    async def events(self, owner_id: str, subject_id: str, after: int = 0, limit: int = 100) -> list[Event]:
        """List what happened to a model or a version, also to one that is gone, after the event `after`."""
        async with self._database.read() as connection:
            return await read_events(connection, owner_id, known("model or version", subject_id), after, limit)


async def _move(connection: AsyncConnection, old: Version, new: dict[str, Any], actor: str) -> Version:
    new |= {"state_reason": line(new["state_reason"]), "updated_at": now()}
    if "steps" in new:
        new["steps"] = steps_as_json(new["steps"])
    await connection.execute(update(versions).where(versions.c.id == old.id).values(new))
    detail = {"from": old.state, "to": new["state"], "reason": new["state_reason"]}
    await write_event(connection, "version.state", old, detail, actor)
    return await _version(connection, old.id)


def _may_move(
    old: Version, state: VersionState, expected: AbstractSet[VersionState], attempt: int | None, during: int | None
) -> None:
    if during is not None and during != old.attempt:
        raise ConflictError(f"the version is in its attempt {old.attempt}, not in {during}")
    if old.state not in expected or old.state not in SOURCES[state]:
        raise ConflictError(f"the version {old.tag!r} is {old.state}: it does not become {state} from there")
    if attempt is not None and attempt <= old.attempt:
        raise ConflictError(f"attempt {attempt} of the version {old.tag!r} has begun already")
    if old.state in WORKING and state is State.SCANNING and attempt is None:
        raise ConflictError(f"the proof of {old.tag!r} runs: it is begun again with a new attempt only")


def _row(value: Model | Alias) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _page(query: Select[Any], column: ColumnElement[str], after: str | None, limit: int) -> Select[Any]:
    if after is not None:
        query = query.where(column > known("place to read on from", after))
    return query.order_by(column).limit(max(1, min(limit, LARGEST_PAGE)))


async def _room(connection: AsyncConnection, those: ColumnElement[bool], most: int, things: str, whose: str) -> None:
    if (await connection.scalar(select(func.count()).where(those)) or 0) >= most:
        raise LimitedError(f"{whose} may have {most} {things}: delete one first", code="quota")


async def _stored(connection: AsyncConnection, owner_id: str) -> tuple[int, int]:
    mine = versions.c.owner_id == owner_id
    size = select(func.coalesce(func.sum(files.c.size), 0)).select_from(files.join(versions)).where(mine)
    count = select(func.count()).select_from(versions).where(mine, versions.c.state == State.RECEIVING)
    return int(await connection.scalar(size) or 0), int(await connection.scalar(count) or 0)


async def _exists(connection: AsyncConnection, those: ColumnElement[bool]) -> bool:
    return bool(await connection.scalar(select(func.count()).where(those)))


async def _undeployed(connection: AsyncConnection, those: ColumnElement[bool], what: str) -> None:
    names = (await connection.scalars(select(deployments.c.name).where(those).order_by(deployments.c.name))).all()
    if names:
        shown = ", ".join(repr(name) for name in names[:5])
        raise ConflictError(f"{what} is deployed as {shown}: delete what runs from it first")


async def _model(connection: AsyncConnection, owner_id: str, model_id: str, *, lock: bool = False) -> Model:
    query = select(models).where(models.c.id == known("model", model_id), models.c.owner_id == owner_id)
    row = (await connection.execute(query.with_for_update() if lock else query)).mappings().first()
    if row is None:
        raise NotFoundError("there is no such model")
    return Model(**row)


async def _version(
    connection: AsyncConnection, version_id: str, owner_id: str | None = None, *, lock: bool = False
) -> Version:
    query = select(versions).where(versions.c.id == known("version", version_id))
    if owner_id is not None:
        query = query.where(versions.c.owner_id == owner_id)
    found = await read_versions(connection, query.with_for_update() if lock else query)
    if not found:
        raise NotFoundError("there is no such version")
    return found[0]
