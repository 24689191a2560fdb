"""The schemas of custom resources, as an API server reads them that is asked to be strict."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml


@cache
def custom_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """Return those in the folder KEDA_CRD_DIR, by apiVersion and kind, with unknown fields forbidden.

    Skips the test where that is not set.
    """
    folder = os.environ.get("KEDA_CRD_DIR")
    if not folder:
        pytest.skip("KEDA_CRD_DIR names no folder with KEDA's and the Prometheus operator's resource definitions")
    schemas = {}
    for path in Path(folder).glob("*.yaml"):
        for definition in yaml.load_all(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            spec = definition["spec"]
            for version in spec["versions"]:
                key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                schemas[key] = strict(version["schema"]["openAPIV3Schema"])
    return schemas


def strict(schema: Any) -> Any:
    """Forbid fields that a schema does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    stricter = {key: strict(value) for key, value in schema.items()}
    if isinstance(pattern := schema.get("pattern"), str) and "(?i)" in pattern:
        stricter["pattern"] = "(?i)" + pattern.replace("(?i)", "")  # Go takes flags anywhere
    open_ended = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & schema.keys()
    if schema.get("type") == "object" and "properties" in schema and not open_ended:
        stricter["additionalProperties"] = False
    return stricter
