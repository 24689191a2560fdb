"""The image: built from the repository, and brought to where the cluster's nodes find it."""

from pathlib import Path
from typing import Final

from greenscale_worker import ConfigError

from kubeserve.install.tools import run

NAME: Final = "kubeserve"
CONTAINERFILE: Final = "systems/kubeserve/Containerfile"
BUILD_SECONDS: Final = 3600.0
LOAD_SECONDS: Final = 900.0
SHARED: Final = ("docker-desktop", "rancher-desktop", "orbstack", "colima")  # they run what Docker here has built
LOADERS: Final = ("kind", "minikube", "k3d", "none")
CANNOT: Final = (
    "an image that is built here does not reach its nodes. Push it to a registry, and name it by "
    "--image REGISTRY/kubeserve:TAG; or say by --load how it gets there"
)


def loader_of(context: str, asked: str | None) -> str:
    """Return how an image gets to the nodes of the cluster, as its context tells. Raises ConfigError if none does."""
    if asked is not None:
        return asked
    for prefix in ("kind", "k3d"):
        if context.startswith(f"{prefix}-"):
            return prefix
    if context == "minikube":
        return context
    if context.startswith(SHARED):
        return "none"
    raise ConfigError(f"the cluster of the context {context}: {CANNOT}")


def build(root: Path) -> str:
    """Build it, and return its name, whose tag tells one content from another. Raises as `tools.run`."""
    draft = f"{NAME}:dev"
    run(["docker", "build", "--file", str(root / CONTAINERFILE), "--tag", draft, str(root)], seconds=BUILD_SECONDS)
    told = run(["docker", "image", "inspect", "--format", "{{.Id}}", draft]).strip()
    name = f"{NAME}:dev-{told.rpartition(':')[2][:12]}"
    run(["docker", "tag", draft, name])
    return name


def load(image: str, context: str, loader: str) -> None:
    """Bring it to the nodes. Raises as `tools.run`."""
    cluster = context.partition("-")[2]
    words = {
        "kind": ["kind", "load", "docker-image", image, "--name", cluster],
        "k3d": ["k3d", "image", "import", image, "--cluster", cluster],
        "minikube": ["minikube", "image", "load", image, "--profile", context],
    }
    if loader in words:
        run(words[loader], seconds=LOAD_SECONDS)
