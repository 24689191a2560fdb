"""The OpenAPI document of one deployment, made from the signature of its model."""

from typing import Any, Final

from kubeserve.domain import Deployment, Version

TYPES: Final = {"BYTES": "string", "BOOL": "boolean", "FP16": "number", "FP32": "number", "FP64": "number"}
REFUSED: Final = {"description": "Refused", "content": {"application/json": {"schema": {"type": "object"}}}}


def of_deployment(deployment: Deployment, version: Version, url: str, example: list[Any]) -> dict[str, Any]:
    """Describe `POST url`, with rows as `example` shows."""
    signature = version.signature or {}
    rows = {"type": "array", "minItems": 1, "items": _row(signature)}
    asked = {"type": "object", "required": ["instances"], "properties": {"instances": rows}}
    outputs = signature.get("outputs") or []
    answer = _value(outputs[0]) if len(outputs) == 1 else {}
    told = {
        "predictions": {"type": "array", "items": answer},
        "version": {"type": "string"},
        "model": {"type": "string"},
    }
    server, _, identity = url.rpartition("/")
    operation = {
        "summary": f"Ask {deployment.name}",
        "security": [{"bearer": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": asked, "example": {"instances": example}}},
        },
        "responses": {
            "200": {
                "description": "Predictions",
                "content": {"application/json": {"schema": {"type": "object", "properties": told}}},
            },
            "202": {"description": "Later, at `Location`"},
            "429": REFUSED | {"description": "A limit is reached: again after `Retry-After` seconds"},
            "default": REFUSED,
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": deployment.name, "version": version.tag},
        "servers": [{"url": server}],
        "paths": {f"/{identity}": {"post": operation}},
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


def _row(signature: dict[str, Any]) -> dict[str, Any]:
    inputs = signature.get("inputs") or []
    if signature.get("kind") == "tensor":
        named = {"type": "object", "properties": {port["name"]: _value(port) for port in inputs}}
        return _value(inputs[0]) if len(inputs) == 1 else named
    if not inputs:
        return {}
    values = [_value(port) for port in inputs]
    alike = all(value == values[0] for value in values)
    listed: dict[str, Any] = {"type": "array", "minItems": len(inputs), "maxItems": len(inputs)}
    listed |= {"items": values[0]} if alike else {"prefixItems": values}
    named = {"type": "object", "properties": {port["name"]: value for port, value in zip(inputs, values, strict=True)}}
    return {"anyOf": [listed, named | {"required": [port["name"] for port in inputs]}]}


def _value(port: dict[str, Any]) -> dict[str, Any]:
    datatype = port.get("datatype", "any")
    kind = TYPES.get(datatype, "integer" if "INT" in datatype else None)
    schema: dict[str, Any] = {} if kind is None else {"type": kind}
    for length in reversed(port.get("shape") or []):
        schema = {"type": "array", "items": schema} | ({"minItems": length, "maxItems": length} if length > 0 else {})
    return schema
