"""The kinds of objects that the place makes, in the order in which they are applied."""

from typing import Any, Final

from lightkube.generic_resource import create_global_resource, create_namespaced_resource

from kubeserve.manifests import Manifest
from kubeserve.manifests.names import MANAGED_BY, PLATFORM

Resource = type[Any]  # one of lightkube's classes for an object that is a dict
SELECTOR: Final = {MANAGED_BY: PLATFORM}  # of all that is ours

TENANTS: Final[dict[str, Resource]] = {
    "Namespace": create_global_resource("", "v1", "Namespace", "namespaces"),
    "ResourceQuota": create_namespaced_resource("", "v1", "ResourceQuota", "resourcequotas"),
    "LimitRange": create_namespaced_resource("", "v1", "LimitRange", "limitranges"),
    "NetworkPolicy": create_namespaced_resource("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    "ServiceAccount": create_namespaced_resource("", "v1", "ServiceAccount", "serviceaccounts"),
}
# Of a deployment. What brings pods about comes after what they read, and is deleted before it.
DEPLOYMENTS: Final[dict[str, Resource]] = {
    "Secret": create_namespaced_resource("", "v1", "Secret", "secrets"),
    "ConfigMap": create_namespaced_resource("", "v1", "ConfigMap", "configmaps"),
    "Service": create_namespaced_resource("", "v1", "Service", "services"),
    "Deployment": create_namespaced_resource("apps", "v1", "Deployment", "deployments"),
    "TriggerAuthentication": create_namespaced_resource(
        "keda.sh", "v1alpha1", "TriggerAuthentication", "triggerauthentications"
    ),
    "ScaledObject": create_namespaced_resource("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects"),
    "ServiceMonitor": create_namespaced_resource("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    "PodDisruptionBudget": create_namespaced_resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
}
PODS: Final[dict[str, Resource]] = {"Pod": create_namespaced_resource("", "v1", "Pod", "pods")}
KINDS: Final = TENANTS | DEPLOYMENTS | PODS
ORDER: Final = {kind: number for number, kind in enumerate(KINDS)}
OPTIONAL: Final = frozenset({"ServiceMonitor"})  # without its controller in the cluster nobody would read it


def labels_of(manifest: Manifest) -> dict[str, str]:
    """Return the labels of an object."""
    labels: dict[str, str] = manifest["metadata"].get("labels") or {}
    return labels


def name_of(manifest: Manifest) -> tuple[str, str, str]:
    """Return kind, namespace and name of an object."""
    about = manifest["metadata"]
    return manifest.get("kind", ""), about.get("namespace", ""), about["name"]


def is_going(manifest: Manifest) -> bool:
    """Tell whether it is being deleted."""
    return bool(manifest["metadata"].get("deletionTimestamp"))
