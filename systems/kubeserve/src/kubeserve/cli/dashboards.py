"""`kubeserve dashboards`: bring the dashboards into Grafana, or write them into files."""

import argparse
import json
import os
from pathlib import Path

from greenscale_worker import ConfigError
from greenscale_worker.cli.terminal import say

from kubeserve.cli.command import describe
from kubeserve.dashboards import boards, send
from kubeserve.settings import Settings

NEEDED = "GRAFANA_URL is not set: http://HOST:PORT or https://HOST is accepted; --to FOLDER writes files instead"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Grafana is named by the environment."""
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write them there, as NAME.json")
    describe(
        parser,
        """Bring the dashboards kubeserve-master and kubeserve-deployment into the Grafana
at GRAFANA_URL, in the place of former ones. Prometheus reads /metrics of the
API for them, with an API key of the admin.""",
        "GRAFANA_URL=http://127.0.0.1:3000 GRAFANA_TOKEN=glsa_… kubeserve dashboards\n"
        "kubeserve dashboards --to grafana",
    )


def run(given: argparse.Namespace) -> int:
    """Bring both. Raises ConfigError, KubeServeError."""
    if given.to is not None:
        return _write(given.to)
    url = Settings.from_env(os.environ).grafana_url
    if url is None:
        raise ConfigError(NEEDED)
    for name, board in boards().items():
        send(url, os.environ.get("GRAFANA_TOKEN", "").strip(), board)
        say(f"{name} is in Grafana")
    return 0


def _write(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, board in boards().items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps(board, indent=2) + "\n", "utf-8")
            say(str(path))
    except OSError as error:
        raise ConfigError(f"--to {folder}: cannot be written: {error.strerror}") from None
    return 0
