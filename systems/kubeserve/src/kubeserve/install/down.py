"""Removes the platform with all that it made: the models of users, their namespaces, accounts, files, rights."""

from typing import Final

from kubeserve.errors import KubeServeError, UnavailableError
from kubeserve.install.cluster import NAMESPACE, OURS
from kubeserve.install.tools import FailedError, Kubectl, Say, step

OF_USERS: Final = f"{OURS},app.kubernetes.io/managed-by=kubeserve"
OF_THE_CLUSTER: Final = (
    "validatingadmissionpolicybindings", "validatingadmissionpolicies", "clusterrolebindings", "clusterroles"
)  # fmt: skip
NOT_OURS: Final = (
    f"the namespace {NAMESPACE} has no label {OURS}: it is not KubeServe's, and nothing was removed. "
    f"If it is, `kubectl label namespace {NAMESPACE} {OURS}` says so"
)
STUCK: Final = (
    "what has KEDA's finalizer goes only while KEDA runs; `kubectl get scaledobjects --all-namespaces` lists it"
)


def namespaces(kubectl: Kubectl) -> tuple[bool, list[str]]:
    """Return whether the platform is there, and the namespaces of its users.

    Raises KubeServeError where a namespace has its name and not its label, and as `Kubectl.run`.
    """
    there = kubectl.json("get", "namespaces", "--field-selector", f"metadata.name={NAMESPACE}")["items"]
    labels = [f"{name}={value}" for each in there for name, value in each["metadata"].get("labels", {}).items()]
    if there and OURS not in labels:
        raise KubeServeError(NOT_OURS, code="foreign")
    return bool(there), kubectl.run("get", "namespaces", "--selector", OF_USERS, "--output", "name").split()


def remove(kubectl: Kubectl, say: Say, *, seconds: float) -> None:
    """Remove all of it; each step is said. What is gone already is fine. Raises ConfigError, KubeServeError."""
    there, users = namespaces(kubectl)
    if there:
        with step(say, "the platform is stopped, so that it makes nothing anew"):
            words = ("--namespace", NAMESPACE, "delete", "deployment", "kubeserve", "--ignore-not-found",
                     "--cascade=foreground")  # fmt: skip
            _delete(kubectl, *words, seconds=seconds)
    with step(say, f"namespaces of users are removed: {len(users)}"):
        if users:
            _delete(kubectl, "delete", "namespaces", "--selector", OF_USERS, seconds=seconds)
    with step(say, "rights and policies in the cluster are removed"):
        _delete(kubectl, "delete", ",".join(OF_THE_CLUSTER), "--selector", OURS, seconds=seconds)
    with step(say, f"the namespace {NAMESPACE} is removed, with accounts, models and Secrets"):
        _delete(kubectl, "delete", "namespace", NAMESPACE, "--ignore-not-found", seconds=seconds)


def _delete(kubectl: Kubectl, *words: str, seconds: float) -> None:
    try:
        kubectl.run(*words, "--wait", f"--timeout={seconds:.0f}s", seconds=seconds + 30)
    except (FailedError, UnavailableError) as error:
        raise FailedError(f"{error.message}\n  {STUCK}") from error
