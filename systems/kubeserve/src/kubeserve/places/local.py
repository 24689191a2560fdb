"""The place that is one machine: files for the door to follow, and the door's status."""

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

import aiohttp
import orjson
from pydantic import TypeAdapter, ValidationError

from kubeserve.errors import UnavailableError
from kubeserve.places import Known, Observation
from kubeserve.places.layout import Layout
from kubeserve.places.logs import new_lines
from kubeserve.places.workload import Replicable, Workload

TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0)
FOLLOW_SECONDS: Final = 0.5
OBSERVATIONS: Final = TypeAdapter(dict[str, Observation])


class Fetch(Protocol):
    """Writes an object of the store to a file, whole or not at all. Raises UnavailableError."""

    async def __call__(self, key: str, path: Path) -> None:
        """Fetch `key` to `path`."""
        ...


class LocalPlace:
    """Keeps one file for each deployment; the door makes it so, also while this process is away."""

    name: Final = "door"
    resync: Final = 30.0

    def __init__(self, layout: Layout, fetch: Fetch) -> None:
        self._layout = layout
        self._fetch = fetch
        self._fetching = WeakValueDictionary[str, asyncio.Lock]()  # by version
        self._pruning = asyncio.Lock()
        self._coming = Counter[str]()  # versions that no file names yet
        self._looking: asyncio.Task[dict[str, Observation]] | None = None
        self._http: aiohttp.ClientSession | None = None
        layout.make()

    async def run(self, changed: Callable[[], None]) -> None:
        """Wait: the door tells nobody what happens."""
        del changed
        await asyncio.Event().wait()

    async def tend(self, known: Known) -> None:
        """Wait: users have nothing here but their deployments."""
        del known
        await asyncio.Event().wait()

    async def welcome(self, user_id: str) -> None:
        """Do nothing, likewise."""

    async def apply(self, workload: Workload) -> None:
        """Fetch the models, then write the file, whole. Raises UnavailableError."""
        coming = {what.version for what in (workload.target, workload.fallback) if what is not None}
        async with self._pruning:
            self._coming.update(coming)
        try:
            await self._keep(workload)
        finally:
            self._coming.subtract(coming)
        await self.poke()

    async def _keep(self, workload: Workload) -> None:
        folder, former = self._layout.models_of(workload.tenant), workload.fallback
        target = await self._with_model(folder, workload.target)
        fallback = await self._with_model(folder, former) if former is not None else None
        workload = workload.model_copy(update={"target": target, "fallback": fallback})
        try:
            await asyncio.to_thread(self._write, workload)
        except OSError as error:
            raise UnavailableError(f"the place cannot keep it: {error.strerror}") from error

    async def observe(self, deployment_id: str) -> Observation | None:
        """Return what the door says; who asks at the same time shares its answer.

        Raises UnavailableError while it does not answer.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return (await asyncio.shield(self._looking)).get(deployment_id)

    async def _look(self) -> dict[str, Observation]:
        status = await self._status()
        try:
            return OBSERVATIONS.validate_python(status["deployments"])
        except (KeyError, ValidationError) as error:
            raise UnavailableError("the door answers what cannot be read; is it of another version?") from error

    async def remove(self, deployment_id: str) -> bool:
        """Remove the file. Return whether the door has let go, too. Raises UnavailableError."""
        (self._layout.workloads / f"{deployment_id}.json").unlink(missing_ok=True)
        await self.poke()
        status = await self._status()
        gone = deployment_id not in status.get("deployments", {}) and deployment_id not in status.get("ending", [])
        if gone:
            await asyncio.to_thread(shutil.rmtree, self._layout.folder_of(deployment_id), ignore_errors=True)
            async with self._pruning:
                await asyncio.to_thread(self._prune, set(+self._coming))
        return gone

    async def logs(self, deployment_id: str, *, follow: bool = False) -> AsyncIterator[str]:
        """Yield the lines that replicas wrote, file by file, the oldest file first."""
        folder, read = self._layout.folder_of(deployment_id) / "logs", dict[Path, int]()
        while True:
            for line in await asyncio.to_thread(new_lines, folder, read):
                yield line
            if not follow:
                return
            await asyncio.sleep(FOLLOW_SECONDS)

    async def metrics(self) -> bytes:
        """Return the door's metrics in Prometheus' text format. Raises UnavailableError."""
        return await self._ask("GET", "/metrics")

    async def aclose(self) -> None:
        """Close the connection to the door."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        if self._http is not None:
            await self._http.close()

    async def _with_model(self, folder: Path, what: Replicable) -> Replicable:
        path = folder / what.version / Path(what.key).name
        async with self._fetching.setdefault(what.version, asyncio.Lock()):
            try:
                if not path.exists():
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    await self._fetch(what.key, path)
            except OSError as error:
                raise UnavailableError(f"the place cannot keep the model: {error.strerror}") from error
        return what.model_copy(update={"model": path, "environment": what.environment.absolute()})

    def _write(self, workload: Workload) -> None:
        path = self._layout.workloads / f"{workload.id}.json"
        aside = path.with_suffix(".new")
        aside.write_text(workload.model_dump_json())
        os.replace(aside, path)  # noqa: PTH105  the same, and says what it does

    def _prune(self, used: set[str]) -> None:
        """Remove the models that no deployment uses."""
        for path in self._layout.workloads.glob("*.json"):
            try:
                workload = Workload.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                return  # what it uses is not known
            used |= {what.version for what in (workload.target, workload.fallback) if what is not None}
        for folder in self._layout.models.glob("*/*"):
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)

    async def poke(self) -> None:
        """Let the door look now; it looks by itself, too."""
        try:
            await self._ask("POST", "/look")
        except UnavailableError:
            return

    async def _status(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = orjson.loads(await self._ask("GET", "/status"))
        except orjson.JSONDecodeError as error:
            raise UnavailableError("the door answers what cannot be read") from error
        return status

    async def _ask(self, method: str, path: str) -> bytes:
        if self._http is None:
            connector = aiohttp.UnixConnector(path=str(self._layout.socket))
            self._http = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT)
        try:
            async with self._http.request(method, f"http://door{path}") as response:
                return await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError("the door does not answer; `kubeserve up` starts it again") from error
