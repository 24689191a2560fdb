"""Manifests as people keep them: YAML, a file for each object, and the file by which kustomize finds them."""

import re
from base64 import b64decode
from collections.abc import Iterable, Sequence
from typing import Any, Final

import yaml

Manifest = dict[str, Any]
KUSTOMIZATION: Final = "kustomization.yaml"
TO_SET: Final = "SET-ME: "  # begins the value of a secret that nobody but its owner writes down
NAMED: Final = re.compile(r"^(d|ks)-[0-9a-f-]{36}-?")
WIDTH: Final = 120


def folder(manifests: Sequence[Manifest], about: str) -> dict[str, str]:
    """Return the files of a folder by their names; `about` are lines that begin its kustomization.yaml."""
    files = {file_name(manifest): as_yaml([manifest]) for manifest in manifests}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    comment = "".join(f"# {line}".rstrip() + "\n" for line in about.splitlines())
    return {KUSTOMIZATION: comment + as_yaml([kustomization]), **files}


def file_name(manifest: Manifest) -> str:
    """Return the name of an object's file, such as `secret-redis.yaml`: the folder is for one deployment."""
    words = manifest["kind"].lower(), NAMED.sub("", manifest["metadata"]["name"])
    return f"{'-'.join(filter(None, words))}.yaml"


def as_yaml(manifests: Iterable[Manifest]) -> str:
    """Return objects as documents of YAML."""
    return yaml.dump_all(
        [_readable(manifest) for manifest in manifests],
        Dumper=_Dumper,
        sort_keys=False,
        width=WIDTH,
        allow_unicode=True,
    )


def _readable(manifest: Manifest) -> Manifest:
    """Return a Secret with its values as text, which the API server takes as well."""
    if manifest["kind"] != "Secret":
        return manifest
    values = {key: b64decode(value).decode() for key, value in manifest["data"].items()}
    return {**{key: value for key, value in manifest.items() if key != "data"}, "stringData": values}


class _Dumper(yaml.SafeDumper):
    """Lists are indented below their names, texts of several lines are blocks, and nothing is an alias."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002  the library's
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  the library's
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
