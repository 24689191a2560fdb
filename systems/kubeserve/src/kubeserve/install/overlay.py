"""The overlay for this cluster: that of the repository, with the image, the address and the way in."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from kubeserve.install.cluster import NAMESPACE, By, Found, Options
from kubeserve.install.tools import run

CONTAINER: Final = "spec.template.spec.containers.[name=kubeserve]"
DEPLOYMENT: Final = {"kind": "Deployment", "name": "kubeserve"}


def render(options: Options, found: Found, image: str) -> str:
    """Return the manifests. Raises as `tools.run`."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()  # kustomize follows links, and would count them in a relative path
        (here / "kustomization.yaml").write_text(json.dumps(_kustomization(options, found, image, here)))
        return run(["kubectl", "kustomize", str(here)])


def _kustomization(options: Options, found: Found, image: str, here: Path) -> dict[str, Any]:
    tree = os.path.relpath(options.tree.resolve(), here)
    name, tag = image.rpartition(":")[::2]
    host = "" if found.by is By.FORWARD else options.host
    components = [*({By.ROUTE: ["kubeserve-route"], By.INGRESS: ["kubeserve-ingress"]}.get(found.by, []))]
    components += ["kubeserve-monitoring"] if found.monitored else []
    components += ["kubeserve-registry"] if found.login else []
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": [f"{tree}/overlays/kubeserve"],
        "components": [f"{tree}/components/{each}" for each in components],
        "configMapGenerator": [
            {"name": "kubeserve", "behavior": "merge", "literals": [f"INGRESS_HOST={host}"]},
        ],
        "images": [_image(name, tag)],
        "patches": _patches(found),
        "replacements": [
            {
                "source": {**DEPLOYMENT, "fieldPath": f"{CONTAINER}.image"},
                "targets": [{"select": DEPLOYMENT, "fieldPaths": [f"{CONTAINER}.env.[name=KUBESERVE_IMAGE].value"]}],
            }
        ],
    }


def _image(name: str, tag: str) -> dict[str, str]:
    repository, at, _ = name.partition("@")
    return {"name": "kubeserve", "newName": repository, **({"digest": f"sha256:{tag}"} if at else {"newTag": tag})}


def _patches(found: Found) -> list[dict[str, Any]]:
    if found.by is By.ROUTE and found.gateway:
        namespace, _, name = found.gateway.partition("/")
        parent = [{"name": name, "namespace": namespace}]
        return [_replaced("HTTPRoute", "replace", "/spec/parentRefs", parent)]
    if found.by is By.INGRESS:
        return [_replaced("Ingress", "add", "/spec/ingressClassName", found.ingress)]
    return []


def _replaced(kind: str, change: str, path: str, value: Any) -> dict[str, Any]:
    patch = json.dumps([{"op": change, "path": path, "value": value}])
    return {"target": {"kind": kind, "name": "kubeserve"}, "patch": patch}
