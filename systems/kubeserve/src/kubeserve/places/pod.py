"""How a pod of a deployment is laid out: what its manifests and the programs in its containers agree on.

Three containers of one image: `fetch`, which comes first and ends, `door`, and `model`, where the model's code runs as
another user. `fetch` and `door` are ours.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

RUN: Final = Path("/run/kubeserve")  # shared by door and model
SOCKET: Final = RUN / "zygote.sock"
SCRATCH: Final = RUN / "scratch"
MODELS: Final = Path("/models")  # written by fetch, read by model
ENVIRONMENTS: Final = Path("/environment")  # likewise, where the environment is not the image's
PINNED: Final = MODELS / "workload.json"  # what this pod was made for, whatever its ConfigMap says later
IMAGE_ENVIRONMENTS: Final = Path("/opt/kubeserve/environments")
IMAGE_RUNTIME: Final = Path("/opt/kubeserve/runtime")
PORT: Final = 8601  # of the door
DOOR_USER: Final = 65532
MODEL_USER: Final = 65533
GROUP: Final = 65532  # of both: fsGroup
DRAIN_SECONDS: Final = 30.0  # a door's from SIGTERM to its end, at most: the pod must be given more
PRELOAD: Final = (  # what most models import, and starts no thread; what an environment lacks is left out
    "numpy", "scipy", "pandas", "joblib", "sklearn", "sklearn.linear_model", "sklearn.ensemble", "sklearn.pipeline",
    "sklearn.preprocessing", "sklearn.compose",
)  # fmt: skip


def model_command(environment: Path, minimum: Mapping[str, Any]) -> list[str]:
    """Return the command of the container `model`; `minimum` are the walls without which no model is loaded."""
    return [
        str(environment / "bin" / "python"), "-I", "-S", "-B", str(IMAGE_RUNTIME), "zygote", "--stay",
        "--socket", str(SOCKET), "--scratch", str(SCRATCH), "--models", str(MODELS),
        "--preload", ",".join(PRELOAD), "--minimum", json.dumps(dict(minimum)),
    ]  # fmt: skip
