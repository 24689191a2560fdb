"""The OpenAPI document of the table of routes."""

import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import BaseModel

from kubeserve.api.call import Call
from kubeserve.api.route import Access, Route

PART: Final = re.compile(r"{(\w+)}")
REFUSAL: Final = {
    "type": "object",
    "required": ["error", "code", "faults"],
    "properties": {
        "error": {"type": "string"},
        "code": {"type": "string"},
        "faults": {
            "type": "array",
            "items": {"type": "object", "properties": {"field": {"type": "string"}, "message": {"type": "string"}}},
        },
    },
}
LEFT: Final = {
    f"x-ratelimit-{name}-requests": {"description": text, "schema": {"type": "string"}}
    for name, text in (
        ("limit", "How many a minute the tightest limit allows; no header where there is no limit"),
        ("remaining", "How many may come at once now"),
        ("reset", "In how many seconds as many may come again as in a minute, such as 1.500s"),
    )
}
LIMITED: Final = {
    "description": "A limit is reached: of the key or the deployment, if these headers are there",
    "headers": {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}, **LEFT},
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
}
REFS: Final = "#/components/schemas/{model}"


async def openapi(call: Call) -> web.Response:
    """Describe the API."""
    return web.Response(body=call.state.openapi, content_type="application/json")


def document(routes: Iterable[Route]) -> bytes:
    """Write the document of these routes."""
    schemas: dict[str, Any] = {"Refusal": REFUSAL}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    told = {
        "openapi": "3.1.0",
        "info": {"title": "KubeServe", "version": version("kubeserve")},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "kubeserve"},
            },
        },
    }
    return orjson.dumps(told)


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in PART.findall(route.path)
    ]
    told: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "parameters": [*named, *_query(route)],
        "responses": {
            str(route.status): _content(route, schemas),
            "default": {"description": "Refused", "content": {"application/json": {"schema": _ref("Refusal")}}},
        },
    }
    if route.limited:
        told["responses"]["429"] = LIMITED
    if route.access is not Access.ANYONE:
        told["security"] = [{"bearer": []}, {"cookie": []}]
    if route.body is not None:
        told["requestBody"] = {"content": {"application/json": {"schema": _schema(route.body, schemas)}}}
    elif route.takes:
        told["requestBody"] = {"required": True, "content": {route.takes: {}}}
    return told


def _query(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    properties = route.query.model_json_schema()["properties"]
    return [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


def _content(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    if route.answer is None:
        described: dict[str, Any] = {"description": route.summary}
        return described if route.status == 204 else described | {"content": {route.media: {}}}  # noqa: PLR2004
    schema = route.answer.json_schema(ref_template=REFS)
    schemas.update(schema.pop("$defs", {}))
    if (title := schema.get("title")) is not None:
        schemas[title] = schema
        schema = _ref(title)
    return {"description": route.summary, "content": {route.media: {"schema": schema}}}


def _schema(shape: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    schema = shape.model_json_schema(ref_template=REFS)
    schemas.update(schema.pop("$defs", {}))
    schemas[shape.__name__] = schema
    return _ref(shape.__name__)


def _ref(name: str) -> dict[str, str]:
    return {"$ref": REFS.format(model=name)}
