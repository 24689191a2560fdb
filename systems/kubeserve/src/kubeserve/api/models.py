"""Models, their versions and aliases."""

from kubeserve.api.bodies import AliasChange, EventPage, ModelChange, NewModel, NewVersion, Page
from kubeserve.api.call import Call
from kubeserve.api.shapes import (
    AliasShape,
    EventShape,
    FileShape,
    ListedModelShape,
    ModelShape,
    NewestShape,
    StepShape,
    VersionShape,
)
from kubeserve.domain import Model, Version, VersionState
from kubeserve.errors import ConflictError
from kubeserve.uploads import Received

OPEN = frozenset({VersionState.DRAFT, VersionState.RECEIVING})


async def models(call: Call, query: Page) -> list[ListedModelShape]:
    """List one's models, oldest first, each with its newest version."""
    found = await call.plane.registry.models(call.owner_id, query.after, query.limit)
    call.next_page(query.limit, [model.id for model in found])
    newest = await call.plane.registry.newest(call.owner_id, [model.id for model in found])
    return [_listed(model, *newest.get(model.id, (0, None))) for model in found]


async def create_model(call: Call, body: NewModel) -> ModelShape:
    """Make a model."""
    model = await call.plane.registry.create_model(call.owner_id, body.name, body.description)
    return ModelShape.model_validate(model)


async def model(call: Call) -> ModelShape:
    """Read a model."""
    return ModelShape.model_validate(await call.plane.registry.model(call.owner_id, call.part("model_id")))


async def change_model(call: Call, body: ModelChange) -> ModelShape:
    """Change a model's description, or its name while it has no versions."""
    changed = await call.plane.registry.update_model(
        call.owner_id, call.part("model_id"), name=body.name, description=body.description
    )
    return ModelShape.model_validate(changed)


async def delete_model(call: Call) -> None:
    """Delete a model, its versions and their files. 409 while it is deployed."""
    await call.plane.delete_model(call.owner_id, call.part("model_id"))


async def model_events(call: Call, query: EventPage) -> list[EventShape]:
    """Tell what happened to a model."""
    await call.plane.registry.model(call.owner_id, call.part("model_id"))
    return await _events(call, call.part("model_id"), query)


async def aliases(call: Call) -> list[AliasShape]:
    """List the aliases of a model."""
    found = await call.plane.registry.aliases(call.owner_id, call.part("model_id"))
    return [AliasShape.model_validate(alias) for alias in found]


async def set_alias(call: Call, body: AliasChange) -> AliasShape:
    """Let an alias name a version that is ready."""
    registry, name = call.plane.registry, call.part("name")
    alias = await registry.set_alias(call.owner_id, call.part("model_id"), name, body.version_id)
    return AliasShape.model_validate(alias)


async def remove_alias(call: Call) -> None:
    """Remove an alias."""
    await call.plane.registry.remove_alias(call.owner_id, call.part("model_id"), call.part("name"))


async def versions(call: Call, query: Page) -> list[VersionShape]:
    """List the versions of a model, oldest first."""
    found = await call.plane.registry.versions(call.owner_id, call.part("model_id"), query.after, query.limit)
    call.next_page(query.limit, [version.id for version in found])
    return [shape_of(version) for version in found]


async def create_version(call: Call, body: NewVersion) -> VersionShape:
    """Make a version, to upload to."""
    version = await call.plane.registry.create_version(call.owner_id, call.part("model_id"), body.tag)
    return shape_of(version)


async def version(call: Call) -> VersionShape:
    """Read a version: its state, its files as far as they have come, the steps of its proof."""
    return await current(call, call.part("version_id"))


async def delete_version(call: Call) -> None:
    """Delete a version, its proof and its files. 409 while a deployment or an alias names it."""
    await call.plane.delete_version(call.owner_id, call.part("version_id"))


async def archive_version(call: Call) -> VersionShape:
    """Put a version away: what runs goes on, and nothing new is deployed from it."""
    return shape_of(await call.plane.registry.archive_version(call.owner_id, call.part("version_id")))


async def retry_version(call: Call) -> VersionShape:
    """Prove a version again that failed because something was away."""
    registry = call.plane.registry
    failed = await registry.version(call.owner_id, call.part("version_id"))
    if not failed.files:
        raise ConflictError("the version has no files: upload them")
    again = await registry.set_state(
        failed.id, VersionState.SCANNING, "it is proved again", expected={VersionState.FAILED}
    )
    call.plane.intake.submit(again.id)
    return shape_of(again)


async def version_events(call: Call, query: EventPage) -> list[EventShape]:
    """Tell what happened to a version."""
    await call.plane.registry.version(call.owner_id, call.part("version_id"))
    return await _events(call, call.part("version_id"), query)


async def current(call: Call, version_id: str) -> VersionShape:
    """Read a version with what has come of its files."""
    found = await call.plane.registry.version(call.owner_id, version_id)
    coming = await call.plane.uploads.received(call.owner_id, version_id) if found.state in OPEN else None
    return shape_of(found, coming)


def shape_of(version: Version, coming: list[Received] | None = None) -> VersionShape:
    """Tell of a version, and of files that are not all there yet."""
    files = [FileShape(name=file.name, size=file.size, total=file.size, sha256=file.sha256) for file in version.files]
    steps = [StepShape.model_validate(step) for step in version.steps]
    told = {name: getattr(version, name) for name in VersionShape.model_fields if name not in {"files", "steps"}}
    if coming is not None:
        files = [FileShape.model_validate(file) for file in coming]
    return VersionShape(**told, files=files, steps=steps)


def _listed(model: Model, count: int, newest: Version | None) -> ListedModelShape:
    told = ModelShape.model_validate(model).model_dump()
    return ListedModelShape(**told, versions=count, newest=NewestShape.model_validate(newest) if newest else None)


async def _events(call: Call, subject_id: str, query: EventPage) -> list[EventShape]:
    found = await call.plane.registry.events(call.owner_id, subject_id, query.after, query.limit)
    call.next_page(query.limit, [event.id for event in found])
    return [EventShape.model_validate(event) for event in found]
