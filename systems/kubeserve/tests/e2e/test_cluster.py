"""The place that is a cluster, on the real one that KUBECONFIG names: `KUBECONFIG=FILE pytest tests/e2e`.

It makes a namespace of a user who does not exist, and deletes it in the end. Nothing else is touched. Whether pods get
ready depends on what that cluster can pull and reach, so it is not asked; `python -m e2e` asks it of a whole platform.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import redis
from greenscale_worker import RedisOptions
from harness.eventually import POLL
from harness.redis_server import RedisServer
from lightkube import AsyncClient, KubeConfig

from clusters import SECRET, SETTINGS, Shelf, Site
from kubeserve.domain import Quota
from kubeserve.errors import UnavailableError
from kubeserve.manifests import DEPLOYMENT, namespace_of
from kubeserve.places.cluster import Cluster, ClusterPlace, RedisUsers, Rendering
from kubeserve.places.cluster.kinds import KINDS, SELECTOR
from kubeserve.places.sources import Sources
from kubeserve.places.workload import Workload

PATIENCE = 120.0
pytestmark = [
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="KUBECONFIG names no cluster to try this on"),
    pytest.mark.timeout(600),
]


@pytest.fixture
async def place(redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[ClusterPlace]:
    db.ping()
    shelf = Shelf()
    rendering = Rendering(SETTINGS, Quota(), Sources(shelf, shelf, shelf))
    users = RedisUsers(RedisOptions(url=f"{redis_server.url}/0"), SECRET, SETTINGS.installation)
    made = ClusterPlace(Cluster.open(), rendering, users)
    following = asyncio.create_task(made.run(lambda: None))
    yield made
    following.cancel()
    await asyncio.wait({following})
    await made.aclose()


@pytest.fixture
async def kubernetes() -> AsyncIterator[AsyncClient]:
    client = AsyncClient(KubeConfig.from_env().get())
    yield client
    await client.close()


@pytest.fixture
async def tenant(kubernetes: AsyncClient) -> AsyncIterator[str]:
    user = str(uuid.uuid4())
    yield user
    await kubernetes.delete(KINDS["Namespace"], namespace_of(user))


async def _applied(place: ClusterPlace, workload: Workload) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(UnavailableError):
                return await place.apply(workload)
            await asyncio.sleep(POLL)


async def _found(kubernetes: AsyncClient, kind: str, workload: Workload) -> list[Any]:
    labels: Any = {**SELECTOR, DEPLOYMENT: workload.id}
    return [each async for each in kubernetes.list(KINDS[kind], namespace=namespace_of(workload.tenant), labels=labels)]


async def test_what_is_rendered_is_accepted_applied_again_the_same_pruned_and_removed(
    place: ClusterPlace, kubernetes: AsyncClient, tenant: str
) -> None:
    workload = Workload(id=str(uuid.uuid4()), tenant=tenant, generation=1, target=Site.revision(1))
    await _applied(place, workload)
    (made,) = await _found(kubernetes, "Deployment", workload)
    await _applied(place, workload)
    (again,) = await _found(kubernetes, "Deployment", workload)
    assert again["metadata"]["generation"] == made["metadata"]["generation"]
    new = workload.model_copy(update={"generation": 2, "target": Site.revision(2)})
    await _applied(place, new)
    names = {each["metadata"]["name"] for each in await _found(kubernetes, "ConfigMap", workload)}
    assert names == {f"d-{workload.id}-r2"}
    async with asyncio.timeout(PATIENCE):
        while (seen := await place.observe(workload.id)) is None or seen.generation != 2:  # noqa: ASYNC110  it is a cluster
            await asyncio.sleep(POLL)
        assert seen.reason
        while not await place.remove(workload.id):  # noqa: ASYNC110  likewise
            await asyncio.sleep(POLL)
    for kind in ("Deployment", "Service", "Secret", "ConfigMap", "Pod"):
        assert await _found(kubernetes, kind, workload) == []
