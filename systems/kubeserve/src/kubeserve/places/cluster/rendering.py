"""Makes the manifests of a user and of a deployment, with the URLs by which its pods fetch what they need.

A URL is good for a day and made anew at half of it, so that a pod that starts while the platform is away has one. No
pod is rolled for a new one: they lie in a Secret that pods read when they start.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from kubeserve.domain import Quota
from kubeserve.errors import NotFoundError
from kubeserve.manifests import ClusterSettings, Download, Manifest, Urls, deployment, user_namespace
from kubeserve.places.sources import Sources
from kubeserve.places.workload import Replicable, Workload

LIFE_SECONDS: Final = 86_400.0


class Rendering:
    """Manifests by the settings of the cluster. URLs are remembered, so that asking again changes nothing."""

    def __init__(
        self, settings: ClusterSettings, quota: Quota, sources: Sources, *, life: float = LIFE_SECONDS
    ) -> None:
        self._settings = settings
        self._quota = quota
        self._sources = sources
        self._life = life
        self._urls = dict[str, tuple[float, str]]()

    def user(self, user_id: str) -> Sequence[Manifest]:
        """Return the namespace of a user, and what bounds it."""
        return user_namespace(user_id, self._quota, self._settings)

    async def deployment(self, workload: Workload, redis_password: str) -> Sequence[Manifest]:
        """Return the objects of a deployment. Raises KubeServeError while what its pods fetch cannot be named."""
        revisions = [what for what in (workload.target, workload.fallback) if what is not None]
        urls = {what.revision: await self._fetched(workload.tenant, what) for what in revisions}
        return deployment(workload, self._settings, redis_password=redis_password, urls=urls)

    async def _fetched(self, tenant: str, what: Replicable) -> Urls:
        version = await self._sources.versions.version(tenant, what.version)
        model = next((file for file in version.files if file.key == what.key), None)
        if model is None:
            raise NotFoundError(f"version {what.tag} has lost its model; upload it again")
        archive = await self._sources.archives.archive(what.environment.name)
        return Urls(
            Download(await self._url(model.key), model.sha256, model.size),
            None if archive is None else Download(await self._url(archive.key), archive.sha256, archive.size),
        )

    async def _url(self, key: str) -> str:
        now = asyncio.get_running_loop().time()
        renewed, url = self._urls.get(key, (0.0, ""))
        if now >= renewed:
            for old in [key for key, (renewed, _) in self._urls.items() if now >= renewed]:
                del self._urls[old]
            url = await self._sources.store.presign(key, self._life)
            self._urls[key] = now + self._life / 2, url
        return url
