"""What a cluster is told: that it is accepted, and that it walls in what runs, and lets through what must."""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any

import pytest
import yaml

import golden
from cluster_rules import (
    VERSIONS,
    Manifest,
    Peer,
    amount,
    breaches,
    check_schema,
    containers,
    may_connect,
    of_kind,
    one,
    pod_of,
    text_of,
)
from kubeserve.domain import Quota
from kubeserve.manifests import (
    name_of,
    namespace_of,
    user_namespace,
)
from kubeserve.manifests.folder import as_yaml
from kubeserve.places.workload import Workload
from manifest_cases import CASES, LOGIN, MIB, ODD, SETTINGS, SIGNED, Case, uuid

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
DEFAULT = CASES["default"]
OURS, THEIRS = {"fetch", "door"}, {"model"}
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


# The cluster accepts it -----------------------------------------------------------------------------------------------


def test_ten_deployments_of_ten_users() -> None:
    assert len(CASES) == len({case.workload.id for case in CASES.values()}) == 10
    assert len({case.workload.tenant for case in CASES.values()}) == 10


@every_case
def test_it_is_what_the_golden_file_says(case: Case, request: pytest.FixtureRequest) -> None:
    """`make golden` writes the files; what changes in them is to be read."""
    name = request.node.callspec.id
    assert as_yaml(case.all) == (golden.GOLDEN / f"{name}.yaml").read_text("utf-8")


def test_there_is_no_golden_file_beyond_the_cases() -> None:
    assert {path.stem for path in golden.GOLDEN.iterdir()} == CASES.keys()


@every_case
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_and_the_operators_accept_it(case: Case, version: str) -> None:
    for manifest in case.all:
        check_schema(manifest, version)


@pytest.mark.parametrize("kind", ["Deployment", "ScaledObject", "ServiceMonitor", "NetworkPolicy"])
def test_a_slip_of_the_pen_is_noticed(kind: str) -> None:
    manifest = copy.deepcopy(of_kind(DEFAULT.all, kind)[0])
    manifest["spec"]["poolingInterval"] = 5
    with pytest.raises(Exception, match="poolingInterval"):
        check_schema(manifest, VERSIONS[0])


@every_case
def test_what_is_named_in_it_is_there_before_it(case: Case) -> None:
    seen = set[tuple[str, str]]()
    for manifest in case.all:
        assert set(named_in(manifest)) <= seen, manifest["metadata"]["name"]
        key = manifest["kind"], manifest["metadata"]["name"]
        assert key not in seen, key
        seen.add(key)


def named_in(manifest: Manifest) -> list[tuple[str, str]]:
    """The objects that another one needs, by kind and name."""
    spec = manifest.get("spec", {})
    found = []
    if namespace := manifest["metadata"].get("namespace"):
        found.append(("Namespace", namespace))
    if manifest["kind"] == "Deployment":
        pod = spec["template"]["spec"]
        found.append(("ServiceAccount", pod["serviceAccountName"]))
        for volume in pod["volumes"]:
            found += [("ConfigMap", volume["configMap"]["name"])] if "configMap" in volume else []
            found += [("Secret", volume["secret"]["secretName"])] if "secret" in volume else []
        for container in pod["containers"]:
            found += [("Secret", each["secretRef"]["name"]) for each in container.get("envFrom", [])]
    if manifest["kind"] == "ScaledObject":  # KEDA's webhook looks at the Deployment's containers
        found.append(("Deployment", spec["scaleTargetRef"]["name"]))
        logins = {each["authenticationRef"]["name"] for each in spec["triggers"] if each["type"] == "redis"}
        found += [("TriggerAuthentication", name) for name in logins]
    if manifest["kind"] == "TriggerAuthentication":
        found += [("Secret", each["name"]) for each in spec["secretTargetRef"]]
        found += [("ConfigMap", each["name"]) for each in spec.get("configMapTargetRef", [])]
    return found


@every_case
def test_names_and_labels_are_those_of_kubernetes_whatever_people_name(case: Case) -> None:
    user, labelled = case.workload.tenant, {"kubeserve/deployment": case.workload.id}
    for manifest in case.all:
        about = manifest["metadata"]
        assert NAME.fullmatch(about["name"]), about["name"]
        assert about.get("namespace", about["name"]) == namespace_of(user)
        labels = about["labels"]
        assert labels["app.kubernetes.io/part-of"] == labels["app.kubernetes.io/managed-by"] == "kubeserve"
        assert labels["kubeserve/user"] == user
        for each in (about, manifest.get("spec", {}).get("template", {}).get("metadata", {})):
            check_labels(each.get("labels", {}))
            assert all(KEY.fullmatch(key) for key in each.get("annotations", {}))
    assert all(labelled.items() <= manifest["metadata"]["labels"].items() for manifest in case.of_deployment)
    assert not any(labelled.keys() & manifest["metadata"]["labels"].keys() for manifest in case.of_user)
    assert len(f"keda-hpa-{name_of(case.workload.id)}") <= 63, "KEDA names the autoscaler so"


def check_labels(labels: dict[str, str]) -> None:
    assert all(KEY.fullmatch(key) and LABEL.fullmatch(value) for key, value in labels.items()), labels


def test_an_odd_tag_or_file_name_reaches_no_name_and_survives_the_way_through_yaml() -> None:
    case = CASES["odd-names"]
    assert len(ODD) == 63
    read = list(yaml.safe_load_all(as_yaml(case.all)))
    template = pod_of(read)
    assert template["metadata"]["annotations"]["kubeserve/version"] == ODD
    told = json.loads(one(read, "ConfigMap")["data"]["workload.json"])
    assert Workload.model_validate(told).target.tag == ODD
    assert told["target"]["model"].endswith(case.target.key.rpartition("/")[2])
    for manifest in read:
        assert ODD not in text_of([manifest["metadata"], manifest.get("spec", {}).get("selector")])


# Isolation: the namespace of a user -----------------------------------------------------------------------------------


def test_a_user_has_2_processors_4_gibibytes_and_5_pods() -> None:
    hard = one(DEFAULT.of_user, "ResourceQuota")["spec"]["hard"]
    assert amount(hard["requests.cpu"]) == 2
    assert amount(hard["requests.memory"]) == 4 * 2**30
    assert hard["pods"] == "5"


def test_five_pods_of_the_default_memory_fit() -> None:
    hard = one(DEFAULT.of_user, "ResourceQuota")["spec"]["hard"]
    reserved = reserves(DEFAULT)
    assert 5 * reserved["cpu"] <= amount(hard["requests.cpu"])
    assert 5 * reserved["memory"] <= amount(hard["requests.memory"])


@pytest.mark.parametrize(
    "quota", [Quota(), Quota(1, 64 * MIB), Quota(5, 512 * MIB), Quota(20, 64 * 1024 * MIB)], ids=str
)
def test_what_the_platform_lets_a_user_deploy_the_namespace_has_room_for(quota: Quota) -> None:
    hard = one(user_namespace(uuid(1), quota, SETTINGS), "ResourceQuota")["spec"]["hard"]
    sizes = [each for each in (64 * MIB, quota.memory // quota.replicas, quota.memory) if each >= 64 * MIB]
    for count in {1, min(2, quota.replicas), quota.replicas}:
        for memories in combinations_with_replacement(sizes, count):
            if sum(memories) > quota.memory:
                continue
            each_pod = [reserves(replace(DEFAULT, what={"memory": memory})) for memory in memories]
            for name in ("cpu", "memory"):
                assert sum(reserved[name] for reserved in each_pod) <= amount(hard[f"requests.{name}"]), memories


def reserves(case: Case) -> dict[str, Fraction]:
    """What a pod takes of a quota: the more of its containers together and of the one that comes first."""
    pod = pod_of(case.of_deployment)["spec"]
    taken = {}
    for name in ("cpu", "memory"):
        together = sum(amount(each["resources"]["requests"][name]) for each in pod["containers"])
        first = max(amount(each["resources"]["requests"][name]) for each in pod["initContainers"])
        taken[name] = max(together, first)
    return taken


@every_case
def test_containers_keep_within_the_limit_range_of_their_user(case: Case) -> None:
    (limits,) = one(case.of_user, "LimitRange")["spec"]["limits"]
    for name, container in containers(pod_of(case.of_deployment)).items():
        asked, most = container["resources"]["requests"], container["resources"]["limits"]
        for resource in ("cpu", "memory"):
            assert amount(asked[resource]) <= amount(most[resource]) <= amount(limits["max"][resource]), name
        assert amount(most["memory"]) / amount(asked["memory"]) <= float(limits["maxLimitRequestRatio"]["memory"])


@every_case
def test_a_model_has_the_memory_that_was_promised_and_room_for_its_zygote(case: Case) -> None:
    most = amount(containers(pod_of(case.of_deployment))["model"]["resources"]["limits"]["memory"])
    assert most >= case.target.memory + 256 * MIB


@every_case
def test_the_namespace_refuses_pods_that_break_the_standard_restricted(case: Case) -> None:
    labels = one(case.of_user, "Namespace")["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


@every_case
def test_pods_keep_the_standard_restricted(case: Case) -> None:
    spec = pod_of(case.of_deployment)["spec"]
    assert breaches(spec) == set()
    for name, container in containers(pod_of(case.of_deployment)).items():
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
        assert container["securityContext"]["runAsUser"] > 0, name


def _first(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda spec: change(spec["containers"][1])


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("Host Namespaces", lambda spec: spec.update(hostNetwork=True)),
        ("HostPath Volumes", lambda spec: spec["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
        ("Volume Types", lambda spec: spec["volumes"].append({"name": "x", "nfs": {"server": "x", "path": "/"}})),
        ("Sysctls", lambda spec: spec["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}])),
        ("Privileged Containers", _first(lambda each: each["securityContext"].update(privileged=True))),
        ("Privilege Escalation", _first(lambda each: each["securityContext"].pop("allowPrivilegeEscalation"))),
        ("Running as Non-root", lambda spec: spec["securityContext"].pop("runAsNonRoot")),
        ("Running as Non-root user", _first(lambda each: each["securityContext"].update(runAsUser=0))),
        ("Seccomp", lambda spec: spec["securityContext"].pop("seccompProfile")),
        ("Capabilities", _first(lambda each: each["securityContext"].pop("capabilities"))),
        ("Host Ports", _first(lambda each: each.update(ports=[{"containerPort": 1, "hostPort": 1}]))),
        ("/proc Mount Type", _first(lambda each: each["securityContext"].update(procMount="Unmasked"))),
    ],
)
def test_a_pod_that_breaks_a_rule_of_the_standard_would_be_noticed(
    rule: str, change: Callable[[dict[str, Any]], Any]
) -> None:
    spec = copy.deepcopy(pod_of(DEFAULT.of_deployment)["spec"])
    change(spec)
    assert rule in breaches(spec)


# Isolation: a model from all else -------------------------------------------------------------------------------------


@every_case
def test_no_secret_no_token_and_no_environment_reaches_the_container_of_the_model(case: Case) -> None:
    template = pod_of(case.of_deployment)
    pod, model = template["spec"], containers(template)["model"]
    assert not {"env", "envFrom"} & model.keys()
    assert pod["automountServiceAccountToken"] is False
    assert one(case.of_user, "ServiceAccount")["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = {mount["name"]: mount for mount in model["volumeMounts"]}
    assert mounted.keys() <= {"run", "models", "environment"}
    assert all("emptyDir" in volumes[name] for name in mounted), "nothing of the cluster's"
    assert {name for name, mount in mounted.items() if not mount.get("readOnly")} == {"run"}
    assert not pod.get("shareProcessNamespace")
    users = {name: each["securityContext"]["runAsUser"] for name, each in containers(template).items()}
    assert users.keys() == OURS | THEIRS
    assert users["model"] not in {users[name] for name in OURS}


@every_case
def test_secrets_are_in_secrets_alone_and_read_by_who_needs_them(case: Case) -> None:
    kinds = {manifest["kind"] for manifest in yaml.safe_load_all(as_yaml(case.all)) for secret in (LOGIN, SIGNED)
             if secret in text_of(manifest)}  # fmt: skip
    assert kinds == {"Secret"}
    template = pod_of(case.of_deployment)
    readers = {name: each for name, each in containers(template).items() if "envFrom" in each}
    assert readers.keys() == {"door"}
    assert {name for name, each in containers(template).items() if "urls" in mounts(each)} == {"fetch"}


def mounts(container: Manifest) -> set[str]:
    return {mount["name"] for mount in container["volumeMounts"]}


def test_another_runtime_and_namespaces_of_users_are_for_who_asks_for_them() -> None:
    assert not {"runtimeClassName", "hostUsers"} & pod_of(DEFAULT.of_deployment)["spec"].keys()
    asked = pod_of(CASES["gvisor"].of_deployment)["spec"]
    assert (asked["runtimeClassName"], asked["hostUsers"]) == ("gvisor", False)


# Isolation: networks --------------------------------------------------------------------------------------------------

PORTS = {"http": 8601}
HOME = namespace_of(DEFAULT.workload.tenant)
DOOR = Peer(HOME, pod_of(DEFAULT.of_deployment)["metadata"]["labels"], ports=PORTS)
NEIGHBOUR = Peer(HOME, {**DOOR.labels, "kubeserve/deployment": uuid(77)}, ports=PORTS)
STRANGER = Peer(namespace_of(uuid(2, "a")), DOOR.labels, ports=PORTS)
STRAY = Peer(HOME, {"app": "not-ours"}, ports=PORTS)
GATEWAY = Peer("kubeserve", {"app.kubernetes.io/name": "kubeserve"})
REDIS = Peer("kubeserve", {"app.kubernetes.io/name": "redis"})
STORE = Peer("kubeserve", {"app.kubernetes.io/name": "kubeserve-s3"})
PROMETHEUS = Peer("monitoring", {"app.kubernetes.io/name": "prometheus"})
RESOLVER = Peer("kube-system", {"k8s-app": "kube-dns"})
INTERNET = Peer(address="203.0.113.80")
METADATA = Peer(address="169.254.169.254")
API_SERVER = Peer("default", {}, address="10.96.0.1")


@pytest.mark.parametrize(
    ("source", "target", "port", "protocol"),
    [
        (GATEWAY, DOOR, 8601, "TCP"),
        (PROMETHEUS, DOOR, 8601, "TCP"),
        (DOOR, REDIS, 6379, "TCP"),
        (DOOR, STORE, 9000, "TCP"),
        (DOOR, RESOLVER, 53, "UDP"),
        (DOOR, RESOLVER, 53, "TCP"),
    ],
)
def test_what_must_pass_passes(source: Peer, target: Peer, port: int, protocol: str) -> None:
    assert may_connect(of_kind(DEFAULT.of_user, "NetworkPolicy"), source, target, port, protocol)


@pytest.mark.parametrize(
    ("source", "target", "port", "protocol"),
    [
        (DOOR, INTERNET, 443, "TCP"),
        (DOOR, INTERNET, 53, "UDP"),
        (DOOR, METADATA, 80, "TCP"),
        (DOOR, API_SERVER, 443, "TCP"),
        (DOOR, REDIS, 22, "TCP"),
        (DOOR, GATEWAY, 8600, "TCP"),
        (DOOR, RESOLVER, 443, "TCP"),
        (DOOR, Peer("kube-system", {"app": "other"}), 53, "UDP"),
        (DOOR, NEIGHBOUR, 8601, "TCP"),
        (DOOR, STRANGER, 8601, "TCP"),
        (DOOR, Peer("elsewhere", REDIS.labels), 6379, "TCP"),
        (STRANGER, DOOR, 8601, "TCP"),
        (NEIGHBOUR, DOOR, 8601, "TCP"),
        (STRAY, DOOR, 8601, "TCP"),
        (STRAY, REDIS, 6379, "TCP"),
        (GATEWAY, STRAY, 8601, "TCP"),
        (GATEWAY, DOOR, 22, "TCP"),
        (REDIS, DOOR, 8601, "TCP"),
        (INTERNET, DOOR, 8601, "TCP"),
        (Peer("default", PROMETHEUS.labels), DOOR, 8601, "TCP"),
        (Peer("default", GATEWAY.labels), DOOR, 8601, "TCP"),
    ],
)
def test_nothing_else_passes(source: Peer, target: Peer, port: int, protocol: str) -> None:
    assert not may_connect(of_kind(DEFAULT.of_user, "NetworkPolicy"), source, target, port, protocol)


def test_a_redis_and_a_store_beyond_the_cluster_are_reached_and_its_own_credentials_are_not() -> None:
    case = CASES["elsewhere"]
    policies = of_kind(case.of_user, "NetworkPolicy")
    door = Peer(namespace_of(case.workload.tenant), DOOR.labels, ports=PORTS)
    assert may_connect(policies, door, Peer(address="192.0.2.9"), 9000)
    assert not may_connect(policies, door, Peer(address="192.0.2.10"), 9000), "an address is that one alone"
    assert may_connect(policies, door, INTERNET, 6380), "of a name only the port is known"
    for address in (METADATA.address, "100.100.100.200", "168.63.129.16"):
        assert not may_connect(policies, door, Peer(address=address), 6380), address
    assert not may_connect(policies, door, INTERNET, 443)


@every_case
def test_pods_are_those_that_the_policies_and_the_service_mean(case: Case) -> None:
    labels = pod_of(case.of_deployment)["metadata"]["labels"]
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(case.of_user, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policies["model"]["podSelector"]["matchLabels"].items() <= labels.items()
    service = one(case.of_deployment, "Service")
    assert service["spec"]["clusterIP"] == "None", "its name has the addresses of the pods that are ready"
    assert service["spec"]["selector"].items() <= labels.items()
    assert [port["port"] for port in service["spec"]["ports"]] == [8601]
    for kind in ("Deployment", "PodDisruptionBudget"):
        for each in of_kind(case.of_deployment, kind):
            assert each["spec"]["selector"]["matchLabels"].items() <= labels.items()
