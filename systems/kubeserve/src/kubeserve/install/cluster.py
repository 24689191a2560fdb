"""Which cluster it is, and what it has and lacks."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from greenscale_worker import ConfigError

from kubeserve.errors import KubeServeError
from kubeserve.install.tools import FailedError, Json, Kubectl, run

NAMESPACE: Final = "kubeserve"
OURS: Final = "app.kubernetes.io/part-of=kubeserve"  # a label
OLDEST: Final = (1, 30)
KEDA: Final = ("scaledobjects.keda.sh", "triggerauthentications.keda.sh")
ROUTES: Final = "httproutes.gateway.networking.k8s.io"
MONITORS: Final = "servicemonitors.monitoring.coreos.com"
GATEWAYS: Final = "gateways.gateway.networking.k8s.io"
DEFAULT_STORAGE: Final = "storageclass.kubernetes.io/is-default-class"
DEFAULT_INGRESS: Final = "ingressclass.kubernetes.io/is-default-class"
REGISTRY: Final = "kubeserve-registry"  # the Secret with the login of the image's registry, if it asks for one
NO_CONTEXT: Final = "kubectl names no cluster: set KUBECONFIG, or name a context by --context"
NO_KEDA: Final = (
    "KEDA is not installed: kubectl apply --server-side --filename "
    "https://github.com/kedacore/keda/releases/download/v2.20.2/keda-2.20.2.yaml"
)
NO_STORAGE: Final = (
    "no StorageClass is the default one: kubectl patch storageclass NAME --patch "
    f'\'{{"metadata": {{"annotations": {{"{DEFAULT_STORAGE}": "true"}}}}}}\''
)
NO_ROUTE: Final = (
    "--by route: there is no Gateway; install an implementation of the Gateway API (such as Envoy Gateway) and make "
    "a Gateway, or use --by ingress or --by forward"
)
NO_INGRESS: Final = (
    "--by ingress: there is no IngressClass; install an ingress controller, or use --by route or --by forward"
)
NO_DOOR: Final = (
    "nothing leads into the cluster, neither a Gateway (Gateway API) nor an IngressClass: install one of them, or use "
    "--by forward, which names the command of a port-forward"
)


class By(StrEnum):
    """How people reach it from outside."""

    ROUTE = "route"
    INGRESS = "ingress"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. `tree` is the folder `kustomize` of the repository; seconds are for each wait.

    Without `image` one is built from the repository and loaded into the cluster; `loader` says how.
    """

    tree: Path
    host: str
    by: By | None = None
    gateway: str | None = None
    image: str | None = None
    loader: str | None = None
    seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Found:
    """What the cluster has. `gateway` is NAMESPACE/NAME, `ingress` the name of the class, `login` one of a registry."""

    version: str
    by: By
    gateway: str | None
    ingress: str | None
    secure: bool
    monitored: bool
    login: bool


def context_of(asked: str | None) -> str:
    """Return the context that is meant: the one asked for, else kubectl's current one. Raises ConfigError."""
    try:
        known = run(["kubectl", "config", "get-contexts", "--output", "name"]).split()
        current = asked or run(["kubectl", "config", "current-context"]).strip()
    except FailedError:
        raise ConfigError(NO_CONTEXT) from None
    if current not in known:
        raise ConfigError(f"--context {current}: kubectl knows {', '.join(known) or 'no context'}")
    return current


def look(kubectl: Kubectl, options: Options) -> Found:
    """Return what there is. Raises KubeServeError that names all that is missing, each with its remedy."""
    version = _version(kubectl)
    kinds = {line.rpartition("/")[2] for line in kubectl.run("get", "crd", "--output", "name").split()}
    gateways = kubectl.json("get", GATEWAYS, "--all-namespaces")["items"] if ROUTES in kinds else []
    gateway = _gateway(gateways, options.gateway)
    ingress = _default(kubectl.json("get", "ingressclass")["items"], DEFAULT_INGRESS)
    by = options.by or (By.ROUTE if gateway else By.INGRESS)
    has_storage = any(_is_default(each, DEFAULT_STORAGE) for each in kubectl.json("get", "storageclass")["items"])
    missing = [
        *([] if kinds.issuperset(KEDA) else [NO_KEDA]),
        *([] if has_storage else [NO_STORAGE]),
        *_no_door(options.by, by, gateway, ingress),
    ]
    if missing:
        lines = "\n".join(f"  {each}" for each in missing)
        raise KubeServeError(f"the cluster lacks something, and nothing was changed:\n{lines}", code="missing")
    return Found(
        version=version,
        by=by,
        gateway=_name(gateway) if gateway else None,
        ingress=ingress,
        secure=by is By.ROUTE and gateway is not None and _speaks_tls(gateway),
        monitored=MONITORS in kinds,
        login=bool(kubectl.run("--namespace", NAMESPACE, "get", "secret", REGISTRY, "--ignore-not-found").strip()),
    )


def _version(kubectl: Kubectl) -> str:
    try:
        told = kubectl.json("version", "--request-timeout", "10s")["serverVersion"]
        version = (int(told["major"]), int("".join(filter(str.isdecimal, told["minor"]))))
    except (KeyError, ValueError):
        raise FailedError("the cluster does not say which Kubernetes it is") from None
    if version < OLDEST:
        raise KubeServeError(f"Kubernetes is {version[0]}.{version[1]}; {OLDEST[0]}.{OLDEST[1]} or newer is needed")
    return f"{version[0]}.{version[1]}"


def _no_door(asked: By | None, by: By, gateway: Json | None, ingress: str | None) -> Iterator[str]:
    if by is By.ROUTE and gateway is None:
        yield NO_ROUTE
    elif by is By.INGRESS and ingress is None:
        yield NO_INGRESS if asked else NO_DOOR


def _gateway(found: list[Json], asked: str | None) -> Json | None:
    if asked is None:
        return found[0] if found else None
    named = [each for each in found if _name(each) == asked]
    if not named:
        there = ", ".join(map(_name, found)) or "none"
        raise ConfigError(f"--gateway {asked}: NAMESPACE/NAME of a Gateway is accepted; there are: {there}")
    return named[0]


def _name(gateway: Json) -> str:
    return f"{gateway['metadata']['namespace']}/{gateway['metadata']['name']}"


def _speaks_tls(gateway: Json) -> bool:
    return any(each.get("protocol") == "HTTPS" for each in gateway["spec"].get("listeners", []))


def _default(classes: list[Json], annotation: str) -> str | None:
    """Return the class that is the default one, else the only one."""
    those = [each for each in classes if _is_default(each, annotation)] or classes[:1]
    return str(those[0]["metadata"]["name"]) if those else None


def _is_default(found: Json, annotation: str) -> bool:
    return bool(found["metadata"].get("annotations", {}).get(annotation) == "true")
