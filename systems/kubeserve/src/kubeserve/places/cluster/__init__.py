"""The place that is a Kubernetes cluster: objects that are applied, pods that are seen, and what Redis lets them do."""

from kubeserve.manifests import ClusterSettings
from kubeserve.places.cluster.client import Cluster, RefusedError
from kubeserve.places.cluster.place import ClusterPlace, Render
from kubeserve.places.cluster.redis_users import RedisUsers
from kubeserve.places.cluster.rendering import Rendering

__all__ = ["Cluster", "ClusterPlace", "ClusterSettings", "RedisUsers", "RefusedError", "Render", "Rendering"]
