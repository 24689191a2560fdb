"""The energy readings service where it is deployed: its overlay, its image's settings, its compose file."""

import ast
import re
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from greenscale_worker.config import load
from tests.support.kustomize import (
    ROOT,
    Resource,
    containers,
    environment,
    named,
    of_kind,
    render,
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
