"""`kubeserve cluster up` and `kubeserve cluster down`."""

import argparse
import re
import sys
from pathlib import Path
from typing import Final

from greenscale_worker import ConfigError
from greenscale_worker.cli.terminal import bold, say, within

from kubeserve.cli.command import describe
from kubeserve.install import By, Options, install, remove
from kubeserve.install.cluster import context_of
from kubeserve.install.down import namespaces
from kubeserve.install.image import LOADERS
from kubeserve.install.tools import Kubectl

OVERLAY: Final = Path("overlays/kubeserve/kustomization.yaml")
HOST: Final = "kubeserve.localhost"
LONGEST: Final = 3600
IMAGE: Final = re.compile(r"([\w.-]+(:\d+)?/)?([\w.-]+/)*[\w.-]+(:[\w.-]+|@sha256:[0-9a-f]{64})", re.ASCII)
NO_TREE: Final = "the folder `kustomize` of the repository is expected; --kustomize DIR names it"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Say what both actions take."""
    describe(
        parser,
        "Install KubeServe on a Kubernetes cluster, or remove it from one. It runs\n"
        "kubectl, and docker where no image is named.",
        "kubeserve cluster up\nkubeserve cluster up --context kind-dev --by forward --yes\n"
        "kubeserve cluster up --image registry.example.org/kubeserve:0.1.0\n"
        "kubeserve cluster down",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    up = actions.add_parser("up", help="check, build, install, wait; again: go on, or bring up to date")
    up.add_argument("--kustomize", type=Path, metavar="DIR", help="default: that of the repository around this folder")
    up.add_argument("--by", choices=[each.value for each in By], help="the way in (default: what the cluster has)")
    up.add_argument("--gateway", metavar="NAMESPACE/NAME", help="with --by route: another one than the first")
    up.add_argument("--host", default=HOST, metavar="NAME", help="by which it is called (default: %(default)s)")
    up.add_argument("--image", type=_image, metavar="IMAGE", help="in a registry; without it one is built and loaded")
    up.add_argument("--load", choices=LOADERS, help="how the built one gets to the nodes (default: by the context)")
    down = actions.add_parser("down", help="remove it, and all that its users have, after asking")
    for action in (up, down):
        action.set_defaults(run="cluster")
        action.add_argument("--context", metavar="NAME", help="of kubectl (default: its current one)")
        action.add_argument("--yes", action="store_true", help="do not ask")
        action.add_argument("--seconds", type=within(1, LONGEST), default=300, metavar="N",
                            help="that each wait may take (default: %(default)s)")  # fmt: skip


def _image(text: str) -> str:
    if not IMAGE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:… is accepted")
    return text


def run(given: argparse.Namespace) -> int:
    """Do it. Raises ConfigError, KubeServeError."""
    kubectl = Kubectl(context_of(given.context))
    if given.action == "up":
        _up(kubectl, given)
    else:
        _down(kubectl, given)
    return 0


def _up(kubectl: Kubectl, given: argparse.Namespace) -> None:
    options = Options(
        tree=_tree(given.kustomize),
        host=given.host,
        by=By(given.by) if given.by else None,
        gateway=given.gateway,
        image=given.image,
        loader=given.load,
        seconds=given.seconds,
    )
    say(f"{bold('KubeServe')} into the cluster of the context {bold(kubectl.context)}")
    _ask(given, "Install it there?")
    say(f"\n{install(kubectl, options, _say)}")


def _down(kubectl: Kubectl, given: argparse.Namespace) -> None:
    there, users = namespaces(kubectl)
    say(f"{bold('KubeServe')} in the cluster of the context {bold(kubectl.context)}")
    if not there and not users:
        say("It is not there. Rights and policies that were left are removed.")
    else:
        _ask(given, f"Remove it with all accounts, models and files, and {len(users)} namespaces of users?")
    remove(kubectl, _say, seconds=given.seconds)
    say("\nKubeServe is gone. Volumes whose StorageClass retains them stay: kubectl get persistentvolumes")


def _tree(asked: Path | None) -> Path:
    here = Path.cwd()
    for folder in [asked] if asked else [each / "kustomize" for each in (here, *here.parents)]:
        if (folder / OVERLAY).is_file():
            return folder
    raise ConfigError(f"--kustomize {asked}: {NO_TREE}" if asked else NO_TREE)


def _ask(given: argparse.Namespace, question: str) -> None:
    if given.yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked here; --yes is expected")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise ConfigError("nothing was changed")


def _say(line: str) -> None:
    say(line)
    sys.stdout.flush()
