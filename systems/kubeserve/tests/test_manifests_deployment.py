"""What a cluster is told of a deployment: how it starts, rolls, ends and scales; its settings; and a folder of it."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from greenscale_worker import ConfigError, RedisOptions
from greenscale_worker.queues.redis.keys import Keys

from cluster_rules import (
    COUNT,
    VERSIONS,
    amount,
    check_schema,
    containers,
    of_kind,
    one,
    pod_of,
    pods_wanted,
)
from kubeserve.deployments.spec import check_spec
from kubeserve.domain import Quota, Spec
from kubeserve.door.served import DRAIN_SECONDS, HAND_BACK_SECONDS
from kubeserve.manifests import (
    GENERATION,
    HASH,
    ClusterSettings,
    Endpoint,
    Redis,
    deployment,
    redis_user_of,
)
from kubeserve.manifests.folder import KUSTOMIZATION, as_yaml, folder
from kubeserve.places.workload import Workload
from kubeserve.queueing import queue_options
from kubeserve.settings import Settings
from manifest_cases import AUTHORITY, CASES, LOGIN, LOGIN_OF_REGISTRY, MIB, SETTINGS, Case, uuid

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
DEFAULT = CASES["default"]
COMPONENTS = Path(__file__).parents[3] / "kustomize" / "components"


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
    model = containers(pod_of(case.of_deployment))["model"]["livenessProbe"]["httpGet"]
    assert model == {"path": "/zygotez", "port": 8601}, "by number: the name is one of the door's container"


@every_case
def test_calls_that_run_have_time_to_end(case: Case) -> None:
    assert pod_of(case.of_deployment)["spec"]["terminationGracePeriodSeconds"] >= DRAIN_SECONDS + HAND_BACK_SECONDS + 10


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


def test_nodes_get_the_image_by_a_login_that_no_container_has() -> None:
    case = CASES["elsewhere"]
    login = next(each for each in of_kind(case.of_user, "Secret"))
    assert (login["type"], list(login["data"])) == ("kubernetes.io/dockerconfigjson", [".dockerconfigjson"])
    account = one(case.of_user, "ServiceAccount")
    assert account["imagePullSecrets"] == [{"name": login["metadata"]["name"]}]
    assert pod_of(case.of_deployment)["spec"]["serviceAccountName"] == account["metadata"]["name"]
    mounted = [each.get("secret", {}).get("secretName") for each in pod_of(case.of_deployment)["spec"]["volumes"]]
    assert login["metadata"]["name"] not in mounted
    assert "imagePullSecrets" not in one(DEFAULT.of_user, "ServiceAccount")


def test_fetch_alone_trusts_the_authorities_of_the_store() -> None:
    case = CASES["elsewhere"]
    trusted = one(case.of_user, "ConfigMap")
    pod = pod_of(case.of_deployment)
    (volume,) = (each for each in pod["spec"]["volumes"] if each.get("configMap") == {"name": "store-authorities"})
    assert trusted["metadata"]["name"] == "store-authorities"
    for name, container in containers(pod).items():
        mounts = [each["mountPath"] for each in container["volumeMounts"] if each["name"] == volume["name"]]
        assert len(mounts) == (name == "fetch")
        if mounts:
            assert container["env"] == [
                {"name": "REQUESTS_CA_BUNDLE", "value": f"{mounts[0]}/{next(iter(trusted['data']))}"}
            ]
    assert "env" not in containers(pod_of(DEFAULT.of_deployment))["fetch"]


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
        settings, RedisOptions(url="redis://cache:6380/3"), {"AWS_ENDPOINT_URL": "http://minio:9000"}, "ours"
    )
    assert (found.image, found.namespace) == ("registry.test/kubeserve:1", "kubeserve")
    assert found.redis == Redis(Endpoint("cache.kubeserve.svc", 6380), 3), "a neighbour's name, for other namespaces"
    assert found.store == Endpoint("minio.kubeserve.svc", 9000)
    assert found.walls == {"landlock": 1, "seccomp": True}
    assert (found.registry, found.store_authorities) == (None, None)
    assert (found.runtime_class, found.user_namespaces) == (None, False)


def test_this_machine_stands_for_what_the_platform_brings_on_a_cluster() -> None:
    settings = Settings.from_env(
        {"KUBESERVE_NAMESPACE": "ml", "KUBESERVE_RUNTIME_CLASS": "gvisor", "KUBESERVE_USER_NAMESPACES": "true"}
    )
    found = ClusterSettings.of(settings, RedisOptions(url="redis://127.0.0.1:45678/0"), {}, "ours")
    assert found.image == "kubeserve:0.1.0"
    assert found.redis == Redis(Endpoint("redis-service.ml.svc", 6379))
    service = yaml.safe_load((COMPONENTS / "kubeserve-s3/service.yaml").read_text())
    assert found.store == Endpoint(f"{service['metadata']['name']}.ml.svc", service["spec"]["ports"][0]["port"])
    assert (found.runtime_class, found.user_namespaces) == ("gvisor", True)


def test_amazons_store_and_a_redis_with_tls(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY)
    options = RedisOptions(url="rediss://redis.example.org/1", ca_file=str(tmp_path / "ca.pem"))
    found = ClusterSettings.of(Settings.from_env({"KUBESERVE_OBJECTS": "s3://models"}), options, {}, "ours")
    assert found.store == Endpoint("s3.amazonaws.com", 443)
    assert found.redis == Redis(Endpoint("redis.example.org", 6379), 1, tls=True, authority=AUTHORITY)


@pytest.mark.parametrize(
    ("endpoint", "trusted"), [("https://s3.test", AUTHORITY), ("http://s3.test", None), ("", None)]
)
def test_a_store_by_tls_has_the_authorities_that_the_platform_trusts(
    tmp_path: Path, endpoint: str, trusted: str | None
) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY)
    environ = {"AWS_ENDPOINT_URL": endpoint, "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    assert settings_of({"KUBESERVE_OBJECTS": "s3://models"}, environ).store_authorities == trusted


def test_a_login_for_the_registry_is_taken_as_it_is_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(LOGIN_OF_REGISTRY)
    found = settings_of({"KUBESERVE_REGISTRY_FILE": str(tmp_path / "config.json")})
    assert found.registry == LOGIN_OF_REGISTRY
    assert "registry.test" not in repr(found)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"user:token", "JSON with `auths` is accepted"),
        (b'["auths"]', "JSON with `auths` is accepted"),
        (b'{"auths": []}', "JSON with `auths` is accepted"),
        (b"\xff", "it cannot be read"),
        (b" " * 900_001, "900000 bytes are accepted"),
        (None, "it cannot be read"),
    ],
)
def test_a_file_that_is_no_login_is_refused_without_what_is_in_it(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"KUBESERVE_REGISTRY_FILE: {path}") as raised:
        settings_of({"KUBESERVE_REGISTRY_FILE": str(path)})
    assert why in str(raised.value)
    assert "token" not in str(raised.value)


def settings_of(environ: dict[str, str], of_store: dict[str, str] | None = None) -> ClusterSettings:
    redis_options = RedisOptions(url="redis://cache:6379/0")
    return ClusterSettings.of(Settings.from_env(environ), redis_options, of_store or {}, "ours")


@pytest.mark.parametrize("url", ["redis+sentinel://a:1,b:1/m", "redis+cluster://a:1", "redis://a:1/x"])
def test_a_redis_that_keda_could_not_ask_is_refused_with_what_is_accepted(url: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL: redis://HOST:PORT or rediss://"):
        ClusterSettings.of(Settings.from_env({}), RedisOptions(url=url), {}, "ours")


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
