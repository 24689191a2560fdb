"""Uploads a model, deploys it, asks it, deletes it, and checks each answer and that nothing is left.

Run with `python -m e2e [--url URL]`. KUBESERVE_TOKEN names who calls; without it a new account is made, which stays,
for accounts cannot be deleted. Exit code 0: all of it was as it has to be; 1: a line says what was not.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from e2e.platform import FLOWERS, account, deployed, ready, unique
from kubeserve.client import KubeServe
from kubeserve.errors import KubeServeError, NotFoundError, UnprocessableError

GONE_SECONDS = 60.0


class WrongError(Exception):
    """An answer is not what it has to be."""


def main() -> int:
    """Run it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m e2e", description=__doc__)
    parser.add_argument("--url", default=os.environ.get("KUBESERVE_URL", "http://127.0.0.1:8600"))
    given = parser.parse_args()
    began = time.monotonic()
    try:
        with KubeServe(given.url, token=os.environ.get("KUBESERVE_TOKEN")) as api:
            _run(api)
    except (KubeServeError, WrongError) as error:
        sys.stderr.write(f"FAILED: {error}\n")
        return 1
    sys.stdout.write(f"passed in {time.monotonic() - began:.1f} s\n")
    return 0


def _run(api: KubeServe) -> None:
    name = unique()
    with _step("log in"):
        account(api, name)
    with _step("upload, until it is ready"):
        version = ready(api, name)
    try:
        _deploy_and_ask(api, name, version)
    finally:
        with _step("delete the model"):
            _delete_model(api, version["model_id"])
    with _step("nothing is left"):
        _check(name not in [model["name"] for model in api.models()], "the model is still listed")


def _deploy_and_ask(api: KubeServe, name: str, version: dict[str, Any]) -> None:
    with _step("deploy, until it answers"):
        deployment = deployed(api, name, version)
    try:
        with _step("predict: single, batch, asynchronous"):
            _ask(api, deployment["id"])
        with _step("a wrong row is refused"):
            _ask_wrongly(api, deployment["id"])
    finally:
        with _step("delete the deployment"):
            _delete(api, deployment["id"])


def _ask(api: KubeServe, deployment_id: str) -> None:
    for row, kind in FLOWERS:
        _check(_kinds(api.predict(deployment_id, [row])) == [kind], f"{row} is no {kind}")
    rows, kinds = [row for row, _ in FLOWERS] * 50, [kind for _, kind in FLOWERS] * 50
    _check(_kinds(api.predict(deployment_id, rows)) == kinds, "a batch is answered otherwise than its rows")
    prediction = api.predict_async(deployment_id, rows[:3])
    ends = time.monotonic() + GONE_SECONDS
    while (answer := api.result(prediction)) is None:
        _check(time.monotonic() < ends, "an asynchronous prediction has no answer")
        time.sleep(0.1)
    _check(_kinds(answer) == kinds[:3], "an asynchronous prediction is answered otherwise")


def _kinds(answer: dict[str, Any]) -> list[int]:
    """Return the labels; a model with several outputs answers an object for each row."""
    return [each["label"] if isinstance(each, dict) else each for each in answer["predictions"]]


def _ask_wrongly(api: KubeServe, deployment_id: str) -> None:
    try:
        api.predict(deployment_id, [[1.0, 2.0]])
    except UnprocessableError:
        return
    raise WrongError("two numbers were accepted where four belong")


def _delete(api: KubeServe, deployment_id: str) -> None:
    api.delete(deployment_id)
    ends = time.monotonic() + GONE_SECONDS
    while time.monotonic() < ends:
        try:
            api.deployment(deployment_id)
        except NotFoundError:
            return
        time.sleep(0.1)
    raise WrongError(f"the deployment is still there after {GONE_SECONDS:g} s")


def _delete_model(api: KubeServe, model_id: str) -> None:
    api.delete_model(model_id)


@contextmanager
def _step(words: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    sys.stdout.write(f"  {words:<40}{time.monotonic() - began:7.1f} s\n")
    sys.stdout.flush()


def _check(holds: bool, otherwise: str) -> None:  # noqa: FBT001  it reads as an assertion
    if not holds:
        raise WrongError(otherwise)


if __name__ == "__main__":
    sys.exit(main())
