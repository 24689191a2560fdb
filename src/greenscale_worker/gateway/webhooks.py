"""`/v1/webhook_endpoints`: where events are sent, as `client.webhooks` of the openai client calls it."""

import secrets
from collections.abc import Callable
from time import time
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.errors import Problem, of_validation
from greenscale_worker.gateway.job_objects import json
from greenscale_worker.gateway.route import Route
from greenscale_worker.gateway.waiting import RETRY
from greenscale_worker.gateway.webhook_schemas import (
    WebhookCreate,
    WebhookDeleted,
    WebhookEndpoint,
    WebhookEndpointList,
    WebhookEndpointWithSecret,
    WebhookEventTypeList,
    WebhookRotate,
    WebhooksQuery,
    WebhookTest,
    WebhookTestResult,
    WebhookUpdate,
)
from greenscale_worker.webhooks.addresses import check_url
from greenscale_worker.webhooks.events import EVENT_TYPES, Event
from greenscale_worker.webhooks.registry import Endpoint
from greenscale_worker.webhooks.service import Webhooks

MOST_ENDPOINTS: Final = 100  # of a tenant: all are read for each event
RETRY_SECONDS: Final = 600.0  # in which a client that got no answer asks again
Model = TypeVar("Model", bound=BaseModel)


async def create_webhook(call: Call) -> web.Response:
    """POST /v1/webhook_endpoints."""
    asked = await _asked(call, WebhookCreate)
    webhooks, owned = of_call(call), await _owned(call)
    _check_url(webhooks, asked.url)
    fields = (asked.name, asked.url, tuple(asked.event_types))
    if call.request.headers.get(RETRY, "0") != "0":
        for known in owned:
            same = (known.chosen.name, known.chosen.url, known.chosen.event_types) == fields
            if same and time() - known.chosen.created_at < RETRY_SECONDS:  # nobody has seen its secret
                return json(_told(await webhooks.registry.rotate(known, keep_old=False), secret=True))
    if len(owned) >= MOST_ENDPOINTS:
        raise Problem("bad_request", f"there are {len(owned)} endpoints; at most {MOST_ENDPOINTS} are accepted")
    endpoint = await webhooks.registry.add(call.caller.tenant, *fields)
    return json(_told(endpoint, secret=True))


async def list_webhooks(call: Call) -> web.Response:
    """GET /v1/webhook_endpoints."""
    query: WebhooksQuery = call.query
    return json(page_of([_told(each) for each in await _owned(call)], query.after, query.limit))


async def show_webhook(call: Call) -> web.Response:
    """GET /v1/webhook_endpoints/{id}."""
    return json(_told(await endpoint_of(call)))


async def update_webhook(call: Call) -> web.Response:
    """POST /v1/webhook_endpoints/{id}."""
    endpoint, asked = await endpoint_of(call), await _asked(call, WebhookUpdate)
    registry = of_call(call).registry
    if asked.url is not None:
        _check_url(of_call(call), asked.url)
    changes = asked.model_dump(exclude_none=True, exclude={"status"})
    if asked.event_types is not None:
        changes["event_types"] = tuple(asked.event_types)
    endpoint = await registry.change(endpoint, changes)
    if asked.status == "enabled" and endpoint.off is not None:
        endpoint = await registry.enable(endpoint)
    if asked.status == "disabled" and endpoint.off is None:
        endpoint = await registry.disable(endpoint, "its owner asked for it")
    return json(_told(endpoint))


async def delete_webhook(call: Call) -> web.Response:
    """DELETE /v1/webhook_endpoints/{id}."""
    endpoint = await endpoint_of(call)
    await of_call(call).registry.remove(endpoint)
    return json({"id": endpoint.id, "object": "webhook_endpoint.deleted", "deleted": True})


async def rotate_webhook_secret(call: Call) -> web.Response:
    """POST /v1/webhook_endpoints/{id}/rotate_secret."""
    endpoint, asked = await endpoint_of(call), await _asked(call, WebhookRotate)
    keep_old = asked.keep_old_secret_active_for_24_hours
    return json(_told(await of_call(call).registry.rotate(endpoint, keep_old=keep_old), secret=True))


async def try_webhook(call: Call) -> web.Response:
    """POST /v1/webhook_endpoints/{id}/test."""
    endpoint, asked = await endpoint_of(call), await _asked(call, WebhookTest)
    sample = f"{asked.event_type.partition('.')[0]}_test"
    event = Event(id=f"evt_{secrets.token_hex(16)}", created_at=int(time()), type=asked.event_type, data={"id": sample})
    answer = await of_call(call).sender.send(endpoint, event)
    if answer.status is None:
        raise Problem("receiver_unreachable", answer.message, code=answer.code)
    return json(
        {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": endpoint.id,
            "event_type": asked.event_type,
            "status_code": answer.status,
            "success": True,
        }
    )


async def list_webhook_event_types(_call: Call) -> web.Response:
    """GET /v1/webhook_event_types."""
    return json({"object": "list", "data": list(EVENT_TYPES)})


def of_call(call: Call) -> Webhooks:
    """Return the webhooks of the gateway. Raises Problem `not_found` if it has none."""
    if call.gateway.webhooks is None:
        raise Problem("not_found", "this gateway sends no webhooks")
    return call.gateway.webhooks


async def endpoint_of(call: Call) -> Endpoint:
    """Return the endpoint in the path, if it is the caller's. Raises Problem `not_found`."""
    endpoint = (await of_call(call).registry.read()).get(call.id)
    if endpoint is None or endpoint.chosen.tenant != call.caller.tenant:
        raise Problem("not_found", f"id: there is no webhook endpoint {call.id[:200]!r}", param="id")
    return endpoint


def page_of(all_of_them: list[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """Return a page of a list. Raises Problem `not_found` if `after` is not in it."""
    ids = [each["id"] for each in all_of_them]
    if after is not None and after not in ids:
        raise Problem("not_found", f"after: {after[:200]!r} is not in this list", param="after")
    begin = 0 if after is None else ids.index(after) + 1
    data = all_of_them[begin : begin + limit]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    more = begin + limit < len(ids)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


async def _owned(call: Call) -> list[Endpoint]:
    """Return the caller's endpoints, the newest first."""
    endpoints = (await of_call(call).registry.read()).values()
    owned = [each for each in endpoints if each.chosen.tenant == call.caller.tenant]
    return sorted(owned, key=lambda each: (each.chosen.created_at, each.id), reverse=True)


async def _asked(call: Call, model: type[Model]) -> Model:
    try:
        return model.model_validate(await call.object())
    except ValidationError as error:
        raise of_validation(error) from None


def _check_url(webhooks: Webhooks, url: str) -> None:
    try:
        check_url(url, allow_private=webhooks.sender.allow_private)
    except ValueError as error:
        raise Problem("bad_field", f"url: {error}", param="url") from None


def _told(endpoint: Endpoint, *, secret: bool = False) -> dict[str, Any]:
    chosen, off = endpoint.chosen, endpoint.off
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "created_at": int(chosen.created_at),
        "updated_at": int(endpoint.updated_at),
        "name": chosen.name,
        "url": chosen.url,
        "event_types": list(chosen.event_types),
        "signing_secret_hint": endpoint.hint,
        "status": "enabled" if off is None else "disabled",
        "disabled_at": None if off is None else int(off.at),
        "disabled_reason": None if off is None else off.why,
        **({"signing_secret": endpoint.secret} if secret else {}),
    }


def _changes(
    path: str, handler: Callable[[Call], Any], summary: str, body: type[BaseModel], answer: type[BaseModel]
) -> Route:
    return Route(
        method="POST", path=path, handler=handler, summary=summary, scope="submit", body=body, answers={200: answer}
    )


ONE: Final = "/v1/webhook_endpoints/{id}"
ROUTES: Final = (
    _changes(
        "/v1/webhook_endpoints",
        create_webhook,
        "Have events sent to a URL. The secret is shown only now.",
        WebhookCreate,
        WebhookEndpointWithSecret,
    ),
    Route(
        method="GET",
        path="/v1/webhook_endpoints",
        handler=list_webhooks,
        summary="List endpoints, the newest first.",
        scope="read",
        query=WebhooksQuery,
        answers={200: WebhookEndpointList},
    ),
    Route(
        method="GET",
        path=ONE,
        handler=show_webhook,
        summary="Show an endpoint, without its secret.",
        scope="read",
        answers={200: WebhookEndpoint},
    ),
    _changes(ONE, update_webhook, "Change an endpoint, or enable it again.", WebhookUpdate, WebhookEndpoint),
    Route(
        method="DELETE",
        path=ONE,
        handler=delete_webhook,
        summary="Delete an endpoint. What was not delivered to it yet is dropped.",
        scope="submit",
        answers={200: WebhookDeleted},
    ),
    _changes(
        f"{ONE}/rotate_secret",
        rotate_webhook_secret,
        "Give an endpoint a new secret, which is shown only now.",
        WebhookRotate,
        WebhookEndpointWithSecret,
    ),
    _changes(
        f"{ONE}/test",
        try_webhook,
        "Send a sample event at once, and say what was answered.",
        WebhookTest,
        WebhookTestResult,
    ),
    Route(
        method="GET",
        path="/v1/webhook_event_types",
        handler=list_webhook_event_types,
        summary="List the kinds of events.",
        scope="read",
        answers={200: WebhookEventTypeList},
    ),
)
