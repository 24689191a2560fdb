"""Batches within this process: what a feeder makes of lines, whatever becomes of it on the way."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from functools import partial
from itertools import count
from typing import Any

import pytest

from greenscale_worker.backends import ChatOptions, open_backend
from greenscale_worker.batch import checking
from greenscale_worker.batches import parts, reading, step, taking, validating, window
from greenscale_worker.batches.creating import Alike, Creator
from greenscale_worker.batches.feeder import LANES, LANES_OF_ONE, Feeder, FeederOptions
from greenscale_worker.batches.objects import OpenLine, Request, State, new_id, shown
from greenscale_worker.errors import FilesUnavailableError, QueueUnavailableError, Snooze
from greenscale_worker.job import decode
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.simulator import CHAT_PATH, SimulatorOptions, running
from harness.eventually import PATIENCE, eventually
from tests.support.batches import NOW, KilledError, Outside, World, driven, job_of, line_of
from tests.support.lines import CASES, Case, Completed, Refused

NAMES = [f"n{number}" for number in range(6)] + ["fail-1"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every limit so small that nine lines reach it."""
    monkeypatch.setattr(window, "SMALLEST", 4)
    monkeypatch.setattr(window, "LANES_AHEAD", 1)
    for module in (window, step, validating):
        monkeypatch.setattr(module, "AT_ONCE", 3)
    monkeypatch.setattr(taking, "MOST_LINES", 3)
    monkeypatch.setattr(parts, "MERGED", 2)


async def check_output(world: World, request: Request, names: list[str] = NAMES) -> None:
    """Each line has ended once, and counts and tokens are exact."""
    state = await world.state(request)
    good, bad = await world.lines(request, "output"), await world.lines(request, "error")
    answered = [name for name in names if not name.startswith("fail")]
    assert Counter(line["custom_id"] for line in good) == Counter(answered)
    assert Counter(line["custom_id"] for line in bad) == Counter(set(names) - set(answered))
    assert all(line["response"]["body"]["id"] == f"r-{line['custom_id']}" for line in good)
    assert all(line["error"]["code"] == "http_400" for line in bad)
    assert len({line["id"] for line in good + bad}) == len(names)
    told = shown(request, state)
    assert told["status"] == "completed"
    assert told["request_counts"] == {"total": len(names), "completed": len(good), "failed": len(bad)}
    assert told["usage"]["total_tokens"] == 5 * len(good)
    assert told["usage"]["input_tokens_details"] == {"cached_tokens": len(good)}


async def check_completed(world: World, request: Request, *, names: list[str] = NAMES) -> None:
    """As above, and nothing is left behind."""
    await check_output(world, request, names)
    await check_tidy(world, request)


async def check_tidy(world: World, request: Request) -> None:
    """Redis knows no line any more, and files hold what the last state names."""
    state = await world.state(request)
    ids = [request.line_id(number) for number in range(1, state.total + 1)]
    assert [job for job, (record, _) in zip(ids, await world.queue.look_up(ids), strict=True) if record] == []
    assert await world.queue.dead_count() == 0
    assert {part.key for part in (*state.outputs, *state.errors)} == {
        each.key for each in await world.files.list("parts")
    }
    assert len(await world.files.list("states")) == 1


async def test_a_batch_is_fed_collected_and_told() -> None:
    world = World()
    await world.write(NAMES)
    request = world.request(metadata={"a": "b"})
    async with world.working():
        assert await driven(world.feeder(), request) == "completed"
    await check_completed(world, request)
    assert world.calls == Counter(NAMES)
    assert world.told == [(None, "batch.completed", request.id, int(world.now))]
    told = shown(request, await world.state(request))
    assert (told["model"], told["metadata"], told["errors"]) == ("m", {"a": "b"}, None)


FAULTS: dict[str, Callable[[], BaseException]] = {
    "killed": KilledError,
    "queue": lambda: QueueUnavailableError("away"),
    "files": lambda: FilesUnavailableError("away"),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_at_whichever_call_a_feeder_dies_or_fails_each_line_ends_once(fault: str, *, after: bool) -> None:
    for at in count(1):
        world = World()
        await world.write(NAMES)
        request, outside = world.request(), Outside(at, after, FAULTS[fault])
        async with world.working():
            try:
                await driven(world.feeder(outside), request)
            except KilledError:
                await driven(world.feeder(), request)
        await check_completed(world, request)
        assert world.calls == Counter(NAMES), (at, outside.names)
        assert {event[1] for event in world.told} == {"batch.completed"}
        if outside.calls < at:
            break
    assert at > 25


async def test_of_two_feeders_one_counts() -> None:
    world, names = World(), ["slow-1", "slow-2", "n1", "n2", "n3", "n4"]
    await world.write(names)
    request = world.request()
    async with world.working():
        feeders = [asyncio.create_task(driven(world.feeder(), request)) for _ in range(3)]
        await eventually(lambda: world.calls["slow-2"])
        world.hold.set()
        assert await asyncio.gather(*feeders) == ["completed"] * 3
    await check_output(world, request, names)


async def test_a_feeder_that_slept_through_the_end_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The states that it would collide with have been tidied away."""
    world, late = World(), asyncio.Event()
    await world.write(NAMES)
    request, sleeper = world.request(), world.feeder()
    commit, sleeps = sleeper.batches.commit, asyncio.Event()

    async def commit_late(*state: Any) -> None:
        sleeps.set()
        await late.wait()
        await commit(*state)

    monkeypatch.setattr(sleeper.batches, "commit", commit_late)
    async with world.working():
        sleeping = asyncio.create_task(driven(sleeper, request))
        await sleeps.wait()
        assert await driven(world.feeder(), request) == "completed"
        late.set()
        assert await sleeping == "completed"
    await check_completed(world, request)
    assert world.calls == Counter(NAMES)


async def test_a_state_that_is_tidied_away_while_it_is_read_is_no_beginning() -> None:
    world = World()
    await world.write(NAMES)
    request, batches = world.request(), world.batches
    await batches.create(request)
    await batches.commit(request, State().next(status="finalizing"))
    read, reads = batches.files.read, list[str]()

    async def read_late(key: str) -> bytes | None:
        reads.append(key)
        if len(reads) == 1:
            ended = State(number=1).next(status="completed")
            await world.batches.commit(request, ended)
            await world.batches.tidy(request, ended)
        return await read(key)

    batches.files = Outside().of(batches.files)
    batches.files.read = read_late
    assert (await batches.state(request)).status == "completed"


async def test_a_request_that_its_own_retry_has_overtaken_makes_no_second_batch() -> None:
    """Its client has given it up while a slow store held it."""
    world = World()
    await world.write(NAMES)
    creator = Creator(world.batches, world.queue)
    first, retry = Alike(None, "key", b"asked"), Alike(None, "key", b"asked", is_retry=True)
    earlier = await creator.create(world.request(), first, NOW)
    of_retry = await creator.create(world.request(id=new_id(NOW + 700)), retry, NOW + 701)
    assert of_retry.id != earlier.id, "a retry of today, but not of that one"
    assert await creator.create(world.request(id=new_id(NOW + 700)), first, NOW + 700) == of_retry
    another = world.request(id=new_id(NOW + 702))
    assert await creator.create(another, first, NOW + 702) == another
    assert len(await world.files.list("batches")) == 3


async def test_gateways_whose_clocks_differ_make_one_batch_at_midnight() -> None:
    world, midnight = World(), NOW // 86_400 * 86_400 + 86_400
    await world.write(NAMES)
    creator = Creator(world.batches, world.queue)
    for first, second in ((midnight + 1, midnight - 1), (midnight - 1, midnight + 1)):
        alike = Alike(None, "key", b"asked", idempotency_key=f"once {first}")
        made = await creator.create(world.request(id=new_id(first)), alike, first)
        assert await creator.create(world.request(id=new_id(second)), alike, second) == made


async def test_a_request_repeated_after_the_end_of_its_batch_runs_nothing() -> None:
    world = World()
    await world.write(NAMES)
    creator, alike = Creator(world.batches, world.queue), Alike(None, "key", b"asked", idempotency_key="once")
    worker = world.queue.beside("worker")

    async def lose_the_job() -> None:
        await world.queue.cancel(request.queue_id)
        lease = await worker.lease()
        assert await worker.bind(lease, decode(lease.payload, max_bytes=1024 * 1024)) == "cancelled"

    request = await creator.create(world.request(), alike, NOW)
    await lose_the_job()
    assert await creator.create(world.request(), alike, NOW + 1) == request
    assert (await world.queue.depth()).waiting == 1, "a batch that has not ended has its job"
    await lose_the_job()
    await world.batches.commit(request, State(number=1, status="completed"))
    assert await creator.create(world.request(), alike, NOW + 2) == request
    assert (await world.queue.depth()).waiting == 0


async def test_where_many_batches_wait_steps_are_so_short_that_no_answer_expires() -> None:
    world = World()
    await world.write(["slow-1"])

    async def others() -> int:
        return 10**6

    options = FeederOptions(step=float("inf"))
    feeder = Feeder(world.batches, world.objects, world.queue, options=options, others=others, clock=lambda: world.now)
    async with world.working(), asyncio.timeout(PATIENCE):
        with pytest.raises(Snooze) as caught:
            await feeder(job_of(world.request()))
        assert caught.value.delay, "it stands back"
        world.hold.set()


async def test_ends_of_jobs_that_are_called_like_lines_are_ignored() -> None:
    world = World()
    await world.write(NAMES)
    request = world.request()
    lines = window.Window(world.queue, request, [OpenLine(3, 0, 1, "c")])
    lines.hear(
        [request.line_id(3), f"{request.queue_id}.x", f"{request.queue_id}.", f"{request.queue_id}.\u00b2", "other"]
    )
    lines._poll_at = float("inf")  # noqa: SLF001  only what was heard
    assert lines.those_with_news() == [3]


async def test_cancelled_batches_keep_what_was_paid_for() -> None:
    world, names = World(), ["n1", "slow-1", "n2", "slow-2", "n3", "n4", "n5", "n6"]
    await world.write(names)
    request = world.request()
    async with world.working():
        running = asyncio.create_task(driven(world.feeder(), request))
        await eventually(lambda: world.calls["slow-2"] and world.calls["n2"])
        await world.batches.cancel(request, int(world.now) + 5)
        assert shown(request, *await world.batches.look(request))["status"] == "cancelling"
        assert await running == "cancelled"
    state = await world.state(request)
    good, bad = await world.lines(request, "output"), await world.lines(request, "error")
    assert Counter(line["custom_id"] for line in good + bad) == Counter(names)
    assert {line["custom_id"] for line in good} >= {"n1", "n2"}
    assert {line["error"]["code"] for line in bad} == {"batch_cancelled"}
    told = shown(request, state)
    assert (told["status"], told["cancelling_at"]) == ("cancelled", int(world.now) + 5)
    assert told["request_counts"] == {"total": 8, "completed": len(good), "failed": len(bad)}
    assert world.told[-1][1] == "batch.cancelled"
    await check_tidy(world, request)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_at_whichever_call_a_cancelled_batch_loses_its_feeder_each_line_ends_once(
    fault: str, *, after: bool
) -> None:
    names = ["slow-1", "n1", "fail-1", "n2", "n3"]
    for at in count(1):
        world = World()
        await world.write(names)
        request, outside = world.request(), Outside(at, after, FAULTS[fault])
        async with world.working():
            first = asyncio.create_task(driven(world.feeder(), request))
            await eventually(partial(world.calls.__getitem__, "slow-1"))
            await world.batches.cancel(request, int(world.now))
            await stopped(first)
            try:
                await driven(world.feeder(outside), request)
            except KilledError:
                await driven(world.feeder(), request)
        state = await world.state(request)
        lines = await world.lines(request, "output") + await world.lines(request, "error")
        assert Counter(line["custom_id"] for line in lines) == Counter(names), (at, outside.names)
        assert {line["error"]["code"] for line in lines if line["error"]} <= {"batch_cancelled", "http_400"}
        assert state.status == "cancelled"
        if outside.calls < at:
            break
    assert at > 15


async def test_an_expired_batch_says_so_of_each_line_that_has_no_answer() -> None:
    world, names = World(), ["n1", "slow-1", "n2", "n3", "n4", "n5", "n6"]
    await world.write(names)
    request = world.request(completion_window="15m", expires_in=900)
    async with world.working():
        running = asyncio.create_task(driven(world.feeder(), request))
        await eventually(lambda: world.calls["n6"] and world.calls["slow-1"])
        world.now += 901
        assert await running == "expired"
    state = await world.state(request)
    assert [line["custom_id"] for line in await world.lines(request, "error")] == ["slow-1"]
    assert {line["error"]["code"] for line in await world.lines(request, "error")} == {"batch_expired"}
    assert len(await world.lines(request, "output")) == 6
    assert shown(request, state)["expired_at"] == int(world.now)
    await check_tidy(world, request)


async def test_a_file_that_is_no_batch_fails_with_the_numbers_of_its_lines() -> None:
    world = World()
    await world.write(line_of("a") + b"\n{nothing\n" + line_of("a"))
    request = world.request()
    assert await driven(world.feeder(), request) == "failed"
    told = shown(request, await world.state(request))
    assert [(each["code"], each["line"]) for each in told["errors"]["data"]] == [
        ("invalid_json_line", 3),
        ("duplicate_custom_id", 4),
    ]
    assert (told["status"], told["output_file_id"], told["failed_at"]) == ("failed", None, int(world.now))


SHORT = FeederOptions(step=0.0)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the lines that were validated, in order."""
    numbers, check = list[int](), checking.Checker.check

    def counted(checker: checking.Checker, raw: Any) -> Any:
        numbers.append(raw.number)
        return check(checker, raw)

    monkeypatch.setattr(checking.Checker, "check", counted)
    return numbers


async def test_a_file_is_validated_in_steps_each_line_once(checks: list[int]) -> None:
    world = World()
    await world.write([*NAMES, "n0", "n8", "n1"])
    request, steps = world.request(), 0
    while not (await world.state(request)).is_final:
        steps += 1
        with suppress(Snooze):
            await world.feeder(options=SHORT)(job_of(request))
    assert (steps, checks) == (4, list(range(1, 11)))
    faults = (await world.state(request)).faults
    assert [(fault.code, fault.line) for fault in faults] == [("duplicate_custom_id", 8), ("duplicate_custom_id", 10)]
    assert await world.files.list("parts") == [], "what was kept for the next step"


@pytest.mark.parametrize("fault", FAULTS)
async def test_at_whichever_call_validation_fails_it_goes_on_with_what_was_kept(fault: str) -> None:
    for at in count(1):
        world = World()
        await world.write(NAMES)
        request, outside = world.request(), Outside(at, error=FAULTS[fault])
        async with world.working():
            with suppress(KilledError):
                await driven(world.feeder(outside, SHORT), request)
            assert await driven(world.feeder(options=SHORT), request) == "completed"
        await check_completed(world, request)
        assert shown(request, await world.state(request))["model"] == "m"
        if outside.calls < at or at > 40:
            break


@pytest.mark.parametrize("ending", ["expired", "cancelled"])
async def test_a_batch_may_end_while_it_is_validated(checks: list[int], ending: str) -> None:
    world = World()
    await world.write(NAMES)
    request = world.request()
    with pytest.raises(Snooze):
        await world.feeder(options=SHORT)(job_of(request))
    if ending == "expired":
        world.now = request.expires_at
    else:
        await world.batches.cancel(request, int(world.now))
    assert await driven(world.feeder(options=SHORT), request) == ending
    assert checks == [1, 2, 3, 4, 5, 6], "no further than it had come"
    told = shown(request, await world.state(request))
    assert (told["status"], told["request_counts"]) == (ending, {"total": 7, "completed": 0, "failed": 7})
    bad = await world.lines(request, "error")
    assert Counter(line["custom_id"] for line in bad) == Counter(NAMES)
    assert {line["error"]["code"] for line in bad} == {f"batch_{ending}"}
    assert world.calls == {}
    await check_tidy(world, request)


async def test_an_input_file_that_is_deleted_fails_the_batch_and_takes_no_answer_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step, "SHORTEST_GAP", 0.0)
    world, names = World(), ["n1", "n2", "slow-1", "n3", "n4", "n5", "n6", "n7"]
    await world.write(names)
    request = world.request()
    async with world.working():
        running = asyncio.create_task(driven(world.feeder(), request))
        while (await world.state(request)).completed < 2:  # noqa: ASYNC110  nothing tells it
            await asyncio.sleep(0.01)
        await stopped(running)
        await world.objects.delete(None, request.input_file_id)
        assert await driven(world.feeder(), request) == "failed"
    state = await world.state(request)
    good = {line["custom_id"] for line in await world.lines(request, "output")}
    assert {"n1", "n2"} <= good
    told = shown(request, state)
    assert told["errors"]["data"][0]["code"] == "input_file_not_found"
    assert told["request_counts"] == {"total": 8, "completed": len(good), "failed": 8 - len(good)}
    await check_tidy(world, request)


async def test_lines_that_redis_has_lost_are_put_again() -> None:
    world, names = World(), ["slow-1", "slow-2", "n1", "n2"]
    await world.write(names)
    request = world.request()
    async with world.working():
        running = asyncio.create_task(driven(world.feeder(), request))
        await eventually(lambda: world.calls["slow-2"])
        await stopped(running)
    world.queue = MemoryQueue()
    world.hold.set()
    async with world.working():
        assert await driven(world.feeder(), request) == "completed"
    await check_completed(world, request, names=names)


async def test_a_line_that_somebody_cancelled_is_an_error() -> None:
    world, names = World(), ["slow-1", "n1"]
    await world.write(names)
    request = world.request()
    async with world.working():
        running = asyncio.create_task(driven(world.feeder(), request))
        await eventually(lambda: world.calls["slow-1"])
        await world.queue.cancel(request.line_id(1))
        assert await running == "completed"
    assert [line["error"]["code"] for line in await world.lines(request, "error")] == ["job_cancelled"]
    await check_tidy(world, request)


async def test_two_tenants_share_the_queue_by_their_windows() -> None:
    world, names = World(), [f"n{number}" for number in range(40)]
    for tenant in ("a", "b"):
        await world.write(names, tenant)
    requests = [world.request(tenant=tenant) for tenant in ("a", "b")]
    running = [asyncio.create_task(driven(world.feeder(), request)) for request in requests]
    await until_waiting(world, 8)
    waiting = [job.tenant async for job in world.queue.jobs()]
    assert Counter(waiting) == Counter(a=4, b=4)
    async with world.working():
        assert await asyncio.gather(*running) == ["completed"] * 2
    for request in requests:
        await check_output(world, request, names)


@pytest.mark.parametrize("case", [pytest.param(it, id=it.name) for it in CASES if not it.is_large])
async def test_lines_as_users_write_them(case: Case) -> None:
    if isinstance(case.gateway, Refused):
        pytest.skip("it is refused as a file")
    world = World()
    await world.write(b"".join(case.chunks()))
    request = world.request()
    async with running(SimulatorOptions()) as url:
        backend = open_backend("chat", ChatOptions(url=url + CHAT_PATH, model="m"))
        async with aclosing(backend), world.working(backend):
            status = await driven(world.feeder(), request)
    told = shown(request, await world.state(request))
    if isinstance(case.gateway, Completed):
        codes = {line["error"]["code"] for line in await world.lines(request, "error")}
        counts = told["request_counts"]
        assert (status, counts["completed"], counts["failed"]) == (
            "completed",
            case.gateway.completed,
            case.gateway.failed,
        )
        assert codes == ({case.gateway.code} if case.gateway.failed else set())
    else:
        first = told["errors"]["data"][0]
        assert status == "failed"
        assert (first["code"], first["line"], first["param"]) == (
            case.gateway.code,
            case.gateway.line,
            case.gateway.param,
        )
        assert world.calls == Counter()
    await check_tidy(world, request)


@pytest.mark.parametrize("error", [QueueUnavailableError, FilesUnavailableError])
async def test_an_outage_in_the_middle_is_waited_for(error: type[Exception]) -> None:
    world, outside = World(), Outside()
    await world.write(NAMES)
    request = world.request()
    outside.at, outside.until, outside.error = 12, 80, lambda: error("away")
    async with world.working():
        assert await driven(world.feeder(outside), request) == "completed"
    assert outside.calls > outside.until
    await check_completed(world, request)
    assert world.calls == Counter(NAMES)


async def test_a_fault_of_ours_is_logged_and_costs_the_batch_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    await world.write(NAMES)
    request = world.request()
    async with world.working():
        assert await driven(world.feeder(Outside(9, error=lambda: ZeroDivisionError("secret"))), request) == "completed"
    await check_completed(world, request)
    logged = capsys.readouterr()
    assert "batch_error" in logged.out + logged.err
    assert "secret" not in logged.out + logged.err


async def test_a_fault_that_stays_ends_in_a_batch_that_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    await world.write(NAMES)
    request = world.request()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(step.Step, "_go_on", fail)
        with pytest.raises(Snooze):
            await world.feeder()(job_of(request))
        assert not (await world.state(request)).is_final
        world.now = request.expires_at + 3601
        assert await driven(world.feeder(), request) == "failed"
    told = shown(request, await world.state(request))
    assert told["errors"]["data"][0]["code"] == "internal_error"


async def until_waiting(world: World, number: int) -> None:
    async with asyncio.timeout(10):
        while (await world.queue.depth()).waiting < number:  # noqa: ASYNC110  nothing tells it
            await asyncio.sleep(0.01)


async def stopped(task: "asyncio.Task[str]") -> None:
    """Cancel a feeder's step, as a drain that is over does."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_file_of_blank_lines_fails_and_takes_nobody_s_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (checking, reading):
        monkeypatch.setattr(module, {checking: "MOST_OF_A_FILE", reading: "MOST_LINES"}[module], 100)
    world, read = World(), 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"\n" * 1000

    reader = reading.Reader(lambda _: chunks(), max_bytes=1000)
    assert [line.number for line in await reader.read(1, 1)] == [101]
    await reader.aclose()
    assert read == 1, "no more than it takes to know"
    await world.write(b"\n" * 100_000)
    request = world.request()
    assert await driven(world.feeder(), request) == "failed"
    (fault,) = (await world.state(request)).faults
    assert (fault.code, fault.line) == ("too_many_tasks", 101)


async def test_batches_of_one_tenant_leave_lanes_to_others() -> None:
    world = World()
    feeder, running = world.feeder(), list[asyncio.Task[str]]()
    for tenant in ("a", "b"):
        await world.write(["slow-1"], tenant)

    async def begun(tenant: str) -> int:
        """Begin a further batch; return how many run then."""
        task = asyncio.create_task(feeder(job_of(world.request(tenant=tenant))))
        await asyncio.wait([task], timeout=0.05)
        if task.done():
            with pytest.raises(Snooze) as put_off:
                await task
            assert put_off.value.delay > 0
        else:
            running.append(task)
        return len(running)

    try:
        for _ in range(LANES_OF_ONE + 3):
            await begun("a")
        assert len(running) == LANES_OF_ONE < LANES
        assert await begun("b") == LANES_OF_ONE + 1
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
