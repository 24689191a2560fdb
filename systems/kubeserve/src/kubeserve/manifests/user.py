"""What a user has in a cluster: a namespace in which nothing runs, or is reached, but what this module names."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Final

from kubeserve.domain import Quota
from kubeserve.manifests import networks
from kubeserve.manifests.names import (
    ACCOUNT,
    AUTHORITIES,
    INSTALLATION,
    MODEL,
    NAME,
    REGISTRY,
    labels_of_user,
    namespace_of,
)
from kubeserve.manifests.resources import container_limits, namespace_bounds
from kubeserve.manifests.settings import ClusterSettings

Manifest = dict[str, Any]
STANDARD: Final = "restricted"


def user_namespace(user_id: str, quota: Quota, settings: ClusterSettings) -> list[Manifest]:
    """Return a user's namespace, with its bounds and its policies, in the order in which to apply them."""
    labels, namespace = labels_of_user(user_id), namespace_of(user_id)
    standards = {f"pod-security.kubernetes.io/{mode}": STANDARD for mode in ("enforce", "audit", "warn")}
    within = {"namespace": namespace, "labels": labels}
    whose = {**labels, INSTALLATION: settings.installation, **standards}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": whose}},
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "quota", **within},
            "spec": {"hard": namespace_bounds(quota)},
        },
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "limits", **within},
            "spec": {"limits": [container_limits(quota)]},
        },
        *_shared(settings, within),
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": ACCOUNT, **within},
            "automountServiceAccountToken": False,
            **({"imagePullSecrets": [{"name": REGISTRY}]} if settings.registry else {}),
        },
        *(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": name, **within},
                "spec": spec,
            }
            for name, spec in (
                ("default-deny", networks.nothing()),
                ("model", networks.of_doors({NAME: MODEL}, settings)),
            )
        ),
    ]


def _shared(settings: ClusterSettings, within: Manifest) -> Iterator[Manifest]:
    """Yield what all pods of the user get their image and their model by."""
    if settings.registry:
        yield {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": REGISTRY, **within},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": b64encode(settings.registry.encode()).decode()},
        }
    if settings.store_authorities:
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": AUTHORITIES, **within},
            "data": {"ca.crt": settings.store_authorities},
        }
