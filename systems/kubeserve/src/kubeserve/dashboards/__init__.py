"""The dashboards of Grafana, made here: `kubeserve-master` of the platform, `kubeserve-deployment` of one deployment.

Their data come from Prometheus, which reads `/metrics` of the API; CPU per user comes from a cluster's own metrics.
"""

from kubeserve.dashboards.boards import DEPLOYMENT, MASTER, boards
from kubeserve.dashboards.grafana import send

__all__ = ["DEPLOYMENT", "MASTER", "boards", "send"]
