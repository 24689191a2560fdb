"""What is known of a batch is deleted 30 days after its end, and never while it may go on."""

from itertools import count

from greenscale_worker.batches.creating import Alike, Creator
from greenscale_worker.batches.objects import Request
from greenscale_worker.batches.store import KEPT_SECONDS, Batches
from greenscale_worker.batches.sweeping import sweep
from greenscale_worker.job import decode
from greenscale_worker.queues.memory import MemoryQueue
from tests.support.batches import KilledError, Outside, World, driven

DAY = 86_400
OF_BATCHES = ("batches", "cancels", "states", "parts", "ends")


class Desk:
    """A world, and the queue of its batches."""

    def __init__(self) -> None:
        self.world = World()
        self.jobs = MemoryQueue()
        self.worker = self.jobs.beside("worker")
        self.creator = Creator(self.world.batches, self.jobs)

    async def created(self, name: str, **fields: object) -> Request:
        return await self.creator.create(
            self.world.request(**fields), Alike(None, "key", name.encode()), self.world.now
        )

    async def sweep(self, outside: Outside | None = None) -> None:
        batches = Batches((outside or Outside()).of(self.world.files))
        await sweep(Creator(batches, self.jobs), self.world.now)

    async def left(self) -> list[str]:
        return [each.key for kind in OF_BATCHES for each in await self.world.files.list(kind)]

    async def over(self, request: Request) -> None:
        """Let the job of a batch end."""
        await self.jobs.cancel(request.queue_id)
        lease = await self.worker.lease()
        assert await self.worker.bind(lease, decode(lease.payload, max_bytes=1024 * 1024)) == "cancelled"


async def an_ended_batch() -> tuple[Desk, Request]:
    desk = Desk()
    await desk.world.write(["n1", "n2", "fail-1"])
    request = await desk.created("a")
    async with desk.world.working():
        assert await driven(desk.world.feeder(), request) == "completed"
    await desk.world.batches.cancel(request, int(desk.world.now) + 5)
    await desk.over(request)
    return desk, request


async def test_a_batch_is_kept_for_30_days_after_its_window_and_then_deleted() -> None:
    desk, request = await an_ended_batch()
    desk.world.now = request.expires_at + KEPT_SECONDS
    await desk.sweep()
    assert await desk.world.batches.page(None, after=None, limit=9) == [request]
    desk.world.now += DAY
    await desk.world.objects.sweep()
    await desk.sweep()
    assert await desk.world.batches.page(None, after=None, limit=9) == []
    assert await desk.left() == []


async def test_a_batch_that_goes_on_is_kept_and_put_again_if_its_job_is_lost() -> None:
    desk = Desk()
    await desk.world.write(["n1"])
    request = await desk.created("a")
    await desk.over(request)
    desk.world.now = request.expires_at + KEPT_SECONDS + 9 * DAY
    for _ in range(2):
        await desk.sweep()
        assert await desk.world.batches.request(None, request.id) == request
    assert (await desk.jobs.depth()).waiting == 1
    assert await driven(desk.world.feeder(), request) == "failed", "its input has expired"
    await desk.over(request)
    await desk.sweep()
    assert await desk.world.batches.request(None, request.id) == request, "its end is 30 days old at the earliest"
    desk.world.now += KEPT_SECONDS
    await desk.sweep()
    assert await desk.left() == []


async def test_a_batch_whose_end_was_not_told_yet_is_kept() -> None:
    desk, request = await an_ended_batch()
    await desk.creator.ensure(request)
    desk.world.now = request.expires_at + KEPT_SECONDS + DAY
    await desk.sweep()
    assert (await desk.world.state(request)).status == "completed"
    await desk.over(request)
    await desk.sweep()
    assert await desk.left() == []


async def test_at_whichever_call_a_sweep_dies_the_next_one_deletes_the_rest_and_nothing_begins_anew() -> None:
    for at in count(1):
        desk, request = await an_ended_batch()
        desk.world.now = request.expires_at + KEPT_SECONDS + DAY
        outside = Outside(at)
        try:
            await desk.sweep(outside)
        except KilledError:
            if not (await desk.world.state(request)).is_final:
                assert not await desk.creator.put_again(request)
            await desk.sweep()
        assert await desk.left() == []
        assert (await desk.jobs.depth()).waiting == 0
        if outside.calls < at:
            break
    assert at > 5
