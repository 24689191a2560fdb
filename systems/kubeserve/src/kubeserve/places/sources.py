"""What pods fetch: models and environments of the platform's store, as whoever renders manifests asks for them."""

from dataclasses import dataclass
from typing import Protocol

from kubeserve.domain import Version
from kubeserve.intake.archives import Archive


class Store(Protocol):
    """Where models and environments lie (kubeserve.objects)."""

    async def presign(self, key: str, seconds: float) -> str:
        """Return a URL by which whoever has it may read `key` for some seconds. Raises UnavailableError."""
        ...


class Archives(Protocol):
    """Environments as files of the store (kubeserve.intake)."""

    async def archive(self, environment_id: str) -> Archive | None:
        """Return where an environment lies in the store; None where the image has it. Raises UnavailableError."""
        ...


class Versions(Protocol):
    """Versions with their files (kubeserve.registry)."""

    async def version(self, owner_id: str, version_id: str) -> Version:
        """Return a version. Raises NotFoundError, UnavailableError."""
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """All of them."""

    store: Store
    archives: Archives
    versions: Versions
