"""The door: jobs of a real queue, answered by real models behind their walls."""

import asyncio
import contextlib
import os
import signal
import uuid
from pathlib import Path

import pytest
from harness.eventually import POLL, eventually

from doors import PATIENCE, Platform
from kubeserve.domain import DeploymentState
from kubeserve.door.replica import RefusedError
from kubeserve.queueing import place_of, told_at
from models import IRIS, of_python

SETOSA = [5.1, 3.5, 1.4, 0.2]
READY, ASLEEP = DeploymentState.READY, DeploymentState.ASLEEP


async def test_a_prediction_is_answered_by_a_replica_that_is_forked_for_it(platform: Platform) -> None:
    workload = await platform.deploy(IRIS, idle=0.6)
    await platform.until(workload, lambda seen: seen.state is READY)
    await platform.until(workload, lambda seen: seen.state is ASLEEP and seen.replicas == 0)
    await eventually(lambda: platform.replicas() == [])
    answer = await platform.ask(workload, SETOSA, SETOSA)
    assert answer.answer == {"predictions": [0, 0], "revision": 1, "version": "v1"}
    await platform.until(workload, lambda seen: seen.state is ASLEEP)
    assert len(platform.zygotes()) == 1  # it stays warm


async def test_what_a_model_refuses_is_told_to_its_call_alone(platform: Platform) -> None:
    workload = await platform.deploy(IRIS)
    bad = platform.ask(workload, SETOSA, ["a", 1, 1, 1])
    answers = await asyncio.gather(*(platform.ask(workload, SETOSA) for _ in range(20)), bad)
    assert all(answer.answer and answer.answer["predictions"] == [0] for answer in answers[:-1])
    assert answers[-1].error is not None
    code, message = answers[-1].error
    assert code == "bad_instance"
    assert message.startswith("[1.x0] row 1: ")


async def test_rows_that_kill_a_replica_end_alone_and_their_neighbours_are_answered(platform: Platform) -> None:
    workload = await platform.deploy(
        of_python("return [__import__('os')._exit(3) if row[0] < 0 else 1 for row in rows]")
    )
    answers = await asyncio.gather(*(platform.ask(workload, [-1 if place == 7 else 1]) for place in range(15)))
    assert [answer.state for answer in answers].count("failed") == 1
    assert answers[7].error is not None
    assert answers[7].error[0] == "model_died"


async def test_a_replica_that_is_killed_from_outside_costs_no_prediction(platform: Platform) -> None:
    workload = await platform.deploy(of_python("return [__import__('time').sleep(0.5) or 1 for row in rows]"))
    await platform.until(workload, lambda seen: seen.replicas > 0)
    asked = asyncio.create_task(platform.ask(workload, [1]))
    await asyncio.sleep(0)
    for pid in platform.replicas():
        os.kill(pid, signal.SIGKILL)
    assert (await asked).answer is not None


async def test_a_zygote_that_is_killed_is_started_again(platform: Platform) -> None:
    workload = await platform.deploy(IRIS)
    assert (await platform.ask(workload, SETOSA)).answer is not None
    for pid in platform.zygotes():
        os.kill(pid, signal.SIGKILL)
    assert (await platform.ask(workload, SETOSA)).answer is not None


async def test_a_model_that_hangs_ends_by_its_timeout(platform: Platform) -> None:
    workload = await platform.deploy(of_python("return [__import__('time').sleep(60) for row in rows]"), timeout=0.5)
    answer = await platform.ask(workload, [1])
    assert answer.error is not None
    assert answer.error[0] == "timeout"


async def test_a_revision_that_does_not_load_leaves_the_former_one_answering(platform: Platform) -> None:
    workload = await platform.deploy(IRIS)
    await platform.until(workload, lambda seen: seen.state is READY)
    bad = (await asyncio.to_thread(platform.model, IRIS)).model_copy(update={"revision": 2, "tag": "v2"})
    Path(bad.key).write_bytes(b"not a model")
    update = {"target": bad, "fallback": workload.target, "generation": 2}
    await platform.place.apply(workload.model_copy(update=update))
    seen = await platform.until(workload, lambda seen: seen.generation == 2 and bool(seen.reason))
    assert seen.state is DeploymentState.DEGRADED
    assert seen.active == 1
    assert "revision 2" in seen.reason
    assert (await platform.ask(workload, SETOSA)).answer is not None


async def test_a_new_revision_takes_over_without_a_call_failing(platform: Platform) -> None:
    workload = await platform.deploy(of_python("return ['one' for row in rows]"))
    await platform.until(workload, lambda seen: seen.state is READY)
    second = await asyncio.to_thread(platform.model, of_python("return ['two' for row in rows]"))
    second = second.model_copy(update={"revision": 2, "tag": "v2"})
    update = {"target": second, "fallback": workload.target, "generation": 2}
    told = list[str]()

    async def keep_asking() -> None:
        while not told or told[-1] != "two":
            answer = await platform.ask(workload, [1])
            assert answer.answer is not None
            told.append(answer.answer["predictions"][0])

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(keep_asking())
        await platform.place.apply(workload.model_copy(update=update))
    assert told == sorted(told)


async def test_a_restarted_door_goes_on_and_wakes_nobody(platform: Platform) -> None:
    workload = await platform.deploy(IRIS)
    await platform.until(workload, lambda seen: seen.state is READY)
    await platform.close()
    prediction_id = await platform.predictions.submit(workload.id, [SETOSA])
    platform.open()
    assert (await platform.predictions.wait(prediction_id, 60)).answer is not None
    await platform.close()
    platform.open()
    await platform.until(workload, lambda seen: seen.state is ASLEEP)
    assert platform.zygotes() == []


async def test_a_deployment_that_is_taken_away_leaves_nothing(platform: Platform) -> None:
    workload = await platform.deploy(IRIS)
    await platform.until(workload, lambda seen: seen.state is READY)
    async with asyncio.timeout(PATIENCE):
        while not await platform.place.remove(workload.id):  # noqa: ASYNC110  as the reconciler asks
            await asyncio.sleep(POLL)
    await eventually(lambda: platform.zygotes() == [])
    assert not platform.layout.folder_of(workload.id).exists()
    assert list(platform.layout.models.glob("*/*")) == []
    assert list(platform.layout.workloads.iterdir()) == []


async def test_what_a_model_writes_can_be_read_while_it_runs_and_after_its_end(platform: Platform) -> None:
    workload = await platform.deploy(of_python("return [print('hello', flush=True) or 1 for row in rows]"), idle=0.6)
    await platform.ask(workload, [1])

    async def lines() -> list[str]:
        return [line async for line in platform.place.logs(workload.id)]

    async with asyncio.timeout(PATIENCE):
        while "hello" not in await lines():  # noqa: ASYNC110  as a reader asks
            await asyncio.sleep(POLL)
    await platform.until(workload, lambda seen: seen.state is ASLEEP)
    assert "hello" in await lines()


async def test_a_file_that_cannot_be_read_stops_nothing(platform: Platform) -> None:
    (platform.layout.workloads / f"{uuid.uuid4()}.json").write_text("{")
    workload = await platform.deploy(IRIS)
    assert (await platform.ask(workload, SETOSA)).answer is not None
    with contextlib.suppress(StopIteration):
        next(platform.layout.workloads.glob("*.json")).unlink()


@pytest.mark.parametrize(("most", "expected"), [(5, 2), (1, 1)])
async def test_work_starts_replicas_up_to_the_maximum_and_the_quota(
    platform: Platform, most: int, expected: int
) -> None:
    await platform.close()
    platform.open(most)
    workload = await platform.deploy(of_python("return [__import__('time').sleep(0.1) or 1 for row in rows]"))
    asked = [asyncio.create_task(platform.ask(workload, [1])) for _ in range(8)]
    most_seen = 0
    while not all(task.done() for task in asked):
        seen = await platform.place.observe(workload.id)
        most_seen = max(most_seen, seen.replicas if seen is not None else 0)
        asked = [task for task in asked if not task.done()] or asked
        if most_seen < expected and len(asked) < 8:
            asked.append(asyncio.create_task(platform.ask(workload, [1])))
        await asyncio.sleep(POLL)
    assert most_seen == expected


async def test_without_the_walls_that_are_demanded_no_model_is_loaded(platform: Platform) -> None:
    await platform.close()
    platform.open(minimum={"landlock": 99})
    workload = await platform.deploy(IRIS)
    seen = await platform.until(workload, lambda seen: seen.state is DeploymentState.FAILED)
    assert "99 is the least that is demanded" in seen.reason


def test_a_row_that_is_refused_is_named_by_its_place_in_its_own_call() -> None:
    told = RefusedError("bad_instance", "row 12: age is a number", 12, "age").of_row(2)
    assert (str(told), told.index, told.field) == ("row 2: age is a number", 2, "age")
    assert place_of(told_at(told.index, told.field, str(told))) == ("instances.2.age", "row 2: age is a number")
    assert place_of(told_at(2, None, "x")) == ("instances.2", "x")
    assert place_of(told_at(None, None, "x")) == (None, "x")
