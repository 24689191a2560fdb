"""Installs the platform: what is there already stays, and what was changed since is made as the repository has it."""

import time
from collections.abc import Iterator
from typing import Final

from kubeserve.errors import KubeServeError, UnavailableError
from kubeserve.install import image, secret
from kubeserve.install.cluster import NAMESPACE, OURS, REGISTRY, By, Found, Options, look
from kubeserve.install.overlay import render
from kubeserve.install.tools import FailedError, Json, Kubectl, Say, step

WORKLOADS: Final = ("statefulset/redis", "statefulset/kubeserve-postgresql", "statefulset/kubeserve-s3",
                    "deployment/kubeserve")  # fmt: skip
HEALTH: Final = f"/api/v1/namespaces/{NAMESPACE}/services/kubeserve:http/proxy/healthz"
LOOK_SECONDS: Final = 2.0
MANAGER: Final = "kubeserve-install"


def install(kubectl: Kubectl, options: Options, say: Say) -> str:
    """Check, build, apply and wait; each step is said. Return what to do next.

    Raises ConfigError, and KubeServeError that says what is missing or which step has failed; what was done until
    then stays, and the next call goes on from there.
    """
    with step(say, "what the cluster has") as told:
        found = look(kubectl, options)
        told.extend(_seen(found))
    name = options.image or _built(kubectl, options, say)
    with step(say, "the manifests are rendered"):
        manifests = render(options, found, name)
    with step(say, "Secrets") as told:
        _namespace(kubectl)
        told.extend(list(secret.make(kubectl)) or ["all are there"])
    with step(say, "the manifests are applied"):
        kubectl.run("apply", "--server-side", "--force-conflicts", "--field-manager", MANAGER, "--filename", "-",
                    given=manifests)  # fmt: skip
    for workload in WORKLOADS:
        with step(say, f"{workload} is ready"):
            _wait(kubectl, workload, options.seconds)
    with step(say, "database, queue and cluster answer"):
        _until_well(kubectl, options.seconds)
    return _next(kubectl, found, options)


def _seen(found: Found) -> Iterator[str]:
    yield f"Kubernetes {found.version}"
    yield "KEDA"
    yield {By.ROUTE: f"the Gateway {found.gateway}", By.INGRESS: f"the ingress class {found.ingress}"}.get(
        found.by, "no way in but a port-forward"
    )
    yield "the Prometheus operator" if found.monitored else "no Prometheus operator, so nothing reads metrics"
    if found.login:
        yield f"a login for the registry, by the Secret {REGISTRY}"


def _built(kubectl: Kubectl, options: Options, say: Say) -> str:
    loader = image.loader_of(kubectl.context, options.loader)
    with step(say, "the image is built") as told:
        name = image.build(options.tree.resolve().parent)
        told.append(name)
    if loader != "none":
        with step(say, f"the image is loaded into the nodes by {loader}"):
            image.load(name, kubectl.context, loader)
    return name


def _namespace(kubectl: Kubectl) -> None:
    if not kubectl.run("get", "namespace", NAMESPACE, "--ignore-not-found", "--output", "name").strip():
        kubectl.run("create", "namespace", NAMESPACE)
        kubectl.run("label", "namespace", NAMESPACE, OURS)  # so that `down` knows it, also if the next step fails


def _wait(kubectl: Kubectl, workload: str, seconds: float) -> None:
    words = ("--namespace", NAMESPACE, "rollout", "status", workload, f"--timeout={seconds:.0f}s")
    try:
        kubectl.run(*words, seconds=seconds + 30)
    except (FailedError, UnavailableError) as error:
        reasons = "".join(f"\n  {each}" for each in _reasons(kubectl))
        look_at = f"kubectl --context {kubectl.context} --namespace {NAMESPACE} describe pods"
        raise FailedError(f"{workload} is not ready: {error.message}{reasons}\n  `{look_at}` tells more") from error


def _reasons(kubectl: Kubectl) -> Iterator[str]:
    """Yield what each container that does not run waits for."""
    try:
        pods: list[Json] = kubectl.json("--namespace", NAMESPACE, "get", "pods")["items"]
    except KubeServeError:
        return
    for pod in pods:
        for status in pod.get("status", {}).get("containerStatuses", []):
            if waiting := status.get("state", {}).get("waiting"):
                words = f"{waiting.get('reason', 'it waits')} {waiting.get('message', '')}".strip()
                yield f"{pod['metadata']['name']}: {words[:300]}"


def _until_well(kubectl: Kubectl, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while True:
        try:
            kubectl.run("get", "--raw", HEALTH)
        except (FailedError, UnavailableError) as error:
            if time.monotonic() > ends:
                logs = f"kubectl --context {kubectl.context} --namespace {NAMESPACE} logs deployment/kubeserve"
                raise FailedError(f"KubeServe runs, but is not well: {error.message}; `{logs}` tells more") from error
            time.sleep(min(LOOK_SECONDS, seconds))
        else:
            return


def _next(kubectl: Kubectl, found: Found, options: Options) -> str:
    if found.by is By.FORWARD:
        command = f"kubectl --context {kubectl.context} --namespace {NAMESPACE} port-forward service/kubeserve 8600"
        return f"KubeServe is up. http://127.0.0.1:8600 is it while this runs:\n\n  {command}"
    url = f"{'https' if found.secure else 'http'}://{options.host}"
    return f"KubeServe is up: {url}\n\nThe name {options.host} must lead to the cluster's entrance."
