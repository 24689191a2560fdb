"""A door of a test's own, and what the control plane would do with it."""

import asyncio
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from greenscale_worker import RedisOptions
from harness.eventually import POLL

from kubeserve.domain import Format, Quota
from kubeserve.door.app import Door
from kubeserve.errors import UnavailableError
from kubeserve.places import Observation
from kubeserve.places.layout import Layout
from kubeserve.places.local import LocalPlace
from kubeserve.places.workload import Replicable, Workload
from kubeserve.predictions import Answer, Predictions
from models import make
from replicas import pickled

PATIENCE = 60.0
TENANT = str(uuid.uuid4())


class Platform:
    """A door of a test's own, and what the control plane would do with it."""

    def __init__(self, data: Path, science: Path, url: str) -> None:
        self.layout = Layout(data)
        self.redis = RedisOptions(url=url)
        self.science = science
        self.place = LocalPlace(self.layout, self.fetch)
        self.predictions = Predictions(self.redis)
        self.stopping = asyncio.Event()
        self.door: asyncio.Task[None] | None = None

    def open(self, most_replicas: int = 5, minimum: dict[str, Any] | None = None, answers: int = 1 << 30) -> None:
        self.stopping = asyncio.Event()
        door = Door(self.layout, self.redis, quota=Quota(replicas=most_replicas, answers=answers), minimum=minimum)
        self.door = asyncio.create_task(door.run(self.stopping))

    async def close(self) -> None:
        self.stopping.set()
        if self.door is not None:
            await self.door

    async def fetch(self, key: str, path: Path) -> None:
        path.write_bytes(Path(key).read_bytes())

    def model(self, script: str) -> Replicable:
        version = str(uuid.uuid4())
        joblib = "sklearn" in script
        path = make(self.science, self.layout.data / f"{version}.{'joblib' if joblib else 'pkl'}", script)
        return self._replicable(version, path)

    def _replicable(self, version: str, path: Path) -> Replicable:
        form = Format.JOBLIB if path.suffix == ".joblib" else Format.PICKLE
        return Replicable(
            revision=1, version=version, tag="v1", key=str(path), format=form,
            environment=self.science, minimum=0, maximum=2, concurrency=16, idle=60, timeout=10, memory=2 << 30,
        )  # fmt: skip

    def written(self, source: str, **changes: Any) -> Replicable:
        """A model whose source, which defines a class Model, runs when it is loaded."""
        version = str(uuid.uuid4())
        path = self.layout.data / f"{version}.pkl"
        path.write_bytes(pickled(source))
        return self._replicable(version, path).model_copy(update=changes)

    async def deploy(self, model: str | Replicable, **changes: Any) -> Workload:
        target = await asyncio.to_thread(self.model, model) if isinstance(model, str) else model
        target = target.model_copy(update=changes)
        workload = Workload(id=str(uuid.uuid4()), tenant=TENANT, generation=1, target=target)
        await self.place.apply(workload)
        return workload

    async def until(self, workload: Workload, holds: Callable[[Observation], bool]) -> Observation:
        seen: Observation | None = None
        loop = asyncio.get_running_loop()
        ends = loop.time() + PATIENCE
        while seen is None or not holds(seen):
            assert loop.time() < ends, seen
            await asyncio.sleep(POLL)
            with suppress(UnavailableError):  # a door that starts
                seen = await self.place.observe(workload.id)
        return seen

    async def ask(self, workload: Workload, *rows: Any) -> Answer:
        prediction_id = await self.predictions.submit(workload.id, list(rows))
        return await self.predictions.wait(prediction_id, 60)

    def children(self, of: int | None = None) -> list[int]:
        path = Path(f"/proc/{of or os.getpid()}/task/{of or os.getpid()}/children")
        return [int(pid) for pid in path.read_text().split()]

    def zygotes(self) -> list[int]:
        return [pid for pid in self.children() if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def replicas(self) -> list[int]:
        return [replica for zygote in self.zygotes() for replica in self.children(zygote)]
