"""Who is woken when there is something to claim: two of all workers with a free lane, and as many as a burst needs."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from redis import Redis

from greenscale_worker.job import Released
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.redis.fetcher import PEEK_SECONDS, Fetcher
from greenscale_worker.queues.redis.queue import RedisQueue
from greenscale_worker.queues.redis.retrying_client import RetryingClient
from greenscale_worker.queues.registry import open_client, open_queue
from greenscale_worker.telemetry import Metrics
from harness.eventually import eventually
from harness.redis_server import RedisServer
from tests.support.jobs import KINDS
from tests.support.scene import play

IDLE: Final = "{jobs}:idle"
OPTIONS: Final = QueueOptions(lease=600)  # no heartbeat but those that a test sends
GHOSTS: Final = {"ghost-1": 1, "ghost-2": 2}  # they were there first
LANES: Final = 3
PASSWORD: Final = "of-a-test"  # noqa: S105  of a server of this test alone

every_kind = pytest.mark.parametrize("kind", KINDS)


class Crew:
    """Workers of one queue, each with lanes that wait for a job and keep it."""

    def __init__(self, queues: list[RedisQueue], client: Redis, kind: str) -> None:
        self.queues = queues
        self.redis = client
        self.kind = kind
        self.lanes = {queue: [asyncio.create_task(queue.lease()) for _ in range(LANES)] for queue in queues}

    def push(self, count: int = 1) -> None:
        for number in range(count):
            payload = f'{{"job_id": "{number}", "prompt": "?"}}'
            if self.kind == "list":
                self.redis.lpush("jobs", payload)
            else:
                self.redis.xadd("jobs", {"job": payload})

    def taken(self) -> list[int]:
        """How many lanes of each have a job."""
        return [sum(lane.done() for lane in lanes) for lanes in self.lanes.values()]

    def idle(self) -> int:
        return int(self.redis.zcard(IDLE))

    def has_seat(self) -> list[bool]:
        owners = [owner.decode() for owner in self.redis.zrange(IDLE, 0, 1)]
        return [queue._owner in owners for queue in self.queues]  # noqa: SLF001  who is who


@asynccontextmanager
async def crew(url: str, kind: str, workers: int, *, ghosts: bool = False) -> AsyncIterator[Crew]:
    """Open workers, and wait until the queue knows that all have free lanes."""
    async with AsyncExitStack() as stack:
        client = stack.enter_context(Redis.from_url(url))
        queues: list[Any] = []
        for _ in range(workers):
            queue = await open_queue(kind, RedisOptions(url=url), OPTIONS, Metrics())
            queues.append(await stack.enter_async_context(aclosing(queue)))
        await eventually(lambda: client.pubsub_numsub("{jobs}:bell")[0][1] == workers)
        for queue in queues:
            await queue.beat()  # by then each has claimed what it claims when it begins to listen
        if ghosts:
            now = client.time()[0] * 1000
            client.zadd(IDLE, GHOSTS)
            client.zadd("{jobs}:workers", dict.fromkeys(GHOSTS, now))
        here = Crew(queues, client, kind)
        stack.callback(lambda: [lane.cancel() for lanes in here.lanes.values() for lane in lanes])
        await eventually(lambda: here.idle() == workers + len(GHOSTS) * ghosts)
        yield here


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Counter[Fetcher]:
    """How often each worker has claimed."""
    counted: Counter[Fetcher] = Counter()
    claim = Fetcher._claim  # noqa: SLF001  each of its calls is one script

    async def count(self: Fetcher, lanes: int) -> None:
        counted[self] += 1
        await claim(self, lanes)

    monkeypatch.setattr(Fetcher, "_claim", count)
    return counted


@every_kind
async def test_a_job_wakes_the_two_that_have_a_seat_and_nobody_else(
    redis_url: str, kind: str, claims: Counter[Fetcher]
) -> None:
    async with crew(redis_url, kind, 6) as here:
        seated = here.has_seat()
        assert sum(seated) == 2
        woken = {queue._fetcher for queue, has_seat in zip(here.queues, seated, strict=True) if has_seat}  # noqa: SLF001
        claims.clear()
        for number in (1, 2):
            here.push()
            await eventually(lambda number=number: sum(here.taken()) == number)
        assert set(claims) <= woken


@every_kind
async def test_a_burst_is_run_by_all_that_it_takes_at_once(redis_url: str, kind: str) -> None:
    """No job ends here, and no heartbeat is sent: whoever is not woken by the burst gets nothing."""
    async with crew(redis_url, kind, 8) as here:
        here.push(8 * LANES)
        await eventually(lambda: here.taken() == [LANES] * 8)
        assert here.idle() == 0


@every_kind
async def test_after_a_burst_two_have_a_seat_and_know_it(redis_url: str, kind: str) -> None:
    async with crew(redis_url, kind, 6) as here:
        for number in (7, 8, 12, 13):  # the first fills two workers, the third fills the rest of four
            here.push(number - sum(here.taken()))
            await eventually(lambda number=number: sum(here.taken()) == number)


@every_kind
async def test_a_burst_wakes_hardly_more_than_it_takes(redis_url: str, kind: str, claims: Counter[Fetcher]) -> None:
    async with crew(redis_url, kind, 30) as here:
        claims.clear()
        here.push(12 * LANES)
        await eventually(lambda: sum(here.taken()) == 12 * LANES)
        assert len(claims) <= 12 + 4  # those that have a seat before, and those after


async def test_entries_that_the_group_never_gives_wake_nobody(redis_url: str, claims: Counter[Fetcher]) -> None:
    """The operator made the group behind them, or somebody acknowledged and did not delete them."""
    with Redis.from_url(redis_url) as client:
        for _ in range(100):
            client.xadd("jobs", {"job": "of another time"})
        client.xgroup_create("jobs", "greenscale", "$")
    async with crew(redis_url, "stream", 12) as here:
        claims.clear()
        here.push(LANES)  # fills a worker
        await eventually(lambda: sum(here.taken()) == LANES)
        for queue in here.queues:
            await queue.beat()
        here.push()
        await eventually(lambda: sum(here.taken()) == LANES + 1)
        assert len(claims) <= 5  # those that have a seat before, and those after


@every_kind
async def test_who_cannot_claim_any_more_leaves_its_seat_to_the_next(redis_url: str, kind: str) -> None:
    """As where the gate shuts, or a worker drains."""
    async with crew(redis_url, kind, 3) as here:
        for queue, has_seat in zip(here.queues, here.has_seat(), strict=True):
            for lane in here.lanes[queue] if has_seat else ():
                lane.cancel()
        await eventually(lambda: here.idle() == 1)
        here.push()
        await eventually(lambda: 1 in here.taken())


@every_kind
async def test_a_worker_whose_lanes_are_full_leaves_its_seat(redis_url: str, kind: str) -> None:
    async with crew(redis_url, kind, 3) as here:
        for number in range(1, 3 * LANES + 1):
            here.push()
            await eventually(lambda number=number: sum(here.taken()) == number)
        assert here.taken() == [LANES] * 3
        await eventually(lambda: here.idle() == 0)


@every_kind
async def test_a_worker_that_says_goodbye_leaves_its_seat(redis_url: str, kind: str) -> None:
    async with crew(redis_url, kind, 3) as here:
        for queue, has_seat in zip(here.queues, here.has_seat(), strict=True):
            if has_seat:
                await queue.aclose()
        here.push()
        await eventually(lambda: sum(here.taken()) == 1)


@every_kind
async def test_a_heartbeat_that_finds_a_job_is_followed_by_a_claim_of_its_sender_alone(
    redis_url: str, kind: str, claims: Counter[Fetcher]
) -> None:
    """Those that have the seats are dead, and nobody knows it yet."""
    async with crew(redis_url, kind, 3, ghosts=True) as here:
        claims.clear()
        here.push()
        await here.queues[1].beat()
        await eventually(lambda: here.taken() == [0, 1, 0])
        assert len(claims) == 1


@every_kind
async def test_who_was_silent_for_two_heartbeats_loses_its_seat(redis_url: str, kind: str) -> None:
    async with crew(redis_url, kind, 3, ghosts=True) as here:
        here.redis.zadd("{jobs}:workers", dict.fromkeys(GHOSTS, here.redis.time()[0] * 1000 - 401_000))
        await here.queues[0].beat()
        await eventually(lambda: sum(here.has_seat()) == 2)
        here.push()
        await eventually(lambda: sum(here.taken()) == 1)


@every_kind
async def test_seats_that_got_lost_are_given_again_by_heartbeats(
    redis_url: str, kind: str, claims: Counter[Fetcher]
) -> None:
    async with crew(redis_url, kind, 3, ghosts=True) as here:
        here.redis.delete(IDLE)
        claims.clear()
        for queue in here.queues:
            await queue.beat()
        await eventually(lambda: here.idle() == 3 and len(claims) == 2)  # who got one looks for what came before
        here.push()
        await eventually(lambda: sum(here.taken()) == 1)


@every_kind
async def test_a_claim_unseats_nobody(redis_url: str, kind: str) -> None:
    """Whoever it unseated would be followed by an heir, which claims, too: so on through the fleet."""
    async with crew(redis_url, kind, 6) as here:
        here.redis.delete("{jobs}:workers")
        here.push()
        await eventually(lambda: sum(here.taken()) == 1)
        assert here.idle() == 6


@every_kind
async def test_a_heartbeat_unseats_any_number_of_dead_workers(redis_url: str, kind: str) -> None:
    async with crew(redis_url, kind, 2) as here:
        here.redis.zadd(IDLE, {f"dead worker {number}": number for number in range(100)})
        await here.queues[0].beat()
        await eventually(lambda: here.has_seat() == [True, True])  # one of them may just have given its seat back


@every_kind
async def test_who_died_before_the_clock_went_back_loses_its_seat(redis_url: str, kind: str) -> None:
    async with crew(redis_url, kind, 2, ghosts=True) as here:
        here.redis.zadd("{jobs}:workers", dict.fromkeys(GHOSTS, here.redis.time()[0] * 1000 + 3_600_000))
        await here.queues[0].beat()
        assert here.has_seat() == [True, True]


@every_kind
async def test_a_worker_that_is_full_keeps_no_seat_that_it_does_not_know_of(redis_url: str, kind: str) -> None:
    """As after a failover to an older state, or where a claim has overtaken a heartbeat."""
    async with crew(redis_url, kind, 2) as here:
        here.push(2 * LANES)
        await eventually(lambda: here.taken() == [LANES] * 2)
        here.redis.zadd(IDLE, {queue._owner: 1 for queue in here.queues})  # noqa: SLF001  as above
        for queue in here.queues:
            await queue.beat()
        assert here.idle() == 0


@every_kind
async def test_a_bell_is_heard_while_the_claim_that_brings_the_seat_is_on_the_wire(
    redis_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, heard, rung = asyncio.Event(), asyncio.Event(), set[Fetcher]()
    call_last, ring_seat = RetryingClient.call_last, Fetcher.ring_seat

    async def answer_late(self: RetryingClient, *args: Any) -> Any:
        answer = await call_last(self, *args)
        answered.set()
        await heard.wait()
        return answer

    def note(self: Fetcher) -> None:
        ring_seat(self)
        rung.add(self)

    monkeypatch.setattr(Fetcher, "ring_seat", note)
    async with crew(redis_url, kind, 0) as here, AsyncExitStack() as stack:
        holder, waiter = [
            await stack.enter_async_context(
                aclosing(await open_queue(kind, RedisOptions(url=redis_url), OPTIONS, Metrics()))
            )
            for _ in range(2)
        ]
        stack.callback(heard.set)  # or else a test that failed would never end
        await eventually(lambda: here.redis.pubsub_numsub("{jobs}:bell")[0][1] == 2)
        here.push()
        lease = await holder.lease()
        monkeypatch.setattr(RetryingClient, "call_last", answer_late)
        waiting = asyncio.create_task(waiter.lease())
        await answered.wait()
        rung.clear()
        await holder.settle(lease, Released("of a test"))
        await eventually(lambda: waiter._fetcher in rung)  # noqa: SLF001  who is who
        heard.set()
        await eventually(waiting.done, PEEK_SECONDS / 2)


@every_kind
async def test_a_claim_tells_of_all_lanes_free_and_busy(
    redis_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By them it is decided how many others what is left takes."""
    call_last, told = RetryingClient.call_last, list[int]()

    async def note(self: RetryingClient, script: Any, keys: list[str], args: list[Any], read: Any) -> Any:
        told.append(args[11])  # lanes, as ARGV[12] of claim.lua
        return await call_last(self, script, keys, args, read)

    async with crew(redis_url, kind, 1) as here:
        monkeypatch.setattr(RetryingClient, "call_last", note)
        for number in range(1, LANES + 1):
            here.push()
            await eventually(lambda number=number: here.taken() == [number])
        assert set(told) == {LANES}


@every_kind
async def test_a_pause_ends_for_all(redis_url: str, kind: str) -> None:
    async with (
        crew(redis_url, kind, 3) as here,
        aclosing(await open_client(kind, RedisOptions(url=redis_url))) as client,
    ):
        await client.pause()
        here.push()
        await eventually(lambda: here.idle() == 0)  # each was told of the job, and found the queue paused
        here.push(3 * LANES - 1)
        await client.resume()
        await eventually(lambda: here.taken() == [LANES] * 3)


@every_kind
async def test_what_comes_back_to_a_paused_queue_wakes_nobody(
    redis_url: str, kind: str, claims: Counter[Fetcher]
) -> None:
    async with (
        crew(redis_url, kind, 6) as here,
        aclosing(await open_client(kind, RedisOptions(url=redis_url))) as client,
    ):
        await client.pause()
        here.push()
        await eventually(lambda: here.idle() == 0)
        await eventually(lambda: all(queue._fetcher._paused for queue in here.queues))  # noqa: SLF001  as above
        claims.clear()
        here.redis.publish("{jobs}:bell", "ready")  # as where a call has failed
        here.redis.publish(f"{{jobs}}:bell:{here.queues[0]._owner}", "wake")  # noqa: SLF001  as above
        await eventually(lambda: len(claims) > 0)
        assert len(claims) == 1


async def test_a_user_without_rights_to_a_channel_of_its_own_hears_the_common_one(
    start_redis: Callable[..., RedisServer], capfd: pytest.CaptureFixture[str]
) -> None:
    server = start_redis()
    with server.client() as client:
        rules = ["reset", "on", f">{PASSWORD}", "~*", "+@all", "resetchannels", "&{jobs}:bell", "&{jobs}:ended"]
        client.execute_command("ACL", "SETUSER", "u", *rules)
        options = QueueOptions(lease=3)
        queue = await open_queue(
            "list", RedisOptions(url=server.url, username="u", password=PASSWORD), options, Metrics()
        )
        async with aclosing(queue):
            await eventually(lambda: client.pubsub_numsub("{jobs}:bell") == [(b"{jobs}:bell", 1)])
            await eventually(lambda: "channel" in "".join(capfd.readouterr()))


async def test_a_password_that_was_wrong_for_a_while_costs_no_channel(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "u", "reset", "on", f">{PASSWORD}", "~*", "+@all", "&*")
        redis = RedisOptions(url=server.url, username="u", password=PASSWORD)
        queue: Any = await open_queue("list", redis, QueueOptions(lease=3), Metrics())
        async with aclosing(queue):
            own = f"{{jobs}}:bell:{queue._owner}"  # noqa: SLF001  as above

            def listeners() -> int:
                return int(client.pubsub_numsub(own)[0][1])

            await eventually(lambda: listeners() == 1)
            client.execute_command("ACL", "SETUSER", "u", "resetpass", ">another")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await eventually(lambda: client.execute_command("ACL", "LOG"))  # somebody was refused
            client.execute_command("ACL", "SETUSER", "u", "resetpass", f">{PASSWORD}")
            await eventually(lambda: listeners() == 1)


@every_kind
@pytest.mark.usefixtures("redis_url")
async def test_with_the_seated_workers_killed_the_next_job_is_picked_up_within_a_heartbeat(
    redis_server: RedisServer, tmp_path: Path, kind: str
) -> None:
    async with play(tmp_path, redis_server, kind=kind) as scene:
        workers = {worker.pid: worker for worker in (scene.start() for _ in range(3))}
        client = scene.jobs.client
        await eventually(lambda: client.zcard(IDLE) == 3)
        for owner in client.zrange(IDLE, 0, 1):
            (pid,) = re.findall(rb":(\d+):2-", owner)
            workers.pop(int(pid)).kill()
        seconds, micros = client.time()
        (job_id,) = scene.jobs.push("next")
        await scene.all_ended()
        claimed = int(scene.jobs.record(job_id)["claimed_ms"]) / 1000
        assert claimed - seconds - micros / 1e6 < QueueOptions().heartbeat + 1
