"""A mirror of the objects of one kind that are ours: listed, then followed, so that looking costs no request."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import structlog

from kubeserve.errors import KubeServeError, NotFoundError, UnavailableError
from kubeserve.manifests import Manifest
from kubeserve.places.cluster.client import AWAY, Cluster
from kubeserve.places.cluster.kinds import SELECTOR, labels_of, name_of

SILENCE: Final = 60.0  # then it is listed again: a connection may have died without a word
LOST_SECONDS: Final = 5.0  # for so long what was seen last is believed
FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 10.0
log = structlog.get_logger()


class Mirror:
    """Objects of `kind`, grouped by their label `group`. `changed` is called after each change."""

    def __init__(self, cluster: Cluster, kind: str, group: str, changed: Callable[[], None]) -> None:
        self._cluster = cluster
        self._kind = kind
        self._group = group
        self._changed = changed
        self._objects = defaultdict[str, dict[tuple[str, str, str], Manifest]](dict)
        self._lost: float | None = float("-inf")

    def of(self, group: str) -> list[Manifest]:
        """Return the objects of one group, as they were last seen. Raises UnavailableError if that is too long ago."""
        if self._lost is not None and asyncio.get_running_loop().time() - self._lost > LOST_SECONDS:
            raise UnavailableError(AWAY)
        return list(self._objects.get(group, {}).values())

    async def run(self) -> None:
        """Follow until cancelled. No error ends it; the pauses grow until a watch lasts longer than the one before."""
        pause, now = FIRST_PAUSE, asyncio.get_running_loop().time
        while True:
            began = now()
            lasted = await self._ended() and now() - began > pause
            pause = FIRST_PAUSE if lasted else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  jitter

    async def _ended(self) -> bool:
        """Follow until that ends. Return whether the cluster was there until then."""
        try:
            await self._follow()
        except NotFoundError:  # what it would go on from is forgotten
            return True
        except KubeServeError as error:
            log.info("watch_broke", kind=self._kind, why=error.message)
        except Exception:
            log.exception("watch_failed", kind=self._kind)
        else:
            return True
        self._lost = asyncio.get_running_loop().time() if self._lost is None else self._lost
        return False

    async def _follow(self) -> None:
        listed, version = await self._cluster.list(self._kind, SELECTOR)
        self._lost = None
        self._objects.clear()
        for each in listed:
            self._keep(each)
        self._changed()
        async with aclosing(self._cluster.watch(self._kind, SELECTOR, version)) as events:
            while True:
                try:
                    async with asyncio.timeout(SILENCE):
                        event, each = await anext(events)
                except (TimeoutError, StopAsyncIteration):
                    return
                self._forget(each)
                if event != "DELETED":
                    self._keep(each)
                self._changed()

    def _keep(self, each: Manifest) -> None:
        each["metadata"].pop("managedFields", None)  # the most of it, and nobody's here
        self._objects[labels_of(each).get(self._group, "")][name_of(each)] = each

    def _forget(self, each: Manifest) -> None:
        for group in [group for group, objects in self._objects.items() if name_of(each) in objects]:  # labels change
            del self._objects[group][name_of(each)]
            if not self._objects[group]:
                del self._objects[group]
