"""Who may talk to whom: a door with the platform, Prometheus, Redis, the object store and DNS. Nobody else."""

from ipaddress import ip_address
from typing import Any, Final

from kubeserve.manifests.names import NAME, PLATFORM
from kubeserve.manifests.settings import ClusterSettings, Endpoint

DOOR: Final = "http"  # the port of a door, by name
DNS: Final = 53
NAMESPACE: Final = "kubernetes.io/metadata.name"
SERVICE: Final = 3  # NAME.NAMESPACE.svc, and maybe the domain of the cluster
EVERYWHERE: Final = (  # less where machines of a cloud tell their own credentials
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["100.100.100.200/32", "168.63.129.16/32", "169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::/32"]}},
)

Rule = dict[str, Any]


def nothing() -> Rule:
    """Return a policy by which no pod of a namespace talks to anybody, or is talked to."""
    return {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def of_doors(labels: dict[str, str], settings: ClusterSettings) -> Rule:
    """Return what pods with these labels may do nonetheless. The kubelet's probes need no leave."""
    return {
        "podSelector": {"matchLabels": labels},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            _rule("from", [_pods(settings.namespace, {NAME: PLATFORM})], DOOR),
            _rule("from", [_pods("monitoring", {NAME: "prometheus"})], DOOR),
        ],
        "egress": [
            _rule("to", _peers(settings.redis.endpoint), settings.redis.endpoint.port),
            _rule("to", _peers(settings.store), settings.store.port),
            {
                "to": [_pods("kube-system", {"k8s-app": "kube-dns"})],
                "ports": [{"protocol": protocol, "port": DNS} for protocol in ("UDP", "TCP")],
            },
        ],
    }


def _rule(side: str, peers: list[Rule], port: int | str) -> Rule:
    return {side: peers, "ports": [{"protocol": "TCP", "port": port}]}


def _pods(namespace: str, labels: dict[str, str]) -> Rule:
    return {"namespaceSelector": {"matchLabels": {NAMESPACE: namespace}}, "podSelector": {"matchLabels": labels}}


def _peers(endpoint: Endpoint) -> list[Rule]:
    """Return where a host is: a Service's namespace, an address, or for a name beyond the cluster everywhere."""
    parts = endpoint.host.split(".")
    if len(parts) >= SERVICE and parts[2] == "svc":
        return [{"namespaceSelector": {"matchLabels": {NAMESPACE: parts[1]}}}]
    try:
        address = ip_address(endpoint.host)
    except ValueError:
        return [dict(each) for each in EVERYWHERE]
    return [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}]
