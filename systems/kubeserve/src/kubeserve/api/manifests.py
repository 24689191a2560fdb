"""A deployment as a cluster is told of it, for those who look at it, or apply it themselves."""

import os
from dataclasses import replace

from greenscale_worker import ConfigError

from kubeserve.api.call import Call
from kubeserve.api.shapes import ManifestsShape
from kubeserve.domain import Quota, Version
from kubeserve.errors import ConflictError, NotFoundError
from kubeserve.manifests import (
    ClusterSettings,
    Download,
    Manifest,
    Urls,
    deployment,
    redis_user_of,
    user_namespace,
)
from kubeserve.manifests.folder import TO_SET
from kubeserve.places.workload import Replicable, Workload


async def deployment_manifests(call: Call) -> ManifestsShape:
    """Return the objects of Kubernetes for a deployment: what a cluster is, or would be, told of its target.

    Secrets have no values, but say what to set.
    """
    plane = call.plane
    found = await plane.deployments.get(call.owner_id, call.part("deployment_id"))
    try:
        workload = (await plane.reconciler.workload(found)).model_copy(update={"fallback": None})
    except NotFoundError as error:
        raise ConflictError(error.message) from error
    version = await plane.registry.version(call.owner_id, workload.target.version)
    try:
        settings = ClusterSettings.of(plane.settings, plane.redis, os.environ, plane.installation)
    except ConfigError as error:
        raise ConflictError(f"no cluster could run it as this platform is set up: {error}") from error
    if settings.registry is not None:
        settings = replace(settings, registry=f"{TO_SET}a login for {settings.image}, as Docker keeps it")
    quota = Quota(plane.settings.quota_replicas, plane.settings.quota_memory)
    own = version.environment != plane.environments.base_id
    objects = [*user_namespace(call.owner_id, quota, settings), *_objects(workload, version, settings, own=own)]
    return ManifestsShape(items=objects)


def _objects(workload: Workload, version: Version, settings: ClusterSettings, *, own: bool) -> list[Manifest]:
    urls = {workload.target.revision: _placeholders(workload.target, version, own=own)}
    password = f"{TO_SET}the password of the user {redis_user_of(workload.id)} of Redis"
    return deployment(workload, settings, redis_password=password, urls=urls)


def _placeholders(what: Replicable, version: Version, *, own: bool) -> Urls:
    model = next((file for file in version.files if file.key == what.key), None)
    if model is None:
        raise ConflictError(f"version {version.tag} has lost its model; upload it again")
    archive = f"environments/{what.environment.name}.*.tar.gz"
    environment = Download(f"{TO_SET}a presigned URL of {archive}", f"{TO_SET}the SHA-256 of {archive}", 0)
    return Urls(
        Download(f"{TO_SET}a presigned URL of {what.key}", model.sha256, model.size), environment if own else None
    )
