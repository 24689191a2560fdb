"""The control plane: all services of one process, opened from the settings, and what it does by itself.

Of several control planes on one database one reconciles at a time. A data directory has one control plane.
"""

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, Self

import structlog
from greenscale_worker import ConfigError, RedisOptions

from kubeserve import queueing
from kubeserve.accounts import Accounts
from kubeserve.database import Database, Lease, name_of_installation, open_database
from kubeserve.deployments import Deployments
from kubeserve.domain import Quota, Version
from kubeserve.errors import KubeServeError, UnavailableError
from kubeserve.gateway import ClusterDoors, Gateway, LocalDoors
from kubeserve.intake import Archives, Bounds, Environments, Intake, IntakeSettings
from kubeserve.limits import Limits
from kubeserve.objects import Objects, open_objects
from kubeserve.places import Known
from kubeserve.places.layout import Layout
from kubeserve.places.opened import check_place, open_place
from kubeserve.places.sources import Sources
from kubeserve.predictions import Predictions
from kubeserve.reconciler import Reconciler
from kubeserve.registry import Registry
from kubeserve.settings import Settings
from kubeserve.uploads import Uploads
from kubeserve.usage.store import UsageStore
from kubeserve.usage.taking import Taker
from kubeserve.usage.wire import MINUTE

LEASE_SECONDS: Final = 15.0
SWEEP_SECONDS: Final = 3600.0
OLDEST_UPLOAD: Final = 7 * 86_400.0  # seconds since its last byte
PAUSE: Final = 1.0
WELCOME_SECONDS: Final = 3.0
DAY: Final = 86_400
log = structlog.get_logger()


class ControlPlane:
    """The services of one process. `stopping` is set when it ends: who waits for long waits for that, too."""

    def __init__(  # noqa: PLR0913  what was opened before it
        self,
        settings: Settings,
        redis: RedisOptions,
        database: Database,
        objects: Objects,
        environments: Environments | None = None,
        *,
        installation: str,
    ) -> None:
        data = settings.data
        self.settings = settings
        self.redis = redis
        self.database = database
        self.objects = objects
        self.installation = installation
        self.stopping = asyncio.Event()
        self.accounts = Accounts(database, settings.signing_secret(), token_ttl=settings.token_ttl)
        self.registry = Registry(database)
        self.deployments = Deployments(database, Quota(settings.quota_replicas, settings.quota_memory))
        self.uploads = Uploads(self.registry, objects, data / "uploads", storage=settings.quota_storage)
        self.environments = environments or Environments(data / "environments")
        self.archives = Archives(self.environments, objects, data / "archives")
        self.intake = Intake(
            self.registry,
            objects,
            self.environments,
            data / "proofs",
            IntakeSettings(bounds=Bounds(minimum=settings.minimum)),
        )
        sources = Sources(objects, self.archives, self.registry)
        holder = f"{socket.gethostname()}:{data.resolve()}"[-100:]  # the same after a restart
        self._lease = Lease(database, "reconciler", holder, LEASE_SECONDS)
        self.place = open_place(
            settings, redis, self._fetch, sources, installation=installation, lapsed=lambda: self._lease.lapsed
        )
        self.predictions = Predictions(redis)
        self.gateway = Gateway(LocalDoors(Layout(data)) if settings.place == "local" else ClusterDoors())
        self.limits = Limits(redis)
        self.usage = UsageStore(database)
        self.taker = Taker(redis, self.usage)
        self.reconciler = Reconciler(
            self.deployments,
            self.registry,
            self.place,
            environment=lambda name: self.environments.path(name).resolve(),
            purge=self._purge,
        )
        self._work: list[asyncio.Task[None]] = []

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, redis: RedisOptions, environments: Environments | None = None
    ) -> AsyncIterator[Self]:
        """Bring the database to its newest form and begin to work; at the end, stop and close all.

        A database that is away is waited for. Raises ConfigError.
        """
        check_place(settings)
        with _alone(settings.data):
            database = await open_database(settings.database)
            try:
                name = await _installation(database, settings.namespace)
                objects = open_objects(settings.objects_url)
                plane = cls(settings, redis, database, objects, environments, installation=name)
                try:
                    plane.start()
                    yield plane
                finally:
                    await plane.aclose()
            finally:
                await database.aclose()

    def start(self) -> None:
        """Begin to prove, to reconcile and to clean up."""
        following = self.place.run(self.reconciler.poke)
        for work in (self.intake.start(), self._reconcile(), self._keep_clean(), self._let_go(), following):
            self._work.append(asyncio.create_task(work))

    async def aclose(self) -> None:
        """Stop all work, where it can be taken up again, and close what was opened."""
        self.stopping.set()
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self.intake.aclose()
        await self.gateway.aclose()
        await self.predictions.aclose()
        await self.limits.aclose()
        await self.place.aclose()
        self.accounts.close()

    async def welcome(self, user_id: str) -> str | None:
        """Make in the place what a new user has there. Return a line that says so if that has to come later."""
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                await self.place.welcome(user_id)
        except (KubeServeError, TimeoutError) as error:
            log.warning("namespace_comes_later", user=user_id, why=str(error))
            return f"the {self.place.name} does not answer now: you can upload; what you deploy runs when it does"
        return None

    async def delete_model(self, owner_id: str, model_id: str) -> None:
        """Delete a model with its versions, their proofs and files. Raises ConflictError while it is deployed."""
        model = await self.registry.model(owner_id, model_id)
        for version in await self.registry.delete_model(owner_id, model_id):
            await self._forget(version)
        await self.objects.delete(f"models/{owner_id}/{model.name}")

    async def delete_version(self, owner_id: str, version_id: str) -> None:
        """Delete a version, its proof and its files. Raises ConflictError while a deployment or an alias names it."""
        version = await self.registry.version(owner_id, version_id)
        model = await self.registry.model(owner_id, version.model_id)
        await self._forget(await self.registry.delete_version(owner_id, version_id))
        await self.objects.delete(f"models/{owner_id}/{model.name}/{version.tag}")

    async def sweep(self) -> None:
        """Remove what nobody needs: forgotten uploads, environments, and files whose deletion was cut off."""
        await self.uploads.sweep(OLDEST_UPLOAD)
        used = await self.registry.environments()
        await asyncio.to_thread(self.environments.collect, used)
        await self.archives.keep(used)
        await self.archives.collect(self.registry.environments)
        found = {"/".join(key.split("/")[:4]) for key in await self.objects.list("models")}
        for place in found - await self.registry.places():
            if place not in await self.registry.places():  # nor made anew meanwhile
                await self.objects.delete(place)
        await self.usage.forget(int(time.time() - self.settings.usage_days * DAY) // MINUTE)

    async def _forget(self, version: Version) -> None:
        await self.intake.cancel(version.id)
        self.uploads.discard(version.id)

    async def _fetch(self, key: str, path: Path) -> None:
        await self.objects.fetch(key, path)

    async def _purge(self, deployment_id: str) -> None:
        await self.predictions.forget(deployment_id)
        await self.taker.take(
            {name: owner for name, owner in (await self.usage.owners()).items() if name == deployment_id}
        )
        await queueing.purge(self.redis, deployment_id)

    async def _reconcile(self) -> None:
        """Reconcile and take what was used, for as long as this process has the lease."""
        work: asyncio.Task[None] | None = None
        try:
            while True:
                held = await _take(self._lease)
                if work is not None and (work.done() or not held):
                    await _end(work)
                    work = None
                if held and work is None:
                    work = asyncio.create_task(self._lead())
                await asyncio.sleep(LEASE_SECONDS / 3)
        finally:
            if work is not None:
                await _end(work)
            with suppress(KubeServeError):
                await self._lease.give_back()

    async def _lead(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.reconciler.run())
            group.create_task(self.place.tend(Known(self.accounts.ids, self.usage.owners)))
            group.create_task(self.taker.run())

    async def _let_go(self) -> None:
        await self.stopping.wait()
        await self.gateway.aclose()  # what it asks becomes jobs, whose answers are read after a restart

    async def _keep_clean(self) -> None:
        while True:
            try:
                await self.sweep()
            except (OSError, KubeServeError) as error:
                log.warning("sweep_failed", why=str(error))
            await asyncio.sleep(SWEEP_SECONDS)


async def _take(lease: Lease) -> bool:
    try:
        return await lease.take()
    except UnavailableError:
        return False


async def _end(work: asyncio.Task[None]) -> None:
    work.cancel()
    (result,) = await asyncio.gather(work, return_exceptions=True)
    if isinstance(result, Exception):
        log.error("reconciler_broke", error=type(result).__name__, why=str(result))


async def _installation(database: Database, namespace: str) -> str:
    """Bring the database to its newest form, and return which installation this is."""
    while True:
        try:
            await database.migrate()
            return await name_of_installation(database, namespace)
        except UnavailableError:
            log.warning("database_away", retry_seconds=PAUSE)
            await asyncio.sleep(PAUSE)


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """Hold the data directory. Raises ConfigError if another control plane has it."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(data / "control.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"KUBESERVE_DATA: {data}: {error.strerror}; a directory to write is accepted") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigError(f"KUBESERVE_DATA: another control plane runs on {data}; name another directory") from None
    finally:
        os.close(handle)
