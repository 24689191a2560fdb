"""The door of a pod: one deployment, whose zygote is another container's, and HTTP on a port of the pod."""

import asyncio
import os
import tempfile
from pathlib import Path

import orjson
import structlog
from aiohttp import web
from greenscale_worker import ConfigError, RedisOptions
from pydantic import ValidationError

from kubeserve.domain import Quota
from kubeserve.door.hot import Hot
from kubeserve.door.inlet import Inlet
from kubeserve.door.kept import Kept
from kubeserve.door.leases import Leases
from kubeserve.door.metrics import Metrics
from kubeserve.door.pod_zygote import PodZygote
from kubeserve.door.served import Means, Served
from kubeserve.door.usage import UsageWriter
from kubeserve.door.zygote import Zygote
from kubeserve.places.workload import Workload

log = structlog.get_logger()


def read_workload(path: Path) -> Workload:
    """Return what a pod is for, with the one replica that a pod has. Raises ConfigError.

    Read it once: a new revision is a new pod.
    """
    try:
        workload = Workload.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; a file with a workload is accepted") from None
    except ValidationError:
        raise ConfigError(f"{path}: no workload of this version of kubeserve; let `kubeserve serve` apply it") from None
    one = workload.target.model_copy(update={"minimum": 1, "maximum": 1})
    return workload.model_copy(update={"target": one, "fallback": None})


class PodDoor:
    """Answers for `workload` by the zygote at `socket`, which may come and go."""

    def __init__(self, workload: Workload, socket: Path, redis: RedisOptions, quota: Quota) -> None:
        self._workload = workload
        self._zygote = PodZygote(socket)
        self._metrics = Metrics()
        self._leases = Leases(redis)
        self._means = Means(redis, self, self._metrics, Kept(quota.answers, redis), self._leases)
        self._usage = UsageWriter(self._metrics.meters, redis)
        self._served: Served | None = None
        self._stopping = asyncio.Event()

    def of(self, tenant: str, environment: Path) -> Zygote:
        """Return the pod's zygote: there is one tenant, and one environment."""
        del tenant, environment
        return self._zygote

    async def run(self, stopping: asyncio.Event, host: str, port: int) -> None:
        """Answer until `stopping` is set; then let calls end, hand the rest back. Raises OSError for the address."""
        self._stopping = stopping
        with tempfile.TemporaryDirectory(prefix="kubeserve-") as folder:
            self._served = Served(self._workload, folder=Path(folder), means=self._means, may_grow=lambda: False)
            runner = web.AppRunner(self._app(), access_log=None, handler_cancellation=True)
            background = {
                asyncio.create_task(work) for work in (self._leases.run(), self._means.kept.run(), self._usage.run())
            }
            try:
                await runner.setup()
                await web.TCPSite(runner, host, port).start()
                log.info("serving", deployment=self._workload.id, address=runner.addresses[0])
                await stopping.wait()
            finally:
                await self._served.aclose()
                for task in background:
                    task.cancel()
                await asyncio.wait(background)
                await self._usage.finish()
                await self._zygote.stop()
                await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._live),
                web.get("/readyz", self._ready),
                web.get("/zygotez", self._model_live),
                web.get("/status", self._status),
                web.get("/metrics", self._tell),
            ]
        )
        app.add_routes(Inlet(self._hot).routes)
        return app

    def _hot(self, deployment_id: str) -> Hot | None:
        return self._served.hot if self._served is not None and deployment_id == self._workload.id else None

    async def _live(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _model_live(self, _request: web.Request) -> web.Response:
        """Whether the container of the model is to be left running: 200, or 503 once its zygote does not come."""
        if self._zygote.lost:
            return web.Response(status=503, text="the zygote does not answer\n")
        return web.Response(text="ok\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        """Whether a replica is loaded, and answers go on: 200, or 503 with why not."""
        assert self._served is not None  # noqa: S101  it is there before anybody can ask
        if self._stopping.is_set():
            return web.Response(status=503, text="it ends\n")
        seen = self._served.observe()
        if seen.replicas:
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"{seen.reason or 'the model is being loaded'}\n")

    async def _status(self, _request: web.Request) -> web.Response:
        assert self._served is not None  # noqa: S101  as above
        body = {"pid": os.getpid(), "deployments": {self._workload.id: self._served.observe()}, "ending": []}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def _tell(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})
