"""`kubeserve serve`, with the environment of the tests in place of one from the network.

Run with `python page_server.py SCIENCE`, and the settings in the environment, until it is killed.
"""

import asyncio
import os
import sys
from pathlib import Path

from kubeserve.api import build_app, serving
from kubeserve.cli.process import read_settings, until_signalled
from kubeserve.control import ControlPlane
from kubeserve.web import add_pages
from stack import Prepared

if __name__ == "__main__":
    science = Path(sys.argv[1])

    async def serve(stopping: asyncio.Event) -> None:
        settings, redis = read_settings()
        root = settings.data / "environments"
        root.mkdir(parents=True, exist_ok=True)
        (root / "science").unlink(missing_ok=True)
        async with ControlPlane.open(settings, redis, Prepared(root, science)) as plane:
            app = build_app(plane)
            add_pages(app, grafana_url=settings.grafana_url)
            async with serving(app, settings.host, settings.port):
                await stopping.wait()
                plane.stopping.set()

    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    until_signalled(serve)
