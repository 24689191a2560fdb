"""Deployments: wishes, which the reconciler carries out."""

from dataclasses import fields, replace
from typing import Any

from aiohttp import web

from kubeserve.api import examples
from kubeserve.api.answers import json_answer
from kubeserve.api.bodies import EventPage, LimitChange, NewDeployment, Page, Revise, Rollback, SpecBody
from kubeserve.api.call import Call
from kubeserve.api.model_openapi import of_deployment
from kubeserve.api.shapes import DeploymentShape, EventShape, RevisionShape
from kubeserve.domain import Deployment, Desired, Revision, Spec
from kubeserve.errors import NotFoundError


async def deployments(call: Call, query: Page) -> list[DeploymentShape]:
    """List one's deployments, oldest first."""
    found = await call.plane.deployments.list(call.owner_id, query.after, query.limit)
    call.next_page(query.limit, [deployment.id for deployment in found])
    return [await _shape(call, deployment) for deployment in found]


async def create_deployment(call: Call, body: NewDeployment) -> DeploymentShape:
    """Deploy a version that is ready."""
    version = await call.plane.registry.version(call.owner_id, body.version_id)
    model_id = body.model_id or version.model_id
    spec = Spec(**_given(body))
    made = await call.plane.deployments.create(call.owner_id, model_id, body.name, spec, body.requests_per_minute)
    return await _wished(call, made)


async def deployment(call: Call) -> DeploymentShape:
    """Read a deployment: its state, its URL, its revisions."""
    return await _shape(call, await _found(call))


async def revise_deployment(call: Call, body: Revise) -> DeploymentShape:
    """Add a revision, and let it take over as soon as it is ready."""
    old = await _found(call)
    spec = replace(_revision(old, old.target).spec, **_given(body))
    return await _wished(call, await call.plane.deployments.revise(call.owner_id, old.id, spec))


async def rollback_deployment(call: Call, body: Rollback) -> DeploymentShape:
    """Let a former revision answer again."""
    deployment_id = call.part("deployment_id")
    return await _wished(call, await call.plane.deployments.rollback(call.owner_id, deployment_id, body.revision))


async def limit_deployment(call: Call, body: LimitChange) -> DeploymentShape:
    """Limit the requests a minute of all who call it together. It is no new revision; a second later it holds."""
    deployment_id, per_minute = call.part("deployment_id"), body.requests_per_minute
    limited = await call.plane.deployments.limit(call.owner_id, deployment_id, per_minute)
    call.state.changed()
    return await _shape(call, limited)


async def stop_deployment(call: Call) -> DeploymentShape:
    """Let it answer nothing any more, until it is started."""
    return await _want(call, Desired.STOPPED)


async def start_deployment(call: Call) -> DeploymentShape:
    """Let it answer again; or, after it failed, try again."""
    return await _want(call, Desired.RUNNING)


async def delete_deployment(call: Call) -> DeploymentShape:
    """Delete it: calls that run may end, then all of it goes. It is 404 when nothing is left."""
    return await _want(call, Desired.DELETED)


async def deployment_events(call: Call, query: EventPage) -> list[EventShape]:
    """Tell what happened to a deployment."""
    found = await _found(call)
    events = await call.plane.deployments.events(call.owner_id, found.id, query.after, query.limit)
    call.next_page(query.limit, [event.id for event in events])
    return [EventShape.model_validate(event) for event in events]


async def deployment_openapi(call: Call) -> web.Response:
    """Describe the calls of a deployment in OpenAPI, by the signature of the version that answers."""
    found = await _found(call)
    spec = _answering(found).spec
    version = await call.state.version(call.owner_id, spec.version_id)
    return json_answer(
        of_deployment(found, version, f"{call.base}/{found.id}", examples.rows(version.signature, spec.sample))
    )


async def _found(call: Call) -> Deployment:
    return await call.plane.deployments.get(call.owner_id, call.part("deployment_id"))


async def _want(call: Call, desired: Desired) -> DeploymentShape:
    wished = await call.plane.deployments.want(call.owner_id, call.part("deployment_id"), desired)
    return await _wished(call, wished)


async def _wished(call: Call, deployment: Deployment) -> DeploymentShape:
    call.state.changed()
    call.plane.reconciler.poke()
    return await _shape(call, deployment)


def _given(body: SpecBody) -> dict[str, Any]:
    names = {field.name for field in fields(Spec)} & body.model_fields_set
    return {name: value for name in names if (value := getattr(body, name)) is not None}


def _revision(deployment: Deployment, number: int) -> Revision:
    return next(revision for revision in deployment.revisions if revision.number == number)


def _answering(deployment: Deployment) -> Revision:
    try:
        return _revision(deployment, deployment.active or deployment.target)
    except StopIteration:
        raise NotFoundError("the deployment has no such revision any more") from None


async def _shape(call: Call, deployment: Deployment) -> DeploymentShape:
    spec = _answering(deployment).spec
    model = await call.state.model(call.owner_id, deployment.model_id)
    version = await call.state.version(call.owner_id, spec.version_id)
    url = f"{call.base}/{deployment.id}"
    same = ("id", "name", "model_id", "state", "state_reason", "desired", "replicas", "created_at", "updated_at")
    return DeploymentShape(
        **{name: getattr(deployment, name) for name in same},
        model=model.name,
        version=version.tag,
        url=url,
        curl=examples.command(url, examples.rows(version.signature, spec.sample)),
        active_revision=deployment.active,
        target_revision=deployment.target,
        requests_per_minute=deployment.requests_per_minute,
        revisions=[_revision_shape(revision) for revision in deployment.revisions],
    )


def _revision_shape(revision: Revision) -> RevisionShape:
    told = {name: getattr(revision.spec, name) for name in RevisionShape.model_fields if hasattr(revision.spec, name)}
    return RevisionShape(number=revision.number, created_at=revision.created_at, **told)
