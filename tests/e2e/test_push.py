"""The push scaler on a real cluster with KEDA: from a push to the scaled Deployment, and nobody while paused.

As for test_cluster.py, KUBECONFIG names the cluster, and the image is there as greenscale-worker:dev.
"""

import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

import pytest
import yaml
from redis import Redis

from tests.e2e.test_cluster import (
    CALL_SECONDS,
    NAMESPACE,
    PATIENCE,
    WORKER,
    answer_after,
    kubectl,
    push,
    ready,
    redis,
    replicas,
    status,
    system,
    until,
)
from tests.support.kustomize import Resource, named, render_anew

TRIALS: Final = 10
MOST_PODS: Final = 5
GOAL_SECONDS: Final = 0.5  # from a push to the scaled Deployment, at the median
QUIET_SECONDS: Final = 20.0  # longer than the polling interval
SCALED: Final = "scaledobject/greenscale-worker-scaler"
SCALER: Final = "deployment/greenscale-scaler"

__all__ = ["system"]  # the fixture


@pytest.fixture(scope="module")
def pushing(system: None) -> None:
    """The overlay dev with keda-push, added as docs/scaling.md says, at rest with no worker."""
    assert system is None
    resources = render_anew(
        resource="overlays/dev", components=["keda-push"], images=[{"name": "greenscale-worker", "newTag": "dev"}]
    )
    of_scaler = [
        each for each in resources if each["metadata"]["labels"]["app.kubernetes.io/name"] == "greenscale-scaler"
    ]
    apply(of_scaler)
    kubectl("rollout", "status", SCALER, f"--timeout={PATIENCE:g}s")
    apply([named(resources, "ScaledObject", "greenscale-worker-scaler")])
    until(lambda: any(name.endswith("greenscale-work") for name in metrics()), "KEDA knows the scaler's metric")
    until(lambda: ready(status(SCALED)), "KEDA is ready to scale")
    until(lambda: replicas() == 0, "an idle worker is scaled to zero")


def apply(resources: list[Resource]) -> None:
    kubectl("apply", "--filename", "-", stdin=yaml.safe_dump_all(resources))


def metrics() -> list[str]:
    found: list[str] = status(SCALED)["status"].get("externalMetricNames", [])
    return found


@contextmanager
def running(*words: str) -> Iterator[IO[str]]:
    """Run kubectl, and read what it says."""
    command = [shutil.which("kubectl") or "kubectl", "--namespace", NAMESPACE, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  ours
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


def deployments(lines: IO[str]) -> Iterator[dict[str, Any]]:
    """Parse what `kubectl get --watch --output json` writes: first what is so, then each change."""
    text = ""
    for line in lines:
        text += line
        if line == "}\n":
            yield json.loads(text)
            text = ""


def seconds_to_a_pod(client: Redis, name: str) -> float:
    """Push a job; return after how many seconds the Deployment has a pod to start."""
    with running("get", WORKER, "--watch", "--output", "json") as lines:
        changes = deployments(lines)
        next(changes)
        began = time.monotonic()
        client.lpush("jobs", json.dumps({"job_id": name, "prompt": "?"}))
        while next(changes)["spec"]["replicas"] < 1:
            continue
        return time.monotonic() - began


@pytest.mark.usefixtures("pushing")
@pytest.mark.timeout(3600)
def test_from_a_push_to_the_scaled_deployment() -> None:
    answer_after(1)
    seconds = []
    with running("port-forward", "statefulset/redis", ":6379") as lines:
        port = int(next(lines).split("->")[0].rpartition(":")[2])  # Forwarding from 127.0.0.1:40001 -> 6379
        with Redis(port=port) as client:
            for name in (f"e2e-push-{trial}" for trial in range(TRIALS)):
                until(lambda: replicas() == 0, "at zero")
                seconds.append(seconds_to_a_pod(client, name))
                until(lambda name=name: redis("EXISTS", f"result:{name}") == "1", "it is answered")
    print(f"push → replicas: 1, s: {sorted(round(each, 2) for each in seconds)}")  # noqa: T201  what it measures
    assert statistics.median(seconds) < GOAL_SECONDS


@pytest.mark.usefixtures("pushing")
def test_nobody_is_added_while_paused() -> None:
    answer_after(1)
    until(lambda: replicas() == 0, "at zero")
    pod = ["exec", SCALER, "--", "greenscale-worker"]
    kubectl(*pod, "pause")
    try:
        push(*(f"e2e-paused-{number}" for number in range(84)))
        ends = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < ends:
            assert replicas() <= 1, "a poll may wake one, and the push scaler nobody"
            time.sleep(1)
    finally:
        kubectl(*pod, "resume")
    until(lambda: redis("EXISTS", *(f"result:e2e-paused-{n}" for n in range(84))) == "84", "all are answered")
    until(lambda: replicas() == 0, "back to zero")


@pytest.mark.usefixtures("pushing")
def test_fewer_pods_stay_when_the_limit_falls() -> None:
    answer_after(CALL_SECONDS)
    push(*(f"e2e-limit-{number}" for number in range(600)))
    until(lambda: replicas() == MOST_PODS, "all pods are worth it")
    kubectl("set", "env", WORKER, "GREENSCALE_LIMIT=16")  # what one of them has open
    try:
        until(lambda: replicas() < MOST_PODS, "those go that the endpoint cannot feed")
        assert int(redis("LLEN", "jobs")) > 0, "though jobs wait"
    finally:
        kubectl("set", "env", WORKER, "GREENSCALE_LIMIT-")
        redis("DEL", "jobs")
    until(lambda: replicas() == 0, "back to zero")


@pytest.mark.usefixtures("pushing")
def test_a_restart_of_the_scaler_is_heard() -> None:
    answer_after(1)
    until(lambda: replicas() == 0, "at zero")
    kubectl("rollout", "restart", SCALER)
    kubectl("rollout", "status", SCALER, f"--timeout={PATIENCE:g}s")
    push("e2e-restart")
    until(lambda: redis("EXISTS", "result:e2e-restart") == "1", "it is answered")
    until(lambda: replicas() == 0, "back to zero")
