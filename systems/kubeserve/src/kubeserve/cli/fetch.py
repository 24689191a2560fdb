"""`kubeserve fetch`: brings a pod its model and environment."""

import argparse
import time
from pathlib import Path
from typing import Final, TypeVar

from greenscale_worker import ConfigError
from greenscale_worker.cli.terminal import hint
from pydantic import BaseModel, ValidationError

from kubeserve.cli.command import describe, size
from kubeserve.manifests.told import FETCHED, MODELS
from kubeserve.places.fetch import Urls, fetch
from kubeserve.places.workload import Workload

LARGEST: Final = 1024 * 1024
Told = TypeVar("Told", bound=BaseModel)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is mounted in the pod."""
    describe(
        parser,
        "Fetch the model of a deployment, and its environment where the image has it\n"
        "not, before the containers of a pod start. What is there already is kept.",
        "kubeserve fetch --workload workload.json --urls urls.json",
    )
    parser.add_argument("--workload", type=Path, metavar="FILE", required=True, help="what the pod is for")
    parser.add_argument("--urls", type=Path, metavar="FILE", required=True, help="where it is to be had")
    parser.add_argument("--models", type=Path, metavar="DIR", default=Path(MODELS), help="(default: %(default)s)")
    parser.add_argument(
        "--environments", type=Path, metavar="DIR", default=Path(FETCHED), help="(default: %(default)s)"
    )


def run(given: argparse.Namespace) -> int:
    """Fetch. Raises ConfigError, KubeServeError."""
    workload, urls = _read(given.workload, Workload), _read(given.urls, Urls)
    began = time.monotonic()
    fetch(workload, urls, models=given.models, environments=given.environments)
    whole = sum(each.size for each in (urls.model, urls.environment) if each is not None)
    hint(f"{size(whole)} are there after {time.monotonic() - began:.1f} s.")
    return 0


def _read(path: Path, kind: type[Told]) -> Told:
    try:
        with path.open("rb") as file:
            return kind.model_validate_json(file.read(LARGEST))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; a file that `kubeserve serve` made is accepted") from None
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"])) or "it"
        raise ConfigError(
            f"{path}: {where} is not as this version of kubeserve reads it; apply the deployment anew"
        ) from None
