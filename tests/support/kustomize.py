"""Renders what is under kustomize/: the overlays, and each component alone on the base."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
TREE: Final = ROOT / "kustomize"
KUBESERVE: Final = "kubeserve"  # a namespace and manifests of its own, without the base
_OVERLAYS: Final = sorted(path.name for path in (TREE / "overlays").iterdir())
_COMPONENTS: Final = sorted(path.name for path in (TREE / "components").iterdir())
OVERLAYS: Final = [name for name in _OVERLAYS if name != KUBESERVE]
COMPONENTS: Final = [name for name in _COMPONENTS if not name.startswith(KUBESERVE)]
OF_KUBESERVE: Final = [f"overlay-{KUBESERVE}", KUBESERVE, *(name for name in _COMPONENTS if name.startswith(KUBESERVE))]

STREAM: Final = {"name": "greenscale-worker", "behavior": "merge", "literals": ["REDIS_STREAM_NAME=readings"]}

# What a component asks of the overlay that lists it, as its README says.
ASKS: Final = {
    "external-redis": {"name": "greenscale-worker", "behavior": "merge", "literals": ["REDIS_URL=rediss://r.test:1/2"]},
    "host-alias": {
        "name": "host-alias",
        "literals": ["ip=203.0.113.7", "hostname=llama.test"],
        "options": {"annotations": {"config.kubernetes.io/local-config": "true"}},
    },
    "keda-stream": STREAM,
    "keda-stream-classic": STREAM,
}

Resource = dict[str, Any]


@cache
def render(name: str) -> tuple[Resource, ...]:
    """The resources of an overlay, or of a component listed as the only one by an overlay of its own."""
    if name in OVERLAYS:
        return _build(TREE / "overlays" / name)
    if name in OF_KUBESERVE:
        return _of_kubeserve(name)
    return render_anew(components=[name], configMapGenerator=[ASKS[name]] if name in ASKS else [])


def _of_kubeserve(name: str) -> tuple[Resource, ...]:
    if name.startswith("overlay-"):
        return _build(TREE / "overlays" / KUBESERVE)
    components = {KUBESERVE: [], "kubeserve-redis": ["redis", name]}.get(name, [name])
    return render_anew(resource=KUBESERVE, components=components, namespace=KUBESERVE)


def home(name: str) -> str:
    """The namespace of what is rendered, which is also what its labels say that it is part of."""
    return KUBESERVE if name in OF_KUBESERVE else "greenscale-system"


def render_anew(*, resource: str = "base", components: list[str] | None = None, **lines: Any) -> tuple[Resource, ...]:
    """The resources of a new overlay: these components, by name, on the base, and other lines of a kustomization."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "kustomize"
        shutil.copytree(TREE, tree)
        overlay = tree / "overlays" / "anew"
        overlay.mkdir()
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "greenscale-system",
            "resources": [f"../../{resource}"],
            "components": [f"../../components/{component}" for component in components or []],
            **lines,
        }
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _build(overlay)


def _build(directory: Path) -> tuple[Resource, ...]:
    ran = subprocess.run([*_program(), str(directory)], capture_output=True, text=True, check=False)  # noqa: S603  our own command
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr, f"a warning: {ran.stderr}"
    return tuple(yaml.safe_load_all(ran.stdout))


@cache
def _program() -> tuple[str, ...]:
    if found := shutil.which("kustomize"):
        return found, "build"
    if found := shutil.which("kubectl"):
        return found, "kustomize"
    pytest.skip("neither kustomize nor kubectl is on PATH: nothing can render kustomize/")


def of_kind(resources: tuple[Resource, ...], *kinds: str) -> list[Resource]:
    """Those of some kinds."""
    return [resource for resource in resources if resource["kind"] in kinds]


def named(resources: tuple[Resource, ...], kind: str, name: str) -> Resource:
    """The only one of a kind and a name, less the hash that a generator puts at its end."""
    found = [each for each in of_kind(resources, kind) if each["metadata"]["name"].startswith(name)]
    assert len(found) == 1, f"{kind} {name}: {len(found)} of them"
    return found[0]


def pods(resources: tuple[Resource, ...]) -> Iterator[tuple[str, Resource]]:
    """Name and pod specification of each workload."""
    for each in of_kind(resources, "Deployment", "StatefulSet", "DaemonSet", "Job"):
        yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def containers(resources: tuple[Resource, ...]) -> Iterator[tuple[str, Resource]]:
    """Name and specification of each container, sidecars included."""
    for workload, pod in pods(resources):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield f"{workload}/{container['name']}", container


def environment(resources: tuple[Resource, ...], container: Resource) -> dict[str, str]:
    """What a container finds in its environment, where every Secret exists; values from those read `(secret)`.

    The pod has a name as a Deployment gives them.
    """
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "secretRef" not in source:  # what a Secret has, nobody here knows
            found |= named(resources, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container.get("env", []):
        value = variable.get("value", "")
        match variable.get("valueFrom", {}):
            case {"secretKeyRef": _}:
                value = "(secret)"
            case {"configMapKeyRef": {"name": name, "key": key}}:
                value = named(resources, "ConfigMap", name)["data"][key]
            case {"fieldRef": {"fieldPath": "metadata.name"}}:
                value = "greenscale-worker-6d4cf56db6-x2x7k"
        found[variable["name"]] = value
    return found
