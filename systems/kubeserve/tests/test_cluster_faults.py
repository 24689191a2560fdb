"""The place that is a cluster while the API server, or what stands before it, fails in every way that it may."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
from greenscale_worker import RedisOptions
from harness.eventually import eventually
from harness.redis_server import RedisServer

from clusters import PATIENCE, Site, at, cluster_of
from kube_api import FAULTS, KubeApi
from kubeserve.domain import DeploymentState
from kubeserve.errors import UnavailableError
from kubeserve.places.cluster import watch

State = DeploymentState


@pytest.fixture
async def site(redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[Site]:
    db.ping()
    async with Site.open(RedisOptions(url=f"{redis_server.url}/0"), seed=7) as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_the_api_server_answers_the_deployment_comes_and_goes(site: Site, fault: str) -> None:
    site.api.broken, site.api.chance = (fault,), 0.1 if fault == "busy" else 0.3
    workload = site.workload()
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY, active=1))
    await site.removed(workload)
    assert not [each for each in site.api.objects.values() if "kubeserve/deployment" in each["metadata"]["labels"]]


async def test_a_server_that_asks_to_wait_is_left_alone(site: Site) -> None:
    workload = site.workload()
    await site.apply(workload)
    site.api.broken, site.api.chance, site.api.wait = ("busy",), 1.0, 30
    with pytest.raises(UnavailableError, match="asks to wait for"):
        await site.place.apply(workload)
    asked = len(site.api.calls)
    with pytest.raises(UnavailableError, match="asks to wait for"):
        await site.place.apply(workload)
    assert [call for call in site.api.calls[asked:] if call[0] == "PATCH"] == []


async def test_a_watch_that_is_too_old_begins_anew_and_misses_nothing(site: Site) -> None:
    workload = site.workload()
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    site.api.edit(site.key(workload), replicas=2)
    site.api.compact()
    await site.until(workload, lambda seen: at(seen, replicas=2))
    site.api.delete(site.key(workload))
    site.api.compact()
    await site.until(workload, lambda seen: seen is None)


async def test_a_watch_that_falls_silent_is_listed_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SILENCE", 0.3)
    await site.restart()
    workload = site.workload()
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    site.api.mute = True  # the connection stays, and nothing comes
    site.api.edit(site.key(workload), replicas=2)
    await site.until(workload, lambda seen: at(seen, replicas=2))


async def test_a_server_that_ends_each_watch_at_once_is_asked_ever_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses = list[float]()
    monkeypatch.setattr(watch, "FIRST_PAUSE", 1000.0)
    monkeypatch.setattr(watch, "LONGEST_PAUSE", 5000.0)
    monkeypatch.setattr(watch.random, "uniform", lambda _, longest: pauses.append(longest) or 0.01)
    async with KubeApi.open() as api:
        api.curt, cluster = True, cluster_of(api)
        mirror = watch.Mirror(cluster, "Pod", "kubeserve/deployment", lambda: None)
        following = asyncio.create_task(mirror.run())
        await eventually(lambda: len(pauses) >= 4)
        assert pauses[:4] == [2000, 4000, 5000, 5000]
        assert len(api.calls) <= 2 * len(pauses) + 2, "a list and a watch between two pauses"
        monkeypatch.setattr(watch, "LONGEST_PAUSE", 0.1)
        await eventually(lambda: pauses[-1] == 0.1)
        api.curt, asked, now = False, len(api.calls), asyncio.get_running_loop().time
        await eventually(lambda: len(api.calls) > asked and len(api.calls) % 2 == 0)  # a list and a watch, in turn
        since = now()
        await eventually(lambda: now() - since > 0.2)
        api.curt, before = True, len(pauses)
        await eventually(lambda: len(pauses) > before)
        assert pauses[before] == 1000, "a watch that lasted"
        following.cancel()
        await asyncio.wait({following})
        await cluster.aclose()


async def test_who_may_have_been_replaced_writes_nothing_not_even_the_second_try() -> None:
    answers = iter((False, True, True, False))
    async with KubeApi.open() as api:
        cluster = cluster_of(api, lambda: next(answers))
        api.broken, api.chance = ("error",), 1.0
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ks-1"}}
        with pytest.raises(UnavailableError, match="another one may have taken over"):
            await cluster.apply(namespace)
        assert [method for method, _ in api.calls] == ["PATCH"], "it stalled after the first one"
        api.chance = 0.0
        with pytest.raises(UnavailableError, match="another one may have taken over"):
            await cluster.delete("Namespace", "", "ks-1")
        await cluster.list("Namespace", {})
        await cluster.apply(namespace)
        await cluster.aclose()


async def test_every_change_pokes_the_reconciler(site: Site) -> None:
    workload = site.workload()
    await site.apply(workload)
    await site.until(workload, lambda seen: at(seen, state=State.READY))
    before = site.changes
    site.api.edit(site.key(workload), replicas=2)
    async with asyncio.timeout(PATIENCE):
        while site.changes == before:  # noqa: ASYNC110  it is called, and tells nobody else
            await asyncio.sleep(0.01)
