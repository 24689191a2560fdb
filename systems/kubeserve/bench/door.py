"""Measures predictions through the queue: `.venv/bin/python -m bench.door` (two minutes).

From handing in to the answer: after sleep, hot, one at a time, and by many callers at once. Then a door that serves
many deployments which sleep. Door, Redis and callers share the machine.
"""

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from greenscale_worker import RedisOptions
from harness import machine
from harness.figures import amount, percentile, table
from harness.redis_server import RedisServer

from environments import environment
from kubeserve.domain import Format
from kubeserve.errors import UnavailableError
from kubeserve.places import Observation
from kubeserve.places.layout import Layout
from kubeserve.places.local import LocalPlace
from kubeserve.places.workload import Replicable, Workload
from kubeserve.predictions import Predictions
from models import IRIS, make

WAKES: Final = 20
HOT: Final = 300
CALLERS: Final = 64
EACH: Final = 30
SLEEPING: Final = 50
WATCHED_SECONDS: Final = 20.0
PATIENCE: Final = 120.0
ROW: Final = [5.1, 3.5, 1.4, 0.2]
DOOR: Final = """
import asyncio, sys
from pathlib import Path
import structlog
from greenscale_worker import RedisOptions
from kubeserve.door.app import Door
from kubeserve.places.layout import Layout
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
asyncio.run(Door(Layout(Path(sys.argv[1])), RedisOptions(url=sys.argv[2])).run(asyncio.Event()))
"""


class Scene:
    """A door in a process of its own, its place, and who asks."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir()
        self.layout, self.url = Layout(folder), url
        self.place = LocalPlace(self.layout, self._fetch)
        self.predictions = Predictions(RedisOptions(url=url))
        self.science = environment()
        self.model = make(self.science, folder / "iris.joblib", IRIS)
        self.version = str(uuid.uuid4())
        self.door: asyncio.subprocess.Process | None = None

    async def _fetch(self, key: str, path: Path) -> None:
        await asyncio.to_thread(shutil.copyfile, key, path)

    async def open(self) -> int:
        """Start the door; returns its process id."""
        self.door = await asyncio.create_subprocess_exec(sys.executable, "-c", DOOR, str(self.layout.data), self.url)
        return self.door.pid

    async def close(self) -> None:
        """End the door and all connections."""
        if self.door is not None:
            self.door.kill()
            await self.door.wait()
        shutil.rmtree(self.layout.run, ignore_errors=True)
        await self.predictions.aclose()
        await self.place.aclose()

    async def deploy(self, **changes: Any) -> str:
        """Deploy the model; returns the deployment's id."""
        target = Replicable(
            revision=1, version=self.version, tag="v1", key=str(self.model), format=Format.JOBLIB, memory=1 << 30,
            environment=self.science, minimum=0, maximum=1, concurrency=CALLERS, idle=3600, timeout=30,
        ).model_copy(update=changes)  # fmt: skip
        workload = Workload(id=str(uuid.uuid4()), tenant=self.version, generation=1, target=target)
        await self.place.apply(workload)
        return workload.id

    async def until(self, deployment_id: str, holds: Callable[[Observation], bool]) -> None:
        """Wait until a deployment stands like that."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(UnavailableError):
                    seen = await self.place.observe(deployment_id)
                    if seen is not None and holds(seen):
                        return
                await asyncio.sleep(0.02)

    async def ask(self, deployment_id: str, rows: int = 1) -> float:
        """Ask, and return the milliseconds."""
        began = perf_counter()
        answer = await self.predictions.wait(await self.predictions.submit(deployment_id, [ROW] * rows), PATIENCE)
        if answer.answer is None:
            raise SystemExit(f"no answer: {answer}")
        return 1000 * (perf_counter() - began)


async def after_sleep(scene: Scene) -> list[float]:
    """Return the milliseconds of each first prediction after sleep."""
    sleeper = await scene.deploy(idle=0.3)
    waits = []
    for _ in range(WAKES + 1):
        await scene.until(sleeper, lambda seen: seen.state == "asleep")
        waits.append(await scene.ask(sleeper))
    return sorted(waits[1:])


async def hot(scene: Scene) -> tuple[list[float], float, float]:
    """Return the milliseconds of each hot prediction, and the rows a second: one at a time, and of many callers."""
    awake = await scene.deploy()
    await scene.until(awake, lambda seen: seen.replicas == 1)
    waits = [await scene.ask(awake) for _ in range(HOT)][HOT // 10 :]
    began = perf_counter()

    async def caller() -> None:
        for _ in range(EACH):
            await scene.ask(awake)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return sorted(waits), 1000 * len(waits) / sum(waits), CALLERS * EACH / (perf_counter() - began)


async def sleeping(scene: Scene, pid: int) -> tuple[float, float]:
    """Return the door's memory in MiB and its CPU time in percent of one core, with many deployments that sleep."""
    for _ in range(SLEEPING):
        last = await scene.deploy(idle=0.3)
    await scene.until(last, lambda seen: seen.state == "asleep")
    await asyncio.sleep(10)
    before = _cpu_seconds(pid)
    await asyncio.sleep(WATCHED_SECONDS)
    return _memory_mib(pid), 100 * (_cpu_seconds(pid) - before) / WATCHED_SECONDS


def _memory_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(folder: Path, url: str) -> str:
    """Measure all, and render the table."""
    scene = Scene(folder, url)
    pid = await scene.open()
    try:
        wakes = await after_sleep(scene)
        waits, alone, together = await hot(scene)
        memory, cpu = await sleeping(scene, pid)
    finally:
        await scene.close()
    rows = [
        [f"first prediction after sleep, of {WAKES}",
         f"p50 {amount(statistics.median(wakes))} ms, p95 {amount(percentile(wakes, 95))} ms"],
        ["hot prediction", f"p50 {amount(statistics.median(waits))} ms, p95 {amount(percentile(waits, 95))} ms"],
        ["after sleep / hot", f"{statistics.median(wakes) / statistics.median(waits):.1f} ×"],
        ["rows a second, one call at a time", amount(alone)],
        [f"rows a second, {CALLERS} callers", f"{amount(together)} ({together / alone:.1f} ×)"],
        [f"a door with {SLEEPING} sleeping deployments", f"{memory:.0f} MiB, {cpu:.1f} % of a core"],
    ]  # fmt: skip
    return table(["through the queue: scikit-learn, logistic regression, one row a call", "measured"], rows)


def main() -> int:
    """Print the table, and where and when it was measured."""
    where, began, commit = machine.describe(), machine.now(), machine.commit()
    with tempfile.TemporaryDirectory(prefix="bench-door-") as name:
        server = RedisServer(Path(name) / "redis", docker=False)
        server.start()
        try:
            print(asyncio.run(measure(Path(name) / "data", f"{server.url}/0")))
        finally:
            server.close()
    print(f"""
Measured by `python -m bench.door` on {began}, commit {commit}, {where["processor"]}, {where["cores"]} cores
({where["busy_before_percent"]} % busy before), Python {where["python"]}, Redis {where["redis"]}; door, Redis and
callers share the machine.""")
    return 0


if __name__ == "__main__":
    sys.exit(main())
