"""What the models of a deployment write, from all of its pods."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

from kubeserve.errors import KubeServeError
from kubeserve.manifests import Manifest
from kubeserve.places.cluster.client import Cluster
from kubeserve.places.logs import CONTROLS

CONTAINER: Final = "model"
TAIL: Final = 1000  # lines of each pod
LOOK_SECONDS: Final = 1.0  # between looks for new pods, and for what a container that was started again writes
WAITING: Final = 1000  # lines that nobody has read yet
STAMP: Final = 30  # characters of a time with nanoseconds
Pods = Callable[[], Sequence[Manifest]]


async def lines_of(cluster: Cluster, pods: Pods) -> AsyncGenerator[str]:
    """Yield the last lines of each pod, the oldest pod first."""
    for pod in sorted(pods(), key=lambda pod: str(pod["metadata"].get("creationTimestamp"))):
        try:
            async for _, line in _stamped(cluster, pod, {"tailLines": str(TAIL)}):
                yield line
        except KubeServeError:  # it has not begun, or has gone
            continue


async def followed(cluster: Cluster, pods: Pods) -> AsyncGenerator[str]:
    """Yield the lines of all pods as they come, those of pods to come, too. Never ends."""
    lines = asyncio.Queue[str](WAITING)
    reading = dict[str, asyncio.Task[None]]()
    try:
        while True:
            for pod in pods():
                if pod["metadata"]["uid"] not in reading:
                    task = asyncio.create_task(_follow(cluster, pod, lines))
                    reading[pod["metadata"]["uid"]] = task
            here = {pod["metadata"]["uid"] for pod in pods()}
            for gone in reading.keys() - here:
                if lines.empty():
                    reading.pop(gone).cancel()
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    yield await lines.get()
            except TimeoutError:
                continue
    finally:
        for task in reading.values():
            task.cancel()
        await asyncio.gather(*reading.values(), return_exceptions=True)


async def _follow(cluster: Cluster, pod: Manifest, lines: "asyncio.Queue[str]") -> None:
    """Put a pod's lines; a container that ends is started again, and goes on where the last one ended."""
    seen = ""
    while True:
        query = {"follow": "true", **({"sinceTime": seen} if seen else {"tailLines": str(TAIL)})}
        try:
            async for stamp, line in _stamped(cluster, pod, query):
                if _moment(stamp) > _moment(seen):
                    seen = stamp
                    await lines.put(line)
        except KubeServeError:
            pass  # it has not begun, or the connection was cut
        await asyncio.sleep(LOOK_SECONDS)


async def _stamped(cluster: Cluster, pod: Manifest, query: dict[str, str]) -> AsyncGenerator[tuple[str, str]]:
    about = pod["metadata"]
    asked = {"container": CONTAINER, "timestamps": "true", **query}
    async for line in cluster.log(about["namespace"], about["name"], asked):
        stamp, _, text = line.partition(" ")
        yield stamp, CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text.removesuffix("\r"))


def _moment(stamp: str) -> str:
    return stamp.removesuffix("Z").ljust(STAMP, "0")
