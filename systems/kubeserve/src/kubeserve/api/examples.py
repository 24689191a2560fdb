"""Rows that a model takes, made from its signature, and the command that asks it."""

import json
import shlex
from typing import Any, Final

LONGEST: Final = 2000  # characters of a command
MOST_VALUES: Final = 10_000


def rows(signature: dict[str, Any] | None, sample: list[Any] | None = None) -> list[Any]:
    """Return a row of the deployment's sample, or the version's; else of zeros and empty texts, by its signature."""
    if sample:
        return sample[:1]
    if "example" in (signature or {}):
        return [(signature or {})["example"]]
    inputs = (signature or {}).get("inputs") or [{"datatype": "FP64"}]
    if (signature or {}).get("kind") != "tensor":
        return [[_value(port) for port in inputs]]
    tensors = [_tensor(port) for port in inputs]
    return [
        tensors[0] if len(tensors) == 1 else {port["name"]: each for port, each in zip(inputs, tensors, strict=True)}
    ]


def command(url: str, instances: list[Any]) -> str:
    """Return a command that asks for a prediction. The key is in KUBESERVE_KEY."""
    body = json.dumps({"instances": instances}, ensure_ascii=False)
    given = f"-d {shlex.quote(body)}" if len(body) <= LONGEST else "-d @rows.json"
    headers = '-H "Authorization: Bearer $KUBESERVE_KEY" -H "Content-Type: application/json"'
    return f"curl -sS {shlex.quote(url)} {headers} {given}"


def _value(port: dict[str, Any]) -> Any:
    return {"BYTES": "", "BOOL": False}.get(port.get("datatype", ""), 0)


def _tensor(port: dict[str, Any]) -> Any:
    value, size = _value(port), 1
    for length in reversed(port.get("shape") or []):
        size *= max(1, length)
        value = [value] * (max(1, length) if size <= MOST_VALUES else 1)
    return value
