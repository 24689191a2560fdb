"""Where the doors of a deployment are."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

from kubeserve.domain import Deployment
from kubeserve.places.layout import Layout

PORT: Final = 8601
FRESH_SECONDS: Final = 1.0  # then a name is resolved again
STALE_SECONDS: Final = 10.0  # so long is a resolver that is silent made up for
RESOLVE_SECONDS: Final = 0.1  # that a call waits for it
LOOKUPS: Final = 4  # at once
MOST_NAMES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Address:
    """A door: the Unix socket at `path`, or a TCP port where that is empty."""

    path: str = ""
    host: str = ""
    port: int = PORT


class Doors(Protocol):
    """Finds the doors that may answer for a deployment now."""

    async def of(self, deployment: Deployment) -> Sequence[Address]:
        """Return their addresses, none while there is no door. Takes a tenth of a second at most."""
        ...

    def close(self) -> None:
        """Stop looking."""
        ...


class LocalDoors:
    """The one door of this machine."""

    def __init__(self, layout: Layout) -> None:
        self._doors = (Address(path=str(layout.socket)),)

    async def of(self, deployment: Deployment) -> Sequence[Address]:
        """Return its socket, whether it runs or not."""
        del deployment
        return self._doors

    def close(self) -> None:
        """Nothing is open."""


class ClusterDoors:
    """The pods of a deployment that are ready: the addresses of its headless Service, looked up once in a second.

    `resolve` returns the addresses of a name, and raises OSError where there are none; None asks the system.
    """

    def __init__(self, resolve: Callable[[str], Awaitable[Sequence[str]]] | None = None) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, "dns")  # of its own: a silent server must not hold up others
        self._resolve = resolve or self._ask_system
        self._known: dict[str, tuple[float, tuple[Address, ...]]] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    async def of(self, deployment: Deployment) -> Sequence[Address]:
        """Return the addresses of pods that were ready a moment ago."""
        name = f"d-{deployment.id}.ks-{deployment.owner_id}.svc"
        at, addresses = self._known.get(name, (-STALE_SECONDS, ()))
        if monotonic() - at < FRESH_SECONDS:
            return addresses
        await asyncio.wait({self._look(name)}, timeout=RESOLVE_SECONDS)
        at, addresses = self._known.get(name, (-STALE_SECONDS, ()))
        return addresses if monotonic() - at < STALE_SECONDS else ()

    def close(self) -> None:
        """Stop looking up names."""
        for task in self._looking.values():
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _look(self, name: str) -> asyncio.Task[None]:
        if name not in self._looking:
            self._looking[name] = asyncio.create_task(self._find(name))
        return self._looking[name]

    async def _find(self, name: str) -> None:
        found: Sequence[str] = ()
        try:
            with suppress(OSError, UnicodeError):  # no pod is ready, or there is no such name
                found = await self._resolve(name)
            if len(self._known) >= MOST_NAMES:
                self._known.clear()
            self._known[name] = monotonic(), tuple(Address(host=host) for host in found)
        finally:
            del self._looking[name]

    async def _ask_system(self, name: str) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _addresses, name)
        return sorted(set(found))


def _addresses(name: str) -> list[str]:
    return [str(address[0]) for *_, address in socket.getaddrinfo(name, PORT, type=socket.SOCK_STREAM)]
