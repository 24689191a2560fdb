"""Users and versions that are ready, without the cost of hashing and proving; and calls that race."""

import asyncio
from collections.abc import Awaitable, Iterable
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import insert

from kubeserve.database import Database
from kubeserve.database.tables import users
from kubeserve.database.values import new_id, now
from kubeserve.domain import Model, Version, VersionState
from kubeserve.registry import Registry

PROOF: Final = (
    VersionState.DRAFT,
    VersionState.RECEIVING,
    VersionState.SCANNING,
    VersionState.BUILDING,
    VersionState.CHECKING,
    VersionState.READY,
)


async def make_user(database: Database, name: str = "anna") -> str:
    """Make a user, and give the id."""
    user_id = new_id()
    row = {"id": user_id, "email": f"{name}@example.org", "password_hash": "", "role": "user"}
    async with database.begin() as connection:
        await connection.execute(insert(users).values(**row, namespace=f"ks-{user_id}", created_at=now()))
    return user_id


async def walk(registry: Registry, version: Version, state: VersionState) -> Version:
    """Bring a version to a state on its usual way."""
    ways = {VersionState.ARCHIVED: (*PROOF, VersionState.ARCHIVED), VersionState.REJECTED: (*PROOF[:3], state)}
    way = ways.get(state) or ((*PROOF[:3], state) if state is VersionState.FAILED else PROOF[: PROOF.index(state) + 1])
    for before, after in pairwise(way):
        version = await registry.set_state(version.id, after, "as usual", expected={before})
    return version


async def make_ready(registry: Registry, owner_id: str, name: str = "model") -> tuple[Model, Version]:
    """Make a model with a version that is ready."""
    model = await registry.create_model(owner_id, name)
    version = await registry.create_version(owner_id, model.id, "v1")
    return model, await walk(registry, version, VersionState.READY)


async def outcomes(calls: Iterable[Awaitable[Any]]) -> list[str]:
    """Make the calls at once; give `done`, or the name of each one's error."""
    done = await asyncio.gather(*calls, return_exceptions=True)
    return sorted(type(each).__name__ if isinstance(each, Exception) else "done" for each in done)
