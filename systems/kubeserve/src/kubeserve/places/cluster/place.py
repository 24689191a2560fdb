"""The place that is a cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol

import structlog

from kubeserve.domain import DeploymentState
from kubeserve.errors import KubeServeError, UnavailableError
from kubeserve.manifests import DEPLOYMENT, USER, Manifest
from kubeserve.places import Known, Observation
from kubeserve.places.cluster.apply import prune, put
from kubeserve.places.cluster.client import Cluster
from kubeserve.places.cluster.kinds import SELECTOR
from kubeserve.places.cluster.logs import followed, lines_of
from kubeserve.places.cluster.namespaces import Namespaces
from kubeserve.places.cluster.observe import observation
from kubeserve.places.cluster.orphans import Orphans
from kubeserve.places.cluster.redis_users import RedisUsers
from kubeserve.places.cluster.trial import PATIENCE, Trial
from kubeserve.places.cluster.watch import Mirror
from kubeserve.places.workload import Workload

RESYNC_SECONDS: Final = 120.0
LOOK_AGAIN: Final = 2.0  # seconds after which what is being deleted is looked at again, though no pod has gone
State = DeploymentState
log = structlog.get_logger()


class Render(Protocol):
    """Makes manifests. Raises UnavailableError where they need what is away, such as URLs of the store."""

    def user(self, user_id: str) -> Sequence[Manifest]:
        """Return what a user has in the cluster."""
        ...

    async def deployment(self, workload: Workload, redis_password: str) -> Sequence[Manifest]:
        """Return the objects of a deployment."""
        ...


class ClusterPlace:
    """Keeps the objects of each deployment in its owner's namespace; Kubernetes and KEDA make of them what runs.

    `run` has to run: what is seen comes from there. `patience` is for how long a new revision may be broken before it
    is given up: then its former one is put back, or what was made of it is removed.
    """

    name: Final = "cluster"

    def __init__(
        self,
        cluster: Cluster,
        render: Render,
        redis: RedisUsers,
        *,
        patience: float = PATIENCE,
        resync: float = RESYNC_SECONDS,
    ) -> None:
        self.resync = resync
        self._cluster = cluster
        self._render = render
        self._redis = redis
        self._orphans = Orphans(cluster, redis)
        self._patience = patience
        self._changed: Callable[[], None] = lambda: None
        self._deployments = self._mirror("Deployment", DEPLOYMENT)
        self._pods = self._mirror("Pod", DEPLOYMENT)
        seen = self._mirror("Namespace", USER)
        self._mirrors = self._deployments, self._pods, seen
        self.namespaces = Namespaces(cluster, seen, render.user)
        self._trials = dict[str, Trial]()
        self._looked = dict[str, float]()

    async def run(self, changed: Callable[[], None]) -> None:
        """Follow what happens in the cluster until cancelled; call `changed` whenever something has."""
        self._changed = changed
        async with asyncio.TaskGroup() as group:
            for mirror in self._mirrors:
                group.create_task(mirror.run())

    async def tend(self, known: Known) -> None:
        """Keep the namespaces of all users, and remove what is of nobody, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.namespaces.tend(known))
            group.create_task(self._orphans.tend(known))

    async def welcome(self, user_id: str) -> None:
        """Make a user's namespace now. Raises KubeServeError where it has to come later, by `tend`."""
        await self.namespaces.ensure(user_id)

    async def apply(self, workload: Workload) -> None:
        """Apply its objects and remove those that it had before; of a revision that was given up, the former one's.

        Raises RefusedError where the cluster does not take it; then nothing of a deployment that is new is left.
        """
        trial = self._trials.get(workload.id)
        if trial is not None and trial.workload.generation != workload.generation:
            self._trials.pop(workload.id)
            trial = None
        if trial is not None and trial.reason is not None:
            if trial.workload.fallback is None:
                await self._delete(workload.id)
                return
            workload = workload.model_copy(update={"target": trial.workload.fallback, "fallback": None})
        await self._put(workload)

    async def _put(self, workload: Workload) -> None:
        before = _template(self._deployments.of(workload.id))
        await self.namespaces.ensure(workload.tenant)
        await self._redis.keep(workload.id, workload.tenant)
        manifests = await self._render.deployment(workload, self._redis.password(workload.id))
        try:
            made = await put(self._cluster, manifests)
        except UnavailableError:
            raise
        except KubeServeError:
            if before is None:
                await self._delete(workload.id)
            raise
        if _template(made) != before and workload.id not in self._trials:
            self._trials[workload.id] = Trial(workload)
        trial = self._trials.get(workload.id)
        if trial is not None and trial.reason is None:  # it is to show itself now, also where nobody calls
            await self._redis.wake(workload.id)
        await prune(self._cluster, _selector(workload.id), manifests)

    async def observe(self, deployment_id: str) -> Observation | None:
        """Return how it stands, as far as the cluster has told. Raises UnavailableError while it tells nothing."""
        found, pods = self._deployments.of(deployment_id), self._pods.of(deployment_id)
        seen = observation(found[0], pods) if found else None
        trial = self._trials.get(deployment_id)
        if trial is None:
            return seen
        if seen is not None and seen.state is State.READY and seen.active == trial.workload.target.revision:
            self._trials.pop(deployment_id)
            return seen
        if seen is not None and trial.judge(seen, self._patience):
            await self._give_up(trial)
        return trial.told(seen)

    async def remove(self, deployment_id: str) -> bool:
        """Delete all that carries its label, in any namespace, and its user of Redis. Raises UnavailableError."""
        self._trials.pop(deployment_id, None)
        now = asyncio.get_running_loop().time()
        if self._pods.of(deployment_id) and now - self._looked.get(deployment_id, float("-inf")) < LOOK_AGAIN:
            return False
        self._looked[deployment_id] = now
        if await self._delete(deployment_id) or (await self._cluster.list("Pod", _selector(deployment_id)))[0]:
            return False
        await self._redis.remove(deployment_id)
        self._looked.pop(deployment_id, None)
        return True

    async def logs(self, deployment_id: str, *, follow: bool = False) -> AsyncIterator[str]:
        """Yield what the models of its pods wrote, the last thousand lines of each; with `follow` without end."""

        def pods() -> Sequence[Manifest]:
            try:
                return self._pods.of(deployment_id)
            except UnavailableError:
                return ()

        async with aclosing((followed if follow else lines_of)(self._cluster, pods)) as lines:
            async for line in lines:
                yield line

    async def metrics(self) -> bytes:
        """Return nothing: Prometheus asks each pod."""
        return b""

    async def aclose(self) -> None:
        """Close the connections to the cluster."""
        await self._cluster.aclose()

    async def _give_up(self, trial: Trial) -> None:
        """Put back the revision that answered before; where there was none, remove all, which would only break on."""
        log.warning("revision_given_up", deployment=trial.workload.id, revision=trial.workload.target.revision)
        if trial.workload.fallback is None:
            await self._delete(trial.workload.id)
        else:
            await self.apply(trial.workload)

    async def _delete(self, deployment_id: str) -> bool:
        """Delete its objects. Return whether there were any."""
        return bool(await prune(self._cluster, _selector(deployment_id), ()))

    def _notify(self) -> None:
        self._changed()

    def _mirror(self, kind: str, group: str) -> Mirror:
        return Mirror(self._cluster, kind, group, self._notify)


def _selector(deployment_id: str) -> dict[str, str]:
    return {**SELECTOR, DEPLOYMENT: deployment_id}


def _template(objects: Sequence[Manifest]) -> Any:
    """Return the template of pods in the Deployment among `objects`, None where there is none."""
    return next((each["spec"].get("template") for each in objects if each.get("kind") == "Deployment"), None)
