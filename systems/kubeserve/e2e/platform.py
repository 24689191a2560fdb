"""What these scripts have in common: an account, a version that is ready, a deployment that answers."""

import secrets
import time
from pathlib import Path
from typing import Any

from kubeserve.client import KubeServe
from kubeserve.errors import KubeServeError, UnavailableError

MODEL = Path(__file__).with_name("iris.onnx")
FLOWERS = (([5.1, 3.5, 1.4, 0.2], 0), ([6.2, 2.9, 4.3, 1.3], 1), ([7.7, 3.0, 6.1, 2.3], 2))
READY_SECONDS = 600.0  # the environment of models may have to be built first
UP_SECONDS = 300.0  # on a cluster the image may have to be fetched first


def unique() -> str:
    """Return a name that nothing else has."""
    return f"e2e-{secrets.token_hex(6)}"


def account(api: KubeServe, name: str) -> None:
    """Log in as a new account, unless the client has a token that is good."""
    try:
        api.me()
    except KubeServeError as error:
        if error.code != "unauthenticated":
            raise
        email, password = f"{name}@example.org", secrets.token_urlsafe(16)
        api.register(email, password)
        api.login(email, password)


def ready(api: KubeServe, name: str) -> dict[str, Any]:
    """Upload the model under a name, and return its version when it is proved."""
    model = api.create_model(name)
    version = api.create_version(model["id"], "v1")
    api.upload(version["id"], MODEL)
    api.finish(version["id"])
    return api.wait_until_ready(version["id"], timeout=READY_SECONDS)


def deployed(api: KubeServe, name: str, version: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """Deploy a version, and return the deployment when it answers."""
    deployment = api.deploy(version["model_id"], name, version["id"], **spec)
    ends = time.monotonic() + UP_SECONDS
    while deployment["active_revision"] is None:
        if deployment["state"] == "failed" or time.monotonic() > ends:
            raise UnavailableError(f"the deployment is {deployment['state']}: {deployment['state_reason']}")
        time.sleep(0.1)
        deployment = api.deployment(deployment["id"])
    return deployment
