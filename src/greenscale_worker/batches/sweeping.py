"""Deletes what is known of batches that ended long ago."""

from greenscale_worker.batches.creating import Creator
from greenscale_worker.batches.objects import Request
from greenscale_worker.batches.store import KEPT_SECONDS
from greenscale_worker.queues import OPEN


async def sweep(creator: Creator, now: float) -> None:
    """Delete batches whose window was over 30 days ago and that ended as long ago.

    One that should have ended by then and has not is put into the queue again, in case its job was lost.
    Raises FilesUnavailableError, QueueUnavailableError.
    """
    batches = creator.batches
    async for due in batches.due(now):
        request = await batches.request(due.tenant, due.batch_id)
        if request is None or await _is_over(creator, request, now):
            await batches.remove(due)


async def _is_over(creator: Creator, request: Request, now: float) -> bool:
    state = await creator.batches.state(request)
    if not state.is_final:
        await creator.put_again(request)
        return False
    [(record, _)] = await creator.jobs.look_up([request.queue_id])
    return (state.ended_at or 0) + KEPT_SECONDS <= now and record.get("state") not in OPEN
