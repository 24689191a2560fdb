"""`/v1/dead`: dead letters, to list, show, count, replay and delete."""

from base64 import b64encode
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.errors import Problem, of_validation
from greenscale_worker.gateway.job_objects import json, moment
from greenscale_worker.gateway.route import Route
from greenscale_worker.gateway.schemas import (
    MOST_LISTED,
    DeadCodes,
    DeadList,
    DeadObject,
    DeadQuery,
    Deleted,
    Replayed,
    ReplayRequest,
)
from greenscale_worker.queues import DeadFilter, DeadLetter

ONE: Final = "/v1/dead/{id:(?!(?:codes|replay)$)[^/]+}"  # those are paths of their own


async def list_dead(call: Call) -> web.Response:
    """GET /v1/dead."""
    query: DeadQuery = call.query
    if query.after is not None:
        await _letter(call, query.after, "after")
    found, more = list[dict[str, Any]](), False
    async with aclosing(_letters(call, query.code, after=query.after, limit=query.limit + 1)) as letters:
        async for letter in letters:
            if len(found) == query.limit:
                more = True
                break
            found.append(_told(call, letter))
    ids = [letter["id"] for letter in found]
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    return json({"object": "list", "data": found, "first_id": first, "last_id": last, "has_more": more})


async def show_dead(call: Call) -> web.Response:
    """GET /v1/dead/{id}."""
    letter = await _letter(call, call.id, "id", payload=True)
    try:
        payload = {"payload": letter.payload.decode()}
    except UnicodeDecodeError:
        payload = {"payload_base64": b64encode(letter.payload).decode()}
    return json({**_told(call, letter), **payload})


async def count_codes(call: Call) -> web.Response:
    """GET /v1/dead/codes."""
    if call.caller.prefix:
        counts: dict[str, int] = Counter([letter.code async for letter in _letters(call, None)])
    else:
        counts = await call.queue.dead_codes()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return json({"object": "list", "data": [{"code": code, "count": count} for code, count in ordered]})


async def replay_one(call: Call) -> web.Response:
    """POST /v1/dead/{id}/replay."""
    letter = await _letter(call, call.id, "id")
    (outcome,) = await call.queue.replay_many([letter.id])
    if outcome == "unknown":
        raise _no_such_letter(call.id, "id")
    if outcome == "payload_lost":
        raise Problem("payload_lost", "its payload was deleted, so there is nothing to run", param="id")
    return json({"object": "replay", "replayed": 1, "refused": []})


async def replay_many(call: Call) -> web.Response:
    """POST /v1/dead/replay."""
    try:
        asked = ReplayRequest.model_validate(await call.object())
    except ValidationError as error:
        raise of_validation(error) from None
    if (asked.ids is None) == (asked.code is None):
        raise Problem("bad_field", "ids or code is expected, one of the two", param="ids")
    refused, names = list[dict[str, str]](), dict[str, str]()
    for name in dict.fromkeys(asked.ids or ()):
        letter = await _found(call, name)
        if letter is None:
            refused.append({"id": name, "reason": "unknown"})
        else:
            names.setdefault(letter.id, name)
    if asked.code is not None:
        names = {letter.id: letter.id async for letter in _letters(call, asked.code, oldest_first=True)}
    outcomes = await call.queue.replay_many(list(names))
    for name, outcome in zip(names.values(), outcomes, strict=True):
        if outcome != "replayed":
            refused.append({"id": name, "reason": outcome})
    return json({"object": "replay", "replayed": outcomes.count("replayed"), "refused": refused[:MOST_LISTED]})


async def delete_one(call: Call) -> web.Response:
    """DELETE /v1/dead/{id}."""
    letter = await _letter(call, call.id, "id")
    if not await call.queue.discard([letter.id]):
        raise _no_such_letter(call.id, "id")
    return json({"id": letter.id, "object": "dead_letter", "deleted": True})


async def _letters(
    call: Call, code: str | None, *, after: str | None = None, limit: int | None = None, oldest_first: bool = False
) -> AsyncGenerator[DeadLetter, None]:
    """Yield the caller's letters, without payloads."""
    most = limit if not call.caller.prefix else None  # of all letters, too few might be the caller's
    found = call.queue.dead(DeadFilter(code=code), limit=most, after=after, oldest_first=oldest_first, payloads=False)
    async for letter in found:
        if call.caller.owns(letter.job_id):
            yield letter


async def _found(call: Call, name: str, *, payload: bool = False) -> DeadLetter | None:
    """Find one of the caller's letters by its id, or its job's."""
    for each in dict.fromkeys((f"{call.caller.prefix}{name}", name)):
        letter = await call.queue.dead_letter(each, payload=payload)
        if letter is not None and call.caller.owns(letter.job_id):
            return letter
    return None


async def _letter(call: Call, name: str, param: str, *, payload: bool = False) -> DeadLetter:
    """Find one as `_found` does. Raises Problem `not_found`."""
    letter = await _found(call, name, payload=payload)
    if letter is None:
        raise _no_such_letter(name, param)
    return letter


def _no_such_letter(name: str, param: str) -> Problem:
    return Problem("not_found", f"{param}: there is no dead letter {name[:200]!r}", param=param)


def _told(call: Call, letter: DeadLetter) -> dict[str, Any]:
    """Return a letter without its payload: there may be many, and each may be large."""
    return {
        "id": letter.id,
        "object": "dead_letter",
        "job_id": None if letter.job_id is None else call.caller.public_id(letter.job_id),
        **{name: getattr(letter, name) for name in ("code", "message", "attempts", "crashes")},
        "died_at": moment(letter.died_at),
    }


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/dead",
        handler=list_dead,
        summary="List dead letters, the latest first.",
        scope="read",
        query=DeadQuery,
        answers={200: DeadList},
    ),
    Route(
        method="GET",
        path="/v1/dead/codes",
        handler=count_codes,
        summary="Count dead letters by code.",
        scope="read",
        answers={200: DeadCodes},
    ),
    Route(
        method="POST",
        path="/v1/dead/replay",
        handler=replay_many,
        summary="Put dead letters back to the head of the queue, by id or by code.",
        scope="submit",
        body=ReplayRequest,
        answers={200: Replayed},
    ),
    Route(
        method="GET",
        path="/v1/dead/{id}",
        pattern=ONE,
        handler=show_dead,
        summary="Show a dead letter, by its id or its job's, with its payload.",
        scope="read",
        answers={200: DeadObject},
    ),
    Route(
        method="POST",
        path="/v1/dead/{id}/replay",
        handler=replay_one,
        summary="Put a dead letter back to the head of the queue, with a clean record.",
        scope="submit",
        answers={200: Replayed},
    ),
    Route(
        method="DELETE",
        path="/v1/dead/{id}",
        pattern=ONE,
        handler=delete_one,
        summary="Delete a dead letter.",
        scope="cancel",
        answers={200: Deleted},
    ),
)
