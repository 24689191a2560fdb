"""The components keda-push and keda-push-tls: KEDA finds the scaler, is let in, and has the stock triggers as a net."""

from pathlib import Path
from typing import Any, Final

import pytest

from greenscale_worker.config import load
from greenscale_worker.scaler.trigger import Own, Trigger, read
from tests.support.kustomize import STREAM, Resource, environment, named, render_anew
from tests.test_manifests import check_custom, lets_in

EXTERNAL: Final = {"name": "greenscale-worker", "behavior": "merge", "literals": ["REDIS_URL=rediss://r.test:1/2"]}
OVERLAYS: Final = ("dev", "production")


def scaler_of(resources: tuple[Resource, ...]) -> tuple[Resource, Resource]:
    """The scaler's pod, and its container."""
    pod = named(resources, "Deployment", "greenscale-scaler")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def trigger_of(resources: tuple[Resource, ...]) -> tuple[Any, list[Any]]:
    """The trigger that pushes, and the others."""
    triggers = named(resources, "ScaledObject", "greenscale-worker-scaler")["spec"]["triggers"]
    (push,) = (each for each in triggers if each["type"] == "external-push")
    return push, [each for each in triggers if each is not push]


def pushing(overlay: str, *components: str) -> tuple[Resource, ...]:
    return render_anew(resource=f"overlays/{overlay}", components=["keda-push", *components])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_trigger_names_the_scaler_and_the_stock_triggers_stay(overlay: str) -> None:
    resources = pushing(overlay)
    push, others = trigger_of(resources)
    service = named(resources, "Service", "greenscale-scaler")
    (port,) = service["spec"]["ports"]
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert push["metadata"] == {"scalerAddress": f"{host}:{port['port']}"}, "whatever else is written into all triggers"
    assert "authenticationRef" not in push
    assert {each["type"] for each in others} == {"redis"}
    scaled = named(resources, "ScaledObject", "greenscale-worker-scaler")
    assert push["name"] not in scaled["spec"]["advanced"]["scalingModifiers"]["formula"], "the net holds without it"
    assert scaled["spec"]["pollingInterval"] <= scaled["spec"]["cooldownPeriod"]
    check_custom(scaled)
    _, container = scaler_of(resources)
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    settings = load({name: value for name, value in environment(resources, container).items() if "_FILE" not in name})
    assert settings.scaler_listen.rpartition(":")[2] == str(ports[port["targetPort"]]) == str(port["port"])
    assert settings.health_port == ports["health"]


@pytest.mark.parametrize(
    ("components", "settings", "found"),
    [
        (
            ["keda-list"],
            {"name": "greenscale-worker", "behavior": "merge", "literals": ["REDIS_LIST_NAME=mine"]},
            "list",
        ),
        (["keda-stream"], STREAM, "stream"),
    ],
)
def test_the_scaler_watches_the_queue_of_the_worker(
    components: list[str], settings: dict[str, Any], found: str
) -> None:
    resources = render_anew(components=[*components, "keda-push"], configMapGenerator=[settings])
    push, _ = trigger_of(resources)
    _, container = scaler_of(resources)
    told = load(environment(resources, container))
    name = "mine" if found == "list" else "readings"
    assert (told.queue, told.stream_name or told.list_name) == (found, name)
    own = Own(told.concurrency, "stream" if found == "stream" else "listName", name)
    assert read(push["metadata"], own) == Trigger(found, name, told.concurrency, 5)  # type: ignore[arg-type]


def test_keda_and_prometheus_are_let_in_and_the_scaler_to_redis() -> None:
    resources = pushing("production")
    pod = named(resources, "Deployment", "greenscale-scaler")["spec"]
    policy = named(resources, "NetworkPolicy", "greenscale-scaler")["spec"]
    assert policy["podSelector"] == pod["selector"]
    assert lets_in(policy, "keda", {"app": "keda-operator"}) == {"grpc"}
    assert lets_in(policy, "monitoring", {"app.kubernetes.io/name": "prometheus"}) == {"health"}
    monitor = named(resources, "PodMonitor", "greenscale-scaler")["spec"]
    assert monitor["selector"] == pod["selector"]
    redis = named(resources, "NetworkPolicy", "redis")["spec"]
    (ingress,) = redis["ingress"]
    assert {"podSelector": pod["selector"]} in ingress["from"]


def test_with_another_redis_it_logs_in_there() -> None:
    resources = render_anew(components=["keda-list", "keda-push", "external-redis"], configMapGenerator=[EXTERNAL])
    pod, container = scaler_of(resources)
    variables = environment(resources, container)
    assert variables["REDIS_USERNAME"] == variables["REDIS_PASSWORD"] == "(secret)"
    assert variables["GREENSCALE_REDIS_CA_FILE"].startswith(container["volumeMounts"][0]["mountPath"])
    assert pod["volumes"][0]["name"] == container["volumeMounts"][0]["name"]
    push, others = trigger_of(resources)
    assert "enableTLS" not in push["metadata"], "that is of Redis; KEDA would speak TLS to the scaler"
    assert {each["metadata"]["enableTLS"] for each in others} == {"true"}
    egress = named(resources, "NetworkPolicy", "greenscale-scaler")["spec"]["egress"]
    assert {"ports": [{"protocol": "TCP", "port": 6379}]} in egress


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_by_tls_keda_has_the_authority_and_the_scaler_the_certificate(overlay: str) -> None:
    resources = pushing(overlay, "keda-push-tls")
    pod, container = scaler_of(resources)
    variables = environment(resources, container)
    (volume,) = (each for each in pod["volumes"] if "secret" in each)
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == volume["name"])
    for name in ("CERT", "KEY"):
        assert str(Path(variables[f"GREENSCALE_SCALER_{name}_FILE"]).parent) == mount["mountPath"]
    push, others = trigger_of(resources)
    login = named(resources, "TriggerAuthentication", "greenscale-scaler")
    assert push["authenticationRef"] == {"name": login["metadata"]["name"]}
    assert {each["authenticationRef"]["name"] for each in others} == {"greenscale-redis"}
    (given,) = login["spec"]["secretTargetRef"]
    assert given == {"parameter": "caCert", "name": volume["secret"]["secretName"], "key": "ca.crt"}
    check_custom(login)
    check_custom(named(resources, "ScaledObject", "greenscale-worker-scaler"))
