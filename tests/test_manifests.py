"""The manifests under kustomize/: what Kubernetes, KEDA and Prometheus ask of them, and what we promise."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml

from greenscale_worker.config import chat_options, load, queue_options, redis_options
from greenscale_worker.deletion_cost import ACCOUNT
from greenscale_worker.gateway.app import GOODBYE_SECONDS
from greenscale_worker.queues import QueueOptions
from greenscale_worker.queues.redis.keys import OF_LISTS, TURN_PAYLOADS, Keys
from greenscale_worker.telemetry import Metrics
from harness.custom_resources import custom_schemas, strict
from harness.redis_server import CERTIFICATE
from tests.support.kustomize import (
    COMPONENTS,
    OF_KUBESERVE,
    OVERLAYS,
    ROOT,
    TREE,
    Resource,
    containers,
    environment,
    home,
    named,
    of_kind,
    pods,
    render,
    render_anew,
)

OLDEST_KUBERNETES: Final = "1.29"  # the first that runs sidecars without a feature gate (component vllm)
OF_CLUSTERS: Final = {"Namespace", "ClusterRole", "ClusterRoleBinding"}  # kinds that are in no namespace
SINCE: Final = dict.fromkeys(("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"), "1.30")
RELEASE_SECONDS: Final = 2
SLACK_SECONDS: Final = 10
WHERE: Final = ("address", "databaseIndex", "enableTLS")
TOLERANCE: Final = 0.1  # within which an HPA leaves the number of pods as it is
OF_OPERATORS: Final = {"keda.sh", "monitoring.coreos.com", "gateway.networking.k8s.io"}
DATA: Final = ROOT / "tests" / "data"
ZERO_ONLY: Final = {"pollingInterval", "cooldownPeriod"}  # KEDA warns of them where there is always a pod
ROUTES: Final = DATA / "httproute-v1.json"
HTTP_ROUTE: Final = ("gateway.networking.k8s.io/v1", "HTTPRoute")
DEPRECATED: Final = {  # the fields of kustomize that are deprecated, and where they went
    "bases": "resources",
    "commonLabels": "labels",
    "imageTags": "images",
    "patchesJson6902": "patches",
    "patchesStrategicMerge": "patches",
    "vars": "replacements",
}
SWITCHED_OFF: Final = re.compile(r"^\s*#\s*(- .*|[\w./-]+:\s*\S*)$", re.MULTILINE)
PINNED: Final = re.compile(r"[\w./-]+(:v?\d[\w.-]*|:dev)?(@sha256:[0-9a-f]{64})?")

WITH_GATEWAY: Final = {"dev", "gpu", "production"}
WITH_DELETION_COST: Final = {"dev", "gpu", "production"}

every_rendering = pytest.mark.parametrize("name", [*OVERLAYS, *COMPONENTS, *OF_KUBESERVE])
with_a_worker = pytest.mark.parametrize("name", [*OVERLAYS, *COMPONENTS])
every_overlay = pytest.mark.parametrize("name", OVERLAYS)


def test_the_overlays_and_components_are_those_that_are_promised() -> None:
    assert OVERLAYS == ["dev", "energy", "gpu", "production"]
    promised = (
        "dashboard deletion-cost energy-readings external-redis gateway gateway-ingress gateway-open-key gateway-route"
        " gateway-files-s3 gateway-files-volume"
    )
    promised += (
        " host-alias keda-list keda-push keda-push-tls keda-stream keda-stream-classic monitoring network-policy redis"
    )
    promised += " simulator vllm"
    assert set(COMPONENTS) >= set(promised.split())
    assert {"overlay-kubeserve", "kubeserve", "kubeserve-route", "kubeserve-ingress"} < set(OF_KUBESERVE)


# Kubernetes and the operators accept them -----------------------------------------------------------------------------


@every_rendering
@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
def test_kubernetes_accepts_it(name: str, version: str) -> None:
    for resource in render(name):
        if resource["apiVersion"].partition("/")[0] not in OF_OPERATORS:
            known = max(version, SINCE.get(resource["kind"], version), key=lambda text: [*map(int, text.split("."))])
            kubernetes_validate.validate(resource, known, strict=True)


@every_rendering
def test_the_operators_accept_it(name: str) -> None:
    for resource in render(name):
        if resource["apiVersion"].partition("/")[0] in OF_OPERATORS:
            check_custom(resource)


def check_custom(resource: Resource) -> None:
    kind = resource["apiVersion"], resource["kind"]
    schema = strict(json.loads(ROUTES.read_text())) if kind == HTTP_ROUTE else custom_schemas()[kind]
    jsonschema.Draft202012Validator(schema).validate(resource)


def test_a_slip_of_the_pen_in_a_custom_resource_is_noticed() -> None:
    scaled = json.loads(json.dumps(named(render("dev"), "ScaledObject", "greenscale-worker-scaler")))
    scaled["spec"]["poolingInterval"] = 5
    with pytest.raises(jsonschema.ValidationError, match="poolingInterval"):
        check_custom(scaled)


# The house style ------------------------------------------------------------------------------------------------------


def test_no_deprecated_field_and_nothing_switched_off_by_a_comment() -> None:
    for path in TREE.rglob("kustomization.yaml"):
        used = yaml.safe_load(path.read_text())
        assert not DEPRECATED.keys() & used, path
        assert used["kind"] == ("Component" if path.parent.parent.name == "components" else "Kustomization"), path
    for path in TREE.rglob("*.yaml"):
        assert not SWITCHED_OFF.search(path.read_text()), path


def test_overlays_only_compose() -> None:
    for path in (TREE / "overlays").rglob("*.yaml"):
        assert path.name == "kustomization.yaml"
        lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert len(lines) <= 24, path


def test_every_component_says_what_it_is_for() -> None:
    for path in (TREE / "components").iterdir():
        assert len((path / "README.md").read_text().split()) > 15, path


@every_rendering
def test_every_resource_is_labelled_and_in_the_namespace(name: str) -> None:
    for resource in render(name):
        metadata = resource["metadata"]
        template = resource.get("spec", {}).get("template", {}).get("metadata", metadata)
        for labels in (metadata["labels"], template["labels"]):
            assert labels["app.kubernetes.io/part-of"] == home(name).removesuffix("-system")
            assert "app.kubernetes.io/name" in labels
        if resource["kind"] not in OF_CLUSTERS:
            assert metadata["namespace"] == home(name)


@every_rendering
def test_no_secret_with_a_value(name: str) -> None:
    assert not of_kind(render(name), "Secret")


# Pods -----------------------------------------------------------------------------------------------------------------


@every_rendering
def test_pods_are_locked_down(name: str) -> None:
    for workload, pod in pods(render(name)):
        assert pod["enableServiceLinks"] is False, workload
        assert pod["automountServiceAccountToken"] is False, workload
        assert pod["securityContext"]["runAsNonRoot"] is True, workload
        assert pod["securityContext"]["runAsUser"] > 0, workload
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, workload
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), workload


@every_rendering
def test_containers_are_locked_down_probed_and_limited(name: str) -> None:
    for container, spec in containers(render(name)):
        context = spec["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, container
        assert context["allowPrivilegeEscalation"] is False, container
        assert context["capabilities"] == {"drop": ["ALL"]}, container
        assert context.keys() <= {
            "allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem", "runAsGroup", "runAsUser"
        }, container  # fmt: skip
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= spec.keys(), container
        asked_at_once = spec["startupProbe"].get("initialDelaySeconds", 0) < 1
        assert not asked_at_once or spec["startupProbe"]["periodSeconds"] > 1, f"{container}: an event at each start"
        assert {"cpu", "memory"} <= spec["resources"]["limits"].keys() & spec["resources"]["requests"].keys(), container
        assert PINNED.fullmatch(spec["image"]), f"{container}: {spec['image']}"
        assert ":" in spec["image"], f"{container}: {spec['image']}"
        if "initContainers" in container:
            assert spec["restartPolicy"] == "Always"


@every_overlay
def test_probes_ask_ports_that_there_are(name: str) -> None:
    resources = render(name)
    for container, spec in containers(resources):
        ports = {port["name"] for port in spec.get("ports", [])}
        asked = {spec[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
                 if "httpGet" in spec[probe]}  # fmt: skip
        assert asked <= ports, container
    _, worker = the_worker(resources)
    served = int(environment(resources, worker)["GREENSCALE_HEALTH_PORT"])
    assert {"name": "health", "containerPort": served} in worker["ports"]


@pytest.mark.parametrize("name", ["greenscale-worker", "greenscale-gateway"])
def test_prometheus_asks_a_port_that_answers_and_is_let_in(name: str) -> None:
    resources = render("production")
    deployment = named(resources, "Deployment", name)["spec"]
    (container,) = (each for each in deployment["template"]["spec"]["containers"] if "ports" in each)
    (served,) = container["ports"]
    monitor = named(resources, "PodMonitor", name)["spec"]
    assert monitor["selector"] == deployment["selector"]
    assert [(each["port"], each["path"]) for each in monitor["podMetricsEndpoints"]] == [(served["name"], "/metrics")]
    policy = named(resources, "NetworkPolicy", name)["spec"]
    assert policy["podSelector"] == deployment["selector"]
    assert lets_in(policy, "monitoring", {"app.kubernetes.io/name": "prometheus"}) == {served["name"]}


def lets_in(policy: Resource, namespace: str, pod: dict[str, str]) -> set[str]:
    """The ports on which a network policy lets pods with these labels, of this namespace, in."""
    peer = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": pod},
    }
    rules = [rule for rule in policy["ingress"] if peer in rule.get("from", [peer])]
    return {port["port"] for rule in rules for port in rule["ports"]}


@with_a_worker
def test_there_is_time_to_drain(name: str) -> None:
    pod, worker = the_worker(render(name))
    drain = float(environment(render(name), worker)["GREENSCALE_DRAIN_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] >= drain + RELEASE_SECONDS + SLACK_SECONDS


@every_rendering
def test_the_worker_accepts_its_settings(name: str) -> None:
    resources = render(name)
    for container, spec in containers(resources):
        if not spec["image"].startswith("greenscale-worker"):
            continue
        variables = environment(resources, spec)
        if "GREENSCALE_REDIS_CA_FILE" in variables:
            mounted = [each["mountPath"] for each in spec["volumeMounts"]]
            assert str(Path(variables["GREENSCALE_REDIS_CA_FILE"]).parent) in mounted
            variables["GREENSCALE_REDIS_CA_FILE"] = str(CERTIFICATE)
        variables |= {"NEYSA_API_URL": "https://llama.test/v1"} if variables.get("NEYSA_API_URL") == "(secret)" else {}
        if variables.get("GREENSCALE_GATEWAY_KEY") == "(secret)":
            variables["GREENSCALE_GATEWAY_KEY"] = f"gs_admin_{'0' * 64}"
        settings = load(variables)
        known = {field.removesuffix("_FILE") for field in variables}
        assert not settings.notices, container
        assert len(settings.origins) == len(known), f"{container}: not all of {sorted(known)} are settings"
        if container == "greenscale-worker/worker":
            chat_options(settings)
            redis_options(settings)


@pytest.mark.parametrize("name", ["dev", "gpu"])
def test_an_endpoint_without_a_key_needs_no_secret(name: str) -> None:
    _, worker = the_worker(render(name))
    key = next(variable for variable in worker["env"] if variable["name"] == "NEYSA_API_KEY")
    assert key == {"name": "NEYSA_API_KEY", "value": ""}


def test_dev_starts_on_a_fresh_clone() -> None:
    for container, spec in containers(render("dev")):
        for variable in spec.get("env", []):
            secret = variable.get("valueFrom", {}).get("secretKeyRef", {"optional": True})
            assert secret["optional"] is True, f"{container}: {variable['name']}"


def test_the_model_serves_nobody_but_the_worker_and_before_it() -> None:
    resources = render("gpu")
    pod, worker = the_worker(resources)
    (model,) = pod["initContainers"]
    variables = environment(resources, worker)
    assert model["restartPolicy"] == "Always"
    assert int(model["resources"]["limits"]["nvidia.com/gpu"]) == int(arguments(model)["--tensor-parallel-size"])
    assert variables["NEYSA_API_URL"] == f"http://127.0.0.1:{arguments(model)['--port']}/v1/chat/completions"
    assert arguments(model)["--host"] == "127.0.0.1"
    assert environment(resources, model)["GREENSCALE_MODEL"] == variables["GREENSCALE_MODEL"]
    for probe in ("startupProbe", "readinessProbe"):
        assert variables["GREENSCALE_READY_PATH"] in model[probe]["exec"]["command"][-1]


def arguments(container: Resource) -> dict[str, str]:
    return dict(word.split("=", 1) for word in container["args"])


def the_worker(resources: tuple[Resource, ...], prefix: str = "") -> tuple[Resource, Resource]:
    """The worker's pod, and its container."""
    pod = named(resources, "Deployment", f"{prefix}greenscale-worker")["spec"]["template"]["spec"]
    (container,) = (each for each in pod["containers"] if each["name"] == "worker")
    return pod, container


# The gateway ----------------------------------------------------------------------------------------------------------


@every_overlay
def test_the_gateway_works_on_the_workers_queue(name: str) -> None:
    resources = render(name)
    if name not in WITH_GATEWAY:
        assert not [each for each, _ in pods(resources) if "gateway" in each]
        return
    of_gateway = environment(resources, the_gateway(resources))
    of_worker = environment(resources, the_worker(resources)[1])
    for variable in ("REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_DB", "REDIS_LIST_NAME", "REDIS_PASSWORD"):
        assert of_gateway.get(variable) == of_worker.get(variable), variable


@every_overlay
def test_a_gateway_that_others_reach_has_a_key(name: str) -> None:
    if name not in WITH_GATEWAY:
        pytest.skip("it has no gateway")
    variables = environment(render(name), the_gateway(render(name)))
    assert variables["GREENSCALE_GATEWAY_HOST"] == "0.0.0.0"  # noqa: S104  what is tested
    assert variables["GREENSCALE_GATEWAY_KEY"]
    assert (variables["GREENSCALE_GATEWAY_KEY"] == "(secret)") == (name != "dev")


@pytest.mark.parametrize("name", [*sorted(WITH_GATEWAY), "gateway"])
def test_a_gateway_has_time_to_answer_those_who_wait(name: str) -> None:
    resources = render(name)
    container = the_gateway(resources)
    pod = named(resources, "Deployment", "greenscale-gateway")["spec"]["template"]["spec"]
    drain = float(environment(resources, container)["GREENSCALE_DRAIN_SECONDS"])
    (_, _, stops) = container["lifecycle"]["preStop"]["exec"]["command"]
    before = float(stops.partition("sleep(")[2].rstrip(")"))
    assert pod["terminationGracePeriodSeconds"] >= before + drain + GOODBYE_SECONDS + RELEASE_SECONDS


@pytest.mark.parametrize("component", ["gateway-ingress", "gateway-route"])
def test_what_leads_to_the_gateway_names_a_port_that_it_has(component: str) -> None:
    resources = render_anew(components=["gateway", component])
    service = named(resources, "Service", "greenscale-gateway")
    (port,) = service["spec"]["ports"]
    for ingress in of_kind(resources, "Ingress"):
        (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
        assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": port["name"]}}
    for route in of_kind(resources, "HTTPRoute"):
        (rule,) = route["spec"]["rules"]
        assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": port["port"]}]
        check_custom(route)
        with pytest.raises(jsonschema.ValidationError, match="backendRef"):
            check_custom(route | {"spec": route["spec"] | {"rules": [{"backendRef": []}]}})


def test_a_gateway_with_another_redis_logs_in_there() -> None:
    merged = {"name": "greenscale-worker", "behavior": "merge", "literals": ["REDIS_URL=rediss://r.test:1/2"]}
    resources = render_anew(components=["gateway", "network-policy", "external-redis"], configMapGenerator=[merged])
    variables = environment(resources, the_gateway(resources))
    assert variables["REDIS_USERNAME"] == variables["REDIS_PASSWORD"] == "(secret)"
    policy = named(resources, "NetworkPolicy", "greenscale-gateway")
    assert {"ports": [{"protocol": "TCP", "port": 6379}]} in policy["spec"]["egress"]


def test_a_gateway_keeps_files_in_s3_or_in_a_volume_that_it_may_write() -> None:
    s3 = the_gateway(render_anew(components=["gateway", "gateway-files-s3"]))
    assert {"secretRef": {"name": "greenscale-files", "optional": True}} in s3["envFrom"]
    resources = render_anew(components=["gateway", "gateway-files-volume"])
    container = the_gateway(resources)
    pod = named(resources, "Deployment", "greenscale-gateway")["spec"]["template"]["spec"]
    (mount,) = container["volumeMounts"]
    assert environment(resources, container)["GREENSCALE_FILES"].startswith(mount["mountPath"] + "/")
    (volume,) = pod["volumes"]
    assert volume["name"] == mount["name"]
    assert named(resources, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


def the_gateway(resources: tuple[Resource, ...]) -> Resource:
    (container,) = named(resources, "Deployment", "greenscale-gateway")["spec"]["template"]["spec"]["containers"]
    return container


def test_the_dashboard_speaks_to_the_gateway_and_to_nothing_else() -> None:
    resources = render_anew(components=["gateway", "dashboard"])
    (container,) = named(resources, "Deployment", "greenscale-dashboard")["spec"]["template"]["spec"]["containers"]
    gateway = named(resources, "Service", "greenscale-gateway")
    variables = environment(resources, container)
    (port,) = gateway["spec"]["ports"]
    assert variables["GREENSCALE_GATEWAY_URL"] == f"http://{gateway['metadata']['name']}:{port['port']}"
    assert variables["GREENSCALE_GATEWAY_KEY"] == "(secret)"
    policy = named(resources, "NetworkPolicy", "greenscale-dashboard")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "greenscale-dashboard"}
    dns, to_gateway = policy["egress"]
    assert {each["port"] for each in dns["ports"]} == {53}
    assert to_gateway["ports"] == [{"protocol": "TCP", "port": the_gateway(resources)["ports"][0]["containerPort"]}]
    assert to_gateway["to"] == [{"podSelector": {"matchLabels": gateway["spec"]["selector"]}}]


def test_an_open_key_opens_the_dashboard_too() -> None:
    resources = render_anew(components=["gateway", "dashboard", "gateway-open-key"])
    (container,) = named(resources, "Deployment", "greenscale-dashboard")["spec"]["template"]["spec"]["containers"]
    keys = {environment(resources, each)["GREENSCALE_GATEWAY_KEY"] for each in (container, the_gateway(resources))}
    assert len(keys) == 1
    assert keys != {"(secret)"}


# KEDA -----------------------------------------------------------------------------------------------------------------


def beside_of(keys: Keys) -> dict[str, str]:
    """Triggers for lists beside the queue's own: jobs that nobody has claimed, and the room for jobs."""
    return {name: keys.of(name) for name in (*OF_LISTS, "room")} | {"lines": keys.of(TURN_PAYLOADS)}


def bounded(work: str) -> str:
    """The formula of work that the room for it bounds."""
    return f"min({work}, room > 0 ? room - 1 : 1e9)"


@pytest.mark.parametrize("name", [*(each for each in OVERLAYS if each != "energy"), "keda-list"])
def test_keda_counts_what_the_worker_works_on(name: str) -> None:
    resources = render(name)
    _, worker = the_worker(resources)
    variables = environment(resources, worker)
    scaled = named(resources, "ScaledObject", "greenscale-worker-scaler")["spec"]
    keys = Keys(variables["REDIS_LIST_NAME"])
    by_name = {trigger["name"]: trigger["metadata"] for trigger in scaled["triggers"]}
    assert {each: metadata["listName"] for each, metadata in by_name.items()} == {
        "waiting": keys.name,
        "open": keys.of("open"),
        **beside_of(keys),
    }
    assert scaled["advanced"]["scalingModifiers"] == {
        "formula": bounded(" + ".join(name for name in by_name if name != "room")),
        "target": variables["GREENSCALE_CONCURRENCY"],
        "activationTarget": "0",
        "metricType": "AverageValue",
    }
    for metadata in by_name.values():
        assert metadata["listLength"] == variables["GREENSCALE_CONCURRENCY"]
        assert where(metadata) == redis_of(variables)


@pytest.mark.parametrize("redis", ["redis", "external-redis"])
@pytest.mark.parametrize("concurrency", ["16", "32"])
def test_keda_counts_the_stream_that_the_worker_works_on(redis: str, concurrency: str) -> None:
    variables, scaled = streaming("keda-stream", redis, f"GREENSCALE_CONCURRENCY={concurrency}")
    trigger, *others = scaled["triggers"]
    assert variables["GREENSCALE_QUEUE"] == "stream"
    assert trigger["type"] == "redis-streams"
    assert trigger["metadata"] == {
        **dict(zip(WHERE, redis_of(variables), strict=True)),
        "stream": queue_of(variables).name,
        "streamLength": concurrency,
    }, "with a consumerGroup KEDA would count something else"
    assert scaled["advanced"]["scalingModifiers"] == {
        "formula": bounded("entries + interactive + background + lines"),
        "target": concurrency,
        "activationTarget": "0",
        "metricType": "AverageValue",
    }
    assert {each["name"]: each["metadata"]["listName"] for each in others} == beside_of(Keys("jobs"))
    for each in others:
        assert each["type"] == "redis"
        assert each["metadata"]["listLength"] == concurrency
        assert where(each["metadata"]) == redis_of(variables)


def test_keda_counts_the_classes_of_another_stream() -> None:
    resources = render("energy")
    variables = environment(resources, the_worker(resources)[1])
    scaled = named(resources, "ScaledObject", "greenscale-worker-scaler")["spec"]
    trigger, *others = scaled["triggers"]
    keys = Keys(trigger["metadata"]["stream"])
    assert keys.name == queue_of(variables).name
    assert {each["name"]: each["metadata"]["listName"] for each in others} == beside_of(keys)


def test_the_classic_stream_set_up_keeps_a_pod_and_adds_one_when_all_are_busy() -> None:
    variables, scaled = streaming("keda-stream-classic", "redis")
    trigger, *others = scaled["triggers"]
    options = queue_of(variables)
    assert {each["name"]: each["metadata"]["listName"] for each in others} == beside_of(Keys("jobs"))
    assert scaled["minReplicaCount"] == 1, "where nobody runs, nothing is pending"
    assert not ZERO_ONLY & scaled.keys()
    assert (trigger["metadata"]["stream"], trigger["metadata"]["consumerGroup"]) == (options.name, options.group)
    assert "streamLength" not in trigger["metadata"]
    modifiers = scaled["advanced"]["scalingModifiers"]
    lanes = int(variables["GREENSCALE_CONCURRENCY"])
    assert modifiers["target"] == str(lanes)
    assert trigger["name"] == "pending"
    busy = evaluated(modifiers["formula"], pending=lanes, interactive=0, background=0, lines=0, room=0)
    assert busy > lanes * (1 + TOLERANCE)


# What each trigger counts of 14 jobs.
FOURTEEN: Final = {
    "keda-list": {"waiting": 5, "open": 2, "interactive": 1, "background": 4, "lines": 2},
    "keda-stream": {"entries": 7, "interactive": 1, "background": 4, "lines": 2},
    "keda-stream-classic": {"pending": 8, "interactive": 0, "background": 3, "lines": 1},
}
ROOM: Final = {0: 14, 1: 0, 2: 1, 5: 4, 15: 14, 100: 14}  # length of the list, and jobs that are worth a lane


def formula_of(name: str) -> str:
    scaled = named(render(name), "ScaledObject", "greenscale-worker-scaler")["spec"]
    assert {trigger["name"] for trigger in scaled["triggers"]} == {*FOURTEEN[name], "room"}
    return str(scaled["advanced"]["scalingModifiers"]["formula"])


def evaluated(formula: str, **values: float) -> float:
    """What a formula gives, by Python: expr-lang's conditional is written in another order."""
    in_python = re.sub(r"(room > 0) \? (room - 1) : (\w+)", r"\2 if \1 else float('\3')", formula)
    assert in_python != formula
    return float(eval(in_python, {"min": min, "float": float}, values))  # noqa: S307  our own manifest


@pytest.mark.parametrize("name", FOURTEEN)
def test_no_more_is_wanted_than_there_is_room_for(name: str) -> None:
    formula = formula_of(name)
    assert {room: evaluated(formula, **FOURTEEN[name], room=room) for room in ROOM} == ROOM


@pytest.mark.long
def test_the_language_of_keda_evaluates_the_formulas_alike() -> None:
    if (go := shutil.which("go")) is None:
        pytest.skip("there is no go")
    questions = [
        {"Formula": formula_of(name), "Values": {**values, "room": room}}
        for name, values in FOURTEEN.items()
        for room in ROOM
    ]
    ran = subprocess.run(  # noqa: S603  our own program
        [go, "run", "."], cwd=DATA / "formula", input=json.dumps(questions), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [*ROOM.values()] * len(FOURTEEN)


def streaming(component: str, redis: str, *literals: str) -> tuple[dict[str, str], Resource]:
    """The worker's settings and the ScaledObject's specification in an overlay with a stream."""
    told = ["REDIS_STREAM_NAME=readings", *literals]
    told += ["REDIS_URL=rediss://r.test:1/2"] if redis == "external-redis" else ["REDIS_DB=3"]
    merged = {"name": "greenscale-worker", "behavior": "merge", "literals": told}
    resources = render_anew(components=[component, redis], configMapGenerator=[merged])
    scaled = named(resources, "ScaledObject", "greenscale-worker-scaler")["spec"]
    return environment(resources, the_worker(resources)[1]), scaled


def queue_of(variables: dict[str, str]) -> QueueOptions:
    """What the worker is told of its queue."""
    names = {"GREENSCALE_STREAM_GROUP", "REDIS_LIST_NAME", "REDIS_STREAM_NAME"} & variables.keys()
    return queue_options(load({name: variables[name] for name in names}))


def where(metadata: dict[str, str]) -> tuple[str, ...]:
    """Address, database and TLS of the Redis that KEDA asks."""
    return tuple(metadata[field] for field in WHERE)


def redis_of(variables: dict[str, str]) -> tuple[str, str, str]:
    """Address, database and TLS of the worker's Redis, as KEDA is told them."""
    if "REDIS_URL" not in variables:
        return f"{variables['REDIS_HOST']}:{variables['REDIS_PORT']}", variables["REDIS_DB"], "false"
    url = urlsplit(variables["REDIS_URL"])
    return url.netloc, url.path.strip("/"), str(url.scheme == "rediss").lower()


@pytest.mark.parametrize("name", [*OVERLAYS, "keda-list", "keda-stream"])
def test_keda_scales_from_nothing_and_an_outage_starts_nothing(name: str) -> None:
    resources = render(name)
    scaled = named(resources, "ScaledObject", "greenscale-worker-scaler")["spec"]
    assert scaled["minReplicaCount"] == 0
    assert scaled["maxReplicaCount"] == (10 if name == "energy" else 5)
    assert scaled["pollingInterval"] == 5
    assert scaled["cooldownPeriod"] == 30
    assert scaled["fallback"] == {"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicas"}
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    up, down = behavior["scaleUp"], behavior["scaleDown"]
    assert up["stabilizationWindowSeconds"] == 0 < down["stabilizationWindowSeconds"]
    assert pods_a_minute(up) >= scaled["maxReplicaCount"] > pods_a_minute(down)
    assert "replicas" not in named(resources, "Deployment", "greenscale-worker")["spec"]


def pods_a_minute(rules: Resource) -> float:
    return max(float(policy["value"]) * 60 / policy["periodSeconds"] for policy in rules["policies"])


@pytest.mark.parametrize("prefix", ["", "blue-"])
def test_references_of_keda_stay_right(prefix: str) -> None:
    resources = render_anew(resource="overlays/dev", namePrefix=prefix)
    scaled = named(resources, "ScaledObject", f"{prefix}greenscale-worker-scaler")["spec"]
    deployment = named(resources, "Deployment", f"{prefix}greenscale-worker")
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaled["scaleTargetRef"]["envSourceContainerName"] in {
        container["name"] for container in deployment["spec"]["template"]["spec"]["containers"]
    }
    logins = {each["metadata"]["name"] for each in of_kind(resources, "TriggerAuthentication")}
    assert {trigger["authenticationRef"]["name"] for trigger in scaled["triggers"]} == logins


@pytest.mark.parametrize("name", OVERLAYS)
def test_keda_and_the_worker_take_what_they_need_from_the_same_secrets(name: str) -> None:
    resources = render(name)
    _, worker = the_worker(resources)
    login = named(resources, "TriggerAuthentication", "greenscale-redis")["spec"]
    asked = {
        each["name"]: each["valueFrom"]["secretKeyRef"]
        for each in worker["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    }
    assert {each["name"] for each in login["secretTargetRef"]} == {asked["REDIS_PASSWORD"]["name"]}
    authority = {each["name"] for each in login.get("configMapTargetRef", [])}
    mounted = {each["configMap"]["name"] for each in the_worker(resources)[0].get("volumes", []) if "configMap" in each}
    assert authority == mounted


def test_a_setting_of_an_overlay_reaches_keda() -> None:
    literals = ["GREENSCALE_CONCURRENCY=32", "REDIS_DB=3", "REDIS_HOST=elsewhere.test", "REDIS_PORT=6380"]
    merged = {"name": "greenscale-worker", "behavior": "merge", "literals": literals}
    scaled = named(
        render_anew(components=["redis", "keda-list"], configMapGenerator=[merged]), "ScaledObject", "greenscale-worker"
    )["spec"]
    assert scaled["advanced"]["scalingModifiers"]["target"] == "32"
    for trigger in scaled["triggers"]:
        assert trigger["metadata"]["databaseIndex"] == "3"
        assert trigger["metadata"]["listLength"] == "32"
        assert trigger["metadata"]["address"] == "elsewhere.test:6380"


def test_the_address_of_redis_is_that_of_its_service() -> None:
    resources = render("dev")
    service = named(resources, "Service", "redis-service")
    _, worker = the_worker(resources)
    variables = environment(resources, worker)
    assert variables["REDIS_HOST"] == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert [port["port"] for port in service["spec"]["ports"]] == [int(variables["REDIS_PORT"])]
    assert service["spec"]["selector"] == named(resources, "StatefulSet", "redis")["spec"]["selector"]["matchLabels"]


# Networks -------------------------------------------------------------------------------------------------------------


def test_in_production_nothing_passes_but_what_must() -> None:
    resources = render("production")
    deny = named(resources, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    worker = named(resources, "NetworkPolicy", "greenscale-worker")["spec"]
    variables = environment(resources, the_worker(resources)[1])
    redis_port = urlsplit(variables["REDIS_URL"]).port
    assert {port["port"] for rule in worker["egress"] for port in rule["ports"]} == {53, 443, 6443, redis_port}
    assert [port["port"] for rule in worker["ingress"] for port in rule["ports"]] == ["health"]
    assert {"ports": [{"protocol": "TCP", "port": redis_port}]} in worker["egress"]
    redis = named(resources, "NetworkPolicy", "redis")["spec"]
    assert redis["policyTypes"] == ["Ingress"]
    assert [len(rule["from"]) for rule in redis["ingress"]] == [4], "worker, gateway, scaler and KEDA"


def test_without_an_external_redis_the_workers_way_leads_to_ours_only() -> None:
    policy = named(render("network-policy"), "NetworkPolicy", "greenscale-worker")["spec"]
    everywhere = [rule["ports"] for rule in policy["egress"] if "to" not in rule]
    assert everywhere == [[{"protocol": "TCP", "port": 443}]]


def test_an_alias_has_the_address_of_the_overlay() -> None:
    resources = render("host-alias")
    assert the_worker(resources)[0]["hostAliases"] == [{"ip": "203.0.113.7", "hostnames": ["llama.test"]}]
    assert len(of_kind(resources, "ConfigMap")) == 1, "what the address was read from is not applied"


# Deletion cost --------------------------------------------------------------------------------------------------------


@cache
def everything_with_deletion_cost(namespace: str = "greenscale-system", prefix: str = "") -> tuple[Resource, ...]:
    """The largest overlay, in a namespace and with names of its own."""
    return render_anew(resource="overlays/gpu", namespace=namespace, namePrefix=prefix)


def test_the_workers_account_may_patch_pods_and_nothing_else() -> None:
    resources = render("deletion-cost")
    (role,) = of_kind(resources, "Role", "ClusterRole")
    assert role["kind"] == "Role"
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}]
    for overlay in OVERLAYS:
        roles = of_kind(render(overlay), "Role", "ClusterRole")
        assert [each["rules"] for each in roles] == ([role["rules"]] if overlay in WITH_DELETION_COST else []), overlay


@pytest.mark.parametrize(("namespace", "prefix"), [("greenscale-system", ""), ("blue", "blue-")])
def test_the_right_is_that_of_the_workers_account(namespace: str, prefix: str) -> None:
    resources = everything_with_deletion_cost(namespace, prefix)
    (role,) = of_kind(resources, "Role")
    (binding,) = of_kind(resources, "RoleBinding", "ClusterRoleBinding")
    account = the_worker(resources, prefix)[0]["serviceAccountName"]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == namespace
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == ("Role", role["metadata"]["name"])
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]


@pytest.mark.parametrize("name", ["deletion-cost", "gpu"])
def test_the_token_is_the_workers_alone_and_short_lived(name: str) -> None:
    resources = render(name) if name in COMPONENTS else everything_with_deletion_cost()
    pod, worker = the_worker(resources)
    (volume,) = (each for each in pod["volumes"] if "projected" in each)
    token, authority, namespace = volume["projected"]["sources"]
    assert token == {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}
    assert authority["configMap"]["name"] == "kube-root-ca.crt"
    paths = {item["path"] for source in (authority["configMap"], namespace["downwardAPI"]) for item in source["items"]}
    assert paths == {"ca.crt", "namespace"}
    (mount,) = (each for each in worker["volumeMounts"] if each["name"] == volume["name"])
    assert mount == {"name": volume["name"], "mountPath": str(ACCOUNT), "readOnly": True}
    for container, spec in containers(resources):
        if container != "greenscale-worker/worker":
            assert volume["name"] not in {each["name"] for each in spec.get("volumeMounts", [])}, container


def test_the_worker_knows_its_own_pod_where_it_is_asked_to() -> None:
    resources = render("deletion-cost")
    _, worker = the_worker(resources)
    assert environment(resources, worker)["GREENSCALE_POD_DELETION_COST"] == "true"
    (name,) = (each for each in worker["env"] if each["name"] == "GREENSCALE_POD_NAME")
    assert name["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    for overlay in OVERLAYS:
        told = environment(render(overlay), the_worker(render(overlay))[1])
        assert told.get("GREENSCALE_POD_DELETION_COST") == ("true" if overlay in WITH_DELETION_COST else None)


def test_with_both_components_the_worker_reaches_the_api_server() -> None:
    for resources in (render_anew(components=["network-policy", "deletion-cost"]), everything_with_deletion_cost()):
        policy = named(resources, "NetworkPolicy", "greenscale-worker")["spec"]
        everywhere = {port["port"] for rule in policy["egress"] if "to" not in rule for port in rule["ports"]}
        assert everywhere >= {443, 6443}


# Monitoring -----------------------------------------------------------------------------------------------------------


def test_every_alert_says_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert len(rule["annotations"]["description"].split()) > 12, rule["alert"]


def test_alerts_and_dashboard_ask_for_metrics_that_there_are() -> None:
    ours = known_metrics()
    asked = [rule["expr"] for rule in alerts()] + [target["expr"] for panel in panels() for target in panel["targets"]]
    for query in asked:
        assert set(re.findall(r"\bgreenscale_\w+", query)) <= ours, query
    for metric in ("greenscale_jobs_total", "greenscale_queue_jobs", "greenscale_lanes_busy"):
        assert any(metric in query for query in asked)


def test_the_dashboard_is_found_and_explains_itself() -> None:
    dashboard = named(render("production"), "ConfigMap", "greenscale-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert all(panel["description"] and panel["title"] for panel in panels())
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_the_handbook_reads_every_panel() -> None:
    handbook = (ROOT / "docs/operations.md").read_text()
    for panel in panels():
        assert panel["title"] in handbook


def alerts() -> list[dict[str, Any]]:
    rules = named(render("production"), "PrometheusRule", "greenscale-worker")
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard = named(render("production"), "ConfigMap", "greenscale-dashboard")
    found: list[dict[str, Any]] = json.loads(dashboard["data"]["greenscale.json"])["panels"]
    return found


def known_metrics() -> set[str]:
    """Names under which Prometheus finds our metrics, those of histograms included."""
    names = set()
    for metric in Metrics().registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
        names |= {metric.name + suffix for suffix in suffixes}
    return names


# Beside the manifests -------------------------------------------------------------------------------------------------


def test_one_version_is_named_everywhere() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"ARG VERSION={version[1]}\n" in (ROOT / "Containerfile").read_text()
    for name in ("production", "gpu"):
        assert the_worker(render(name))[1]["image"] == f"greenscale-worker:{version[1]}"
    for name in ("pyproject.toml", "Containerfile"):
        assert re.search(rf'^(ARG VERSION={version[1]}|version = "{version[1]}")$',
                         (ROOT / "dashboard" / name).read_text(), re.MULTILINE), name  # fmt: skip
    (dashboard,) = named(render("dashboard"), "Deployment", "greenscale-dashboard")["spec"]["template"]["spec"][
        "containers"
    ]
    assert dashboard["image"] == f"greenscale-dashboard:{version[1]}"


def test_compose_gives_the_worker_time_and_redis_a_memory() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    worker, redis = services["worker"], services["redis"]
    settings = load(worker["environment"])
    assert not settings.notices
    assert len(settings.origins) == len(worker["environment"])
    assert float(worker["stop_grace_period"].removesuffix("s")) > settings.drain_seconds + RELEASE_SECONDS
    assert chat_options(settings).url.startswith("http://simulator:8000/")
    assert redis_options(settings).url.startswith("redis://redis:")
    assert " ".join(redis["command"]).split(" --")[1:] == ["appendonly yes", "maxmemory-policy noeviction"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_the_workflow_has_no_rights_by_default_and_pins_what_it_uses() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert job["permissions"] == {"contents": "read"}, name
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", "a/b@" + 40 * "0")), step
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
