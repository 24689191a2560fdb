"""`kubeserve serve`: the control plane."""

import argparse
import asyncio

import structlog

from kubeserve.api import build_app, serving
from kubeserve.cli.process import read_settings, until_signalled
from kubeserve.control import ControlPlane
from kubeserve.web import add_pages

log = structlog.get_logger()


def arguments(parser: argparse.ArgumentParser) -> None:
    """It is told by the environment alone."""
    parser.epilog = "Settings are KUBESERVE_*, INGRESS_HOST, INGRESS_BASE_PATH, GRAFANA_URL, REDIS_*."


def run(_given: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; then let calls end. Raises ConfigError."""
    settings, redis = read_settings()

    async def serve(stopping: asyncio.Event) -> None:
        async with ControlPlane.open(settings, redis) as plane:
            app = build_app(plane)
            add_pages(app, grafana_url=settings.grafana_url)
            async with serving(app, settings.host, settings.port) as port:
                log.info("serving", url=f"http://{settings.host}:{port}", data=str(settings.data))
                await stopping.wait()
                plane.stopping.set()
            log.info("stopped")

    until_signalled(serve)
    return 0
