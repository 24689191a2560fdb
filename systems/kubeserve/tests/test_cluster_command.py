"""`kubeserve cluster up` and `down`: what they check, in which order they act, and what they say when a step fails.

kubectl, docker and their like are scripted; the overlay is really rendered. A real cluster: the repository's tests/e2e.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from greenscale_worker.config import load, redis_options
from pydantic import SecretStr

from kubeserve.cli import main
from kubeserve.install.cluster import NO_KEDA, OLDEST
from kubeserve.manifests.pod import PORT
from kubeserve.manifests.settings import ClusterSettings, Endpoint
from kubeserve.places.opened import check_place
from kubeserve.settings import Settings
from scripted import Scripted, needs_kubectl

ROOT = Path(__file__).parents[3]
TREE = str(ROOT / "kustomize")
CONTEXT = "kind-test"
IMAGE = "sha256:0123456789abcdef0123456789abcdef"
BUILT = "kubeserve:dev-0123456789ab"
CRDS = (
    "scaledobjects.keda.sh", "triggerauthentications.keda.sh", "httproutes.gateway.networking.k8s.io",
    "servicemonitors.monitoring.coreos.com",
)  # fmt: skip
SECRETS = {"kubeserve-secret", "kubeserve-database", "kubeserve-s3", "redis-secret"}
OF_THE_CLUSTER = "validatingadmissionpolicybindings,validatingadmissionpolicies,clusterrolebindings,clusterroles"
NAMED = "get namespaces --field-selector metadata.name=kubeserve"
USERS = "app.kubernetes.io/part-of=kubeserve,app.kubernetes.io/managed-by=kubeserve"


def crds(*names: str) -> str:
    return "".join(f"customresourcedefinition.apiextensions.k8s.io/{name}\n" for name in names)


def items(*metadata: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"items": [{"metadata": each, **more} for each in metadata]}


def default(kind: str) -> dict[str, Any]:
    return {"name": "standard", "annotations": {f"{kind}.kubernetes.io/is-default-class": "true"}}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """A cluster of kind that has all that is needed, and no KubeServe yet."""
    needs_kubectl()
    world = Scripted(tmp_path)
    world.install(monkeypatch, "kubectl", "docker", "kind", "minikube", "k3d")
    world.say("config get-contexts", f"{CONTEXT}\nminikube\nprod\nk3d-dev\ndocker-desktop\n")
    world.say("config current-context", CONTEXT)
    world.say("version", {"serverVersion": {"major": "1", "minor": "34+"}})
    world.say("get crd", crds(*CRDS))
    world.say("get storageclass", items(default("storageclass")))
    world.say("get ingressclass", items())
    gateway = {"namespace": "entrance", "name": "public"}
    world.say("get gateways", items(gateway, spec={"listeners": [{"protocol": "HTTP"}]}))
    world.say("docker image inspect", IMAGE + "\n")
    world.say("get pods", items())
    world.say(NAMED, items())
    return world


def up(*words: str, yes: bool = True) -> int:
    return main(["cluster", "up", "--kustomize", TREE, *(["--yes"] if yes else []), *words])


def down(*words: str) -> int:
    return main(["cluster", "down", "--yes", *words])


def applied(world: Scripted) -> str:
    (manifests,) = world.given("apply")
    return manifests


def changes(world: Scripted) -> list[str]:
    """The calls that change something."""
    return [line for line in world.lines() if re.search(r" (apply|create|delete|patch|build|tag|load|import) ", line)]


# Up -------------------------------------------------------------------------------------------------------------------


def test_one_command_checks_builds_loads_installs_and_waits(
    world: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert up() == 0
    order = [
        "kubectl get crd", "docker build", f"docker tag kubeserve:dev {BUILT}",
        f"kind load docker-image {BUILT} --name test", "kubectl kustomize", "kubectl create namespace kubeserve",
        "kubectl create --filename -", "kubectl apply --server-side",
        "rollout status statefulset/redis", "rollout status deployment/kubeserve", "get --raw",
    ]  # fmt: skip
    lines = world.lines()
    at = [next(number for number, line in enumerate(lines) if part in line) for part in order]
    assert at == sorted(at), lines
    said = capsys.readouterr().out
    assert f"context {CONTEXT}" in said
    steps = [line for line in said.splitlines() if line.startswith("  ")]
    assert len(steps) == 11
    assert all(re.search(r"\(\d+\.\d s\)$", line) for line in steps), "each with its seconds"
    assert "KubeServe is up: http://kubeserve.localhost" in said


def test_a_login_for_the_registry_is_used_where_its_secret_is(
    world: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert up() == 0
    assert "kubeserve-registry" not in applied(world)
    world.forget()
    world.say("get secret kubeserve-registry", "NAME  TYPE\nkubeserve-registry  kubernetes.io/dockerconfigjson\n")
    assert up() == 0
    assert re.search(r"imagePullSecrets:\n- name: kubeserve-registry\nkind: ServiceAccount", applied(world))
    assert "name: KUBESERVE_REGISTRY_FILE" in applied(world)
    assert "a login for the registry" in capsys.readouterr().out


def test_what_is_applied_is_the_overlay_for_this_cluster(world: Scripted) -> None:
    assert up("--host", "models.test") == 0
    manifests = applied(world)
    assert manifests.count(BUILT) == 2, "the platform's pod, and what it tells pods that answer"
    assert "kubeserve:dev\n" not in manifests
    assert "INGRESS_HOST: models.test" in manifests
    assert re.search(
        r"hostnames:\n  - models.test\n  parentRefs:\n  - name: public\n    namespace: entrance", manifests
    )
    assert "kind: ServiceMonitor" in manifests
    assert "kind: Ingress\n" not in manifests
    assert "kind: Secret" not in manifests


def test_the_platform_accepts_the_settings_that_it_gets(world: Scripted) -> None:
    assert up("--by", "forward") == 0
    (data,) = re.findall(r"^apiVersion: v1\ndata:\n((?:  [A-Z_]+: .*\n)+)kind: ConfigMap", applied(world), re.MULTILINE)
    told = {name: value.strip("\"'") for name, value in re.findall(r"^  (\w+): (.*)$", data, re.MULTILINE)}
    settings = Settings.from_env(told)
    assert (settings.port, str(settings.data), settings.objects) == (8600, "/data", "s3://kubeserve")
    assert settings.ingress_host is None, "the name by which it is called is in the request"
    check_place(settings.model_copy(update={"database_url": SecretStr("postgresql://kubeserve:x@db/kubeserve")}))
    ours = {name: value for name, value in told.items() if name.startswith("REDIS_")}
    cluster = ClusterSettings.of(settings, redis_options(load(ours)), told, "ours")
    assert cluster.redis.endpoint == Endpoint("redis-service.kubeserve.svc", 6379)
    assert cluster.store == Endpoint("kubeserve-s3.kubeserve.svc", 9000)
    assert f"port: {PORT}\n" in applied(world), "the platform may call doors"


def test_secrets_are_made_once_and_are_in_no_list_of_processes(world: Scripted) -> None:
    assert up() == 0
    made = {each["metadata"]["name"]: each["stringData"] for each in map(json.loads, world.given("create --filename"))}
    assert made.keys() == SECRETS
    database = made["kubeserve-database"]
    assert database["url"] == (
        f"postgresql://kubeserve:{database['password']}@kubeserve-postgresql.kubeserve.svc:5432/kubeserve"
    )
    Settings.from_env(
        {"KUBESERVE_DATABASE_URL": database["url"], "KUBESERVE_SECRET": made["kubeserve-secret"]["secret"]}
    )
    values = [value for secret in made.values() for value in secret.values()]
    assert len(set(values)) == len(values)
    assert not [line for line in world.lines() if any(value in line for value in values)]

    world.forget()
    world.say("get secrets", "".join(f"secret/{name}\n" for name in SECRETS))
    world.say("get namespace kubeserve", "namespace/kubeserve\n")
    assert up() == 0
    assert not world.lines("kubectl create")
    assert len(world.lines("kubectl apply")) == 1


def test_an_image_of_a_registry_is_neither_built_nor_loaded(world: Scripted) -> None:
    for image in ("registry.test:5000/kubeserve:1.2", f"registry.test/ks@sha256:{'a' * 64}"):
        world.forget()
        assert up("--image", image, "--context", "prod") == 0
        assert applied(world).count(image) == 2
        assert not world.lines("docker ") + world.lines("kind ")
        assert all(
            "--context prod" in line
            for line in world.lines("kubectl")
            if "kustomize" not in line and "config" not in line
        )


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ("minikube", f"minikube image load {BUILT} --profile minikube"),
        ("k3d-dev", f"k3d image import {BUILT} --cluster dev"),
        ("docker-desktop", ""),
    ],
)
def test_the_image_gets_to_the_nodes_as_the_cluster_takes_it(world: Scripted, context: str, words: str) -> None:
    assert up("--context", context) == 0
    loads = [line for line in world.lines() if re.match(r"(kind|k3d|minikube) ", line)]
    assert loads == ([words] if words else [])


def test_without_gateway_it_takes_the_ingress_class(world: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    world.say("get crd", crds(*CRDS[:2]))
    world.say("get ingressclass", items({"name": "other"}, default("ingressclass")))
    assert up("--host", "models.test") == 0
    assert "ingressClassName: standard" in applied(world)
    assert "kind: HTTPRoute" not in applied(world)
    assert "kind: ServiceMonitor" not in applied(world), "nobody would read it"
    assert not world.lines("get gateways")
    assert "http://models.test" in capsys.readouterr().out


def test_without_a_way_in_a_port_forward_is_named(world: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    assert up("--by", "forward") == 0
    assert "kind: HTTPRoute" not in applied(world)
    said = capsys.readouterr().out
    assert "kubectl --context kind-test --namespace kubeserve port-forward service/kubeserve 8600" in said


def test_a_gateway_that_speaks_tls_gives_https(world: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    gateways = items(
        {"namespace": "a", "name": "b"}, {"namespace": "c", "name": "d"}, spec={"listeners": [{"protocol": "HTTPS"}]}
    )
    world.say("get gateways", gateways)
    assert up("--gateway", "c/d") == 0
    assert re.search(r"- name: d\n    namespace: c\n", applied(world))
    assert "KubeServe is up: https://" in capsys.readouterr().out
    assert up("--gateway", "e/f") == 2
    assert "there are: a/b, c/d" in capsys.readouterr().err


def test_all_that_is_missing_is_said_at_once_with_its_remedy(
    world: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    world.say("get crd", crds("certificates.cert-manager.io"))
    world.say("get storageclass", items({"name": "slow"}))
    assert up() == 1
    said = capsys.readouterr().err
    for remedy in (
        r"KEDA is not installed: kubectl apply .*keda-2\.",
        "no StorageClass is the default one",
        "--by forward",
    ):
        assert re.search(remedy, " ".join(said.split())), said
    assert "nothing was changed" in said
    assert changes(world) == []


@pytest.mark.parametrize(("by", "remedy"), [("route", "Envoy Gateway"), ("ingress", "install an ingress controller")])
def test_a_way_in_that_is_asked_for_must_be_there(
    world: Scripted, capsys: pytest.CaptureFixture[str], by: str, remedy: str
) -> None:
    world.say("get gateways", items())
    assert up("--by", by) == 1
    assert remedy in " ".join(capsys.readouterr().err.split())
    assert changes(world) == []


def test_an_old_kubernetes_is_refused(world: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    world.say("version", {"serverVersion": {"major": "1", "minor": "29"}})
    assert up() == 1
    assert "Kubernetes is 1.29; 1.30 or newer is needed" in capsys.readouterr().err


STEPS = {
    "kubectl --context kind-test version": "Unable to connect to the server",
    "get crd": "crds are forbidden",
    "docker build": "no space left on device",
    "docker image inspect": "no such image",
    "kind load": "no nodes found",
    "create namespace": "namespaces is forbidden",
    "get secrets": "secrets is forbidden",
    "create --filename": "secrets is forbidden",
    "apply --server-side": "admission webhook denied the request",
    "rollout status statefulset/redis": "timed out waiting for the condition",
    "rollout status deployment/kubeserve": "timed out waiting for the condition",
}


@pytest.mark.parametrize("at", STEPS)
def test_a_step_that_fails_is_told_and_nothing_after_it_is_done(
    world: Scripted, capsys: pytest.CaptureFixture[str], at: str
) -> None:
    world.say(at, code=1, err=STEPS[at])
    assert up("--seconds", "1") == 1
    said = capsys.readouterr()
    assert STEPS[at] in " ".join(said.err.split())
    assert "KubeServe is up" not in said.out
    before = list(STEPS)[: list(STEPS).index(at)]
    after = [line for line in changes(world) if not any(part.split("kind-test ")[-1] in line for part in [*before, at])]
    assert [line for line in after if "docker tag" not in line] == []


def test_what_a_pod_waits_for_is_told(world: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    world.say("rollout status statefulset/kubeserve-s3", code=1, err="timed out")
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    status = {"containerStatuses": [{"state": {"waiting": waiting}}, {"state": {"running": {}}}]}
    world.say("get pods", items({"name": "kubeserve-s3-0"}, status=status))
    assert up() == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "kubeserve-s3-0: ImagePullBackOff no such image" in said
    assert "describe pods" in said


def test_a_platform_that_is_not_well_is_waited_for_and_then_told(
    world: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    world.say("get --raw", code=1, err="the server is currently unable to handle the request")
    assert up("--seconds", "1") == 1
    assert "KubeServe runs, but is not well" in capsys.readouterr().err
    assert len(world.lines("get --raw")) > 1


# What is asked first --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["up", "down"])
def test_nobody_is_surprised(world: Scripted, capsys: pytest.CaptureFixture[str], action: str) -> None:
    world.say(NAMED, items({"labels": {"app.kubernetes.io/part-of": "kubeserve"}}))
    words = ["--kustomize", TREE] if action == "up" else []
    assert main(["cluster", action, *words]) == 2
    assert "--yes is expected" in capsys.readouterr().err
    assert changes(world) == []


def test_kubectl_and_a_context_are_needed(
    world: Scripted, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert up("--context", "nowhere") == 2
    assert "kubectl knows kind-test, minikube, prod" in capsys.readouterr().err
    world.say("config current-context", code=1, err="error: current-context is not set")
    assert up() == 2
    assert "set KUBECONFIG" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert up() == 2
    assert "kubectl is not on the PATH" in capsys.readouterr().err
    assert changes(world) == []


def test_a_cluster_that_takes_no_image_from_here_is_told_of_before_one_is_built(
    world: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert up("--context", "prod") == 2
    assert "--image REGISTRY/kubeserve:TAG" in " ".join(capsys.readouterr().err.split())
    assert changes(world) == []
    (world.folder / "programs" / "docker").unlink()
    assert up() == 2
    assert "docker is not on the PATH; install Docker, or name an image" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("image", ["kubeserve", "registry:5000/kubeserve", "a b:1", "kubeserve@sha256:12", ":dev"])
def test_an_image_without_a_tag_is_refused(world: Scripted, capsys: pytest.CaptureFixture[str], image: str) -> None:
    assert up("--image", image) == 2
    assert "REGISTRY/NAME:TAG" in capsys.readouterr().err
    assert world.calls == []


def test_the_manifests_are_found_around_this_folder(
    world: Scripted, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT / "systems")
    assert main(["cluster", "up", "--yes"]) == 0
    monkeypatch.chdir(tmp_path)
    world.forget()
    assert main(["cluster", "up", "--yes"]) == 2
    assert "--kustomize DIR names it" in capsys.readouterr().err
    assert changes(world) == []


def test_the_handbook_says_what_the_command_does() -> None:
    handbook = (ROOT / "systems/kubeserve/docs/operations.md").read_text()
    assert NO_KEDA.rpartition(" ")[2] in handbook
    assert f"| Kubernetes | {'.'.join(map(str, OLDEST))} or newer" in handbook
    assert "`--by forward`" in handbook
    secrets = (ROOT / "kustomize/kubeserve/README.md").read_text()
    assert all(f"| `{name}` |" in secrets for name in SECRETS)


# Down -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(world: Scripted) -> Scripted:
    world.say(NAMED, items({"labels": {"app.kubernetes.io/part-of": "kubeserve"}}))
    world.say(f"get namespaces --selector {USERS}", "namespace/ks-1\nnamespace/ks-2\n")
    return world


def test_down_removes_the_users_namespaces_too_and_nothing_is_made_anew_meanwhile(
    installed: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert down() == 0
    deleted = [re.sub(r"kubectl (--namespace kubeserve )?delete ", "", line) for line in changes(installed)]
    assert [line.partition(" --wait")[0] for line in deleted] == [
        "deployment kubeserve --ignore-not-found --cascade=foreground",
        f"namespaces --selector {USERS}",
        f"{OF_THE_CLUSTER} --selector app.kubernetes.io/part-of=kubeserve",
        "namespace kubeserve --ignore-not-found",
    ]
    said = capsys.readouterr().out
    assert "namespaces of users are removed: 2" in said
    assert "KubeServe is gone" in said


@pytest.mark.parametrize("about", [{}, {"labels": {"app.kubernetes.io/part-of": "another"}}])
def test_down_leaves_a_namespace_alone_that_only_has_our_name(
    installed: Scripted, capsys: pytest.CaptureFixture[str], about: dict[str, Any]
) -> None:
    installed.say(NAMED, items(about))
    assert down() == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "it is not KubeServe's, and nothing was removed" in said
    assert "kubectl label namespace kubeserve app.kubernetes.io/part-of=kubeserve" in said
    assert changes(installed) == []


def test_a_namespace_is_ours_from_the_beginning(world: Scripted) -> None:
    assert up() == 0
    made = [line.partition("namespace kubeserve")[2] for line in world.lines(" namespace kubeserve")]
    assert made[1:3] == ["", " app.kubernetes.io/part-of=kubeserve"], "created, and labelled at once"


@pytest.mark.usefixtures("world")
def test_down_of_nothing_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "down"]) == 0
    assert "It is not there" in capsys.readouterr().out


def test_a_namespace_that_does_not_go_is_told(installed: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    installed.say("delete namespaces --selector", code=1, err="timed out waiting for the condition on namespaces/ks-1")
    assert down() == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "namespaces/ks-1" in said
    assert "KEDA's finalizer goes only while KEDA runs" in said
    assert not installed.lines("delete namespace kubeserve"), "the next `down` finds the rest by it"
