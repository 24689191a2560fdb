"""`kubeserve door`: runs the deployments of this machine."""

import argparse

from kubeserve.cli.process import read_settings, until_signalled
from kubeserve.domain import Quota
from kubeserve.door.app import Door
from kubeserve.places.layout import Layout


def arguments(parser: argparse.ArgumentParser) -> None:
    """It is told by the environment alone."""
    parser.epilog = (
        "Settings are KUBESERVE_DATA, KUBESERVE_QUOTA_REPLICAS,\nKUBESERVE_QUOTA_ANSWERS, KUBESERVE_WALLS and REDIS_*."
    )


def run(_given: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; then let predictions end. Raises ConfigError."""
    settings, redis = read_settings()
    quota = Quota(replicas=settings.quota_replicas, answers=settings.quota_answers)
    door = Door(Layout(settings.data), redis, quota=quota, minimum=settings.minimum)
    until_signalled(door.run)
    return 0
