"""What the API remembers between calls: a little, for a moment, in memory that does not grow."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from kubeserve.api.metrics import Metrics
from kubeserve.api.shapes import HealthShape
from kubeserve.control import ControlPlane
from kubeserve.domain import Deployment, Model, Principal, Version
from kubeserve.errors import LimitedError

Value = TypeVar("Value")
FRESH_SECONDS: Final = 1.0  # for so long a revoked key may still be good for something
LASTING_SECONDS: Final = 60.0
MOST: Final = 10_000
MOST_STREAMS: Final = 500
MOST_STREAMS_EACH: Final = 20


class Remembered(Generic[Value]):
    """Values for `seconds`. What raises is not remembered. Of many who want to know at once, one asks."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._values: dict[Hashable, tuple[float, Value]] = {}
        self._asking: dict[Hashable, asyncio.Lock] = {}

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[Value]]) -> Value:
        """Give what is remembered, or ask."""
        found = self._values.get(key)
        if found is not None and found[0] > time.monotonic():
            return found[1]
        lock = self._asking.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                return await self._ask(key, ask)
        finally:
            if self._asking.get(key) is lock and not lock.locked():
                del self._asking[key]

    async def _ask(self, key: Hashable, ask: Callable[[], Awaitable[Value]]) -> Value:
        values = self._values
        found = values.get(key)
        if found is not None and found[0] > time.monotonic():
            return found[1]  # by the one before
        value = await ask()
        if len(values) >= MOST:
            values.clear()
        values[key] = time.monotonic() + self._seconds, value
        return value

    def forget(self) -> None:
        """Ask for everything again; what is asked for just now is not remembered."""
        self._values = {}


class State:
    """The services, and what is remembered of what they said."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.metrics = Metrics()
        self._principals = Remembered[Principal](FRESH_SECONDS)
        self._deployments = Remembered[Deployment](FRESH_SECONDS)
        self._versions = Remembered[Version](LASTING_SECONDS)
        self._models = Remembered[Model](LASTING_SECONDS)
        self._health = Remembered[HealthShape](FRESH_SECONDS)
        self._asking = asyncio.Lock()
        self._streams = Counter[str]()
        self.openapi = b""

    async def principal(self, credential: str) -> Principal:
        """Tell who calls. Raises UnauthenticatedError."""
        key = hashlib.sha256(credential.encode(errors="replace")).digest()
        return await self._principals.get(key, lambda: self.plane.accounts.authenticate(credential))

    async def deployment(self, owner_id: str, deployment_id: str) -> Deployment:
        """Find a deployment, as it was at most a second ago."""
        ask = lambda: self.plane.deployments.get(owner_id, deployment_id)  # noqa: E731
        return await self._deployments.get((owner_id, deployment_id), ask)

    async def version(self, owner_id: str, version_id: str) -> Version:
        """Find a version that is deployed: its signature and its tag do not change any more."""
        ask = lambda: self.plane.registry.version(owner_id, version_id)  # noqa: E731
        return await self._versions.get((owner_id, version_id), ask)

    async def model(self, owner_id: str, model_id: str) -> Model:
        """Find a model that is deployed: its name does not change any more."""
        ask = lambda: self.plane.registry.model(owner_id, model_id)  # noqa: E731
        return await self._models.get((owner_id, model_id), ask)

    async def health(self, ask: Callable[[], Awaitable[HealthShape]]) -> HealthShape:
        """Tell how all is; however many want to know, it is found out once in a second."""
        async with self._asking:
            return await self._health.get("", ask)

    def changed(self) -> None:
        """Forget what a call has just changed."""
        self._deployments.forget()
        self._principals.forget()

    @contextmanager
    def stream(self, owner_id: str) -> Iterator[None]:
        """Count one that follows. Raises LimitedError if they are too many, of the owner's or of all."""
        if self._streams[owner_id] >= MOST_STREAMS_EACH or self._streams.total() >= MOST_STREAMS:
            raise LimitedError("too many are followed at once: close one first", retry_after=5.0)
        self._streams[owner_id] += 1
        try:
            yield
        finally:
            self._streams[owner_id] -= 1
            self._streams += Counter()  # drops those at zero
