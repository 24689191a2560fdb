"""The push scaler, asked by a client that behaves as KEDA does, on a real Redis and on queues that are as told."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import grpc
import pytest
from redis import Redis
from structlog.testing import capture_logs

from greenscale_worker.errors import ConfigError
from greenscale_worker.queues import Flow, QueueClient, QueueOptions, RedisOptions
from greenscale_worker.queues.registry import open_client
from greenscale_worker.scaler import contract, watched, watcher
from greenscale_worker.scaler.server import TLSFiles
from greenscale_worker.scaler.trigger import START_SECONDS, Own, Trigger, read
from greenscale_worker.scaler.watched import Watched
from harness.eventually import eventually
from harness.redis_server import CERTIFICATE, RedisServer
from tests.support.keda import FIRST_WAIT, OWN, Keda, Scaler, Told, a_lookout, a_scaler, keda_of

QUICK = 0.05  # of a second, in which KEDA waits twice as long as in so many of ours
MANY = 1000


@pytest.fixture
async def scaler(redis_url: str) -> AsyncIterator[Scaler]:
    async with a_lookout(redis_url) as lookout, a_scaler(lookout) as scaler:
        yield scaler


@pytest.fixture
async def jobs(redis_url: str) -> AsyncIterator[QueueClient]:
    async with aclosing(await open_client("list", RedisOptions(url=redis_url), QueueOptions())) as client:
        yield client


# What is spoken -------------------------------------------------------------------------------------------------------


def test_messages_are_numbered_as_in_keda() -> None:
    """The bytes are those that protoc's code for KEDA's externalscaler.proto makes."""
    ref = contract.ScaledObjectRef(name="n", namespace="s", scalerMetadata={"k": "v"})
    written = b"\n\x01n\x12\x01s\x1a\x06\n\x01k\x12\x01v"
    assert ref.SerializeToString() == written
    request = contract.GetMetricsRequest(scaledObjectRef=ref, metricName="m")
    assert request.SerializeToString() == b"\n" + bytes([len(written)]) + written + b"\x12\x01m"
    assert contract.IsActiveResponse(result=True).SerializeToString() == b"\x08\x01"
    number = b"\n\x01m\x10\x03\x19" + b"\0\0\0\0\0\0\x08@"  # 3, and 3.0 as eight bytes
    metric = {"metricName": "m", "metricValue": 3, "metricValueFloat": 3.0}
    assert contract.GetMetricsResponse(metricValues=[metric]).SerializeToString() == b"\n\x0e" + number
    spec = {"metricName": "m", "targetSize": 3, "targetSizeFloat": 3.0}
    assert contract.GetMetricSpecResponse(metricSpecs=[spec]).SerializeToString() == b"\n\x0e" + number


def test_a_trigger_is_read() -> None:
    of_keda = {"scalerAddress": "s:6000", "enableTLS": "true", "unsafeSsl": "false"}
    assert read({"listName": "jobs", **of_keda}, OWN) == Trigger("list", "jobs", 16, START_SECONDS)
    found = read({"stream": "readings", "streamLength": "4", "podStartSeconds": "0.5"}, OWN)
    assert found == Trigger("stream", "readings", 4, 0.5)
    own = Own(8, "stream", "readings")
    assert read({"streamLength": "4"}, own) == Trigger("stream", "readings", 4, START_SECONDS)
    assert read({"listName": "jobs"}, own) == Trigger("list", "jobs", 8, START_SECONDS)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "no queue named; expected: listName and listLength, or stream and streamLength, and podStartSeconds"),
        ({"listName": "a", "stream": "b"}, "listName and stream named; expected: listName and listLength, or"),
        ({"listName": "a", "listlength": "4"}, "listlength is unknown; accepted beside listName: listLength and pod"),
        ({"stream": "a", "listLength": "4"}, "listLength is unknown; accepted beside stream: streamLength and pod"),
        ({"listName": "a", "address": "r:6379"}, "address is unknown"),
        ({"listName": "a", "listLength": "0"}, "listLength is '0'; expected: a number from 1 to 1e+06"),
        ({"listName": "a", "listLength": "nan"}, "listLength is 'nan'; expected"),
        ({"listName": "a", "podStartSeconds": "soon"}, "podStartSeconds is 'soon'; expected: a number from 0 to 3600"),
        (
            {"listName": "{jobs}:dead"},
            "listName: list name '{jobs}:dead': the list between the braces has keys of that",
        ),
        ({"listName": ""}, "listName: list name '': it is empty"),
        ({"listName": "a" * 1_000_000}, "listName has 1,000,000 characters; at most 1,000 are accepted"),
    ],
)
async def test_a_trigger_that_is_wrong_is_told_what_is_accepted(
    scaler: Scaler, metadata: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        read(metadata, OWN)
    assert said in str(raised.value)
    async with keda_of(scaler.port, **metadata) as keda:
        code, text = await keda.refusal()
        assert (code, text) == ("INVALID_ARGUMENT", f"ns/so: {raised.value}")
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
            await keda.target()
        async with keda.listening():
            await eventually(lambda: keda.ends == ["INVALID_ARGUMENT"])
    assert not scaler.watcher.queues, "what is wrong is not watched"


async def test_a_pod_takes_what_the_trigger_says_else_what_the_scaler_is_told(scaler: Scaler) -> None:
    async with keda_of(scaler.port, listName="jobs", listLength="32") as keda:
        assert await keda.target() == ("greenscale-work", 32)
    async with keda_of(scaler.port, listName="jobs") as keda:
        assert await keda.target() == ("greenscale-work", 16)


# When a pod is asked for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "stream"])
async def test_the_first_job_is_told_at_once_and_again_until_somebody_works(
    scaler: Scaler, redis_url: str, kind: str
) -> None:
    named = {"listName" if kind == "list" else "stream": "jobs"}
    client = await open_client(kind, RedisOptions(url=redis_url), QueueOptions())
    async with aclosing(client), keda_of(scaler.port, **named) as keda, keda.listening():
        assert await keda.poll() == (0, False)
        await eventually(lambda: scaler.sample("streams") == 1)
        assert keda.heard == []
        await client.put([("a", b'{"prompt": "?"}')])
        await eventually(lambda: len(keda.heard) >= 3)  # once, and again
        assert set(keda.heard) == {True}
        assert await keda.poll() == (1, True)
        assert keda.ends == []


@pytest.mark.parametrize("place", ["jobs", "{jobs}:interactive", "{jobs}:background"])
async def test_a_job_of_any_class_is_told(scaler: Scaler, client: Redis, place: str) -> None:
    async with keda_of(scaler.port, listName="jobs") as keda, keda.listening():
        assert await keda.poll() == (0, False)
        client.lpush(place, "{}")
        await eventually(lambda: keda.heard)


async def test_a_paused_queue_asks_for_nobody(scaler: Scaler, jobs: QueueClient) -> None:
    await jobs.pause()
    await jobs.put([(str(number), b"{}") for number in range(84)])
    async with keda_of(scaler.port, listName="jobs") as keda, keda.listening():
        assert await keda.poll() == (1, False), "nobody is added, and nobody woken"
        looks = scaler.sample("look_seconds_count", what="queues")
        await eventually(lambda: scaler.sample("look_seconds_count", what="queues") > looks + 20)
        assert keda.heard == []
        await jobs.resume()
        await eventually(lambda: keda.heard)
        assert await keda.poll() == (84, True)


BUSY = Flow(waiting=100, open=8, in_flight=8, workers=2)


@pytest.mark.parametrize(
    ("flow", "work", "active", "wakes"),
    [
        (Flow(), 0, False, False),
        (Flow(workers=1), 0, False, False),
        (Flow(waiting=3), 3, True, True),
        (BUSY, 108, True, True),
        (Flow(waiting=100, open=8, in_flight=8, workers=2, limit=12), 12, True, True),
        (Flow(waiting=100, open=8, in_flight=8, workers=2, requests=60, call_seconds=10), 10, True, True),
        (Flow(waiting=100, paused=True), 1, False, False),
        (Flow(waiting=100, open=8, in_flight=8, workers=2, paused=True), 8, True, False),
        (Flow(waiting=100, open=8, in_flight=8, workers=2, shut=True), 8, True, False),
        (Flow(waiting=100, workers=1, shut=True), 1, True, False),
        (Flow(waiting=100, open=8, in_flight=8, workers=2, paused=True, scaled_to_zero=True), 0, False, False),
        (Flow(due_seconds=START_SECONDS), 1, True, True),
        (Flow(due_seconds=START_SECONDS + 1), 0, False, False),
    ],
)
async def test_what_keda_hears(flow: Flow, work: int, *, active: bool, wakes: bool) -> None:
    async with a_scaler(Told(jobs=flow)) as scaler, keda_of(scaler.port, listName="jobs") as keda, keda.listening():
        assert await keda.poll() == (work, active)
        if wakes:
            await eventually(lambda: keda.heard)
        looks = scaler.sample("look_seconds_count", what="queues")
        await eventually(lambda: scaler.sample("look_seconds_count", what="queues") > looks + 15)
        assert bool(keda.heard) == wakes


async def test_where_somebody_works_the_change_is_told_once() -> None:
    told = Told(jobs=Flow(workers=1))
    async with a_scaler(told) as scaler, keda_of(scaler.port, listName="jobs") as keda, keda.listening():
        await eventually(lambda: scaler.sample("streams") == 1)
        told.flows["jobs"] = Flow(waiting=1, workers=1)
        await eventually(lambda: keda.heard == [True])
        (queue,) = scaler.watcher.queues.values()
        told.flows["jobs"] = Flow(waiting=2, workers=1)
        await eventually(lambda: queue.work == 2)  # it was read again
        assert queue.announced == 1
        told.flows["jobs"] = Flow(waiting=2)
        await eventually(lambda: len(keda.heard) > 2)  # nobody is left: again and again


async def test_a_pod_that_does_not_come_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "NOBODY_SECONDS", 0.5)
    with capture_logs() as logs:
        async with a_scaler(Told(jobs=Flow(waiting=1))) as scaler, keda_of(scaler.port, listName="jobs") as keda:
            await keda.poll()
            (queue,) = scaler.watcher.queues.values()
            await eventually(lambda: logs)
            announced = queue.announced
            await eventually(lambda: queue.announced > announced + 1)
    assert [(line["event"], line["queue"]) for line in logs] == [("nobody_comes", "jobs")]


async def test_fewer_pods_are_worth_it_when_the_limit_falls() -> None:
    told = Told(jobs=Flow(waiting=100, workers=5, limit=80))
    async with a_scaler(told) as scaler, keda_of(scaler.port, listName="jobs") as keda:
        assert (await keda.poll())[0] == 80
        (queue,) = scaler.watcher.queues.values()
        told.flows["jobs"] = Flow(waiting=100, workers=5, limit=8)
        await eventually(lambda: queue.work == 8)
        assert (await keda.poll())[0] == 8


async def test_a_scheduled_job_is_told_a_pods_start_before_it_is_due(scaler: Scaler, jobs: QueueClient) -> None:
    start, due = 2.0, time.time() + 4
    await jobs.put([("a", b"{}")], not_before=due)
    async with keda_of(scaler.port, listName="jobs", podStartSeconds=str(start)) as keda, keda.listening():
        assert await keda.poll() == (0, False)
        await eventually(lambda: keda.heard)
        assert time.time() >= due - start - 0.1  # clocks are read in ms
        assert await keda.poll() == (1, True)


# Streams --------------------------------------------------------------------------------------------------------------


async def test_streams_end_well_now_and_then_and_the_next_one_hears_what_is_so() -> None:
    told = Told(jobs=BUSY)
    async with a_scaler(told, lasts=(0.2, 0.3)) as scaler, keda_of(scaler.port, QUICK, listName="jobs") as keda:
        async with keda.listening():
            await eventually(lambda: len(keda.ends) == 3)
        assert set(keda.ends) == {"EOF"}
        assert set(keda.waits) == {FIRST_WAIT}, "an end that is not clean would double it"
        assert len(keda.heard) >= 3, "the present state, first thing on each"
        assert await keda.targets() == [16]
        assert scaler.sample("calls_total", method="StreamIsActive", code="OK") >= 3


async def test_a_client_that_vanishes_is_dropped(scaler: Scaler) -> None:
    async with keda_of(scaler.port, listName="jobs") as keda, keda.listening():
        await eventually(lambda: scaler.sample("streams") == 1)
    await eventually(lambda: scaler.sample("streams") == 0)
    assert scaler.sample("calls_total", method="StreamIsActive", code="CANCELLED") == 1


async def test_a_reader_that_sleeps_gets_one_message_for_all_that_it_has_missed() -> None:
    told = Told(jobs=Flow(workers=1))
    async with a_scaler(told) as scaler, keda_of(scaler.port, listName="jobs") as keda, keda.listening():
        await eventually(lambda: scaler.sample("streams") == 1)
        (queue,) = scaler.watcher.queues.values()
        for waiting in (0, 1) * 10_000:
            queue.read(Flow(waiting=waiting, workers=1), asyncio.get_running_loop().time())
        await eventually(lambda: keda.heard)
        assert await keda.poll()
        assert len(keda.heard) <= 2  # that, and what the next look finds


async def test_a_queue_that_nobody_asks_for_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "FORGET_SECONDS", 0.2)
    async with a_scaler(Told(jobs=Flow(), other=Flow())) as scaler, AsyncExitStack() as stack:
        keda = await stack.enter_async_context(keda_of(scaler.port, listName="jobs"))
        await stack.enter_async_context(keda.listening())
        other = await stack.enter_async_context(keda_of(scaler.port, listName="other"))
        assert await other.poll() == (0, False)
        await eventually(lambda: [each.name for each in scaler.watcher.queues] == ["jobs"])
        assert await other.poll() == (0, False)


async def test_nobody_can_have_it_watch_more_queues_than_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "MOST_QUEUES", 1)
    async with a_scaler(Told(jobs=Flow(), other=Flow())) as scaler, AsyncExitStack() as stack:
        for name, code in (("jobs", "OK"), ("other", "RESOURCE_EXHAUSTED"), ("jobs", "OK")):
            keda = await stack.enter_async_context(keda_of(scaler.port, listName=name))
            assert (await keda.refusal())[0] == code


# Redis ----------------------------------------------------------------------------------------------------------------


async def test_a_key_of_another_type_touches_only_its_queue(scaler: Scaler, client: Redis) -> None:
    client.set("odd", "text")
    client.lpush("other", "{}")
    for named in ({"listName": "odd"}, {"stream": "other"}):
        async with keda_of(scaler.port, **named) as keda:
            code, text = await keda.refusal()
            assert code == "FAILED_PRECONDITION"
            assert "is expected: check GREENSCALE_QUEUE" in text
    client.lpush("jobs", "{}")
    async with keda_of(scaler.port, listName="jobs") as keda, keda.listening():
        assert await keda.poll() == (1, True)
        await eventually(lambda: keda.heard)


async def test_while_redis_is_away_the_last_answer_counts_for_a_while(
    start_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = start_redis("appendonly yes", "appendfsync always")
    with redis.client() as client:
        client.lpush("jobs", "{}")
    async with a_lookout(redis.url) as lookout, a_scaler(lookout) as scaler, AsyncExitStack() as stack:
        keda = await stack.enter_async_context(keda_of(scaler.port, listName="jobs"))
        await stack.enter_async_context(keda.listening())
        empty = await stack.enter_async_context(keda_of(scaler.port, listName="empty"))
        new = await stack.enter_async_context(keda_of(scaler.port, listName="new"))
        assert (await keda.poll(), await empty.poll()) == ((1, True), (0, False))
        redis.kill()
        await eventually(lambda: scaler.watcher.away)
        assert (await keda.poll(), await empty.poll()) == ((1, True), (0, False))
        assert (await new.refusal())[0] == "UNAVAILABLE"
        monkeypatch.setattr(watched, "KEPT_SECONDS", 0.0)
        for each in (keda, empty):
            code, text = await each.refusal()
            assert (code, text.partition(":")[0]) == ("UNAVAILABLE", "Redis does not answer")
        (heard,) = {len(keda.heard)}
        tries = scaler.sample("look_seconds_count", what="queues")
        await eventually(lambda: scaler.sample("look_seconds_count", what="queues") > tries + 3)
        assert len(keda.heard) == heard, "nobody knows whether there is work"
        assert keda.ends == []
        monkeypatch.undo()
        redis.start()
        await eventually(lambda: len(keda.heard) > heard)
        assert (await keda.poll(), await empty.poll(), await new.poll()) == ((1, True), (0, False), (0, False))


async def test_a_thousand_empty_queues_cost_redis_one_command_a_look(scaler: Scaler, client: Redis) -> None:
    async with keda_of(scaler.port, listName="jobs") as keda:
        for number in range(MANY):
            scaler.watcher.watch(Trigger("list", f"q{number}", 16, 5))
        await eventually(lambda: all(queue.flow for queue in scaler.watcher.queues.values()))
        client.config_resetstat()
        looks = scaler.sample("look_seconds_count", what="arrivals")
        await eventually(lambda: scaler.sample("look_seconds_count", what="arrivals") >= looks + 20)
        calls = client.info("commandstats")["cmdstat_exists"]["calls"]
        assert calls <= scaler.sample("look_seconds_count", what="arrivals") - looks + 2
        assert client.info("clients")["connected_clients"] <= 2 * watcher.AT_ONCE + 3
        last = scaler.watcher.queues[Trigger("list", f"q{MANY - 1}", 16, 5)]
        client.lpush("q999", "{}")
        await eventually(lambda: last.announced)
        assert sum(queue.announced > 0 for queue in scaler.watcher.queues.values()) == 1
        assert await keda.poll() == (0, False)


async def test_one_answer_is_kept_for_those_who_name_a_queue_alike(scaler: Scaler) -> None:
    async with keda_of(scaler.port, listName="jobs") as one, keda_of(scaler.port, listName="jobs") as two:
        assert await one.poll() == await two.poll()
        assert len(scaler.watcher.queues) == 1


def test_what_was_read_wrong_is_never_an_answer() -> None:
    queue = Watched(Trigger("list", "jobs", 16, 5), Told().client("list", "jobs"))
    queue.failed(ConfigError("no"))
    with pytest.raises(ConfigError, match="no"):
        queue.answer(0.0)


# TLS ------------------------------------------------------------------------------------------------------------------


async def test_by_tls_for_those_with_a_certificate() -> None:
    pem = str(CERTIFICATE)
    async with a_scaler(Told(jobs=BUSY), tls=TLSFiles(pem, pem, pem)) as scaler:
        async with keda_of(scaler.port, ca=CERTIFICATE.read_bytes(), listName="jobs") as keda, keda.listening():
            assert await keda.poll() == (108, True)
            await eventually(lambda: keda.heard)
        async with keda_of(scaler.port, listName="jobs") as keda:
            assert (await keda.refusal())[0] == "UNAVAILABLE", "without TLS"
        anonymous = grpc.ssl_channel_credentials(CERTIFICATE.read_bytes())
        async with grpc.aio.secure_channel(f"127.0.0.1:{scaler.port}", anonymous) as channel:
            stranger = Keda(channel, {"listName": "jobs"})
            assert (await stranger.refusal())[0] == "UNAVAILABLE", "without a certificate"
    async with (
        a_scaler(Told(jobs=BUSY), tls=TLSFiles(pem, pem)) as scaler,
        grpc.aio.secure_channel(f"127.0.0.1:{scaler.port}", anonymous) as channel,
    ):
        assert await Keda(channel, {"listName": "jobs"}).poll() == (108, True)


async def test_a_renewed_certificate_is_used_for_the_next_connection(tmp_path: Path) -> None:
    pem = tmp_path / "tls.pem"
    pem.write_bytes(CERTIFICATE.read_bytes())
    old = CERTIFICATE.with_name("old_cluster.pem")
    authority = tmp_path / "ca.pem"
    authority.write_text("".join(old.read_text().rpartition("-----BEGIN CERTIFICATE-----")[1:]))
    async with a_scaler(Told(jobs=BUSY), tls=TLSFiles(str(pem), str(pem))) as scaler:
        for file, ca in ((CERTIFICATE, CERTIFICATE), (old, authority)):
            pem.write_bytes(file.read_bytes())
            credentials = grpc.ssl_channel_credentials(ca.read_bytes())
            async with grpc.aio.secure_channel(f"127.0.0.1:{scaler.port}", credentials) as channel:
                assert await Keda(channel, {"listName": "jobs"}).refusal() == ("OK", "(108.0, True)")
        pem.unlink()
        async with grpc.aio.secure_channel(f"127.0.0.1:{scaler.port}", credentials) as channel:
            assert await Keda(channel, {"listName": "jobs"}).poll() == (108, True)
