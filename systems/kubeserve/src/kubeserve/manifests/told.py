"""What the pods of a revision are told: what to fetch, and what to serve from where it lies then."""

from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import orjson

from kubeserve.places.workload import Replicable, Workload

ENVIRONMENTS: Final = "/opt/kubeserve/environments"  # those that the image has: the base
FETCHED: Final = "/environment"
MODELS: Final = "/models"


@dataclass(frozen=True, slots=True)
class Download:
    """What a pod fetches: from where, and how to know that it is that. `size` is in bytes."""

    url: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Urls:
    """What the pods of one revision fetch; no environment where the image has it."""

    model: Download
    environment: Download | None = None


def environment_of(what: Replicable, urls: Urls) -> str:
    """Return where a pod has the environment."""
    return f"{FETCHED if urls.environment else ENVIRONMENTS}/{what.environment.name}"


def model_of(what: Replicable) -> str:
    """Return where a pod has the model."""
    return f"{MODELS}/{what.version}/{PurePosixPath(what.key).name}"


def workload_json(workload: Workload, what: Replicable, urls: Urls) -> str:
    """Return the workload of a pod: one revision, with one replica for as long as the pod lives.

    More replicas are more pods, and sleep is a pod's going away. The generation is of no concern to a pod: a new wish
    for the same revision changes nothing in it.
    """
    inside = {"model": Path(model_of(what)), "environment": Path(environment_of(what, urls))}
    target = what.model_copy(update={**inside, "minimum": 1, "maximum": 1})
    told = Workload(id=workload.id, tenant=workload.tenant, generation=what.revision, target=target)
    return told.model_dump_json(indent=2)


def urls_json(what: Replicable, urls: Urls) -> str:
    """Return what a pod fetches, with the paths where it shall lie."""
    told = {
        "model": {**asdict(urls.model), "path": model_of(what)},
        "environment": {**asdict(urls.environment), "path": environment_of(what, urls)} if urls.environment else None,
    }
    return orjson.dumps(told, option=orjson.OPT_INDENT_2).decode()
