"""`/v1/jobs/{id}/events`: a job followed until its end."""

from contextlib import aclosing
from typing import Any

from aiohttp import web

from greenscale_worker.client.ends import Ended
from greenscale_worker.gateway import sse
from greenscale_worker.gateway.core import Call, no_such_job
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.job_objects import of_job


async def events(call: Call) -> web.StreamResponse:
    """GET /v1/jobs/{id}/events."""
    record = await call.queue.record(call.queue_id)
    told = of_job(call.queue_id, record, call.caller)
    if told is None:
        raise no_such_job(call.id)
    response = await sse.begin(call.request)
    await sse.send(response, "state", told)
    try:
        await _follow(call, response, told)
    except Problem:  # the gateway is being stopped: a client that connects again goes on with another one
        await sse.put(response, b": shutting down\n\n")
    return response


async def _follow(call: Call, response: web.StreamResponse, told: dict[str, Any]) -> None:
    async with aclosing(call.gateway.following.states(call.queue_id, sse.QUIET_SECONDS)) as states:
        async for news in states:
            if news is None:
                await sse.keep_alive(response)
                continue
            record = news.record if isinstance(news, Ended) else news
            latest = of_job(call.queue_id, record, call.caller)
            if latest is not None and latest != told:
                told = latest
                await sse.send(response, "state", told)
            if isinstance(news, Ended):
                await sse.send(response, "end", told)
