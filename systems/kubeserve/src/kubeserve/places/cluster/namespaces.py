"""Every user has a namespace: made when somebody registers, and again whenever it is not as it should be."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from kubeserve.errors import KubeServeError, UnavailableError
from kubeserve.manifests import Manifest
from kubeserve.places import Known
from kubeserve.places.cluster.apply import put
from kubeserve.places.cluster.client import Cluster
from kubeserve.places.cluster.kinds import is_going
from kubeserve.places.cluster.watch import Mirror

LOOK_SECONDS: Final = 2.0
RESYNC_SECONDS: Final = 600.0  # somebody may have changed a quota or a policy
log = structlog.get_logger()

Render = Callable[[str], Sequence[Manifest]]


class Namespaces:
    """The users' namespaces. `seen` mirrors those of the cluster, by user; `render` makes the objects of one user."""

    def __init__(
        self,
        cluster: Cluster,
        seen: Mirror,
        render: Render,
        *,
        look: float = LOOK_SECONDS,
        resync: float = RESYNC_SECONDS,
    ) -> None:
        self._cluster = cluster
        self._seen = seen
        self._render = render
        self._look = look
        self._resync = resync
        self._kept = dict[str, float]()

    async def ensure(self, user_id: str) -> None:
        """Make it unless it stands. Raises UnavailableError, also while a former one is being deleted."""
        if not self._stands(user_id):
            await self.keep(user_id)

    async def keep(self, user_id: str) -> None:
        """Make it what it should be. Raises UnavailableError, also while a former one is being deleted."""
        if self._goes(user_id):
            raise UnavailableError("the namespace of its owner is being deleted; it is made again")
        await put(self._cluster, self._render(user_id))
        self._kept[user_id] = asyncio.get_running_loop().time()

    async def tend(self, known: Known) -> None:
        """Keep the namespaces of all users until cancelled. No error ends it."""
        while True:
            try:
                for user_id in await known.users():
                    if not self._goes(user_id) and (not self._stands(user_id) or self._is_due(user_id)):
                        await self._try(user_id)
            except KubeServeError as error:
                log.info("namespaces_wait", why=error.message)
            except Exception:
                log.exception("namespaces_failed")
            await asyncio.sleep(self._look)

    async def _try(self, user_id: str) -> None:
        try:
            await self.keep(user_id)
        except UnavailableError:
            raise  # so it is for all
        except KubeServeError as error:
            self._kept[user_id] = asyncio.get_running_loop().time()  # not before the next time
            log.warning("namespace_refused", user=user_id, why=error.message)

    def _goes(self, user_id: str) -> bool:
        """Tell whether a former one is being deleted, which may take for ever: what holds it is another's."""
        return any(is_going(namespace) for namespace in self._seen.of(user_id))

    def _stands(self, user_id: str) -> bool:
        return any(not is_going(namespace) for namespace in self._seen.of(user_id))

    def _is_due(self, user_id: str) -> bool:
        return asyncio.get_running_loop().time() - self._kept.get(user_id, float("-inf")) > self._resync
