"""The process: makes what runs follow the place's files, and tells how it stands on a Unix socket."""

import asyncio
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
import structlog
from aiohttp import web
from greenscale_worker import RedisOptions
from pydantic import ValidationError

from kubeserve.domain import Quota
from kubeserve.door.hot import Hot
from kubeserve.door.inlet import Inlet
from kubeserve.door.kept import Kept
from kubeserve.door.leases import Leases
from kubeserve.door.metrics import Metrics
from kubeserve.door.served import Means, Served
from kubeserve.door.usage import UsageWriter
from kubeserve.door.zygotes import Zygotes
from kubeserve.errors import UnavailableError
from kubeserve.places.layout import Layout
from kubeserve.places.workload import Workload

LOOK_SECONDS: Final = 0.2
USUAL: Final = Quota()
log = structlog.get_logger()


class Door:
    """Serves every deployment that has a file in the place's folder, until stopped.

    The deployments of a tenant have the replicas of `quota` together, or one each. No model is loaded without the walls
    of `minimum`. A file that cannot be read is left alone and told in the log: what runs by an earlier one goes on.
    """

    def __init__(
        self,
        layout: Layout,
        redis: RedisOptions,
        *,
        quota: Quota = USUAL,
        minimum: Mapping[str, Any] | None = None,
    ) -> None:
        self._layout = layout
        self._most_replicas = quota.replicas
        self._metrics = Metrics()
        self._zygotes = Zygotes(layout, minimum or {})
        self._leases = Leases(redis)
        self._means = Means(redis, self._zygotes, self._metrics, Kept(quota.answers, redis), self._leases)
        self._usage = UsageWriter(self._metrics.meters, redis)
        self._served: dict[str, Served] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._read: dict[str, tuple[int, int]] = {}
        self._look = asyncio.Event()

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until `stopping` is set; then drain. Raises UnavailableError while another door serves these files."""
        self._layout.make()
        with self._alone():
            await self._run(stopping)

    async def _run(self, stopping: asyncio.Event) -> None:
        shutil.rmtree(self._layout.run, ignore_errors=True)  # of a door that was killed
        self._layout.make_run()
        runner = await self._listen()
        background = {
            asyncio.create_task(work) for work in (self._leases.run(), self._means.kept.run(), self._usage.run())
        }
        try:
            while not stopping.is_set():
                await self._follow()
                await self._wait(stopping)
        finally:
            await asyncio.gather(*(served.aclose() for served in self._served.values()), *self._ending.values())
            for task in background:
                task.cancel()
            await asyncio.wait(background)
            await self._usage.finish()
            await self._zygotes.aclose()
            await runner.cleanup()
            shutil.rmtree(self._layout.run, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._layout.data / "door.lock").open("wb") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UnavailableError(f"another door serves {self._layout.data}; end that one first") from None
            yield

    async def _wait(self, stopping: asyncio.Event) -> None:
        self._look.clear()
        waits = [asyncio.create_task(self._look.wait()), asyncio.create_task(stopping.wait())]
        await asyncio.wait(waits, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()

    async def _follow(self) -> None:
        """Make what is served what the files say."""
        try:
            names = os.listdir(self._layout.workloads)  # noqa: PTH208  it raises, where `glob` finds nothing
        except OSError as error:
            log.error("workloads_unreadable", error=error.strerror)  # noqa: TRY400  what runs goes on
            return
        files = {name[:-5]: self._layout.workloads / name for name in names if name.endswith(".json")}
        for name, path in files.items():
            self._take(name, path)
        for name in [name for name in self._served if name not in files]:
            self._read.pop(name, None)
            self._ending[name] = asyncio.create_task(self._end(name, self._served.pop(name)))
        used = {use for served in self._served.values() for use in served.uses}
        if not self._ending:
            await self._zygotes.keep(used)

    def _take(self, name: str, path: Path) -> None:
        try:
            found = path.stat()
            stamp = found.st_mtime_ns, found.st_ino
            if self._read.get(name) == stamp or name in self._ending:
                return
            self._read[name] = stamp
            workload = Workload.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            log.error("workload_unreadable", deployment=name, error=type(error).__name__)  # noqa: TRY400  a file, no bug: its traceback says nothing
            return
        if workload.id != name:
            log.error("workload_unreadable", deployment=name, error=f"it is that of {workload.id}")
        elif name in self._served:
            self._served[name].take(workload)
        else:
            self._served[name] = Served(
                workload,
                folder=self._layout.folder_of(name),
                means=self._means,
                may_grow=partial(self._may_grow, workload.tenant),
            )

    def _may_grow(self, tenant: str) -> bool:
        """Return whether a tenant has fewer replicas than it may have. The first one of a deployment needs no leave."""
        running = sum(served.size for served in self._served.values() if served.tenant == tenant)
        return running < self._most_replicas

    async def _end(self, name: str, served: Served) -> None:
        try:
            await served.aclose()
            shutil.rmtree(self._layout.folder_of(name), ignore_errors=True)
            self._metrics.forget(name)
            await self._usage.finish()  # before its keys are removed
        finally:
            del self._ending[name]

    async def _listen(self) -> web.AppRunner:
        app = web.Application()
        app.add_routes(
            [web.get("/status", self._status), web.get("/metrics", self._tell), web.post("/look", self._now)]
        )
        app.add_routes(Inlet(self._hot).routes)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        self._layout.socket.unlink(missing_ok=True)
        former = os.umask(0o077)
        try:
            await web.UnixSite(runner, str(self._layout.socket)).start()
        finally:
            os.umask(former)
        return runner

    def _hot(self, deployment_id: str) -> Hot | None:
        served = self._served.get(deployment_id)
        return served.hot if served is not None else None

    async def _status(self, _request: web.Request) -> web.Response:
        told = {name: served.observe() for name, served in self._served.items()}
        body = {"pid": os.getpid(), "deployments": told, "ending": list(self._ending)}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def _tell(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _now(self, _request: web.Request) -> web.Response:
        self._look.set()
        return web.Response(status=204)
