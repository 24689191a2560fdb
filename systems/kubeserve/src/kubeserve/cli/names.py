"""Finds what people name: a model, MODEL:TAG, a deployment; ids are found, too."""

import re
from collections.abc import Sequence
from typing import Final

from greenscale_worker import ConfigError
from greenscale_worker.cli.usage import meant

from kubeserve.cli.command import Json
from kubeserve.client import KubeServe
from kubeserve.errors import NotFoundError

ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def model_of(api: KubeServe, text: str) -> Json:
    """Return a model. Raises NotFoundError."""
    return api.model(text) if ID.fullmatch(text) else _named(api.models(), "name", text, "model")


def version_of(api: KubeServe, text: str) -> Json:
    """Return a version. Raises NotFoundError, ConfigError."""
    if ID.fullmatch(text):
        return api.version(text)
    name, tag = split(text)
    return _named(api.versions(model_of(api, name)["id"]), "tag", tag, f"version of {name}")


def deployment_of(api: KubeServe, text: str) -> Json:
    """Return a deployment. Raises NotFoundError."""
    if ID.fullmatch(text):
        return api.deployment(text)
    return _named(api.deployments(), "name", text, "deployment")


def split(text: str) -> tuple[str, str]:
    """Return model and tag of MODEL:TAG. Raises ConfigError."""
    name, _, tag = text.partition(":")
    if not name or not tag:
        raise ConfigError(f"{text!r}: a version is named MODEL:TAG, such as iris:v1")
    return name, tag


def find(things: Sequence[Json], field: str, text: str) -> Json | None:
    """Return the one of that name, if there is one."""
    return next((thing for thing in things if thing[field] == text), None)


def _named(things: Sequence[Json], field: str, text: str, kind: str) -> Json:
    found = find(things, field, text)
    if found is None:
        hint = meant(text, [thing[field] for thing in things])
        raise NotFoundError("; ".join(filter(None, (f"there is no {kind} {text!r}", hint))))
    return found
