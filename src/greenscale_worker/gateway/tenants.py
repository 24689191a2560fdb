"""`/v1/tenants`: weights and limits of tenants, and how each stands, for keys of no tenant."""

from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.errors import Problem, of_validation
from greenscale_worker.gateway.job_objects import json
from greenscale_worker.gateway.route import Route
from greenscale_worker.gateway.tenant_schemas import TenantDeleted, TenantLimitsIn, TenantList, TenantOut
from greenscale_worker.job import TENANT
from greenscale_worker.queues import TenantLimits, TenantStanding

ONE: Final = "/v1/tenants/{id}"


async def list_tenants(call: Call) -> web.Response:
    """GET /v1/tenants."""
    return json({"object": "list", "data": [_told(each) for each in await call.queue.tenants()]})


async def set_tenant(call: Call) -> web.Response:
    """PUT /v1/tenants/{id}."""
    try:
        asked = TenantLimitsIn.model_validate(await call.object())
    except ValidationError as error:
        raise of_validation(error) from None
    await call.queue.set_tenant(call.id, TenantLimits(**asked.model_dump()))
    (standing,) = await call.queue.tenants(call.id)
    return json(_told(standing))


async def delete_tenant(call: Call) -> web.Response:
    """DELETE /v1/tenants/{id}."""
    known = await call.queue.tenants(call.id) if TENANT.fullmatch(call.id) else []
    if not any(each.limits for each in known):
        raise Problem("not_found", f"id: the tenant {call.id[:200]!r} has no entry", param="id")
    await call.queue.set_tenant(call.id, None)
    return json({"id": call.id, "object": "tenant.deleted", "deleted": True})


def _told(standing: TenantStanding) -> dict[str, Any]:
    limits = standing.limits
    names = ("weight", "in_flight", "requests_per_minute", "tokens_per_minute")
    return {
        "id": standing.name,
        "object": "tenant",
        "limits": None if limits is None else {name: getattr(limits, name) for name in names},
        "waiting": standing.waiting,
        "in_flight": standing.in_flight,
        "oldest_seconds": None if standing.oldest_seconds is None else round(standing.oldest_seconds, 3),
        "held_back": standing.held or None,
        "held_seconds": round(standing.held_seconds, 3),
    }


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/tenants",
        handler=list_tenants,
        summary="List tenants with an entry: weight, limits, what waits, and what holds it back.",
        scope="admin",
        whole=True,
        answers={200: TenantList},
    ),
    Route(
        method="PUT",
        path=ONE,
        handler=set_tenant,
        summary="Give a tenant an entry, in place of any that it has.",
        scope="admin",
        whole=True,
        body=TenantLimitsIn,
        answers={200: TenantOut},
    ),
    Route(
        method="DELETE",
        path=ONE,
        handler=delete_tenant,
        summary="Delete a tenant's entry. Its jobs keep their place in its line.",
        scope="admin",
        whole=True,
        answers={200: TenantDeleted},
    ),
)
