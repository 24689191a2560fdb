"""`/v1/models`: what the endpoint lists, or else the model that is configured."""

from functools import partial
from typing import Any, Final

from aiohttp import web

from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.job_objects import json
from greenscale_worker.gateway.route import Route
from greenscale_worker.gateway.schemas import ModelList, ModelObject
from greenscale_worker.wire_json import read

FRESH_SECONDS: Final = 60.0
OWNER: Final = "greenscale"


async def list_models(call: Call) -> web.Response:
    """GET /v1/models."""
    return json({"object": "list", "data": await _models(call)})


async def show_model(call: Call) -> web.Response:
    """GET /v1/models/{id}."""
    for model in await _models(call):
        if model["id"] == call.id:
            return json(model)
    raise Problem("not_found", f"there is no model {call.id[:200]!r}", code="model_not_found", param="model")


async def _models(call: Call) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = await call.gateway.shared.get("models", FRESH_SECONDS, partial(_listed, call))
    return models


async def _listed(call: Call) -> list[dict[str, Any]]:
    """Ask the endpoint; what it does not say of a model is filled in."""
    listing = call.gateway.options.list_models
    answer = None if listing is None else await listing()
    try:
        found = read(answer) if answer else {}
    except ValueError:
        found = {}
    models = found.get("data") if isinstance(found, dict) else None
    known = [each for each in models or () if isinstance(each, dict) and isinstance(each.get("id"), str)]
    if not known and call.gateway.options.model is not None:
        known = [{"id": call.gateway.options.model}]
    return [_told(model) for model in known]


def _told(model: dict[str, Any]) -> dict[str, Any]:
    created, owner = model.get("created"), model.get("owned_by")
    return {
        "id": model["id"],
        "object": "model",
        "created": created if isinstance(created, int) else 0,
        "owned_by": owner if isinstance(owner, str) else OWNER,
    }


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/models",
        handler=list_models,
        summary="List the models of the endpoint.",
        scope="read",
        answers={200: ModelList},
    ),
    Route(
        method="GET",
        path="/v1/models/{id}",
        pattern="/v1/models/{id:.+}",
        handler=show_model,
        summary="Show a model.",
        scope="read",
        answers={200: ModelObject},
    ),
)
