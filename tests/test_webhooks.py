"""Webhooks: what receivers get, when a delivery is tried again, and that no receiver holds up another."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from time import time
from typing import Any, Final

import pytest
from openai import InvalidWebhookSignatureError
from openai.types.webhooks import BatchCompletedWebhookEvent, ResponseIncompleteWebhookEvent

from greenscale_worker.errors import PermanentError, QueueUnavailableError, Snooze
from greenscale_worker.queues import Notice, State
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.shares import LONGEST_SNOOZE, Shares
from greenscale_worker.webhooks import delivery as deliveries
from greenscale_worker.webhooks.delivery import LANES, LANES_OF_ONE, LANES_OF_TENANT, SCHEDULE, Deliveries
from greenscale_worker.webhooks.events import Delivery, Events, event_of
from greenscale_worker.webhooks.registry import KEPT_SECONDS, Registry
from greenscale_worker.webhooks.sender import MOST_READ, Sender
from harness.eventually import eventually
from harness.redis_server import RedisServer, free_port
from tests.support.endpoint import Endpoint, Received, Reply
from tests.support.hooks import AT, Hooks, event_in, hooks_on, job_of

TROUBLE: Final = Reply(status=500)


@pytest.fixture
async def hooks(redis_url: str) -> AsyncIterator[Hooks]:
    async with hooks_on(redis_url) as hooks:
        yield hooks


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every try is due at once."""
    monkeypatch.setattr(deliveries, "SCHEDULE", (0.0,) * len(SCHEDULE))


async def test_a_receiver_verifies_what_it_gets_with_the_openai_client(hooks: Hooks) -> None:
    async with Endpoint() as receiver, hooks.delivering():
        hook = await hooks.add(receiver)
        assert await hooks.tell("batch.completed", "batch_1") == 1
        await eventually(lambda: receiver.received)
        (received,) = receiver.received
        event = event_in(received, hook.secret)
        assert isinstance(event, BatchCompletedWebhookEvent)
        assert received.json == {
            "id": received.headers["webhook-id"],
            "object": "event",
            "created_at": int(AT),
            "type": "batch.completed",
            "data": {"id": "batch_1"},
        }
        with pytest.raises(InvalidWebhookSignatureError):
            event_in(received, "whsec_" + "0" * 44)


async def test_an_event_told_twice_by_two_gateways_is_sent_once(hooks: Hooks, redis_url: str) -> None:
    async with Endpoint() as receiver, hooks_on(redis_url) as other, hooks.delivering(), other.delivering():
        await hooks.add(receiver)
        for each in (hooks, other, hooks):
            assert await each.tell(name="b1") == 1
        await other.tell(name="b2")
        await eventually(lambda: {each.json["data"]["id"] for each in receiver.received} == {"b1", "b2"})
        for each in (hooks, other):
            await each.tell(name="b1")
        await hooks.tell(name="b3")
        await eventually(lambda: len(receiver.received) >= 3)
        assert sorted(each.json["data"]["id"] for each in receiver.received) == ["b1", "b2", "b3"]


async def test_an_endpoint_gets_what_it_asked_for_and_nothing_of_another_tenant(hooks: Hooks) -> None:
    async with Endpoint() as ours, Endpoint() as theirs, hooks.delivering():
        await hooks.add(ours, "batch.failed", tenant="a")
        await hooks.add(theirs, tenant="b")
        assert await hooks.tell("batch.completed", tenant="a") == 0
        assert await hooks.tell("batch.failed", tenant=None) == 0
        assert await hooks.tell("batch.failed", "mine", tenant="a") == 1
        assert await hooks.tell("batch.failed", "yours", tenant="b") == 1
        await eventually(lambda: ours.received and theirs.received)
        assert [each.json["data"]["id"] for each in ours.received] == ["mine"]
        assert [each.json["data"]["id"] for each in theirs.received] == ["yours"]


def test_equal_objects_of_two_tenants_are_two_events() -> None:
    assert event_of("a", "batch.failed", "x", AT).id != event_of("b", "batch.failed", "x", AT).id
    assert event_of("a", "batch.failed", "x", AT) == event_of("a", "batch.failed", "x", AT)


@pytest.mark.parametrize(
    ("job_id", "state", "record", "told"),
    [
        ("a:resp_1", "succeeded", {"tenant": "a", "finish_reason": "stop"}, ("a", "response.completed", "resp_1")),
        ("a:resp_1", "succeeded", {"tenant": "a", "finish_reason": "length"}, ("a", "response.incomplete", "resp_1")),
        ("resp_filtered", "failed", {}, (None, "response.incomplete", "resp_filtered")),
        ("resp_1", "failed", {}, (None, "response.failed", "resp_1")),
        ("resp_1", "cancelled", {}, (None, "response.cancelled", "resp_1")),
        ("a:j", "succeeded", {"tenant": "a"}, ("a", "job.succeeded", "j")),
        ("j", "failed", {}, (None, "job.failed", "j")),
        ("j", "cancelled", {}, (None, "job.cancelled", "j")),
        ("j", "succeeded", {"tenant": "a"}, (None, "job.succeeded", "j")),  # it says so, but is nobody's
    ],
)
async def test_the_end_of_a_job_is_an_event_of_its_tenant(
    hooks: Hooks, job_id: str, state: State, record: dict[str, str], told: tuple[str | None, str, str]
) -> None:
    tenant, kind, name = told
    async with Endpoint() as receiver, Endpoint() as other, hooks.delivering():
        hook = await hooks.add(receiver, tenant=tenant)
        await hooks.add(other, tenant="other")
        await hooks.webhooks.events.told(
            Notice("n1", job_id, state, AT, "content_filter" if "filtered" in job_id else None), record
        )
        await eventually(lambda: receiver.received)
        event = event_in(receiver.received[0], hook.secret)
        assert (event.type, event.data.id) == (kind, name)
        assert isinstance(event, ResponseIncompleteWebhookEvent) == (kind == "response.incomplete")
        assert not other.received


async def test_a_new_endpoint_gets_what_happens_next_also_by_another_gateway(hooks: Hooks, redis_url: str) -> None:
    async with hooks_on(redis_url) as other:
        assert await other.tell(at=time()) == 0
        await hooks.add("https://example.org/")
        assert await other.tell(at=time()) == 1


async def test_a_gateway_whose_clock_is_ahead_misses_no_endpoint() -> None:
    queue = MemoryQueue()
    registry = Registry(queue, clock=lambda: time() + 3600)
    events = Events(queue, registry)
    assert await events.tell(None, "batch.completed", "b1", time()) == 0
    await Registry(queue).add(None, "mine", "https://example.org", ("batch.completed",))
    assert await events.tell(None, "batch.completed", "b2", time()) == 1


async def test_many_ends_are_told_by_few_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, reads = MemoryQueue(), 0
    read = queue.keys

    async def counted() -> dict[str, bytes]:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        return await read()

    monkeypatch.setattr(queue, "keys", counted)
    events = Events(queue, Registry(queue))
    await asyncio.gather(*(events.tell(None, "batch.completed", f"b{number}", 1.0) for number in range(100)))
    assert reads <= 2


async def test_while_redis_is_away_nothing_is_told(start_redis: Any) -> None:
    server: RedisServer = start_redis()
    async with hooks_on(f"{server.url}/0") as hooks:
        server.stop()
        with pytest.raises(QueueUnavailableError):
            await hooks.tell()


@pytest.mark.usefixtures("soon")
async def test_after_an_error_it_is_tried_again_with_the_same_id_and_a_signature_of_that_moment(hooks: Hooks) -> None:
    async with Endpoint(TROUBLE, Reply(cut=True), Reply(status=204)) as receiver, hooks.delivering():
        hook = await hooks.add(receiver)
        await hooks.tell()
        await eventually(lambda: len(receiver.received) == 3)
        assert len({each.headers["webhook-id"] for each in receiver.received}) == 1
        assert len({each.body for each in receiver.received}) == 1
        for each in receiver.received:
            event_in(each, hook.secret)


async def failing_try(hooks: Hooks, made: Deliveries, number: int, hook: str) -> tuple[str, float]:
    """Make a try. Return what came of it, and when the next one is due."""
    event = event_of(None, "batch.completed", "b1", AT)
    outcome = await made(job_of(Delivery(endpoint=hook, number=number, event=event)))
    record = await hooks.webhooks.queue.record(Delivery(endpoint=hook, number=number + 1, event=event).job_id)
    return outcome, float(record["due_ms"]) / 1000


async def test_the_schedule_goes_on_for_days_and_ends_as_a_failure_that_can_be_seen(hooks: Hooks) -> None:
    now = time() + 1000
    webhooks = hooks.webhooks
    made = Deliveries(webhooks.queue, webhooks.registry, webhooks.sender, clock=lambda: now)
    async with Endpoint(default=TROUBLE) as receiver:
        hook = (await hooks.add(receiver)).id
        for number in range(1, len(SCHEDULE)):
            outcome, due = await failing_try(hooks, made, number, hook)
            assert outcome == "retried"
            assert 0.999 * SCHEDULE[number] <= due - now <= 1.101 * SCHEDULE[number], number
        with pytest.raises(PermanentError) as last:
            await failing_try(hooks, made, len(SCHEDULE), hook)
        assert last.value.code == "http_500"
        assert sum(SCHEDULE) > 3 * 86_400


@pytest.mark.usefixtures("soon")
async def test_a_try_made_twice_makes_the_next_one_once(hooks: Hooks) -> None:
    """A gateway may be killed when it has made the next try, and before its own is recorded."""
    async with Endpoint(TROUBLE, default=Reply(status=200)) as receiver, hooks.delivering():
        hook = (await hooks.add(receiver)).id
        await hooks.tell("batch.completed", "b1", at=AT)
        while await hooks.states() != ["succeeded"] * 2:  # noqa: ASYNC110  what is awaited is in Redis
            await asyncio.sleep(0.01)
        receiver.script.append(TROUBLE)
        first = Delivery(endpoint=hook, number=1, event=event_of(None, "batch.completed", "b1", AT))
        assert await hooks.webhooks.deliveries(job_of(first)) == "retried"
        assert await hooks.states() == ["succeeded"] * 2
        assert len(receiver.received) == 3


@pytest.mark.parametrize(
    ("status", "headers", "least"),
    [(429, {"Retry-After": "3600"}, 3600), (503, {"Retry-After": "3600"}, 3600), (502, {}, 5), (429, {}, 5)],
)
async def test_a_receiver_that_wants_time_gets_it(
    hooks: Hooks, status: int, headers: dict[str, str], least: float
) -> None:
    async with Endpoint(Reply(status=status, headers=headers)) as receiver:
        hook = (await hooks.add(receiver)).id
        before = time()
        _, due = await failing_try(hooks, hooks.webhooks.deliveries, 1, hook)
        assert least <= due - before
        other = Delivery(endpoint=hook, number=1, event=event_of(None, "batch.failed", "b2", AT))
        with pytest.raises(Snooze) as put_off:
            await hooks.webhooks.deliveries(job_of(other))
        assert put_off.value.delay >= min(least, LONGEST_SNOOZE) - 1, "other events leave it alone meanwhile"
        assert len(receiver.received) == 1


@pytest.mark.usefixtures("soon")
async def test_a_receiver_that_is_gone_gets_nothing_more_until_it_is_enabled(hooks: Hooks) -> None:
    registry, queue = hooks.webhooks.registry, hooks.webhooks.queue
    async with Endpoint(Reply(status=410)) as receiver, hooks.delivering():
        hook = await hooks.add(receiver)
        await hooks.tell(name="b1")
        await eventually(lambda: receiver.received)
        while (await registry.read())[hook.id].off is None:  # noqa: ASYNC110  what is awaited is in Redis
            await asyncio.sleep(0.01)
        assert await hooks.tell(name="b2", at=time()) == 0
        while not (letters := [each async for each in queue.dead()]):  # noqa: ASYNC110  the same
            await asyncio.sleep(0.01)
        assert letters[0].code == "http_410"
        await registry.enable((await registry.read())[hook.id])
        assert await queue.replay(letters[0].id)
        assert await hooks.tell(name="b3", at=time()) == 1
        await eventually(lambda: {each.json["data"]["id"] for each in receiver.received[1:]} == {"b1", "b3"})


async def test_what_is_left_for_a_deleted_endpoint_is_dropped_and_for_a_disabled_one_kept(hooks: Hooks) -> None:
    registry = hooks.webhooks.registry
    async with Endpoint() as receiver:
        deleted, disabled = await hooks.add(receiver), await hooks.add(receiver)
        await hooks.tell()
        await registry.remove(deleted)
        await registry.disable(disabled, "a test")
        async with hooks.delivering():
            while await hooks.states() != ["failed", "succeeded"]:  # noqa: ASYNC110  what is awaited is in Redis
                await asyncio.sleep(0.01)
        assert not receiver.received


async def test_a_redirect_is_a_failure_and_is_not_followed(hooks: Hooks) -> None:
    async with Endpoint() as inside, Endpoint(Reply(status=302, headers={"Location": inside.url})) as receiver:
        hook = await hooks.add(receiver)
        answer = await hooks.webhooks.sender.send(hook, event_of(None, "batch.failed", "b1", AT))
        assert (answer.kind, answer.status, answer.delivered) == ("http_3xx", 302, False)
        assert not inside.received


async def test_of_an_endless_answer_little_is_read(hooks: Hooks) -> None:
    sent = 0

    class Endless(Endpoint):
        def choose(self, _: Received) -> Reply:
            def pieces() -> Any:
                nonlocal sent
                while True:
                    sent += 1
                    yield b"x" * MOST_READ

            return Reply(pieces=pieces())

    async with Endless() as receiver:
        hook = await hooks.add(receiver)
        async with asyncio.timeout(10):
            answer = await hooks.webhooks.sender.send(hook, event_of(None, "batch.failed", "b1", AT))
        assert answer.delivered
        await eventually(lambda: sent < 200)


async def test_an_answer_that_never_comes_ends_in_time(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenscale_worker.webhooks.sender.TOTAL_SECONDS", 0.2)
    async with Endpoint(Reply(wait=asyncio.Event().wait)) as receiver:
        hook = await hooks.add(receiver)
        answer = await hooks.webhooks.sender.send(hook, event_of(None, "batch.failed", "b1", AT))
        assert (answer.kind, answer.code) == ("timeout", "webhook_timeout")


async def test_receivers_that_are_not_there_or_not_who_they_say_are_failures(hooks: Hooks) -> None:
    event = event_of(None, "batch.failed", "b1", AT)
    nobody = await hooks.add(f"http://127.0.0.1:{free_port()}/")
    assert (await hooks.webhooks.sender.send(nobody, event)).kind == "unreachable"
    nowhere = await hooks.add("http://there-is-no-such-name.invalid/")
    assert (await hooks.webhooks.sender.send(nowhere, event)).kind == "unreachable"
    async with Endpoint(tls=True) as receiver:
        stranger = await hooks.add(receiver)
        assert (await hooks.webhooks.sender.send(stranger, event)).kind == "tls"
        assert not receiver.received


async def test_a_receiver_that_hangs_holds_up_no_other(hooks: Hooks) -> None:
    busy = most = 0
    go = asyncio.Event()

    async def hang() -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await go.wait()
        busy -= 1

    async with Endpoint(default=Reply(wait=hang)) as hanging, Endpoint() as well:
        await hooks.add(hanging, "batch.failed")
        await hooks.add(well, "batch.completed")
        for number in range(100):
            await hooks.tell("batch.failed", f"b{number}")
        for number in range(20):
            await hooks.tell("batch.completed", f"b{number}")
        async with hooks.delivering():
            await eventually(lambda: len({each.json["data"]["id"] for each in well.received}) == 20)
            assert 0 < busy <= most <= LANES_OF_ONE
            go.set()
            await eventually(lambda: len({each.json["data"]["id"] for each in hanging.received}) == 100)


async def test_receivers_of_one_tenant_that_hang_hold_up_no_other_tenant(hooks: Hooks) -> None:
    go, busy = asyncio.Event(), 0

    async def hang() -> None:
        nonlocal busy
        busy += 1
        await go.wait()

    async with AsyncExitStack() as stack:
        for _ in range(1 + LANES // LANES_OF_ONE):
            hanging = await stack.enter_async_context(Endpoint(default=Reply(wait=hang)))
            await hooks.add(hanging, "batch.completed", tenant="a")
        well = await stack.enter_async_context(Endpoint())
        await hooks.add(well, "batch.completed", tenant="b")
        for number in range(LANES_OF_ONE):
            await hooks.tell("batch.completed", f"b{number}", tenant="a")
        async with hooks.delivering():
            await eventually(lambda: busy == LANES_OF_TENANT)
            await hooks.tell("batch.completed", "b", tenant="b")
            await eventually(lambda: len(well.received) == 1)
            assert busy == LANES_OF_TENANT
            go.set()


def test_a_receiver_that_did_not_answer_has_one_lane_and_those_put_off_come_back_in_turn() -> None:
    now = 0.0
    receivers = Shares(4, clock=lambda: now)
    with receivers.place("a") as first:
        now = 20.0
        first.silent = True
    with receivers.place("a") as second, receivers.place("b"):
        delays = list[float]()
        for _ in range(3):
            with pytest.raises(Snooze) as put_off, receivers.place("a"):
                pass
            delays.append(put_off.value.delay)
        assert delays == sorted(set(delays)), "each later than the one before"
        second.silent = False
    with receivers.place("a"), receivers.place("a"):
        pass


@pytest.mark.parametrize("keep", [True, False])
async def test_while_a_secret_is_replaced_both_verify_if_that_is_asked_for(redis_url: str, *, keep: bool) -> None:
    now = time()
    event = event_of(None, "batch.failed", "b1", AT)
    async with hooks_on(redis_url) as hooks, Endpoint() as receiver:
        registry = hooks.webhooks.registry
        old = await hooks.add(receiver)
        new = await registry.rotate(old, keep_old=keep)
        again = await registry.rotate(new, keep_old=keep)  # a client that got no answer asks twice
        kept = (await registry.read())[old.id]
        await hooks.webhooks.sender.send(kept, event)
        async with aclosing(Sender(allow_private=True, clock=lambda: now + KEPT_SECONDS + 60)) as later:
            await later.send(kept, event)
        at_once, a_day_later = receiver.received
        event_in(at_once, again.secret)
        for former in (old.secret, new.secret):
            if keep:
                event_in(at_once, former)
            else:
                with pytest.raises(InvalidWebhookSignatureError):
                    event_in(at_once, former)
        assert at_once.headers["webhook-signature"].count("v1,") == (3 if keep else 1)
        assert a_day_later.headers["webhook-signature"].count("v1,") == 1


async def test_no_change_of_an_endpoint_undoes_another(hooks: Hooks) -> None:
    registry = hooks.webhooks.registry
    seen = await hooks.add("https://example.org/")
    rotated = await registry.rotate(seen, keep_old=False)
    await registry.disable(seen, "a test")
    await registry.change(seen, {"name": "another"})
    now = (await registry.read())[seen.id]
    assert (now.secret, now.chosen.name, now.off is not None) == (rotated.secret, "another", True)


async def test_secrets_and_urls_do_not_show_themselves(hooks: Hooks) -> None:
    hook = await hooks.add("https://example.org/?token=s3cret")
    assert hook.secret not in repr(hook)
    assert "s3cret" not in repr(hook)
