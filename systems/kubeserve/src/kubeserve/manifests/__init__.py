"""What a cluster is told of users and deployments: pure functions, which return the objects of Kubernetes as dicts."""

from kubeserve.manifests.names import (
    DEPLOYMENT,
    GENERATION,
    HASH,
    INSTALLATION,
    REVISION,
    USER,
    labels_of_deployment,
    labels_of_user,
    name_of,
    namespace_of,
    redis_user_of,
    revision_name,
)
from kubeserve.manifests.settings import ClusterSettings, Endpoint, Redis
from kubeserve.manifests.told import Download, Urls
from kubeserve.manifests.user import user_namespace
from kubeserve.manifests.workload import Manifest, deployment

__all__ = [
    "DEPLOYMENT",
    "GENERATION",
    "HASH",
    "INSTALLATION",
    "REVISION",
    "USER",
    "ClusterSettings",
    "Download",
    "Endpoint",
    "Manifest",
    "Redis",
    "Urls",
    "deployment",
    "labels_of_deployment",
    "labels_of_user",
    "name_of",
    "namespace_of",
    "redis_user_of",
    "revision_name",
    "user_namespace",
]
