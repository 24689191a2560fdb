"""Removes what the cluster has of users and deployments that the database does not know.

A database that was restored no longer knows what was made after its backup; a control plane that stalled may apply a
deployment after another one has deleted it. What is ours carries the name of this installation. It is removed once it
was unknown at every look for an hour: time for people to see the warning, and to put the right database back.
"""

import asyncio
from typing import Final

import structlog

from kubeserve.errors import KubeServeError
from kubeserve.manifests import DEPLOYMENT, INSTALLATION, USER, namespace_of
from kubeserve.places import Known
from kubeserve.places.cluster.apply import found, prune
from kubeserve.places.cluster.client import Cluster
from kubeserve.places.cluster.kinds import SELECTOR, is_going, labels_of, name_of
from kubeserve.places.cluster.redis_users import RedisUsers

LOOK_SECONDS: Final = 600.0
UNKNOWN_SECONDS: Final = 3600.0
log = structlog.get_logger()

Orphan = tuple[str, str]  # one of the labels USER and DEPLOYMENT, and an id


class Orphans:
    """Those of the installation whose users of Redis these are."""

    def __init__(self, cluster: Cluster, redis: RedisUsers) -> None:
        self._cluster = cluster
        self._redis = redis
        self._selector = {**SELECTOR, INSTALLATION: redis.installation}
        self._unknown = dict[Orphan, float]()  # since when
        self._warned = False

    async def tend(self, known: Known) -> None:
        """Look, and remove, until cancelled. One process at a time does that. No error ends it."""
        while True:
            try:
                await self.look(known)
            except KubeServeError as error:
                log.info("orphans_wait", why=error.message)
            except Exception:
                log.exception("orphans_failed")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, known: Known) -> None:
        """Note what is unknown, and remove what was so for an hour. Raises KubeServeError; then nothing is noted."""
        there = await self._there()
        users, deployments = await known.users(), await known.deployments()  # after the cluster: rows come first
        if not users:
            self._doubt(there)
            return
        self._warned = False
        now = asyncio.get_running_loop().time()
        orphans = there - {(USER, each) for each in users} - {(DEPLOYMENT, each) for each in deployments}
        for label, name in sorted(orphans - self._unknown.keys()):
            log.warning("orphan_seen", **{label.partition("/")[2]: name}, removed_in_seconds=UNKNOWN_SECONDS)
        self._unknown = {each: self._unknown.get(each, now) for each in orphans}
        for label, name in sorted(orphans):
            if now - self._unknown[label, name] >= UNKNOWN_SECONDS:
                log.warning("orphan_removed", **{label.partition("/")[2]: name})
                await (self._remove_user if label == USER else self._remove_deployment)(name)

    def _doubt(self, there: set[Orphan]) -> None:
        """Remove nothing: a database that knows nobody is the wrong one, or is being restored."""
        self._unknown.clear()
        if there and not self._warned:
            log.warning("database_knows_nobody", left_alone=len(there))
        self._warned = bool(there)

    async def _there(self) -> set[Orphan]:
        users = {user for each in await self._namespaces() if (user := labels_of(each).get(USER))}
        labels = [labels_of(each).get(DEPLOYMENT) for each in await found(self._cluster, self._selector)]
        deployments = {*filter(None, labels), *await self._redis.ours()}
        return {(USER, each) for each in users} | {(DEPLOYMENT, each) for each in deployments}

    async def _namespaces(self) -> list[dict[str, object]]:
        listed, _ = await self._cluster.list("Namespace", self._selector)
        return [each for each in listed if name_of(each)[2] == namespace_of(labels_of(each).get(USER, ""))]

    async def _remove_user(self, user_id: str) -> None:
        for each in await self._namespaces():
            if labels_of(each)[USER] == user_id and not is_going(each):
                await self._cluster.delete(*name_of(each))

    async def _remove_deployment(self, deployment_id: str) -> None:
        """Remove its objects and its user of Redis. Its queue stays: a restored row finds the calls that wait there."""
        await prune(self._cluster, {**self._selector, DEPLOYMENT: deployment_id}, ())
        await self._redis.remove(deployment_id)
