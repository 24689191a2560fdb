"""`kubeserve manifests`: a deployment as files for a cluster."""

import argparse
from pathlib import Path
from typing import Final

from greenscale_worker import ConfigError
from greenscale_worker.cli.terminal import hint, say

from kubeserve.cli import session
from kubeserve.cli.command import Json, add_json, describe, show
from kubeserve.cli.names import deployment_of
from kubeserve.manifests.folder import TO_SET, as_yaml, folder

OF_SECRETS: Final = "secret-"  # begins the names of files whose values are set by hand
ABOUT: Final = """\
Deployment {id}, revision {target_revision}: `kubectl apply -k .` runs it.
First set what says {to_set}in {secrets}; keep what you set out of the
repository, as by a tool for sealed secrets. A presigned URL ends: KubeServe renews those that it applies itself.
The number of pods is the autoscaler's: nothing here names it."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """One deployment, and where to."""
    describe(
        parser,
        """Show what a cluster is told of a deployment, as YAML: its owner's namespace
with quota and policies, and all that runs in it. --to writes a folder that
`kubectl apply -k` and tools of GitOps take. Secrets say what to set; a file of
theirs that is there already stays as it is.""",
        "kubeserve manifests iris\nkubeserve manifests iris --to cluster/iris",
    )
    parser.add_argument("name", metavar="DEPLOYMENT")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write them there, one object a file")
    add_json(parser)


def run(given: argparse.Namespace) -> int:
    """Show or write them. Raises ConfigError, KubeServeError."""
    with session.connect() as api:
        deployment = deployment_of(api, given.name)
        manifests = api.manifests(deployment["id"])
    if given.to is None:
        show(given, manifests, as_yaml(manifests["items"]).rstrip("\n"))
        return 0
    return _write(given.to, deployment, manifests["items"])


def _write(to: Path, deployment: Json, manifests: list[Json]) -> int:
    secrets = f"{OF_SECRETS}*.yaml"
    files = folder(manifests, ABOUT.format_map(deployment | {"to_set": TO_SET, "secrets": secrets}))
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = to / name
            if name.startswith(OF_SECRETS) and path.exists():
                hint(f"{path} stays as it is.")
                continue
            path.write_text(text, "utf-8")
            say(str(path))
    except OSError as error:
        raise ConfigError(f"--to {to}: cannot be written: {error.strerror}") from None
    hint(f"Set what says {TO_SET.strip()} in {to / secrets}; then: kubectl apply -k {to}")
    return 0
