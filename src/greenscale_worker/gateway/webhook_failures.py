"""`/v1/webhook_endpoints/{id}/failures`: deliveries that are not tried again by themselves, to list and to replay."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.errors import Problem, of_validation
from greenscale_worker.gateway.job_objects import json
from greenscale_worker.gateway.route import Route
from greenscale_worker.gateway.schemas import MOST_LISTED, Page, Replayed
from greenscale_worker.gateway.webhook_schemas import WebhookFailureList, WebhookReplay
from greenscale_worker.gateway.webhooks import ONE, endpoint_of, of_call
from greenscale_worker.queues import DeadLetter
from greenscale_worker.webhooks.events import Delivery

PATH: Final = f"{ONE}/failures"


async def list_webhook_failures(call: Call) -> web.Response:
    """GET /v1/webhook_endpoints/{id}/failures."""
    query: Page = call.query
    endpoint = await endpoint_of(call)
    if query.after is not None and await _found(call, endpoint.id, query.after) is None:
        raise Problem("not_found", f"after: {query.after[:200]!r} is not in this list", param="after")
    ids = list[str]()
    async with aclosing(_failures(call, endpoint.id, after=query.after)) as failures:
        async for letter in failures:
            ids.append(letter.id)
            if len(ids) > query.limit:
                break
    letters = await asyncio.gather(*(_found(call, endpoint.id, name, payload=True) for name in ids[: query.limit]))
    data = [told for letter in letters if letter is not None and (told := _told(letter)) is not None]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    more = len(ids) > query.limit
    return json({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more})


async def replay_webhook_failures(call: Call) -> web.Response:
    """POST /v1/webhook_endpoints/{id}/failures/replay."""
    endpoint = await endpoint_of(call)
    try:
        asked = WebhookReplay.model_validate(await call.object())
    except ValidationError as error:
        raise of_validation(error) from None
    if asked.ids is None:
        async with aclosing(_failures(call, endpoint.id, oldest_first=True)) as failures:
            ids = [letter.id async for letter in failures]
        unknown = list[str]()
    else:
        wanted = list(dict.fromkeys(asked.ids))
        found = [await _found(call, endpoint.id, name) for name in wanted]
        letters = sorted(filter(None, found), key=lambda letter: letter.died_at)
        ids = [letter.id for letter in letters]
        unknown = [name for name, letter in zip(wanted, found, strict=True) if letter is None]
    outcomes = await of_call(call).queue.replay_many(ids)
    refused = [{"id": name, "reason": "unknown"} for name in unknown]
    refused += [
        {"id": name, "reason": outcome} for name, outcome in zip(ids, outcomes, strict=True) if outcome != "replayed"
    ]
    return json({"object": "replay", "replayed": outcomes.count("replayed"), "refused": refused[:MOST_LISTED]})


async def _failures(
    call: Call, endpoint_id: str, *, after: str | None = None, oldest_first: bool = False
) -> AsyncGenerator[DeadLetter, None]:
    """Yield the dead letters of an endpoint, without payloads."""
    async for letter in of_call(call).queue.dead(after=after, oldest_first=oldest_first, payloads=False):
        if _is_of(letter, endpoint_id):
            yield letter


async def _found(call: Call, endpoint_id: str, name: str, *, payload: bool = False) -> DeadLetter | None:
    """Return a dead letter of an endpoint by its id."""
    letter = await of_call(call).queue.dead_letter(name, payload=payload)
    return letter if letter is not None and letter.id == name and _is_of(letter, endpoint_id) else None


def _is_of(letter: DeadLetter, endpoint_id: str) -> bool:
    return f".{endpoint_id}." in (letter.job_id or "")


def _told(letter: DeadLetter) -> dict[str, Any] | None:
    """Return what is told of a dead letter; None if its payload was deleted by hand."""
    try:
        delivery = Delivery.model_validate_json(letter.payload)
    except ValidationError:
        return None
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
