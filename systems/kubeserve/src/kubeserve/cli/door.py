"""`kubeserve door`: runs the deployments of this machine, or the one of this pod."""

import argparse
import asyncio
from pathlib import Path

from greenscale_worker import ConfigError

from kubeserve.cli.process import read_settings, until_signalled
from kubeserve.domain import Quota
from kubeserve.door.app import Door
from kubeserve.door.pod import PodDoor, read_workload
from kubeserve.manifests.pod import PORT
from kubeserve.places.layout import Layout


def arguments(parser: argparse.ArgumentParser) -> None:
    """It is told by the environment, and in a pod by what is mounted there."""
    parser.epilog = (
        "Settings are KUBESERVE_DATA, KUBESERVE_QUOTA_REPLICAS,\nKUBESERVE_QUOTA_ANSWERS, KUBESERVE_WALLS and REDIS_*."
    )
    pod = parser.add_argument_group("in a pod")
    pod.add_argument("--workload", type=Path, metavar="FILE", help="the one deployment to answer for")
    pod.add_argument("--zygote", type=Path, metavar="SOCKET", help="where the container of its model listens")
    pod.add_argument("--host", default="0.0.0.0", help="where HTTP listens (default: %(default)s)")  # noqa: S104  of a pod
    pod.add_argument("--port", type=int, default=PORT, help="(default: %(default)s)")


def run(given: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; then let predictions end. Raises ConfigError."""
    if (given.workload is None) != (given.zygote is None):
        raise ConfigError("--workload and --zygote belong together; give both in a pod, none on a machine")
    settings, redis = read_settings()
    quota = Quota(replicas=settings.quota_replicas, answers=settings.quota_answers)
    if given.workload is None:
        until_signalled(Door(Layout(settings.data), redis, quota=quota, minimum=settings.minimum).run)
        return 0
    workload = read_workload(given.workload)

    async def serve(stopping: asyncio.Event) -> None:
        await PodDoor(workload, given.zygote, redis, quota).run(stopping, given.host, given.port)

    until_signalled(serve)
    return 0
