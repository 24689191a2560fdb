"""Makes of each deployment what its owner wants, one round after another, until the place says that it is so."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import structlog

from kubeserve.domain import SUFFIXES, Deployment, DeploymentState, Desired, Spec, Version
from kubeserve.errors import KubeServeError, NotFoundError, UnavailableError
from kubeserve.places import Observation, Place
from kubeserve.places.workload import Replicable, Workload

LOOK_SECONDS: Final = 0.3
RESYNC_SECONDS: Final = 30.0  # a place that has lost what it was told is told again
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 300.0
LONGEST_ROUND: Final = 1.0  # what takes longer, such as to fetch a large model, goes on beside the next round
FAULT: Final = "a fault of the platform, which its log tells; it is tried again"
log = structlog.get_logger()

Purge = Callable[[str], Awaitable[None]]


class DesiredState(Protocol):
    """What the reconciler reads and writes of deployments (kubeserve.deployments)."""

    async def all(self) -> Sequence[Deployment]:
        """Return every deployment, of whomever."""
        ...

    async def observe(  # noqa: PLR0913  one row
        self,
        deployment_id: str,
        generation: int,
        state: DeploymentState,
        reason: str,
        *,
        active: int | None,
        replicas: int,
    ) -> bool:
        """Record how it stands, unless another generation is wanted by now. Return whether it was recorded."""
        ...

    async def remove(self, deployment_id: str) -> bool:
        """Delete the row of a deployment of which nothing else is left."""
        ...


class Versions(Protocol):
    """Where the versions are (kubeserve.registry)."""

    async def version(self, owner_id: str, version_id: str) -> Version:
        """Return a version. Raises NotFoundError."""
        ...


class _Backoff:
    """When a wish that failed is tried again: 1 s later, then 2 s, up to five minutes. A new wish is tried at once."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[int, int, float]] = {}

    def waits(self, wish: Deployment) -> bool:
        generation, _, until = self._failures.get(wish.id, (wish.generation, 0, 0.0))
        return generation == wish.generation and until > asyncio.get_running_loop().time()

    def failed(self, wish: Deployment, longest: float = LONGEST_PAUSE) -> None:
        generation, count, _ = self._failures.get(wish.id, (wish.generation, 0, 0.0))
        count = count + 1 if generation == wish.generation else 1
        pause = min(longest, FIRST_PAUSE * 2 ** min(count - 1, 20)) * random.uniform(0.5, 1)  # noqa: S311  jitter
        self._failures[wish.id] = wish.generation, count, asyncio.get_running_loop().time() + pause

    def forget(self, deployment_id: str) -> None:
        self._failures.pop(deployment_id, None)


class Reconciler:
    """Level-triggered: each round begins with what is wanted and what is, whatever happened before.

    `environment` returns the folder of an environment by its id. `purge` removes the queue of a deployment.
    """

    def __init__(
        self,
        deployments: DesiredState,
        versions: Versions,
        place: Place,
        *,
        environment: Callable[[str], Path],
        purge: Purge,
    ) -> None:
        self._deployments = deployments
        self._versions = versions
        self._place = place
        self._environment = environment
        self._purge = purge
        self._backoff = _Backoff()
        self._done: dict[str, tuple[int, float]] = {}
        self._trying: dict[str, asyncio.Task[None]] = {}
        self._look = asyncio.Event()

    def poke(self) -> None:
        """Begin the next round now: something was wished."""
        self._look.set()

    async def run(self) -> None:
        """Reconcile until cancelled. A database or a place that is away is waited for; no error ends it."""
        try:
            while True:
                self._look.clear()
                try:
                    await self.round()
                except UnavailableError as error:
                    log.warning("reconciler_waits", why=str(error))
                    await asyncio.sleep(FIRST_PAUSE)
                except Exception:
                    log.exception("reconciler_failed")
                    await asyncio.sleep(FIRST_PAUSE)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._look.wait()
        finally:
            for task in self._trying.values():
                task.cancel()
            await asyncio.gather(*self._trying.values(), return_exceptions=True)

    async def round(self) -> None:
        """Bring every deployment one step nearer to what is wanted, none waiting for another.

        Raises UnavailableError for the database.
        """
        known = await self._deployments.all()
        for deployment in known:
            if deployment.id not in self._trying and not self._backoff.waits(deployment):
                task = self._trying[deployment.id] = asyncio.create_task(self._try(deployment))
                task.add_done_callback(lambda _, name=deployment.id: self._trying.pop(name))  # type: ignore[misc]
        if self._trying:
            await asyncio.wait(self._trying.values(), timeout=LONGEST_ROUND)
        for gone in self._done.keys() - {deployment.id for deployment in known}:
            del self._done[gone]
            self._backoff.forget(gone)

    async def _try(self, deployment: Deployment) -> None:
        """Bring it a step nearer. What fails is told by its state, and tried again later."""
        try:
            try:
                await self._bring(deployment)
                self._backoff.forget(deployment.id)
            except UnavailableError as error:
                self._backoff.failed(deployment, FIRST_PAUSE)
                await self._record(deployment, _away(deployment), str(error), deployment.active, deployment.replicas)
            except KubeServeError as error:
                self._backoff.failed(deployment)
                await self._record(deployment, DeploymentState.FAILED, str(error), deployment.active, 0)
            except Exception:
                log.exception("deployment_failed", deployment=deployment.id)
                self._backoff.failed(deployment)
                await self._record(deployment, DeploymentState.FAILED, FAULT, deployment.active, 0)
        except KubeServeError as error:
            log.warning("state_not_recorded", deployment=deployment.id, why=str(error))

    async def _bring(self, deployment: Deployment) -> None:
        if deployment.desired is Desired.RUNNING:
            await self._run(deployment)
        elif deployment.state is DeploymentState.STOPPED and not self._is_due(deployment):
            return
        elif await self._place.remove(deployment.id):
            await self._taken_away(deployment)
        else:
            await self._record(deployment, DeploymentState.STOPPING, "running calls end", deployment.active, 0)

    async def _taken_away(self, deployment: Deployment) -> None:
        self._note(deployment)
        if deployment.desired is Desired.DELETED:
            await self._purge(deployment.id)
            await self._deployments.remove(deployment.id)
        else:
            await self._record(deployment, DeploymentState.STOPPED, "stopped by its owner", None, 0)

    async def _run(self, deployment: Deployment) -> None:
        if self._is_due(deployment):
            await self._place.apply(await self.workload(deployment))
            self._note(deployment)
        seen = await self._place.observe(deployment.id)
        if seen is None or seen.generation != deployment.generation:
            seen = Observation(
                deployment.generation, DeploymentState.PENDING, "it is being taken up", deployment.active, 0
            )
        await self._record(deployment, seen.state, seen.reason, seen.active, seen.replicas)

    def _note(self, deployment: Deployment) -> None:
        self._done[deployment.id] = deployment.generation, asyncio.get_running_loop().time()

    def _is_due(self, deployment: Deployment) -> bool:
        generation, at = self._done.get(deployment.id, (-1, 0.0))
        return generation != deployment.generation or asyncio.get_running_loop().time() - at > RESYNC_SECONDS

    async def workload(self, deployment: Deployment) -> Workload:
        """Return what shall run of a deployment. Raises NotFoundError if its version has gone, or was never proved."""
        specs = {revision.number: revision.spec for revision in deployment.revisions}
        fallback = None
        if deployment.active is not None and deployment.active != deployment.target:
            with suppress(NotFoundError, KeyError):  # it was deleted: then there is none to fall back on
                fallback = await self._replicable(deployment, deployment.active, specs[deployment.active])
        return Workload(
            id=deployment.id,
            tenant=deployment.owner_id,
            generation=deployment.generation,
            target=await self._replicable(deployment, deployment.target, specs[deployment.target]),
            fallback=fallback,
        )

    async def _replicable(self, deployment: Deployment, number: int, spec: Spec) -> Replicable:
        version = await self._versions.version(deployment.owner_id, spec.version_id)
        model = next((file for file in version.files if file.name.lower().endswith(SUFFIXES)), None)
        if model is None or version.format is None or version.environment is None:
            raise NotFoundError(f"version {version.tag} was never proved; upload it, and deploy it when it is ready")
        return Replicable(
            revision=number,
            version=version.id,
            tag=version.tag,
            key=model.key,
            format=version.format,
            environment=self._environment(version.environment),
            minimum=spec.minimum,
            maximum=spec.maximum,
            concurrency=spec.concurrency,
            idle=spec.idle,
            timeout=spec.timeout,
            memory=spec.memory,
        )

    async def _record(
        self, deployment: Deployment, state: DeploymentState, reason: str, active: int | None, replicas: int
    ) -> None:
        now = state, reason, active, replicas, deployment.generation
        before = deployment.state, deployment.state_reason, deployment.active, deployment.replicas, deployment.observed
        if now != before:
            await self._deployments.observe(
                deployment.id, deployment.generation, state, reason, active=active, replicas=replicas
            )


def _away(deployment: Deployment) -> DeploymentState:
    """Return what a deployment is while its place does not answer."""
    if deployment.desired is not Desired.RUNNING:
        return DeploymentState.STOPPING
    return DeploymentState.PENDING if deployment.active is None else DeploymentState.DEGRADED
