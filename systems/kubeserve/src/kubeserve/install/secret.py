"""The Secrets, made once: a second start finds those of the first, or those of an operator."""

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Final

from kubeserve.install.cluster import NAMESPACE
from kubeserve.install.tools import Kubectl

DATABASE: Final = f"postgresql://kubeserve:{{}}@kubeserve-postgresql.{NAMESPACE}.svc:5432/kubeserve"


def _database() -> dict[str, str]:
    password = secrets.token_hex(24)
    return {"password": password, "url": DATABASE.format(password)}


SECRETS: Final[dict[str, Callable[[], dict[str, str]]]] = {
    "kubeserve-secret": lambda: {"secret": secrets.token_hex(32)},
    "kubeserve-database": _database,
    "kubeserve-s3": lambda: {"access-key": secrets.token_hex(10), "secret-key": secrets.token_hex(20)},
    "redis-secret": lambda: {"password": secrets.token_hex(24)},
}


def make(kubectl: Kubectl) -> Iterator[str]:
    """Make those that are not there, and yield their names. Raises as `Kubectl.run`."""
    there = kubectl.run("--namespace", NAMESPACE, "get", "secrets", "--output", "name").split()
    for name, made in SECRETS.items():
        if f"secret/{name}" in there:
            continue
        labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "kubeserve"}
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": made()}
        kubectl.run("create", "--filename", "-", given=json.dumps(secret))
        yield name
