"""The energy readings service where it is deployed: its overlay, its image's settings, its compose file."""

import ast
import copy
import re
from typing import Any, Final
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from greenscale_worker.config import load
from tests.support.kustomize import (
    ROOT,
    TREE,
    Resource,
    containers,
    environment,
    named,
    of_kind,
    render,
    render_anew,
)

SYSTEM: Final = ROOT / "systems" / "energy_readings"
PORTS: Final = {"ingest": 8000, "readings": 8001, "page": 3000}
RELEASE_SECONDS: Final = 2


@pytest.fixture(scope="module")
def resources() -> tuple[Resource, ...]:
    return render("energy")


def of_worker(resources: tuple[Resource, ...]) -> dict[str, str]:
    """The worker's environment."""
    (worker,) = (spec for name, spec in containers(resources) if name == "greenscale-worker/worker")
    return environment(resources, worker)


def literal(name: str) -> Any:
    """What the example's processing.py calls so; it is not installed here."""
    source = (SYSTEM / "src/energy_readings/processing.py").read_text()
    found = next(
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name
    )
    assert found is not None
    return ast.literal_eval(found)


def test_the_worker_is_told_in_a_cluster_what_it_is_told_elsewhere(resources: tuple[Resource, ...]) -> None:
    variables = of_worker(resources)
    assert literal("WORKER").items() <= variables.items()
    own = {name: value for name, value in variables.items() if not name.startswith("ENERGY_")}
    settings = load(own)
    assert not settings.notices
    assert len(settings.origins) == len(own)
    assert not {name for name in variables if name.startswith("NEYSA_")}, "it asks no endpoint"


def test_every_role_runs_the_same_image(resources: tuple[Resource, ...]) -> None:
    images = {spec["image"] for name, spec in containers(resources) if not name.startswith("redis/")}
    assert images == {"energy-readings:dev"}


@pytest.mark.parametrize(("role", "port"), PORTS.items())
def test_a_role_is_reached_where_the_others_look_for_it(resources: tuple[Resource, ...], role: str, port: int) -> None:
    service = named(resources, "Service", f"energy-{role}")
    deployment = named(resources, "Deployment", f"energy-{role}")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"] == [role]
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    assert [each["port"] for each in service["spec"]["ports"]] == [port]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    variables = environment(resources, container)
    assert variables["ENERGY_HOST"] == "0.0.0.0"  # noqa: S104  in its pod
    assert variables["REDIS_STREAM_NAME"] == of_worker(resources)["REDIS_STREAM_NAME"]
    assert ("REDIS_PASSWORD" in variables) == (role != "page"), "whoever asks Redis has its password, nobody else"
    if role != "page":
        url = urlsplit(of_worker(resources)[f"ENERGY_{role.upper()}_URL"])
        assert (url.hostname, url.port) == (service["metadata"]["name"], port)


def test_no_outage_of_redis_restarts_a_server(resources: tuple[Resource, ...]) -> None:
    for role in ("ingest", "readings"):
        (container,) = named(resources, "Deployment", f"energy-{role}")["spec"]["template"]["spec"]["containers"]
        assert container["livenessProbe"]["tcpSocket"] == container["startupProbe"]["tcpSocket"] == {"port": "http"}
        assert container["readinessProbe"]["httpGet"]["path"] == "/health"


def test_keda_goes_from_0_to_10_by_the_stream(resources: tuple[Resource, ...]) -> None:
    (scaled,) = of_kind(resources, "ScaledObject")
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (0, 10)
    (trigger, *of_lists) = scaled["spec"]["triggers"]
    assert trigger["type"] == "redis-streams"
    names = [each["metadata"]["listName"] for each in of_lists]
    assert names == [f"{{energy_readings}}:{name}" for name in ("interactive", "background", "turns:payload", "room")]
    told, metadata = of_worker(resources), trigger["metadata"]
    assert metadata["stream"] == told["REDIS_STREAM_NAME"] == "energy_readings"
    assert metadata["streamLength"] == told["GREENSCALE_CONCURRENCY"]
    assert metadata["address"] == f"{told['REDIS_HOST']}:{told['REDIS_PORT']}"
    assert "consumerGroup" not in metadata


def test_compose_locks_all_roles_down_and_gives_the_worker_time() -> None:
    services = yaml.safe_load((SYSTEM / "compose.yaml").read_text())["services"]
    assert services.keys() == {"redis", "process", *PORTS}
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        if name in PORTS:
            assert service["ports"] == [f"127.0.0.1:{PORTS[name]}:{PORTS[name]}"]
    seconds = float(services["process"]["stop_grace_period"].removesuffix("s"))
    assert seconds > load({}).drain_seconds + RELEASE_SECONDS
    assert " ".join(services["redis"]["command"]).split(" --")[1:] == ["appendonly yes", "maxmemory-policy noeviction"]


def test_its_image_is_of_its_version() -> None:
    version = re.search(r'^version = "(.+)"$', (SYSTEM / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    for resource in of_kind(render("energy-readings"), "Deployment"):
        (container,) = resource["spec"]["template"]["spec"]["containers"]
        assert container["image"] == f"energy-readings:{version[1]}"


# From the chart: the lines that the overlay's README gives for each value ---------------------------------------------

OVERLAY: Final = TREE / "overlays" / "energy"
VALUES: Final = ["Namespace", "Label", "Redis", "Images", "Replicas", "Without KEDA", "Minimum", "Maximum", "Threshold"]
OF_KEDA: Final = {"pollingInterval", "cooldownPeriod"}  # KEDA warns of them where there is always a pod


def lines_of(value: str) -> dict[str, Any]:
    """The lines that the README gives for a value of the chart."""
    (section,) = re.findall(rf"^### {value}$(.*?)(?=^##|\Z)", readme(), re.DOTALL | re.MULTILINE)
    (lines,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(lines)
    return found


def readme() -> str:
    return (OVERLAY / "README.md").read_text()


def with_values(*values: str) -> tuple[Resource, ...]:
    """The overlay with the lines of these values, each where the README says."""
    kustomization = yaml.safe_load((OVERLAY / "kustomization.yaml").read_text())
    for value in values:
        for field, lines in copy.deepcopy(lines_of(value)).items():
            replaces = field in {"namespace", "images"}
            kustomization[field] = lines if replaces else [*kustomization.get(field, []), *lines]
    components = [each.removeprefix("../../components/") for each in kustomization.pop("components")]
    if "Redis" in values:
        components.remove("redis")
    return render_anew(components=components, **kustomization)


def scaled_of(resources: tuple[Resource, ...]) -> dict[str, Any]:
    (scaled,) = of_kind(resources, "ScaledObject")
    spec: dict[str, Any] = scaled["spec"]
    return spec


def test_the_readme_has_lines_for_every_value_that_it_names() -> None:
    headings = re.findall(r"^### (.+)$", readme(), re.MULTILINE)
    assert headings == VALUES
    linked = re.findall(r"\]\(#([\w-]+)\) \|$", readme(), re.MULTILINE)
    assert linked == [each.lower().replace(" ", "-") for each in VALUES]


def test_all_of_it_is_in_the_namespace_of_the_chart() -> None:
    resources = with_values("Namespace")
    assert [each["metadata"]["name"] for each in of_kind(resources, "Namespace")] == ["energy-system"]
    assert {each["metadata"].get("namespace") for each in resources} == {None, "energy-system"}
    service = named(resources, "Service", "redis-service")["metadata"]
    host = f"{service['name']}.{service['namespace']}.svc"
    assert of_worker(resources)["REDIS_HOST"] == host
    assert {each["metadata"]["address"] for each in scaled_of(resources)["triggers"]} == {f"{host}:6379"}
    assert "greenscale-system" not in yaml.safe_dump_all(each for each in resources if each["kind"] != "Namespace")


def test_the_assignment_is_a_label_of_every_object_and_pod_and_of_no_selector() -> None:
    resources = with_values("Label")
    for each in resources:
        assert each["metadata"]["labels"]["assignmentId"] == "a-4711", each["kind"]
        spec = each.get("spec", {})
        if "template" in spec:
            assert spec["template"]["metadata"]["labels"]["assignmentId"] == "a-4711", each["kind"]
        assert "assignmentId" not in yaml.safe_dump(spec.get("selector", {})), "a selector cannot be changed"


def test_another_redis_is_that_of_all_roles_and_of_keda() -> None:
    resources = with_values("Redis")
    assert not of_kind(resources, "StatefulSet")
    for name, spec in containers(resources):
        variables = environment(resources, spec)
        assert (variables["REDIS_HOST"], variables["REDIS_PORT"]) == ("redis.example.com", "6380"), name
    assert {each["metadata"]["address"] for each in scaled_of(resources)["triggers"]} == {"redis.example.com:6380"}


def test_every_image_comes_from_a_repository_that_can_be_named() -> None:
    images = {spec["image"] for _, spec in containers(with_values("Images"))}
    assert images == {"registry.example.com/energy-readings:0.1.0", "registry.example.com/redis:7-alpine"}


def test_the_apis_and_the_page_have_as_many_replicas_as_asked_and_keda_the_workers() -> None:
    deployments = of_kind(with_values("Replicas"), "Deployment")
    told = {each["metadata"]["name"]: each["spec"].get("replicas") for each in deployments}
    assert told == {"energy-ingest": 2, "energy-readings": 2, "energy-page": 2, "greenscale-worker": None}


def test_without_keda_there_is_a_fixed_number_of_workers_and_nothing_of_keda() -> None:
    resources = with_values("Without KEDA")
    assert named(resources, "Deployment", "greenscale-worker")["spec"]["replicas"] == 2
    assert not [each["kind"] for each in resources if each["apiVersion"].startswith("keda.sh/")]
    rest = {(each["kind"], each["metadata"]["name"]) for each in resources}
    whole = {(each["kind"], each["metadata"]["name"]) for each in render("energy")}
    assert whole - rest == {("ScaledObject", "greenscale-worker-scaler"), ("TriggerAuthentication", "greenscale-redis")}


def test_with_one_pod_at_least_nothing_is_left_to_warn_of() -> None:
    scaled = scaled_of(with_values("Minimum"))
    assert scaled["minReplicaCount"] == 1
    assert not OF_KEDA & scaled.keys()
    assert scaled_of(render("energy")).keys() >= OF_KEDA, "at zero they matter"


def test_the_maximum_and_the_threshold_are_those_of_the_chart() -> None:
    assert scaled_of(with_values("Maximum"))["maxReplicaCount"] == 10
    modifiers = scaled_of(with_values("Threshold"))["advanced"]["scalingModifiers"]
    assert modifiers == scaled_of(render("energy"))["advanced"]["scalingModifiers"] | {"target": "5"}


def test_kubernetes_accepts_all_values_at_once() -> None:
    resources = with_values(*(each for each in VALUES if each != "Without KEDA"))
    for each in resources:
        if not each["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    scaled = scaled_of(resources)
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (1, 10)
    assert scaled["advanced"]["scalingModifiers"]["target"] == "5"
    assert {each["metadata"]["address"] for each in scaled["triggers"]} == {"redis.example.com:6380"}
    assert {each["metadata"].get("namespace") for each in resources} == {None, "energy-system"}
    assert not of_kind(resources, "StatefulSet")
    for each in of_kind(with_values(*VALUES), "Deployment"):
        assert each["spec"]["replicas"] == 2, each["metadata"]["name"]


# Continuous integration -----------------------------------------------------------------------------------------------


def test_images_are_built_at_each_change_and_the_overlay_is_applied_on_main_alone() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    built = {each["name"]: each["file"] for each in jobs["images"]["strategy"]["matrix"]["include"]}
    assert built.keys() == {"greenscale-worker", "energy-readings", "kubeserve"}
    assert all((ROOT / file).is_file() for file in built.values())
    assert all("if" not in step for step in jobs["images"]["steps"]), "none is skipped"
    apply = jobs["apply"]
    assert apply["if"] == "github.event_name == 'push' && github.ref == 'refs/heads/main'"
    assert set(apply["needs"]) == jobs.keys() - {"apply"}, "what fails is not applied"
    assert all(step["if"] == "env.CLUSTER == 'true'" for step in apply["steps"]), "without the secret nothing is done"
    told = [step for step in apply["steps"] if "secrets." in yaml.safe_dump(step)]
    assert len(told) == 1, "one step has the secret"
