"""What a cluster is told: that it is accepted, walls in what runs, lets through what must, and scales by work."""

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from greenscale_worker import ConfigError, RedisOptions
from greenscale_worker.queues.redis.keys import Keys

import golden
from cluster_rules import (
    COUNT,
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
    pods_wanted,
    text_of,
)
from kubeserve.deployments.spec import check_spec
from kubeserve.domain import Quota, Spec
from kubeserve.manifests import (
    GENERATION,
    HASH,
    ClusterSettings,
    Endpoint,
    Redis,
    deployment,
    name_of,
    namespace_of,
    redis_user_of,
    user_namespace,
)
from kubeserve.manifests.folder import KUSTOMIZATION, as_yaml, folder
from kubeserve.places.workload import Workload
from kubeserve.queueing import queue_options
from kubeserve.settings import Settings
from manifest_cases import AUTHORITY, CASES, LOGIN, MIB, ODD, SETTINGS, SIGNED, Case, uuid

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


def reserves(case: Case) -> dict[str, float]:
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
        (DOOR, STORE, 8333, "TCP"),
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
    assert not may_connect(policies, door, METADATA, 6380)
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


# Deploying ------------------------------------------------------------------------------------------------------------


@every_case
def test_the_model_is_fetched_before_the_server_starts(case: Case) -> None:
    pod = pod_of(case.of_deployment)["spec"]
    assert [each["name"] for each in pod["initContainers"]] == ["fetch"]
    assert [each["name"] for each in pod["containers"]] == ["door", "model"]
    told = json.loads(of_data(case, "ConfigMap", "workload.json"))
    asked = json.loads(of_data(case, "Secret", "urls.json"))
    assert told["target"]["model"] == asked["model"]["path"]
    fetch, model = (containers(pod_of(case.of_deployment))[name] for name in ("fetch", "model"))
    written = [each["mountPath"] for each in fetch["volumeMounts"] if not each.get("readOnly")]
    read = [each["mountPath"] for each in model["volumeMounts"]]
    for path in [asked["model"]["path"], *([asked["environment"]["path"]] if case.own else [])]:
        assert any(path.startswith(f"{place}/") for place in written), path
        assert any(path.startswith(f"{place}/") for place in read), path
    assert model["command"][0] == f"{told['target']['environment']}/bin/python"
    assert (asked["environment"] is not None) is case.own


def of_data(case: Case, kind: str, key: str) -> str:
    """The content under a key of the target's ConfigMap or Secret, as a pod finds it."""
    found = [each for each in yaml.safe_load_all(as_yaml(case.of_deployment)) if each["kind"] == kind]
    values = [(each.get("data") or each["stringData"])[key] for each in found
              if each["metadata"]["labels"].get("kubeserve/revision") == str(case.target.revision)]  # fmt: skip
    assert len(values) == 1
    return str(values[0])


@every_case
def test_a_pod_is_told_one_revision_with_one_replica(case: Case) -> None:
    told = Workload.model_validate_json(of_data(case, "ConfigMap", "workload.json"))
    assert (told.id, told.tenant, told.fallback) == (case.workload.id, case.workload.tenant, None)
    assert (told.target.minimum, told.target.maximum) == (1, 1), "more replicas are more pods"
    kept = {"revision", "version", "tag", "key", "format", "concurrency", "idle", "timeout", "memory"}
    assert told.target.model_dump(include=kept) == case.target.model_dump(include=kept)


@every_case
def test_probes_ask_the_door(case: Case) -> None:
    door = containers(pod_of(case.of_deployment))["door"]
    assert door["ports"] == [{"name": "http", "containerPort": 8601}]
    asked = {name: door[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: each["path"] for name, each in asked.items()} == {
        "startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"
    }  # fmt: skip
    assert {each["port"] for each in asked.values()} == {"http"}


@every_case
def test_calls_that_run_have_time_to_end(case: Case) -> None:
    assert pod_of(case.of_deployment)["spec"]["terminationGracePeriodSeconds"] >= case.target.timeout + 10


def test_an_apply_again_makes_no_new_pods() -> None:
    """Whether it is for a new wish that changes nothing of the revision, or with URLs that are signed anew."""
    signed = {
        number: replace(urls, model=replace(urls.model, url="http://again")) for number, urls in DEFAULT.urls.items()
    }
    wished = DEFAULT.workload.model_copy(update={"generation": 4})
    again = deployment(wished, SETTINGS, redis_password=LOGIN, urls=signed)
    assert pod_of(again) == pod_of(DEFAULT.of_deployment)
    assert one(again, "Deployment")["metadata"]["annotations"][GENERATION] == "4"
    assert of_kind(again, "Secret")[1] != of_kind(DEFAULT.of_deployment, "Secret")[1], (
        "pods that start find the new ones"
    )
    assert "replicas" not in one(again, "Deployment")["spec"], "that number is the autoscaler's"


@pytest.mark.parametrize(
    "change",
    [
        {"what": {"revision": 3}},
        {"what": {"concurrency": 8}},
        {"what": {"timeout": 31.0}},
        {"settings": replace(SETTINGS, image="kubeserve:0.2.0")},
        {"settings": replace(SETTINGS, walls={"seccomp": True})},
        {"settings": replace(SETTINGS, redis=replace(SETTINGS.redis, authority=AUTHORITY))},
    ],
    ids=str,
)
def test_what_pods_are_told_anew_makes_new_pods(change: dict[str, Any]) -> None:
    assert pod_of(replace(DEFAULT, **change).of_deployment) != pod_of(DEFAULT.of_deployment)


def test_a_new_password_makes_new_pods_that_do_not_tell_it() -> None:
    other = deployment(DEFAULT.workload, SETTINGS, redis_password=LOGIN[1:], urls=DEFAULT.urls)
    hashes = [pod_of(each)["metadata"]["annotations"][HASH] for each in (other, DEFAULT.of_deployment)]
    assert hashes[0] != hashes[1]
    assert all(re.fullmatch(r"[0-9a-f]{16}", each) for each in hashes)


def test_former_pods_answer_until_new_ones_are_ready_and_find_what_they_were_told() -> None:
    case = CASES["new-revision"]
    rolling = one(case.of_deployment, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 1, "maxUnavailable": "25%"}, "of one to three pods 25 % are none"
    before = replace(case, former=False, what={"revision": 1, "version": uuid(99, "e"), "tag": "v1"})
    of_former = [each for each in before.of_deployment if "kubeserve/revision" in each["metadata"]["labels"]]
    assert [each["kind"] for each in of_former] == ["ConfigMap", "Secret"]
    now = {(each["kind"], each["metadata"]["name"]): each for each in case.of_deployment}
    former = of_former[0]
    assert now[former["kind"], former["metadata"]["name"]] == former
    assert all((each["kind"], each["metadata"]["name"]) in now for each in of_former)


def test_the_door_logs_in_to_redis_as_its_own_user_as_keda_does() -> None:
    for case in (DEFAULT, CASES["elsewhere"]):
        secret = next(each for each in yaml.safe_load_all(as_yaml(case.of_deployment)) if each["kind"] == "Secret")
        assert secret["stringData"] == {
            "REDIS_USERNAME": redis_user_of(case.workload.id), "REDIS_PASSWORD": LOGIN
        }  # fmt: skip
        login = one(case.of_deployment, "TriggerAuthentication")["spec"]
        assert {each["parameter"]: each["key"] for each in login["secretTargetRef"]} == {
            "username": "REDIS_USERNAME", "password": "REDIS_PASSWORD"
        }  # fmt: skip
        door = {each["name"]: each["value"] for each in containers(pod_of(case.of_deployment))["door"]["env"]}
        asked = [each["metadata"] for each in one(case.of_deployment, "ScaledObject")["spec"]["triggers"]
                 if each["type"] == "redis"]  # fmt: skip
        where = {("rediss" if each["enableTLS"] == "true" else "redis", each["address"], each["databaseIndex"])
                 for each in asked}  # fmt: skip
        assert where == {(door["REDIS_URL"].split(":")[0], *door["REDIS_URL"].split("//")[1].split("/"))}
    assert of_data(CASES["elsewhere"], "ConfigMap", "ca.crt") == AUTHORITY
    assert door["GREENSCALE_REDIS_CA_FILE"] == "/etc/kubeserve/ca.crt"
    assert [each["parameter"] for each in login["configMapTargetRef"]] == ["ca"]


# Scaling --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "waiting", "open_", "hot", "pods", "wanted"),
    [
        ("default", 0, 0, 0, 0, 0),
        ("default", 0, 0, 0, 3, 0),  # nobody calls: it sleeps
        ("default", 1, 0, 0, 0, 1),  # a call wakes it
        ("default", 500, 0, 0, 0, 1),  # KEDA wakes one, the autoscaler adds
        ("default", 500, 0, 0, 1, 5),
        ("default", 0, 1, 0, 1, 1),  # the last one works: it stays, and so it does when that one dies
        ("default", 0, 1, 0, 0, 1),
        ("default", 0, 0, 1, 1, 1),  # it answers by HTTP
        ("default", 0, 0, 16, 1, 1),
        ("default", 0, 0, 17, 1, 2),
        ("default", 8, 8, 17, 1, 3),
        ("default", 16, 16, 48, 5, 5),
        ("always-one", 0, 0, 0, 1, 1),
        ("always-one", 0, 0, 0, 4, 1),
        ("always-one", 33, 0, 0, 1, 3),
        ("one-pod", 100, 1, 0, 1, 1),
        ("large-quota", 100_000, 1024, 0, 1, 20),
    ],
)
def test_there_are_pods_for_all_work_and_none_without(  # noqa: PLR0913, PLR0917  a row of a table
    name: str, waiting: int, open_: int, hot: int, pods: int, wanted: int
) -> None:
    scaled = one(CASES[name].of_deployment, "ScaledObject")
    assert pods_wanted(scaled, {"waiting": waiting, "open": open_, "hot": hot}, pods) == wanted


@pytest.mark.parametrize(
    ("cpu", "memory", "pods", "wanted"),
    [(0.2, 0.5, 1, 1), (0.2, 0.5, 4, 2), (2.5, 0.5, 1, 3), (9.0, 0.5, 1, 5), (0.2, 1.05, 1, 1), (0.2, 1.17, 1, 2)],
)
def test_with_a_minimum_it_scales_from_1_to_5_by_processor_and_memory_too(
    cpu: float, memory: float, pods: int, wanted: int
) -> None:
    scaled = one(CASES["always-one"].of_deployment, "ScaledObject")
    by = {each["type"]: each for each in scaled["spec"]["triggers"] if each["type"] in {"cpu", "memory"}}
    assert by["cpu"]["metricType"] == "Utilization"
    assert {each["metadata"]["containerName"] for each in by.values()} == {"model"}
    usage = {"cpu": cpu, "memory": memory}
    assert pods_wanted(scaled, {"waiting": 0, "open": 0, "hot": 0}, pods, usage) == wanted
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (1, 5)


def test_memory_that_a_model_always_holds_does_not_lead_to_the_maximum() -> None:
    """At its limit it is 1.18 times its target: one pod more, and then each holds as much again."""
    case = CASES["always-one"]
    (trigger,) = (
        each for each in one(case.of_deployment, "ScaledObject")["spec"]["triggers"] if each["type"] == "memory"
    )
    limit = amount(containers(pod_of(case.of_deployment))["model"]["resources"]["limits"]["memory"])
    assert trigger["metricType"] == "AverageValue"
    assert int(trigger["metadata"]["value"]) > case.target.memory, "a model may hold all that it was promised"
    assert 1.1 < limit / int(trigger["metadata"]["value"]) < 1.2


@every_case
def test_the_autoscaler_keeps_to_the_spec_and_to_kedas_rules(case: Case) -> None:
    spec = one(case.of_deployment, "ScaledObject")["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (case.target.minimum, case.target.maximum)
    kinds = [each["type"] for each in spec["triggers"]]
    assert kinds == ["redis"] * 3 + (["cpu", "memory"] if case.target.minimum else [])
    if case.target.minimum:
        assert not {"pollingInterval", "cooldownPeriod", "initialCooldownPeriod"} & spec.keys(), "KEDA warns of them"
    else:
        assert case.target.idle <= spec["cooldownPeriod"] < case.target.idle + 1
        assert spec["pollingInterval"] == 1
        assert spec["initialCooldownPeriod"] > 60, "it comes up once before it sleeps for the first time"
    assert spec["fallback"]["behavior"] == "currentReplicas", "Redis is away: nothing starts, nothing stops"
    assert spec["fallback"]["replicas"] >= 1
    names = [each["name"] for each in spec["triggers"] if each["type"] == "redis"]
    assert set(re.findall(r"\w+", spec["advanced"]["scalingModifiers"]["formula"])) == set(names)
    assert len(set(names)) == len(names)
    assert float(spec["advanced"]["scalingModifiers"]["target"]) == case.target.concurrency


def test_keda_counts_the_keys_that_the_engine_and_the_doors_write(db: redis.Redis) -> None:
    """By the script with which it asks Redis."""
    queue = queue_options(DEFAULT.workload.id).name
    keys = Keys(queue)
    triggers = one(DEFAULT.of_deployment, "ScaledObject")["spec"]["triggers"]
    lists = {each["name"]: each["metadata"]["listName"] for each in triggers}
    assert lists == {"waiting": keys.name, "open": keys.of("open"), "hot": f"{{{queue}}}:hot"}
    counts = lambda: {name: db.eval(COUNT, 1, key) for name, key in lists.items()}  # noqa: E731
    assert counts() == {"waiting": 0, "open": 0, "hot": 0}
    db.rpush(lists["waiting"], "a", "b", "c")
    db.hset(lists["open"], mapping={"d": 1, "e": 1})
    db.zadd(lists["hot"], {"door/0": 1})
    assert counts() == {"waiting": 3, "open": 2, "hot": 1}


def test_a_node_is_drained_of_one_pod_at_a_time() -> None:
    budget = one(DEFAULT.of_deployment, "PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert not of_kind(CASES["one-pod"].of_deployment, "PodDisruptionBudget"), "it would bar the only one, or nothing"


@every_case
def test_prometheus_finds_the_metrics_of_the_doors(case: Case) -> None:
    monitor, service = (one(case.of_deployment, kind) for kind in ("ServiceMonitor", "Service"))
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (service["spec"]["ports"][0]["name"], "/metrics")


# Settings -------------------------------------------------------------------------------------------------------------


def test_the_platforms_own_settings_are_enough() -> None:
    settings = Settings.from_env({"KUBESERVE_IMAGE": "registry.test/kubeserve:1", "KUBESERVE_OBJECTS": "s3://models"})
    found = ClusterSettings.of(
        settings, RedisOptions(url="redis://cache:6380/3"), {"AWS_ENDPOINT_URL": "http://minio:9000"}
    )
    assert (found.image, found.namespace) == ("registry.test/kubeserve:1", "kubeserve")
    assert found.redis == Redis(Endpoint("cache.kubeserve.svc", 6380), 3), "a neighbour's name, for other namespaces"
    assert found.store == Endpoint("minio.kubeserve.svc", 9000)
    assert found.walls == {"landlock": 1, "seccomp": True}
    assert (found.runtime_class, found.user_namespaces) == (None, False)


def test_this_machine_stands_for_what_the_platform_brings_on_a_cluster() -> None:
    settings = Settings.from_env(
        {"KUBESERVE_NAMESPACE": "ml", "KUBESERVE_RUNTIME_CLASS": "gvisor", "KUBESERVE_USER_NAMESPACES": "true"}
    )
    found = ClusterSettings.of(settings, RedisOptions(url="redis://127.0.0.1:45678/0"), {})
    assert found.image == "kubeserve:0.1.0"
    assert found.redis == Redis(Endpoint("redis-service.ml.svc", 6379))
    assert found.store == Endpoint("kubeserve-s3.ml.svc", 8333)
    assert (found.runtime_class, found.user_namespaces) == ("gvisor", True)


def test_amazons_store_and_a_redis_with_tls(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY)
    options = RedisOptions(url="rediss://redis.example.org/1", ca_file=str(tmp_path / "ca.pem"))
    found = ClusterSettings.of(Settings.from_env({"KUBESERVE_OBJECTS": "s3://models"}), options, {})
    assert found.store == Endpoint("s3.amazonaws.com", 443)
    assert found.redis == Redis(Endpoint("redis.example.org", 6379), 1, tls=True, authority=AUTHORITY)


@pytest.mark.parametrize("url", ["redis+sentinel://a:1,b:1/m", "redis+cluster://a:1", "redis://a:1/x"])
def test_a_redis_that_keda_could_not_ask_is_refused_with_what_is_accepted(url: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL: redis://HOST:PORT or rediss://"):
        ClusterSettings.of(Settings.from_env({}), RedisOptions(url=url), {})


@pytest.mark.parametrize(
    ("name", "value"),
    [("KUBESERVE_IMAGE", "a b"), ("KUBESERVE_NAMESPACE", "Kube_Serve"), ("KUBESERVE_NAMESPACE", "a" * 64),
     ("KUBESERVE_RUNTIME_CLASS", "-gvisor"), ("KUBESERVE_USER_NAMESPACES", "perhaps")],
)  # fmt: skip
def test_a_setting_that_no_cluster_would_take_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Settings.from_env({name: value})


def test_every_spec_that_is_accepted_can_be_rendered() -> None:
    for what in ({"memory": 64 * MIB}, {"timeout": 0.001}, {"idle": 1.0}, {"concurrency": 1024}, {"minimum": 5}):
        check_spec(Spec(uuid(1), **what), Quota())
        for manifest in replace(DEFAULT, what=what).all:
            check_schema(manifest, VERSIONS[0])


# A folder -------------------------------------------------------------------------------------------------------------


@every_case
def test_kubectl_renders_the_folder_to_the_same_objects(case: Case, tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    files = folder(case.all, "of a test\n\nin three lines")
    assert len(files) == len(case.all) + 1, "a file for each object"
    assert files[KUSTOMIZATION].startswith("# of a test\n#\n# in three lines\napiVersion: ")
    for name, text in files.items():
        assert re.fullmatch(r"[a-z0-9-]+\.yaml", name), name
        (tmp_path / name).write_text(text, "utf-8")
    ran = subprocess.run([kubectl, "kustomize", str(tmp_path)], capture_output=True, text=True, check=False)  # noqa: S603  our own command
    assert (ran.returncode, ran.stderr) == (0, "")
    order = lambda manifests: sorted(manifests, key=lambda each: (each["kind"], each["metadata"]["name"]))  # noqa: E731
    assert order(yaml.safe_load_all(ran.stdout)) == order(yaml.safe_load_all(as_yaml(case.all)))
