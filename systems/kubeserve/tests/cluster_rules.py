"""What a cluster would say of manifests: its schemas, the Pod Security Standard, its network policies, KEDA's sums."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from ipaddress import ip_address, ip_network
from typing import Any, Final

import jsonschema
import kubernetes_validate
from harness.custom_resources import custom_schemas

Manifest = dict[str, Any]
OLDEST_KUBERNETES: Final = "1.29"
OF_OPERATORS: Final = {"keda.sh", "monitoring.coreos.com"}
VERSIONS: Final = (OLDEST_KUBERNETES, kubernetes_validate.latest_version())
ALLOWED_VOLUMES: Final = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")
}
UNITS: Final = {"": 1, "m": Fraction(1, 1000), "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def of_kind(manifests: Iterable[Manifest], kind: str) -> list[Manifest]:
    """Return those of a kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def one(manifests: Iterable[Manifest], kind: str) -> Manifest:
    """Return the only one of a kind."""
    (found,) = of_kind(manifests, kind)
    return found


def pod_of(manifests: Iterable[Manifest]) -> Manifest:
    """Return the template of the pods."""
    template: Manifest = one(manifests, "Deployment")["spec"]["template"]
    return template


def containers(pod: Manifest) -> dict[str, Manifest]:
    """Return the containers of a pod by name, those that come first included."""
    return {each["name"]: each for each in (*pod["spec"].get("initContainers", []), *pod["spec"]["containers"])}


def amount(text: str) -> Fraction:
    """Return a quantity of Kubernetes as a number."""
    found = re.fullmatch(r"(\d+)(m|Ki|Mi|Gi|)", text)
    assert found is not None, text
    return Fraction(int(found[1])) * UNITS[found[2]]


# Schemas --------------------------------------------------------------------------------------------------------------


def check_schema(manifest: Manifest, version: str) -> None:
    """Raise an error for what the API server, asked to be strict, would refuse."""
    if manifest["apiVersion"].partition("/")[0] in OF_OPERATORS:
        schema = custom_schemas()[manifest["apiVersion"], manifest["kind"]]
        jsonschema.Draft202012Validator(schema).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


# The Pod Security Standard `restricted` -------------------------------------------------------------------------------


def breaches(spec: Manifest) -> set[str]:
    """Return the rules of the standard that the spec of a pod breaks, by the names it gives them."""
    found = {rule for rule, broken in _of_pod(spec) if broken}
    every = [*spec.get("initContainers", []), *spec["containers"], *spec.get("ephemeralContainers", [])]
    return found | {rule for container in every for rule, broken in _of_container(spec, container) if broken}


def _of_pod(spec: Manifest) -> Iterator[tuple[str, bool]]:
    context = spec.get("securityContext", {})
    yield "Host Namespaces", any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    yield "HostPath Volumes", any("hostPath" in volume for volume in spec.get("volumes", []))
    yield "Volume Types", any(not ALLOWED_VOLUMES & volume.keys() for volume in spec.get("volumes", []))
    yield "Sysctls", bool(context.get("sysctls"))
    yield "HostProcess", bool(context.get("windowsOptions", {}).get("hostProcess"))
    yield "Running as Non-root user", context.get("runAsUser") == 0


def _of_container(spec: Manifest, container: Manifest) -> Iterator[tuple[str, bool]]:
    mine, pods = container.get("securityContext", {}), spec.get("securityContext", {})
    capabilities = mine.get("capabilities", {})
    seccomp = mine.get("seccompProfile", pods.get("seccompProfile", {}))
    yield "Privileged Containers", bool(mine.get("privileged"))
    yield "Privilege Escalation", mine.get("allowPrivilegeEscalation") is not False
    yield "Running as Non-root", mine.get("runAsNonRoot", pods.get("runAsNonRoot")) is not True
    yield "Running as Non-root user", mine.get("runAsUser") == 0
    yield "Seccomp", seccomp.get("type") not in {"RuntimeDefault", "Localhost"}
    yield "Capabilities", "ALL" not in capabilities.get("drop", [])
    yield "Capabilities", not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}
    yield "Host Ports", any(port.get("hostPort") for port in container.get("ports", []))
    yield "/proc Mount Type", mine.get("procMount", "Default") != "Default"
    yield "AppArmor", mine.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined"
    yield "SELinux", not mine.get("seLinuxOptions", {}).keys() <= {"type", "level"}


# Network policies -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A pod with its labels and its namespace, or an address beyond the cluster (without a namespace)."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = "10.1.2.3"
    ports: Mapping[str, int] = field(default_factory=dict)  # by name


def may_connect(policies: Iterable[Manifest], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Return whether both sides let a connection be, where these are all policies that there are."""
    ways = (("Egress", "egress", "to", source, target), ("Ingress", "ingress", "from", target, source))
    for way, rules, side, subject, other in ways:
        selecting = [each for each in policies if way in each["spec"]["policyTypes"] and _selects(each, subject)]
        allowed = any(
            _is_meant(rule.get(side), other) and _is_port(rule.get("ports"), target, port, protocol)
            for policy in selecting
            for rule in policy["spec"].get(rules, [])
        )
        if selecting and not allowed:
            return False
    return True


def _selects(policy: Manifest, peer: Peer) -> bool:
    return policy["metadata"]["namespace"] == peer.namespace and _matches(policy["spec"]["podSelector"], peer.labels)


def _matches(selector: Manifest, labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}, "this evaluator knows no expressions"
    return selector.get("matchLabels", {}).items() <= labels.items()


def _is_meant(peers: list[Manifest] | None, other: Peer) -> bool:
    return peers is None or any(_is_peer(peer, other) for peer in peers)


def _is_peer(peer: Manifest, other: Peer) -> bool:
    if "ipBlock" in peer:
        address, block = ip_address(other.address), peer["ipBlock"]
        return address in ip_network(block["cidr"]) and not any(
            address in ip_network(less) for less in block.get("except", [])
        )
    assert "namespaceSelector" in peer, "this evaluator knows no pods of the policy's own namespace"
    of_namespace = {"kubernetes.io/metadata.name": other.namespace}
    return _matches(peer["namespaceSelector"], of_namespace) and _matches(peer.get("podSelector", {}), other.labels)


def _is_port(ports: list[Manifest] | None, target: Peer, port: int, protocol: str) -> bool:
    return ports is None or any(
        each["protocol"] == protocol and target.ports.get(each["port"], each["port"]) == port for each in ports
    )


# KEDA and the autoscaler ----------------------------------------------------------------------------------------------

COUNT: Final = """
    local listName = KEYS[1]
    local listType = redis.call('type', listName).ok
    local cmd = {zset = 'zcard', set = 'scard', list = 'llen', hash = 'hlen', none = 'llen'}
    return redis.call(cmd[listType], listName)
"""  # how KEDA's `redis` scaler counts (pkg/scalers/redis_scaler.go)


def pods_wanted(
    scaled: Manifest, counts: Mapping[str, float], pods: int, usage: Mapping[str, float] | None = None
) -> int:
    """Return to how many pods a ScaledObject leads from `pods`, once no window and no cooldown is left to wait for.

    `counts` are the triggers' values. `usage` is that of resources over their targets, which the autoscaler compares.
    """
    spec = scaled["spec"]
    modifiers = spec["advanced"]["scalingModifiers"]
    names = {each["name"] for each in spec["triggers"] if each["type"] not in {"cpu", "memory"}}
    assert names == counts.keys()
    total = float(eval(modifiers["formula"], {"__builtins__": {}}, dict(counts)))  # noqa: S307  our own formula
    least, most = spec["minReplicaCount"], spec["maxReplicaCount"]
    if total <= float(modifiers["activationTarget"]) and least == 0:
        return 0
    if pods == 0:
        return max(1, least)  # KEDA wakes one; the autoscaler goes on from there
    asked = math.ceil(total / float(modifiers["target"]))
    for ratio in (usage or {}).values():
        asked = max(asked, pods if abs(ratio - 1) <= 0.1 else math.ceil(pods * ratio))
    return min(max(asked, least, 1), most)


def text_of(manifest: Any) -> str:
    """Return an object as text, to look for what must not be in it."""
    return json.dumps(manifest, ensure_ascii=False)
