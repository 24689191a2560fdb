"""What every place promises: a machine with a real door and real models, a cluster with a scripted API server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Protocol

import pytest
from greenscale_worker import RedisOptions
from harness.eventually import POLL
from harness.redis_server import RedisServer

from clusters import Site
from doors import PATIENCE, TENANT, Platform
from kubeserve.domain import DeploymentState
from kubeserve.errors import UnavailableError
from kubeserve.places import Observation, Place
from kubeserve.places.local import LocalPlace
from kubeserve.places.workload import Replicable, Workload
from models import of_python

State = DeploymentState
NOBODY = "00000000-0000-0000-0000-000000000000"
SETTLED = {State.READY, State.ASLEEP}


class Stage(Protocol):
    """What differs: how a revision that works or breaks is made, how the place goes away, how it begins anew."""

    place: Place

    async def revision(self, number: int, *, breaks: bool = False) -> Replicable: ...
    async def leave(self) -> None: ...
    async def restart(self) -> None: ...


class Machine:
    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.place: Place = platform.place

    async def revision(self, number: int, *, breaks: bool = False) -> Replicable:
        if breaks:
            return self._platform.written("raise ValueError('not a model')", revision=number)
        made = await asyncio.to_thread(self._platform.model, of_python("return [1 for row in rows]"))
        return made.model_copy(update={"revision": number})

    async def leave(self) -> None:
        await self._platform.close()

    async def restart(self) -> None:
        await self._platform.place.aclose()
        self.place = self._platform.place = LocalPlace(self._platform.layout, self._platform.fetch)


class Cluster:
    def __init__(self, site: Site) -> None:
        self._site = site

    @property
    def place(self) -> Place:
        return self._site.place

    async def revision(self, number: int, *, breaks: bool = False) -> Replicable:
        self._site.api.fates[str(number)] = "crash" if breaks else "ready"
        return self._site.revision(number)

    async def leave(self) -> None:
        self._site.api.away = True

    async def restart(self) -> None:
        await self._site.restart()


@pytest.fixture(params=["local", "cluster"])
async def stage(
    request: pytest.FixtureRequest, platform: Platform, redis_server: RedisServer
) -> AsyncIterator[Machine | Cluster]:
    if request.param == "local":
        yield Machine(platform)
        return
    async with Site.open(RedisOptions(url=f"{redis_server.url}/0")) as site:
        yield Cluster(site)


async def until(stage: Stage, workload: Workload, holds: Callable[[Observation], bool]) -> Observation:
    seen = None
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(UnavailableError):
                seen = await stage.place.observe(workload.id)
                if seen is not None and seen.generation == workload.generation and holds(seen):
                    return seen
            await asyncio.sleep(POLL)


async def applied(stage: Stage, workload: Workload) -> Workload:
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(UnavailableError):
                await stage.place.apply(workload)
                return workload
            await asyncio.sleep(POLL)


async def deployed(stage: Stage, deployment_id: str, *, breaks: bool = False) -> Workload:
    target = await stage.revision(1, breaks=breaks)
    return await applied(stage, Workload(id=deployment_id, tenant=TENANT, generation=1, target=target))


async def revised(stage: Stage, old: Workload, number: int, *, breaks: bool = False) -> Workload:
    target = await stage.revision(number, breaks=breaks)
    new = {"generation": old.generation + 1, "target": target, "fallback": old.target}
    return await applied(stage, old.model_copy(update=new))


async def removed(stage: Stage, workload: Workload) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(UnavailableError):
                if await stage.place.remove(workload.id):
                    return
            await asyncio.sleep(POLL)


async def _observed(stage: Stage) -> None:
    """Observe until that is not possible any more."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await stage.place.observe(NOBODY)
            await asyncio.sleep(POLL)


async def test_what_it_never_was_told_of_is_none_and_gone(stage: Stage) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(UnavailableError):
                assert await stage.place.observe(NOBODY) is None
                assert await stage.place.remove(NOBODY)
                break
            await asyncio.sleep(POLL)
    assert [line async for line in stage.place.logs(NOBODY)] == []


async def test_what_is_applied_comes_about_and_applied_again_is_the_same(stage: Stage) -> None:
    workload = await deployed(stage, NOBODY)
    seen = await until(stage, workload, lambda seen: seen.state in SETTLED)
    assert seen.active == 1
    assert seen.replicas >= 1
    await applied(stage, workload)
    assert await stage.place.observe(NOBODY) == seen


async def test_the_former_revision_gives_way_when_the_new_one_is_ready(stage: Stage) -> None:
    first = await deployed(stage, NOBODY)
    await until(stage, first, lambda seen: seen.state in SETTLED)
    second = await revised(stage, first, 2)
    actives = set[int | None]()

    def settled(seen: Observation) -> bool:
        actives.add(seen.active)
        return seen.state in SETTLED and seen.active == 2

    await until(stage, second, settled)
    assert actives <= {1, 2}  # never nobody


async def test_a_revision_that_breaks_says_why_and_the_former_one_answers(stage: Stage) -> None:
    first = await deployed(stage, NOBODY)
    await until(stage, first, lambda seen: seen.state in SETTLED)
    bad = await revised(stage, first, 2, breaks=True)
    seen = await until(stage, bad, lambda seen: seen.state is State.DEGRADED)
    assert seen.active == 1
    assert "not a model" in seen.reason
    assert "\n" not in seen.reason
    good = await revised(stage, bad.model_copy(update={"target": first.target}), 3)
    await until(stage, good, lambda seen: seen.state in SETTLED and seen.active == 3)


async def test_a_first_revision_that_breaks_fails_and_says_why(stage: Stage) -> None:
    workload = await deployed(stage, NOBODY, breaks=True)
    seen = await until(stage, workload, lambda seen: seen.state is State.FAILED)
    assert (seen.active, seen.replicas) == (None, 0)
    assert "not a model" in seen.reason


async def test_what_is_removed_is_gone_and_may_come_again(stage: Stage) -> None:
    workload = await deployed(stage, NOBODY)
    await until(stage, workload, lambda seen: seen.state in SETTLED)
    await removed(stage, workload)
    assert await stage.place.observe(NOBODY) is None
    assert await stage.place.remove(NOBODY)
    again = await applied(stage, workload.model_copy(update={"generation": 2}))
    await until(stage, again, lambda seen: seen.state in SETTLED)


async def test_another_process_sees_the_same(stage: Stage) -> None:
    workload = await deployed(stage, NOBODY)
    seen = await until(stage, workload, lambda seen: seen.state in SETTLED)
    await stage.restart()
    assert await until(stage, workload, lambda seen: seen.state in SETTLED) == seen


async def test_while_it_is_away_it_says_so_and_nothing_else(stage: Stage) -> None:
    workload = await deployed(stage, NOBODY)
    await until(stage, workload, lambda seen: seen.state in SETTLED)
    await stage.leave()
    with pytest.raises(UnavailableError, match=stage.place.name):
        await _observed(stage)
    with pytest.raises(UnavailableError):
        await stage.place.remove(NOBODY)
