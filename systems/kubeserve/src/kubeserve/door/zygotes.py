"""The zygotes of a machine: one for each tenant and environment that a deployment uses."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from kubeserve.door.own_zygote import OwnZygote
from kubeserve.door.zygote import Zygote
from kubeserve.places.layout import Layout
from kubeserve.runtime import PRELOAD


class ZygoteOf(Protocol):
    """Finds the zygote that a deployment's replicas are forked by."""

    def of(self, tenant: str, environment: Path) -> Zygote:
        """Return it; it may not have been started yet."""
        ...


class Zygotes:
    """Finds or makes zygotes; a tenant's packages run as that tenant's code, so no two tenants share one."""

    def __init__(self, layout: Layout, minimum: Mapping[str, Any]) -> None:
        self._layout = layout
        self._minimum = minimum
        self._known: dict[tuple[str, Path], Zygote] = {}

    def of(self, tenant: str, environment: Path) -> Zygote:
        """Return the zygote, which may not have been started yet."""
        key = tenant, environment
        if key not in self._known:
            name = hashlib.sha256(f"{tenant} {environment}".encode()).hexdigest()[:12]
            folder, models = self._layout.run / name, self._layout.models_of(tenant)
            self._known[key] = OwnZygote(environment, folder, models, preload=PRELOAD, minimum=self._minimum)
        return self._known[key]

    async def keep(self, used: Collection[tuple[str, Path]]) -> None:
        """Stop those that no deployment uses any more."""
        for key in [key for key in self._known if key not in used]:
            await self._known.pop(key).stop()

    async def aclose(self) -> None:
        """Stop all."""
        await self.keep(())
