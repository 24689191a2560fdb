"""`/v1/webhook_endpoints/{id}/failures`: deliveries that are not tried again by themselves, to list and to replay."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.errors import of_validation
from greenscale_worker.gateway.job_objects import json
from greenscale_worker.gateway.route import Route
from greenscale_worker.gateway.schemas import MOST_LISTED, Page, Replayed
from greenscale_worker.gateway.webhook_schemas import WebhookFailureList, WebhookReplay
from greenscale_worker.gateway.webhooks import ONE, endpoint_of, of_call, page_of
from greenscale_worker.queues import DeadLetter
from greenscale_worker.webhooks.events import Delivery

PATH: Final = f"{ONE}/failures"


async def list_webhook_failures(call: Call) -> web.Response:
    """GET /v1/webhook_endpoints/{id}/failures."""
    query: Page = call.query
    endpoint = await endpoint_of(call)
    async with aclosing(_failures(call, endpoint.id)) as failures:
        found = [_told(letter, delivery) async for letter, delivery in failures]
    return json(page_of(found, query.after, query.limit))


async def replay_webhook_failures(call: Call) -> web.Response:
    """POST /v1/webhook_endpoints/{id}/failures/replay."""
    endpoint = await endpoint_of(call)
    try:
        asked = WebhookReplay.model_validate(await call.object())
    except ValidationError as error:
        raise of_validation(error) from None
    async with aclosing(_failures(call, endpoint.id)) as failures:
        known = [letter.id async for letter, _ in failures]
    wanted = known if asked.ids is None else list(dict.fromkeys(asked.ids))
    refused = [{"id": name, "reason": "unknown"} for name in wanted if name not in set(known)]
    ids = [name for name in reversed(known) if name in set(wanted)]  # the oldest first
    outcomes = await of_call(call).queue.replay_many(ids)
    refused += [
        {"id": name, "reason": outcome} for name, outcome in zip(ids, outcomes, strict=True) if outcome != "replayed"
    ]
    return json({"object": "replay", "replayed": outcomes.count("replayed"), "refused": refused[:MOST_LISTED]})


async def _failures(call: Call, endpoint_id: str) -> AsyncGenerator[tuple[DeadLetter, Delivery], None]:
    """Yield the dead letters of an endpoint, the latest first."""
    async for letter in of_call(call).queue.dead():
        if f".{endpoint_id}." not in (letter.job_id or ""):
            continue
        try:
            yield letter, Delivery.model_validate_json(letter.payload)
        except ValidationError:
            continue  # its payload was deleted by hand


def _told(letter: DeadLetter, delivery: Delivery) -> dict[str, Any]:
    return {
        "id": letter.id,
        "object": "webhook_endpoint.failure",
        "event": delivery.event.model_dump(),
        "tries": delivery.number,
        "code": letter.code,
        "message": letter.message,
        "failed_at": int(letter.died_at),
    }


ROUTES: Final = (
    Route(
        method="GET",
        path=PATH,
        handler=list_webhook_failures,
        summary="List deliveries that have failed for good, the latest first.",
        scope="read",
        query=Page,
        answers={200: WebhookFailureList},
    ),
    Route(
        method="POST",
        path=f"{PATH}/replay",
        handler=replay_webhook_failures,
        summary="Try deliveries again that have failed for good: those with these ids, or all.",
        scope="submit",
        body=WebhookReplay,
        answers={200: Replayed},
    ),
)
