"""KubeServe on a real cluster: up by one command, a model's whole way, down by another, and nothing is left.

KUBECONFIG names the cluster; KUBESERVE_IMAGE an image in a registry, unless it is one of kind, minikube or k3d.
"""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Final

import pytest

from harness.eventually import eventually
from harness.redis_server import free_port
from tests.support.kustomize import ROOT

SYSTEM: Final = ROOT / "systems" / "kubeserve"
NAMESPACE: Final = "kubeserve"
USERS: Final = "app.kubernetes.io/part-of=kubeserve,app.kubernetes.io/managed-by=kubeserve"
PATIENCE: Final = 900.0


def kubectl(*words: str) -> str:
    ran = subprocess.run(  # noqa: S603  ours
        [shutil.which("kubectl") or "kubectl", *words], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def make(target: str, words: str) -> str:
    ran = subprocess.run(  # noqa: S603  ours
        [shutil.which("make") or "make", "-C", str(SYSTEM), target, f"ARGS={words}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where it is, once it is up; at the end it goes by its own command."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    if kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "--output", "name"):
        pytest.fail(f"the namespace {NAMESPACE} exists already; this test would delete it at its end", pytrace=False)
    image = f"--image {os.environ['KUBESERVE_IMAGE']}" if os.environ.get("KUBESERVE_IMAGE") else ""
    try:
        said = make("cluster-up", f"--yes --by forward {image}")
        assert "KubeServe is up" in said
        port = free_port()
        command = ["kubectl", "--namespace", NAMESPACE, "port-forward", "service/kubeserve", f"{port}:8600"]
        forward = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603  ours
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            forward.terminate()
            forward.wait()
    finally:
        make("cluster-down", "--yes")
        assert not kubectl("get", "namespaces", "--selector", USERS, "--output", "name")
        assert not kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "--output", "name")


async def test_a_model_goes_its_whole_way(url: str) -> None:
    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=5) as answer:  # noqa: S310  our own
                return bool(json.load(answer)["status"] == "ok")
        except OSError:
            return False

    await eventually(answers, PATIENCE)
    assert "passed in" in make("e2e", f"--url {url}")


@pytest.mark.usefixtures("url")
def test_a_second_start_changes_nothing_that_runs() -> None:
    before = kubectl("--namespace", NAMESPACE, "get", "pods,secrets", "--output", "name")
    image = f"--image {os.environ['KUBESERVE_IMAGE']}" if os.environ.get("KUBESERVE_IMAGE") else ""
    make("cluster-up", f"--yes --by forward {image}")
    assert kubectl("--namespace", NAMESPACE, "get", "pods,secrets", "--output", "name") == before


@pytest.mark.usefixtures("url")
def test_the_platforms_account_writes_in_namespaces_of_users_alone() -> None:
    account = f"system:serviceaccount:{NAMESPACE}:kubeserve"
    refused = subprocess.run(  # noqa: S603  ours
        [shutil.which("kubectl") or "kubectl", "--as", account, "--namespace", "default", "create", "configmap", "x"],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "namespaces of its users alone" in refused.stderr
