"""The place that is a cluster, on the real API server that KUBECONFIG names: `KUBECONFIG=FILE pytest tests/e2e`.

It needs that server with its controllers, KEDA's resource definitions and no node: the test says how pods fare, as a
kubelet would. The place acts as the platform's account, with the rights and the fence of the repository. What it makes
has names of its own and goes in the end: a namespace, an account, a role, a policy, the namespaces of users.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import redis
from greenscale_worker import RedisOptions
from harness.eventually import POLL
from harness.redis_server import RedisServer
from lightkube.generic_resource import create_namespaced_resource

from api_server import Loan, Object, SaysNoError
from clusters import SECRET, SETTINGS, UNREADY, Shelf, Wishes, at
from kube_api import status_of
from kubeserve.domain import DeploymentState, Quota
from kubeserve.errors import KubeServeError, UnavailableError
from kubeserve.manifests import DEPLOYMENT, name_of, namespace_of
from kubeserve.places import Known
from kubeserve.places.cluster import Cluster, ClusterPlace, RedisUsers, Rendering, orphans
from kubeserve.places.cluster.client import UnknownKindError
from kubeserve.places.cluster.kinds import DEPLOYMENTS, KINDS, SELECTOR
from kubeserve.places.cluster.orphans import Orphans
from kubeserve.places.sources import Sources
from kubeserve.places.workload import Workload

PATIENCE = 60.0
State = DeploymentState
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
OUTSIDE = "namespaces of its users alone"
pytestmark = [
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="KUBECONFIG names no API server to try this on"),
    pytest.mark.timeout(300),
]


class Site(Wishes):
    """The place, as the account of the platform, and a kubelet that does what a test says."""

    def __init__(self, loan: Loan, users: RedisUsers) -> None:
        self.loan, self.admin, self.users = loan, loan.admin, users
        self.tenant = loan.user()
        shelf = Shelf()
        self.cluster = Cluster(loan.account.config)
        rendering = Rendering(SETTINGS, Quota(), Sources(shelf, shelf, shelf))
        self.place = ClusterPlace(self.cluster, rendering, users, patience=0.5)

    def wish(self, number: int = 1, **changes: Any) -> Workload:
        return self.workload(number, **changes).model_copy(update={"tenant": self.tenant})

    def path(self, resource: str, name: str = "") -> str:
        """Return the path of objects, or of one, in the user's namespace; a resource is GROUP/VERSION/PLURAL."""
        home = f"{resource.rpartition('/')[0]}/namespaces/{namespace_of(self.tenant)}/{resource.rpartition('/')[2]}"
        return f"/{'api' if home.startswith('v1/') else 'apis'}/{home}{'/' if name else ''}{name}"

    async def pods(self, revision: int | None = None) -> list[Object]:
        found = await self.admin.get(self.path("v1/pods"))
        alive = [each for each in found if "deletionTimestamp" not in each["metadata"]]
        wanted = {"kubeserve/revision": str(revision)} if revision else {}
        return [each for each in alive if wanted.items() <= each["metadata"]["labels"].items()]

    async def fare(self, fate: str, revision: int = 1, count: int = 1) -> list[str]:
        """Let the pods of a revision fare so, once there are as many. Returns their names."""
        await until(self._has(revision, count))
        names = [each["metadata"]["name"] for each in await self.pods(revision)]
        for name in names:
            await self.admin.merge(f"{self.path('v1/pods', name)}/status", {"status": status_of(fate)})
        return names

    def _has(self, revision: int, count: int) -> Callable[[], Awaitable[bool]]:
        async def has() -> bool:
            return len(await self.pods(revision)) == count

        return has

    async def objects(self, workload: Workload) -> dict[tuple[str, str], Object]:
        """Return what there is of a deployment, as the admin sees it."""
        admin = Cluster(self.admin.config)
        found = dict[tuple[str, str], Object]()
        for kind in (*DEPLOYMENTS, "Pod"):
            for each in (await admin.list(kind, {**SELECTOR, DEPLOYMENT: workload.id}))[0]:
                found[kind, each["metadata"]["name"]] = each
        await admin.aclose()
        return found


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110  it is a server
            await asyncio.sleep(10 * POLL)


@pytest.fixture
async def loan() -> AsyncIterator[Loan]:
    async with Loan.taken() as taken:
        yield taken


@pytest.fixture
async def site(loan: Loan, redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[Site]:
    db.ping()
    if await loan.admin.get("/api/v1/nodes"):
        pytest.skip("the cluster has nodes: there a kubelet says how pods fare, and not this test")
    made = Site(loan, RedisUsers(RedisOptions(url=f"{redis_server.url}/0"), SECRET, SETTINGS.installation))
    running = asyncio.create_task(made.place.run(lambda: None))
    yield made
    assert not running.done(), running
    running.cancel()
    await asyncio.wait({running})
    await made.place.aclose()


# The fence and the rights ---------------------------------------------------------------------------------------------


def _namespace(name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _config_map(namespace: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": namespace}}


def _labelled(label: str, value: str | None) -> Object:
    return {"metadata": {"labels": {f"pod-security.kubernetes.io/{label}": value}}}


async def _refused(asked: Awaitable[Any], why: str) -> None:
    with pytest.raises(SaysNoError) as refusal:
        await asked
    assert why in refusal.value.message
    assert refusal.value.code in {403, 422}


async def test_the_account_makes_namespaces_of_users_alone_and_never_without_their_walls(loan: Loan) -> None:
    account, home = loan.account, f"/api/v1/namespaces/ks-{(user := loan.user())}"
    name = f"ks-{user}"
    for labels in ({}, {"pod-security.kubernetes.io/enforce": "baseline"}):
        await _refused(account.apply(home, _namespace(name, **labels)), "Standard restricted")
    for other in ("default", "kube-system", loan.namespace, "ks-1", f"{name}-x", f"x{name}"):
        made = account.apply(f"/api/v1/namespaces/{other}", _namespace(other, **RESTRICTED), dryRun="All")
        await _refused(made, OUTSIDE)
    generated = {**_namespace("", **RESTRICTED), "metadata": {"generateName": name[:-5], "labels": RESTRICTED}}
    await _refused(account.ask("POST", "/api/v1/namespaces", generated, dryRun="All"), OUTSIDE)
    old = {**RESTRICTED, "pod-security.kubernetes.io/enforce-version": "v1.0"}
    await _refused(account.apply(home, _namespace(name, **old)), "version of the Pod")
    await account.apply(home, _namespace(name, **RESTRICTED))
    for label, value in (("enforce", None), ("enforce", "privileged"), ("enforce-version", "v1.0")):
        await _refused(account.merge(home, _labelled(label, value)), "Pod Security Standard")
    await loan.admin.merge(home, _labelled("enforce-version", "v1.30"))  # somebody pins it, which is no obstacle
    await account.apply(home, _namespace(name, **RESTRICTED, changed="yes"))
    await _refused(account.merge(home, _labelled("enforce-version", None)), "version of the Pod")
    await _refused(account.ask("DELETE", f"/api/v1/namespaces/{loan.namespace}", dryRun="All"), "forbidden")


async def test_the_account_writes_in_namespaces_of_users_alone(loan: Loan) -> None:
    account, user = loan.account, f"ks-{loan.user()}"
    await account.apply(f"/api/v1/namespaces/{user}", _namespace(user, **RESTRICTED))
    inside = f"/api/v1/namespaces/{user}/configmaps/x"
    await account.apply(inside, _config_map(user))
    await account.merge(inside, {"data": {"a": "b"}})
    await account.ask("DELETE", inside)
    for other in ("default", "kube-system", loan.namespace):
        asked = account.apply(f"/api/v1/namespaces/{other}/configmaps/x", _config_map(other), dryRun="All")
        await _refused(asked, OUTSIDE)
    theirs = f"/api/v1/namespaces/{loan.namespace}/configmaps/x"
    await loan.admin.apply(theirs, _config_map(loan.namespace))
    await _refused(account.merge(theirs, {"data": {"a": "b"}}), OUTSIDE)
    await _refused(account.ask("DELETE", theirs), OUTSIDE)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/namespaces/kube-system/secrets/x"),
        ("POST", "/api/v1/namespaces/{user}/pods"),
        ("POST", "/api/v1/namespaces/{user}/pods/x/exec"),
        ("POST", "/api/v1/namespaces/{user}/serviceaccounts/default/token"),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/{user}/rolebindings"),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
        ("DELETE", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{own}"),
        ("DELETE", "/api/v1/namespaces/{user}/secrets"),
        ("GET", "/api/v1/nodes"),
    ],
)
async def test_what_the_place_does_not_need_the_account_may_not(loan: Loan, method: str, path: str) -> None:
    user = f"ks-{loan.user()}"
    await loan.account.apply(f"/api/v1/namespaces/{user}", _namespace(user, **RESTRICTED))
    asked = loan.account.ask(method, path.format(user=user, own=loan.namespace), {} if method == "POST" else None)
    await _refused(asked, "is forbidden: User")


# What the place makes of it -------------------------------------------------------------------------------------------


async def test_a_deployment_comes_changes_goes_back_and_leaves_nothing(site: Site, db: redis.Redis) -> None:
    first = site.wish()
    await site.apply(first)
    await site.until(first, lambda seen: at(seen, state=State.STARTING, generation=1, active=None))
    await site.fare("ready")
    await site.until(first, lambda seen: at(seen, state=State.READY, active=1, replicas=1))
    before = await site.objects(first)
    await site.apply(first)
    await site.apply(first)
    assert _versions(await site.objects(first)) == _versions(before)

    second = site.next(first, 2)
    await site.apply(second)
    await site.until(second, lambda seen: at(seen, state=State.STARTING, generation=2, active=1, replicas=1))
    await site.fare("crash", revision=2)
    seen = await site.until(second, lambda seen: seen is not None and "given up" in seen.reason)
    assert at(seen, state=State.DEGRADED, active=1, replicas=1)
    await until(lambda: _is_alone(site, 1))

    third = site.next(first, 3).model_copy(update={"generation": 3})
    await site.apply(third)
    await site.fare("ready", revision=3)
    await site.until(third, lambda seen: at(seen, state=State.READY, active=3, generation=3))
    await until(lambda: _is_alone(site, 3))
    await site.apply(third.model_copy(update={"fallback": None}))
    names = {name for kind, name in await site.objects(third) if kind == "ConfigMap"}
    assert names == {f"{name_of(first.id)}-r3"}

    await site.removed(third)
    assert await site.objects(third) == {}
    assert f"ks-{third.id}" not in db.acl_users()
    await site.until(third, lambda seen: seen is None)


def _versions(objects: dict[tuple[str, str], Object]) -> dict[tuple[str, str], str]:
    return {key: each["metadata"]["resourceVersion"] for key, each in objects.items()}


async def _is_alone(site: Site, revision: int) -> bool:
    return {each["metadata"]["labels"]["kubeserve/revision"] for each in await site.pods()} == {str(revision)}


@pytest.mark.parametrize(("fate", "state", "why"), UNREADY)
async def test_why_a_pod_is_not_ready_is_told(site: Site, fate: str, state: State, why: str) -> None:
    workload = site.wish()
    await site.apply(workload)
    await site.fare(fate)
    seen = await site.until(workload, lambda seen: seen is not None and why in seen.reason)
    assert at(seen, state=state, active=None, replicas=0)
    if state is State.FAILED:
        await site.until(workload, lambda seen: seen is not None and "given up" in seen.reason)
        await until(lambda: _is_gone(site, workload))


async def _is_gone(site: Site, workload: Workload) -> bool:
    return await site.objects(workload) == {}


async def test_a_quota_that_is_full_is_told(site: Site) -> None:
    workloads = [site.wish() for _ in range(6)]
    for workload in workloads:
        await site.apply(workload)
    reasons = set[str]()

    async def told() -> bool:
        reasons.clear()
        reasons.update([seen.reason for each in workloads if (seen := await site.place.observe(each.id))])
        return any("the quota of its owner has no room for a pod" in reason for reason in reasons)

    await until(told)
    assert len(await site.pods()) == 5


async def test_what_others_set_beside_our_fields_stays_and_what_they_set_in_them_does_not(site: Site) -> None:
    workload = site.wish()
    await site.apply(workload)
    path = site.path("apps/v1/deployments", name_of(workload.id))
    await site.admin.merge(f"{path}/scale", {"spec": {"replicas": 2}})
    container = {"name": "model", "image": "theirs"}
    change = {"metadata": {"labels": {"theirs": "stays"}}, "spec": {"template": {"spec": {"containers": [container]}}}}
    change["spec"]["progressDeadlineSeconds"] = 7  # type: ignore[index]
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    await site.admin.ask("PATCH", path, change, headers=headers, fieldManager="somebody")
    await site.apply(workload)
    made = await site.admin.get(path)
    images = {each["image"] for each in made["spec"]["template"]["spec"]["containers"]}
    assert (images, made["spec"]["replicas"]) == ({SETTINGS.image}, 2)
    assert (made["spec"]["progressDeadlineSeconds"], made["metadata"]["labels"]["theirs"]) == (900, "stays")


async def test_an_object_of_somebody_elses_that_is_in_the_way_is_told_and_stays(site: Site) -> None:
    workload = site.wish()
    await until(lambda: _is_welcome(site))
    path = site.path("v1/services", name_of(workload.id))
    spec = {"ports": [{"port": 1}]}
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name_of(workload.id)}, "spec": spec}
    await site.admin.apply(path, theirs, fieldManager="somebody")
    with pytest.raises(KubeServeError, match=r"the cluster refuses it: .*clusterIP"):
        await site.apply(workload)
    assert (await site.admin.get(path))["spec"]["ports"][0]["port"] == 1
    assert await site.objects(workload) == {}


async def test_a_users_namespace_has_its_bounds_and_gets_them_back(site: Site) -> None:
    await until(lambda: _is_welcome(site))
    quota = site.path("v1/resourcequotas", "quota")
    policy = site.path("networking.k8s.io/v1/networkpolicies", "default-deny")
    await site.admin.merge(quota, {"spec": {"hard": {"pods": "500"}}})
    await site.admin.delete(policy)
    await site.place.namespaces.keep(site.tenant)
    assert (await site.admin.get(quota))["spec"]["hard"]["pods"] == "5"
    assert (await site.admin.get(policy))["spec"]["policyTypes"] == ["Ingress", "Egress"]


async def _is_welcome(site: Site) -> bool:
    try:
        await site.place.welcome(site.tenant)
    except UnavailableError:
        return False
    return True


async def test_a_namespace_that_is_stuck_is_waited_for_and_comes_back_with_all_in_it(site: Site) -> None:
    workload = site.wish()
    await site.apply(workload)
    await site.fare("ready")
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    home = f"/api/v1/namespaces/{namespace_of(site.tenant)}"
    scaled = site.path("keda.sh/v1alpha1/scaledobjects", name_of(workload.id))
    await site.admin.merge(scaled, {"metadata": {"finalizers": ["finalizer.keda.sh/x"]}})
    try:
        await site.admin.delete(home)
        await site.until(workload, lambda seen: seen is None)
        for _ in range(3):
            with pytest.raises(UnavailableError, match=r"being deleted|terminated"):
                await site.place.apply(workload)
        assert not await site.place.remove(workload.id)  # KEDA's finalizer holds it
    finally:
        await site.admin.merge(scaled, {"metadata": {"finalizers": None}})
    await site.apply(workload)
    await site.fare("ready")
    await site.until(workload, lambda seen: at(seen, state=State.READY))


async def test_what_the_database_does_not_know_is_removed_by_the_rights_of_the_account(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "UNKNOWN_SECONDS", 1e-9)
    kept, orphan = site.wish(), site.wish()
    for workload in (kept, orphan):
        await site.apply(workload)
    users, looks = [site.tenant], Orphans(site.cluster, site.users)

    async def known_users() -> Sequence[str]:
        return users

    async def known_deployments() -> Sequence[str]:
        return [kept.id]

    known = Known(known_users, known_deployments)
    for _ in range(2):
        await looks.look(known)
    await until(lambda: _is_gone(site, orphan))
    assert await site.objects(kept)
    users[:] = [str(uuid.uuid4())]
    for _ in range(2):
        await looks.look(known)
    await until(lambda: _has_no_home(site))


async def _has_no_home(site: Site) -> bool:
    homes = await site.admin.get("/api/v1/namespaces")
    return namespace_of(site.tenant) not in {each["metadata"]["name"] for each in homes}


async def _is_gone(site: Site, workload: Workload) -> bool:
    return not await site.objects(workload)


async def test_a_kind_that_is_not_installed_is_told_from_a_server_that_is_away(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = f"{uuid.uuid4().hex[:8]}.example.org"
    monkeypatch.setitem(KINDS, "ServiceMonitor", create_namespaced_resource(group, "v1", "ServiceMonitor", "nobodys"))
    admin = Cluster(site.admin.config)  # the account has no rights on it, and would be told that
    with pytest.raises(UnknownKindError):
        await admin.list("ServiceMonitor", SELECTOR)
    await admin.aclose()
