"""The OpenAPI 3.1 document of a table of routes."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from greenscale_worker.gateway.errors import MEDIA_TYPE
from greenscale_worker.gateway.job_objects import JSON
from greenscale_worker.gateway.route import EVENTS, HEADERS, LIMITS, Route
from greenscale_worker.gateway.schemas import ProblemObject
from greenscale_worker.job import JOB_ID

REF: Final = "#/components/schemas/{model}"
INFO: Final = (
    "Jobs for an OpenAI-compatible endpoint, in a queue that loses none. Errors are problem details (RFC 9457) with"
    " OpenAI's `error` beside them."
)
PROBLEM: Final = {
    "description": "A problem: `detail` says what, where, and what is accepted.",
    "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="ProblemObject")}}},
}

# An event's schema is one of each event, not of their text.
KINDS_OF_MEDIA: Final[dict[str, dict[str, str]]] = {JSON: {"type": "object"}, EVENTS: {}}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the document."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ProblemObject, "serialization")]
    for route in routes:
        models += [(each, "serialization") for each in route.answers.values() if not isinstance(each, str)]
        models += [(route.body, "validation")] if route.body is not None else []
    refs, schemas = models_json_schema(list(dict.fromkeys(models)), ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "GreenScale gateway", "description": INFO, "version": version("greenscale-worker")},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, refs: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "tags": [route.path.split("/")[2] if route.path.startswith("/v1/") else "operation"],
        "summary": route.summary,
        "security": [] if route.scope is None else [{"key": []}, {}],
        "parameters": [*_in_path(route), *_in_query(route), *_in_headers(route)],
        "responses": {
            str(status): {"description": _describe(status), "content": _content(answer, refs)}
            for status, answer in route.answers.items()
        },
    }
    if route.also:
        told["responses"][str(next(iter(route.answers)))]["content"] |= _content(route.also, refs)
    if route.scope is not None:
        told["responses"]["default"] = PROBLEM
        told["description"] = f"Scope of a key: `{route.scope}`."
    if "If-None-Match" in route.headers:
        told["responses"]["304"] = {"description": "Nothing has changed."}
    if route.body is not None:
        content = {route.takes: {"schema": refs[(route.body, "validation")]}}
        told["requestBody"] = {"required": True, "content": content}
    return told


def _content(answer: type[BaseModel] | str, refs: Any) -> dict[str, Any]:
    if not isinstance(answer, str):
        return {"application/json": {"schema": refs[(answer, "serialization")]}}
    return {answer: {"schema": KINDS_OF_MEDIA.get(answer, {"type": "string"})}}


def _describe(status: int) -> str:
    return {
        202: "Accepted: it has not ended yet.",
        206: "A part of it.",
        307: "It is at `Location`.",
        503: "Not now.",
    }.get(status, "Done.")


def _in_path(route: Route) -> list[dict[str, Any]]:
    if "{id}" not in route.path:
        return []
    schema = {"type": "string", "pattern": f"^{JOB_ID.pattern}$"}
    return [{"name": "id", "in": "path", "required": True, "schema": schema}]


def _in_query(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema(mode="validation")
    return [
        {"name": name, "in": "query", "required": False, "description": field.pop("description", ""), "schema": field}
        for name, field in schema["properties"].items()
    ]


def _in_headers(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": HEADERS[name],
            "schema": {"type": "string", **LIMITS.get(name, {})},
        }
        for name in route.headers
    ]
