"""From zero to N and back on a real cluster: the one that KUBECONFIG names, with KEDA and the image in it.

docs/operations.md tells how to make one. The image must be there as greenscale-worker:dev, and the namespace must not.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from tests.support.kustomize import ROOT

NAMESPACE: Final = "greenscale-system"
WORKER: Final = "deployment/greenscale-worker"
JOBS: Final = [f"e2e-{number:02}" for number in range(50)]
CALL_SECONDS: Final = 30  # long enough for the HPA, which looks every 15 s, to see the queue
LONG_CALL_SECONDS: Final = 120  # four times the cooldown
PATIENCE: Final = 300.0


def kubectl(*words: str, stdin: str | None = None) -> str:
    """Run kubectl in our namespace; gives what it says."""
    ran = attempt(*words, stdin=stdin)
    assert ran.returncode == 0, f"kubectl {' '.join(words)}: {ran.stderr}"
    return ran.stdout


def attempt(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("kubectl") or "kubectl", "--namespace", NAMESPACE, *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE)  # noqa: S603  ours


def redis(*words: str) -> str:
    return kubectl("exec", "redis-0", "--", "redis-cli", *words).strip()


def until(condition: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, f"not within {PATIENCE:g} s: {what}"
        time.sleep(1)


def status(resource: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("get", resource, "--output", "json"))
    return found


def replicas() -> int:
    return int(status(WORKER)["spec"].get("replicas", 0))


def pods() -> list[str]:
    """Names of the worker's pods that run and are not about to end."""
    selector = "app.kubernetes.io/name=greenscale-worker"
    found = json.loads(kubectl("get", "pods", "--selector", selector, "--output", "json"))["items"]
    return [
        pod["metadata"]["name"]
        for pod in found
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]


@pytest.fixture(scope="module")
def system() -> Iterator[None]:
    """The overlay dev, at rest with no worker."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl")
    if attempt("get", "crd", "scaledobjects.keda.sh", "--request-timeout", "10s").returncode != 0:
        pytest.skip("the cluster of KUBECONFIG does not answer, or has no KEDA")
    if attempt("get", "namespace", NAMESPACE).returncode == 0:
        pytest.fail(f"the namespace {NAMESPACE} exists already; this test would delete it at its end", pytrace=False)
    try:
        rendered = kubectl("kustomize", str(ROOT / "kustomize/overlays/dev"))
        applied = attempt("apply", "--filename", "-", stdin=rendered)
        assert applied.returncode == 0, applied.stderr
        assert not applied.stderr, f"accepted with a warning: {applied.stderr}"
        for workload in ("statefulset/redis", "deployment/greenscale-simulator"):
            kubectl("rollout", "status", workload, f"--timeout={PATIENCE:g}s")
        until(lambda: ready(status("scaledobject/greenscale-worker-scaler")), "KEDA is ready to scale")
        until(lambda: replicas() == 0, "an idle worker is scaled to zero")
        yield
    finally:
        attempt("delete", "namespace", NAMESPACE, "--wait=false")


def ready(scaled: dict[str, Any]) -> bool:
    conditions = scaled.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def answer_after(seconds: int) -> None:
    """Let the simulated endpoint take so long for an answer."""
    args = ["simulate", "--host", "0.0.0.0", "--port", "8000", "--latency", str(seconds)]  # noqa: S104  in its pod
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": args}]
    kubectl("patch", "deployment/greenscale-simulator", "--type=json", "--patch", json.dumps(patch))
    kubectl("rollout", "status", "deployment/greenscale-simulator", f"--timeout={PATIENCE:g}s")


def push(*names: str) -> None:
    redis("LPUSH", "jobs", *(json.dumps({"job_id": name, "prompt": f"Who is {name}?"}) for name in names))


def work_left() -> int:
    return int(redis("LLEN", "jobs")) + int(redis("HLEN", "{jobs}:open"))


@pytest.mark.usefixtures("system")
def test_from_zero_to_many_and_back_with_pods_deleted_amid_their_work() -> None:
    answer_after(CALL_SECONDS)
    push(*JOBS)
    until(lambda: replicas() >= 1, "KEDA wakes the first pod")
    until(lambda: len(pods()) >= 3, "the HPA adds more")
    until(lambda: int(redis("HLEN", "{jobs}:open")) > 16, "more than one pod works")
    killed, drained, *_ = pods()
    kubectl("delete", "pod", killed, "--grace-period=0", "--force", "--wait=false")
    kubectl("delete", "pod", drained, "--wait=false")
    until(lambda: int(redis("EXISTS", *(f"result:{name}" for name in JOBS))) == len(JOBS), "every job is answered")
    assert work_left() == 0
    assert redis("HLEN", "{jobs}:dead") == "0"
    until(lambda: replicas() == 0, "back to zero")


@pytest.mark.usefixtures("system")
def test_a_job_longer_than_the_cooldown_is_left_alone() -> None:
    answer_after(LONG_CALL_SECONDS)
    push("e2e-long")
    until(lambda: redis("EXISTS", "result:e2e-long") == "1", "the long job is answered")
    assert redis("HMGET", "job:e2e-long", "state", "attempts", "crashes").split() == ["succeeded", "1", "0"]
    until(lambda: replicas() == 0, "back to zero")


@pytest.mark.usefixtures("system")
def test_a_job_that_is_only_open_wakes_a_pod() -> None:
    """A worker dies with the last job in its hands while nobody is left, and nothing is in the list."""
    answer_after(CALL_SECONDS)
    push("e2e-orphan")
    until(lambda: redis("HLEN", "{jobs}:open") == "1", "it is claimed")
    kubectl("scale", WORKER, "--replicas=0")
    for name in pods():
        kubectl("delete", "pod", name, "--grace-period=0", "--force", "--wait=false")
    until(lambda: redis("EXISTS", "result:e2e-orphan") == "1", "somebody else has answered it")
    until(lambda: replicas() == 0, "back to zero")


@pytest.mark.usefixtures("system")
def test_a_pause_adds_nobody_and_scaled_to_zero_leaves_nobody() -> None:
    answer_after(CALL_SECONDS)
    names = [f"e2e-paused-{number:02}" for number in range(84)]
    greenscale("pause")
    push(*names)
    until(lambda: replicas() == 1, "one pod waits for the jobs")
    until(lambda: hpa_counts() == "1", "the HPA has asked")
    assert replicas() == 1
    greenscale("pause", "--scale-to-zero")
    until(lambda: replicas() == 0, "nobody is left")
    greenscale("resume")
    until(lambda: replicas() > 1, "the HPA counts the jobs again")
    until(lambda: int(redis("EXISTS", *(f"result:{name}" for name in names))) == len(names), "every job is answered")
    until(lambda: replicas() == 0, "back to zero")


def greenscale(*words: str) -> str:
    """Run a command of ours in the gateway's pod, which is there when no worker is."""
    return kubectl("exec", "deployment/greenscale-gateway", "--", "greenscale-worker", *words)


def hpa_counts() -> str | None:
    """What the HPA was last told for each pod."""
    found = status("hpa/keda-hpa-greenscale-worker-scaler")["status"].get("currentMetrics") or [{}]
    value = found[0].get("external", {}).get("current", {}).get("averageValue")
    return None if value is None else str(value)


@pytest.mark.usefixtures("system")
def test_an_outage_of_redis_starts_nothing_and_stops_nothing() -> None:
    answer_after(LONG_CALL_SECONDS)
    for workers in (0, 1):
        if workers:
            push("e2e-outage")
        until(lambda workers=workers: len(pods()) == workers, "a worker where there is work")
        kubectl("scale", "statefulset/redis", "--replicas=0")
        until(lambda: failures() >= 1, "KEDA has noticed")  # it counts no further one: docs/scaling.md
        assert replicas() == workers
        kubectl("scale", "statefulset/redis", "--replicas=1")
        kubectl("rollout", "status", "statefulset/redis", f"--timeout={PATIENCE:g}s")
        until(lambda: failures() == 0, "KEDA reads Redis again")
    until(lambda: redis("EXISTS", "result:e2e-outage") == "1", "the call outlasts the outage")
    until(lambda: replicas() == 0, "back to zero")


def failures() -> int:
    """How many failures to read a trigger KEDA has counted since it last could."""
    health = status("scaledobject/greenscale-worker-scaler")["status"].get("health", {})
    return max((each.get("numberOfFailures") or 0 for each in health.values()), default=0)
