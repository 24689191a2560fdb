"""A cluster of a test's own: the scripted API server, and the place on it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from greenscale_worker import RedisOptions
from harness.eventually import POLL
from lightkube import KubeConfig
from lightkube.config.models import Cluster as Server
from lightkube.config.models import User

from kube_api import KubeApi
from kubeserve.domain import DeploymentState, File, Format, Quota, Version, VersionState
from kubeserve.errors import UnavailableError
from kubeserve.intake.archives import Archive
from kubeserve.manifests import ClusterSettings, Endpoint, Redis, name_of, namespace_of
from kubeserve.places import Observation
from kubeserve.places.cluster import Cluster, ClusterPlace, RedisUsers
from kubeserve.places.cluster.rendering import Rendering
from kubeserve.places.sources import Sources
from kubeserve.places.workload import Replicable, Workload

PATIENCE = 60.0
TENANT = str(uuid.uuid4())
SECRET = b"the secret that signs tokens, in tests"
SETTINGS = ClusterSettings(
    "kubeserve:1", "kubeserve", Redis(Endpoint("redis.kubeserve.svc", 6379)), Endpoint("s3.kubeserve.svc", 9000), "ours"
)


UNREADY = (  # how a pod fares, and what is told of its deployment
    ("image", DeploymentState.FAILED, "its image kubeserve:1 cannot be pulled (ImagePullBackOff)"),
    ("config", DeploymentState.FAILED, "its container cannot be started: back-off 40s"),
    ("crash", DeploymentState.FAILED, "its container model ended (exit code 1: ValueError: not a model)"),
    ("init", DeploymentState.FAILED, "what it needs could not be fetched (exit code 1: ValueError: not a model)"),
    ("memory", DeploymentState.FAILED, "it needed more than its memory"),
    ("room", DeploymentState.PENDING, "no node has room for it: 0/3 nodes are available: 3 Insufficient memory."),
)


class Shelf:
    """A store whose URLs tell how often they were made anew, and a registry that knows every version."""

    def __init__(self) -> None:
        self.made = 0
        self.archives = dict[str, Archive]()

    async def presign(self, key: str, seconds: float) -> str:
        self.made += 1
        return f"https://s3.example.org/{key}?expires={seconds:.0f}&number={self.made}"

    async def archive(self, environment_id: str) -> Archive | None:
        return self.archives.get(environment_id)

    async def version(self, owner_id: str, version_id: str) -> Version:
        at = datetime.now(UTC)
        file = File("model.pkl", 9, "a" * 64, f"models/{version_id}/model.pkl")
        return Version(
            version_id, "model", owner_id, "v1", VersionState.READY, "", "", (file,), (), Format.PICKLE, None, "base",
            None, 1, at, at,
        )  # fmt: skip


def cluster_of(api: KubeApi, lapsed: Callable[[], bool] = lambda: False) -> Cluster:
    """A client of it."""
    config = KubeConfig.from_one(cluster=Server(server=api.url), user=User(token="token")).get()  # noqa: S106
    assert config is not None
    return Cluster(config, lapsed)


class Wishes:
    """What a reconciler would do with `place`, and wait for."""

    place: ClusterPlace

    def workload(self, number: int = 1, **changes: Any) -> Workload:
        return Workload(id=str(uuid.uuid4()), tenant=TENANT, generation=1, target=self.revision(number, **changes))

    @staticmethod
    def revision(number: int, **changes: Any) -> Replicable:
        version = str(uuid.uuid4())
        made = Replicable(
            revision=number, version=version, tag=f"v{number}", key=f"models/{version}/model.pkl", format=Format.PICKLE,
            environment=Path("/data/environments/base"), minimum=1, maximum=2, concurrency=16, idle=60, timeout=10,
            memory=1 << 30,
        )  # fmt: skip
        return made.model_copy(update=changes)

    def next(self, workload: Workload, number: int) -> Workload:
        new = {"generation": workload.generation + 1, "target": self.revision(number), "fallback": workload.target}
        return workload.model_copy(update=new)

    async def apply(self, workload: Workload) -> None:
        """As the reconciler does: again while something is away."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(UnavailableError):
                    return await self.place.apply(workload)
                await asyncio.sleep(POLL)

    async def until(self, workload: Workload, holds: Callable[[Observation | None], bool]) -> Observation | None:
        seen: Observation | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    with suppress(UnavailableError):
                        if holds(seen := await self.place.observe(workload.id)):
                            return seen
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise AssertionError(seen) from None

    async def removed(self, workload: Workload) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(UnavailableError):
                    if await self.place.remove(workload.id):
                        return
                await asyncio.sleep(POLL)


class Site(Wishes):
    """A place on the scripted API server. `restart` begins anew, as after a death."""

    def __init__(self, api: KubeApi, redis: RedisOptions, **options: Any) -> None:
        self.api = api
        self.shelf = Shelf()
        self.redis_options = redis
        self.redis = RedisUsers(redis, SECRET, SETTINGS.installation)
        self.quota = Quota()
        self.life = 86_400.0
        self.changes = 0
        self.poke: Callable[[], None] = lambda: None
        self._options = {"patience": 0.3, **options}
        self._running: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, redis: RedisOptions, seed: int = 0, **options: Any) -> AsyncIterator[Self]:
        async with KubeApi.open(seed) as api:
            made = cls(api, redis, **options)
            await made.restart()
            yield made
            await made.stop()

    async def restart(self) -> None:
        await self.stop()
        self.place = self.new_place()
        self._running = asyncio.create_task(self.place.run(self._changed))

    def new_place(self) -> ClusterPlace:
        rendering = Rendering(SETTINGS, self.quota, Sources(self.shelf, self.shelf, self.shelf), life=self.life)
        return ClusterPlace(cluster_of(self.api), rendering, self.redis, **self._options)

    async def stop(self) -> None:
        if self._running is not None:
            assert not self._running.done(), self._running
            self._running.cancel()
            await asyncio.wait({self._running})
            await self.place.aclose()
            self._running = None

    def _changed(self) -> None:
        self.changes += 1
        self.poke()

    def key(self, workload: Workload, plural: str = "deployments") -> tuple[str, str, str]:
        return plural, namespace_of(workload.tenant), name_of(workload.id)


def at(seen: Observation | None, **fields: Any) -> bool:
    """Tell whether an observation has these values."""
    return seen is not None and seen == replace(seen, **fields)
