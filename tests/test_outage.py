"""Redis away, slow, full, closed or mistreated, and workers that were stopped: they wait, and nothing is lost."""

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import pytest
import redis

from greenscale_worker.queues.redis.keys import FLOW, LEDGER, OF_LETTERS, RECENT, TURN_PAYLOADS, TURNS
from harness.eventually import eventually
from harness.worker_process import Fleet
from tests.support.cases import Cases, at_once
from tests.support.jobs import KINDS
from tests.support.scene import Scene, play

LANES: Final = 4
LEASE: Final = 2
SHORT: Final[dict[str, Any]] = {"GREENSCALE_CONCURRENCY": LANES, "GREENSCALE_LEASE_SECONDS": LEASE}
PERSISTENT: Final = ("appendonly yes", "appendfsync always")


async def everything_once(scene: Scene, jobs: list[str]) -> None:
    """All is answered in the end, and every job was sent exactly once."""
    await scene.all_ended()
    scene.jobs.check()
    scene.jobs.undisturbed(jobs)
    assert scene.endpoint.calls == Counter(jobs)


@at_once
@pytest.mark.parametrize("kind", KINDS)
async def test_redis_dies_with_calls_in_flight_and_comes_back(cases: Cases, kind: str) -> None:
    """It is away for longer than a lease, and comes back with what it had written."""
    server = cases.start_redis(*PERSISTENT)
    async with play(cases.directory, server, f"restarted-{kind}", kind=kind, **SHORT) as scene:
        jobs = scene.jobs.push(*range(3 * LANES))
        scene.endpoint.hold()
        worker = scene.start()
        await scene.in_flight(LANES)
        server.kill()
        await worker.says("queue_unavailable")
        scene.endpoint.let_go()
        await eventually(lambda: scene.endpoint.waiting.total() == 0)
        await asyncio.sleep(1.5 * LEASE)
        assert worker.alive
        await asyncio.to_thread(server.start)
        await worker.says("queue_back")
        await everything_once(scene, jobs)
        await worker.stop()


@at_once
@pytest.mark.parametrize("kind", KINDS)
async def test_leases_outlast_an_outage_that_is_longer(cases: Cases, kind: str) -> None:
    """With another worker ready to take them over as soon as they expire."""
    server = cases.start_redis(*PERSISTENT)
    async with play(cases.directory, server, f"outlasted-{kind}", kind=kind, **SHORT) as scene:
        scene.endpoint.hold()
        jobs = scene.jobs.push(*range(LANES))
        holder = scene.start()
        await scene.in_flight(LANES)
        other = scene.start()
        await scene.idle()
        server.kill()
        await holder.says("queue_unavailable")
        await asyncio.sleep(1.5 * LEASE)
        await asyncio.to_thread(server.start)
        await holder.says("queue_back")
        await asyncio.sleep(1.5 * LEASE)
        scene.endpoint.let_go()
        await everything_once(scene, jobs)
        for worker in (holder, other):
            await worker.stop()
        assert holder.outcomes() == {"succeeded": LANES}


@at_once
async def test_a_redis_that_is_absent_and_then_loading_is_waited_for(cases: Cases) -> None:
    slow = ("key-load-delay 20000", "loading-process-events-interval-bytes 1024", "rdbcompression no")
    server = cases.start_redis(*slow)
    with server.client() as client:
        for n in range(100):
            client.set(f"load:{n}", "x" * 2048)
        client.save()
    server.kill()
    async with play(cases.directory, server, "absent", **SHORT) as scene:
        worker = scene.start()
        assert "connect" in (await worker.says("queue_unavailable"))["error"].lower()
        await asyncio.to_thread(server.start)
        await worker.says("ready")
        assert "loading" in worker.log("queue_unavailable")[-1]["error"].lower()
        jobs = scene.jobs.push(*range(LANES))
        await everything_once(scene, jobs)
        await worker.stop()


@at_once
async def test_a_redis_that_pauses_sleeps_and_disconnects_costs_no_call(cases: Cases) -> None:
    """Each longer than a lease, while jobs run and others wait; another worker is ready to take over."""
    server = cases.start_redis("enable-debug-command yes")
    async with play(cases.directory, server, "paused", latency=0.05, **SHORT) as scene:
        workers = [scene.start(), scene.start()]
        for worker in workers:
            await worker.says("ready")
        jobs: list[str] = []

        async def disturbed(name: str, *command: object) -> None:
            scene.endpoint.hold()
            here = scene.jobs.push(*(f"{name}-{n}" for n in range(3 * LANES)))
            jobs.extend(here)
            await scene.in_flight(2 * LANES)
            with server.client() as client:
                await asyncio.to_thread(client.execute_command, *command)
                scene.endpoint.let_go()
                await asyncio.to_thread(client.ping)
            await scene.all_ended()

        await disturbed("pause", "CLIENT", "PAUSE", 1500 * LEASE, "ALL")
        await disturbed("sleep", "DEBUG", "SLEEP", 1.5 * LEASE)
        for times in range(5):
            await disturbed(f"kill-{times}", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await everything_once(scene, jobs)
        for worker in workers:
            await worker.stop()


@at_once
@pytest.mark.parametrize("kind", KINDS)
async def test_a_full_redis_is_drained(cases: Cases, kind: str) -> None:
    """Producers are refused, workers go on, also one that starts only now; what they end makes room."""
    server = cases.start_redis("maxmemory-policy noeviction")
    async with play(cases.directory, server, f"full-{kind}", kind=kind, **SHORT) as scene:
        scene.endpoint.hold()
        early = scene.start()
        jobs = scene.jobs.push(*range(50))
        await scene.in_flight(LANES)
        scene.jobs.client.config_set("maxmemory", 1)
        with pytest.raises(redis.OutOfMemoryError):
            scene.jobs.push("refused")
        late = scene.start()
        await scene.in_flight(2 * LANES)
        scene.endpoint.let_go()
        await everything_once(scene, jobs)
        scene.jobs.client.config_set("maxmemory", 0)
        jobs += scene.jobs.push("accepted")
        await everything_once(scene, jobs)
        for worker in (early, late):
            await worker.stop()
        assert early.outcomes() + late.outcomes() == {"succeeded": 51}


REFUSED: Final[Mapping[str, tuple[str, dict[str, str]]]] = {
    "no_password": ("Authentication required; expected: REDIS_PASSWORD", {}),
    "wrong_password": ("invalid", {"REDIS_PASSWORD": "secret-wrong"}),
    "unknown_user": ("invalid", {"REDIS_USERNAME": "nobody", "REDIS_PASSWORD": "secret"}),
    "blind": ("permissions", {"REDIS_USERNAME": "blind", "REDIS_PASSWORD": "secret-too"}),
    "mute": ("permissions", {"REDIS_USERNAME": "mute", "REDIS_PASSWORD": "secret-too"}),
}


@at_once
@pytest.mark.parametrize("who", REFUSED)
async def test_a_redis_that_refuses_us_stops_the_start(cases: Cases, who: str) -> None:
    """Exit code 2, and one line that says why."""
    server = cases.redis("refuses", "requirepass secret")
    with server.client(password="secret") as client:  # noqa: S106  of this test's own server
        for user, rights in {
            "blind": ("~other", "+@all"),
            "mute": ("~*", "&*", "+@all", "-evalsha", "-eval"),
        }.items():
            client.execute_command("ACL", "SETUSER", user, "on", ">secret-too", *rights)
    word, credentials = REFUSED[who]
    settings: dict[str, Any] = {"REDIS_URL": server.url, "GREENSCALE_BACKEND": "echo", **SHORT, **credentials}
    with Fleet(cases.directory / who, **settings) as fleet:
        worker = fleet.start()
        assert await worker.exit_code() == 2
        (line,) = worker.stderr.splitlines()
        assert word in line
        assert "secret" not in line
        assert not worker.log("ready")


@at_once
async def test_a_password_changed_at_run_time(cases: Cases) -> None:
    """A worker that runs waits until it is let in again."""
    server = cases.start_redis("requirepass secret")
    with server.client(password="secret") as client:  # noqa: S106  of this test's own server
        async with play(cases.directory, server, "changed", REDIS_PASSWORD="secret", **SHORT) as scene:  # noqa: S106
            scene.jobs.client = client
            scene.endpoint.hold()
            jobs = scene.jobs.push(*range(3 * LANES))
            worker = scene.start()
            await scene.in_flight(LANES)
            client.config_set("requirepass", "changed")
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub", skipme=True)
            scene.endpoint.let_go()
            await worker.says("queue_unavailable")
            client.config_set("requirepass", "secret")
            await everything_once(scene, jobs)
            await worker.stop()


WRONG_TYPE: Final = (
    "in Redis {key} is a string, a {wanted} is expected: check GREENSCALE_QUEUE and the name of the queue"
)
HASHES: Final = ("open", "meta", "dead", "control", "bound", "blame", "class", "payload", "notify")
TYPES: Final = dict.fromkeys(HASHES, "hash") | dict.fromkeys(("interactive", "background"), "list")


@contextmanager
def misused(scene: Scene, key: str) -> Iterator[None]:
    """Somebody puts a string there for a while."""
    client = scene.jobs.client
    was_there = client.exists(key)
    with client.pipeline() as pipe:
        if was_there:
            pipe.rename(key, "kept")
        pipe.set(key, "foreign").execute()
    yield
    with client.pipeline() as pipe:
        pipe.delete(key)
        if was_there:
            pipe.rename("kept", key)
        pipe.execute()


@at_once
@pytest.mark.parametrize("kind", KINDS)
async def test_a_foreign_type_under_a_key_is_waited_out(cases: Cases, kind: str) -> None:
    """Nothing was written before; repaired, it goes on where it was. Who starts meanwhile is refused."""
    async with play(cases.directory, cases.start_redis(), f"key-{kind}", kind=kind, **SHORT) as scene:
        scene.endpoint.hold()
        jobs = scene.jobs.push(*range(3 * LANES))
        worker = scene.start()
        await scene.in_flight(LANES)
        letters = {
            scene.jobs.keys.of(part) for part in (*OF_LETTERS, RECENT, LEDGER, FLOW, TURNS, TURN_PAYLOADS)
        }  # workers do without these
        for key in (key for key in scene.jobs.keys.base if key not in letters):
            wanted = TYPES.get(key.rpartition(":")[2], kind if key == scene.jobs.name else "zset")
            with misused(scene, key):
                await worker.says("queue_unavailable", error=WRONG_TYPE.format(key=key, wanted=wanted))
            await eventually(lambda: len(worker.log("queue_back")) == len(worker.log("queue_unavailable")))
        with misused(scene, scene.jobs.keys.of("control")):
            late = scene.start()
            assert await late.exit_code() == 2
            assert scene.jobs.keys.of("control") in late.stderr
        scene.endpoint.let_go()
        await everything_once(scene, jobs)
        await worker.stop()


@at_once
async def test_a_foreign_type_under_the_list_is_waited_out(cases: Cases) -> None:
    async with play(cases.directory, cases.start_redis(), "list", **SHORT) as scene:
        worker = scene.start()
        await scene.idle()
        scene.jobs.client.set(scene.jobs.name, "foreign")
        assert scene.jobs.name in (await worker.says("queue_unavailable"))["error"]
        scene.jobs.client.delete(scene.jobs.name)
        jobs = scene.jobs.push(*range(LANES))
        await everything_once(scene, jobs)
        await worker.stop()


@at_once
async def test_a_foreign_type_under_a_record_or_a_result_is_replaced(cases: Cases) -> None:
    async with play(cases.directory, cases.start_redis(), "record", **SHORT) as scene:
        for n in range(LANES):
            scene.jobs.client.lpush(scene.jobs.keys.record(scene.jobs.id(n)), "foreign")
            scene.jobs.client.lpush(scene.jobs.keys.result(scene.jobs.id(n)), "foreign")
        jobs = scene.jobs.push(*range(2 * LANES))
        worker = scene.start()
        await everything_once(scene, jobs)
        assert {line["job_id"] for line in worker.log("foreign_key_replaced")} == set(jobs[:LANES])
        await worker.stop()


@at_once
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["finished", "taken"])
async def test_a_worker_stopped_for_longer_than_its_lease_loses_the_race_and_nothing_else(
    cases: Cases, how: str, kind: str
) -> None:
    """Stop a worker amid its calls until another has taken its jobs, and wake it.

    `finished`: the other has answered them; the sleeper aborts its calls. `taken`: the other still runs them, while the
    sleeper finds its answers when it wakes; they are refused.
    """
    async with play(cases.directory, cases.redis(kind), f"{how}-{kind}", kind=kind, **SHORT) as scene:
        first = scene.endpoint.hold()
        jobs = scene.jobs.push(*range(LANES))
        sleeper = scene.start()
        await scene.in_flight(LANES)
        sleeper.signal(signal.SIGSTOP)
        scene.endpoint.hold()
        other = scene.start()
        await scene.in_flight(2 * LANES)
        if how == "finished":
            scene.endpoint.let_go()
            await scene.all_ended()
        else:
            first.set()
            await scene.in_flight(LANES)
        sleeper.signal(signal.SIGCONT)
        await eventually(lambda: sleeper.outcomes().total() == LANES)
        assert scene.jobs.ended() == (LANES if how == "finished" else 0)
        assert "succeeded" not in sleeper.outcomes()
        if how == "finished":
            await eventually(lambda: scene.endpoint.hung_up == Counter(jobs))
        scene.endpoint.let_go()
        await scene.all_ended()
        scene.jobs.check()
        assert [scene.jobs.result(job_id) for job_id in jobs] == [f"{job_id} #2" for job_id in jobs]
        await other.stop()
        assert other.outcomes() == {"succeeded": LANES}
        jobs += scene.jobs.push("later")
        await scene.all_ended()
        await sleeper.stop()
        assert sleeper.outcomes()["succeeded"] == 1
        scene.jobs.check()
