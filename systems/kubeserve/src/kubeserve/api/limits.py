"""Counts requests that have a limit: of the key that calls, and of the deployment that is called."""

from typing import Final

from aiohttp import web

from kubeserve.api.call import Call
from kubeserve.limits import Limit, of_deployment, of_key

LEFT: Final = web.RequestKey("left", dict)  # headers of the answer, whatever it is


async def count(call: Call) -> None:
    """Count a request. Nothing is asked where nothing limits it.

    Raises LimitedError where a limit is reached, first that of the key: what it is refused takes nothing from others.
    """
    left = None
    for limit in await _limits(call):
        standing = await call.plane.limits.take(limit)
        if standing.wait or left is None or standing.remaining < left.remaining:
            left = standing
            call.request[LEFT] = standing.headers
        if refusal := standing.refusal:
            raise refusal


async def _limits(call: Call) -> list[Limit]:
    caller, found = call.caller, list[Limit]()
    if caller.key_id is not None and caller.requests_per_minute is not None:
        found.append(of_key(caller.key_id, caller.requests_per_minute))
    deployment = await call.state.deployment(call.owner_id, call.part("deployment_id"))
    if deployment.requests_per_minute is not None:
        found.append(of_deployment(deployment.id, deployment.requests_per_minute))
    return found
