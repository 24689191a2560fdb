"""The place that is a Kubernetes cluster: objects that are applied, pods that are seen, and what Redis lets them do."""

from kubeserve.places.cluster.client import Cluster, RefusedError
from kubeserve.places.cluster.place import ClusterPlace, Render
from kubeserve.places.cluster.redis_users import RedisUsers

__all__ = ["Cluster", "ClusterPlace", "RedisUsers", "RefusedError", "Render"]
