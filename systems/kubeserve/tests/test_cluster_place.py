"""The place that is a cluster, on a scripted API server and a real Redis."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
from greenscale_worker import RedisOptions
from harness.redis_server import RedisServer

from clusters import TENANT, UNREADY, Site, at
from kubeserve.domain import DeploymentState
from kubeserve.errors import KubeServeError
from kubeserve.manifests import namespace_of

State = DeploymentState


@pytest.fixture
async def site(redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[Site]:
    db.ping()
    async with Site.open(RedisOptions(url=f"{redis_server.url}/0")) as made:
        yield made


async def test_a_deployment_comes_about_in_its_owners_namespace_and_goes_without_a_trace(
    site: Site, db: redis.Redis
) -> None:
    workload = site.workload()
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY, active=1, generation=1, replicas=1))
    assert site.key(workload) in site.api.objects
    assert f"ks-{workload.id}" in db.acl_users()
    first = [call for call in site.api.calls if call[0] == "PATCH"][:2]
    assert [path.split("/")[-2] for _, path in first] == ["namespaces", "resourcequotas"]
    site.api.terminating = 250  # its pods take some seconds to end
    await site.removed(workload)
    assert site.api.of("pods") + site.api.of("secrets", deployment=workload.id) == []
    assert {key[0] for key in site.api.objects} == {
        "namespaces",
        "resourcequotas",
        "limitranges",
        "serviceaccounts",
        "networkpolicies",
    }
    assert f"ks-{workload.id}" not in db.acl_users()
    assert await site.place.observe(workload.id) is None


async def test_to_apply_again_changes_nothing(site: Site) -> None:
    workload = site.workload()
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    await asyncio.sleep(0.1)
    before = site.api.version
    await site.apply(workload)
    await site.apply(workload)
    assert [each[1:3] for each in site.api.history if each[0] > before] == []


async def test_a_user_that_redis_has_forgotten_is_set_again(site: Site, db: redis.Redis) -> None:
    workload = site.workload()
    await site.apply(workload)
    db.acl_deluser(f"ks-{workload.id}")
    await site.apply(workload)
    assert f"ks-{workload.id}" in db.acl_users()


async def test_the_former_revision_answers_until_the_new_one_is_ready(site: Site) -> None:
    workload = site.workload()
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    site.api.fates["2"] = "slow"
    new = site.next(workload, 2)
    await site.apply(new)
    seen = await site.until(new, lambda seen: at(seen, generation=2))
    assert at(seen, state=State.STARTING, active=1, replicas=1, reason="revision 2 starts; revision 1 answers")
    site.api.fates["2"] = "ready"
    await site.until(new, lambda seen: at(seen, state=State.READY, active=2, replicas=1))
    await site.apply(new.model_copy(update={"fallback": None}))
    assert site.api.of("configmaps", revision="1") == []


@pytest.mark.parametrize(("fate", "state", "why"), UNREADY)
async def test_why_pods_are_not_ready_is_told_in_one_line(site: Site, fate: str, state: State, why: str) -> None:
    site.api.fates["1"] = fate
    workload = site.workload()
    await site.apply(workload)
    seen = await site.until(workload, lambda seen: seen is not None and why in seen.reason)
    assert at(seen, state=state, active=None, replicas=0)


async def test_a_quota_that_is_full_is_told(site: Site) -> None:
    workloads = [site.workload() for _ in range(6)]
    for workload in workloads:
        await site.apply(workload)
    for workload in workloads[:5]:
        await site.until(workload, lambda seen: at(seen, state=State.READY))
    seen = await site.until(workloads[5], lambda seen: at(seen, state=State.PENDING))
    assert seen is not None
    assert "quota" in seen.reason


async def test_a_first_revision_that_breaks_is_removed_and_its_end_told(site: Site) -> None:
    site.api.fates["1"] = "crash"
    workload = site.workload()
    await site.apply(workload)
    seen = await site.until(workload, lambda seen: seen is not None and "given up" in seen.reason)
    assert at(seen, state=State.FAILED, active=None)
    await site.apply(workload)
    assert [
        each
        for each in site.api.objects.values()
        if "kubeserve/deployment" in each["metadata"]["labels"] and "deletionTimestamp" not in each["metadata"]
    ] == []
    site.api.fates.clear()
    again = site.next(workload, 2).model_copy(update={"fallback": None})
    await site.apply(again)
    await site.until(again, lambda seen: at(seen, state=State.READY, active=2))


async def test_a_new_revision_that_breaks_gives_way_to_the_former_one(site: Site) -> None:
    workload = site.workload()
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    pods = [each["metadata"]["uid"] for each in site.api.of("pods")]
    site.api.fates["2"] = "crash"
    new = site.next(workload, 2)
    await site.apply(new)
    seen = await site.until(new, lambda seen: seen is not None and "given up" in seen.reason)
    assert at(seen, state=State.DEGRADED, active=1, generation=2, replicas=1)
    async with asyncio.timeout(10):
        while len(site.api.of("pods")) != 1:  # noqa: ASYNC110  the pod that broke goes
            await asyncio.sleep(0.01)
    assert [each["metadata"]["uid"] for each in site.api.of("pods")] == pods


async def test_what_the_cluster_refuses_leaves_nothing_and_says_why(site: Site) -> None:
    site.api.refused.add("deployments")
    workload = site.workload()
    with pytest.raises(KubeServeError, match="a policy of the cluster refuses it"):
        await site.apply(workload)
    assert site.api.of("secrets") + site.api.of("configmaps") == []


async def test_a_cluster_without_keda_says_so_and_one_without_prometheus_does_not_mind(site: Site) -> None:
    site.api.missing = {"servicemonitors"}
    workload = site.workload()
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    await site.removed(workload)
    site.api.missing = {"scaledobjects", "triggerauthentications"}
    with pytest.raises(KubeServeError, match="KEDA has to be installed"):
        await site.apply(site.workload())
    assert site.api.of("deployments") == []


async def test_asleep_is_what_the_autoscaler_left_no_pods_of(site: Site) -> None:
    workload = site.workload(minimum=0)
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    site.api.edit(site.key(workload), replicas=0)
    await site.until(workload, lambda seen: at(seen, state=State.ASLEEP, active=1, replicas=0))
    await site.apply(workload)
    assert at(await site.place.observe(workload.id), state=State.ASLEEP)


async def test_a_revision_that_comes_while_asleep_is_woken_and_has_to_show_itself(site: Site, db: redis.Redis) -> None:
    workload = site.workload(minimum=0)
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    site.api.edit(site.key(workload), replicas=0)
    await site.until(workload, lambda seen: at(seen, state=State.ASLEEP))
    db.delete(f"{{ks:{workload.id}}}:hot")
    new = site.next(workload, 2)
    await site.apply(new)
    await site.until(new, lambda seen: at(seen, state=State.STARTING, generation=2))
    assert db.zcard(f"{{ks:{workload.id}}}:hot") == 1
    site.api.edit(site.key(workload), replicas=1)
    await site.until(new, lambda seen: at(seen, state=State.READY, active=2))


async def test_urls_are_made_anew_before_they_end_and_no_pod_is_rolled(site: Site) -> None:
    site.life = 0.2
    await site.restart()
    workload = site.workload()
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    pods = [each["metadata"]["uid"] for each in site.api.of("pods")]
    before = [each["data"] for each in site.api.of("secrets", revision="1")]
    await asyncio.sleep(0.15)
    await site.apply(workload)
    assert [each["data"] for each in site.api.of("secrets", revision="1")] != before
    await asyncio.sleep(0.1)
    assert [each["metadata"]["uid"] for each in site.api.of("pods")] == pods


async def test_a_namespace_that_somebody_deletes_comes_back_with_what_was_in_it(site: Site) -> None:
    workload = site.workload()
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    site.api.delete(("namespaces", "", namespace_of(TENANT)))
    await site.until(workload, lambda seen: seen is None)
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))


async def test_logs_are_those_of_the_model_with_nothing_a_terminal_would_obey(site: Site) -> None:
    site.api.lines = ["one", "\x1b[2Jtwo"]
    workload = site.workload()
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    assert [line async for line in site.place.logs(workload.id)] == ["one", "\N{REPLACEMENT CHARACTER}[2Jtwo"]
    lines = site.place.logs(workload.id, follow=True)
    async with asyncio.timeout(20):
        assert [await anext(lines) for _ in range(2)] == ["one", "\N{REPLACEMENT CHARACTER}[2Jtwo"]
        site.api.lines.append("three")
        assert await anext(lines) == "three"
    await lines.aclose()  # type: ignore[attr-defined]  a generator
