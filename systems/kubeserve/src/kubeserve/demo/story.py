"""What the demo does and says, step by step."""

import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from greenscale_worker.for_people import WIDTH

from kubeserve.client import KubeServe
from kubeserve.errors import UnavailableError

TRAIN: Final = """
import sys
import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
rows, kinds = load_iris(return_X_y=True)
seen, unseen, right, expected = train_test_split(rows, kinds, random_state=0)
model = LogisticRegression(max_iter=1000).fit(seen, right)
joblib.dump(model, sys.argv[1])
print(f"{model.score(unseen, expected):.0%}")
"""
KINDS: Final = ("setosa", "versicolor", "virginica")
ROWS: Final = ([5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3], [7.7, 3.0, 6.1, 2.3])
EMAIL: Final = "demo@example.org"
IDLE_SECONDS: Final = 2.0
PATIENCE: Final = 60.0
POLL_SECONDS: Final = 0.05
TRAIN_SECONDS: Final = 300

Say = Callable[[str], None]


class Story:
    """Tells with `say` what happens, with seconds. Raises KubeServeError where it cannot go on."""

    def __init__(self, api: KubeServe, say: Say) -> None:
        self._api = api
        self._say = say
        self.password = secrets.token_urlsafe(12)
        self.key = ""

    def register(self) -> None:
        """Make an account."""
        with self._timed("An account") as told:
            self._api.register(EMAIL, self.password)
            self._api.login(EMAIL, self.password)
            told.append(EMAIL)

    def train(self, python: Path, folder: Path) -> Path:
        """Train a model in the environment that models run in."""
        path = folder / "iris.joblib"
        with self._timed("A model is trained") as told:
            ended = subprocess.run(  # noqa: S603  the base environment
                [python, "-I", "-B", "-c", TRAIN, path],
                capture_output=True,
                text=True,
                timeout=TRAIN_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
            )
            if ended.returncode:
                raise UnavailableError(f"training failed: {ended.stderr.strip().rpartition(chr(10))[2]}", code="failed")
            told.append(f"scikit-learn: right on {ended.stdout.strip()} of new rows")
        return path

    def prove(self, path: Path) -> dict[str, Any]:
        """Upload it, and follow its proof."""
        with self._timed("It is uploaded") as told:
            model = self._api.create_model("iris", "flowers, by their leaves")
            version = self._api.create_version(model["id"], "v1")
            self._api.upload(version["id"], path)
            self._api.finish(version["id"])
            told.append(f"{path.name}, {path.stat().st_size:,} bytes")
        with self._timed("It is proved, behind walls"):
            return self._api.wait_until_ready(version["id"], self._step)

    def deploy(self, version: dict[str, Any]) -> dict[str, Any]:
        """Deploy it, to sleep soon."""
        with self._timed("It is deployed") as told:
            deployment = self._api.deploy(version["model_id"], "iris", version["id"], idle=IDLE_SECONDS)
            deployment = self._until(deployment["id"], "ready", "asleep")
            told.append(f"0 to {deployment['revisions'][0]['maximum']} replicas")
        return deployment

    def call(self, deployment_id: str, words: str) -> None:
        """Ask it, and show what it says."""
        began = time.perf_counter()
        answer = self._api.predict(deployment_id, ROWS)
        milliseconds = (time.perf_counter() - began) * 1000
        said = ", ".join(KINDS[kind] for kind in answer["predictions"])
        self._line(words, f"{milliseconds:.0f} ms", said)

    def sleep(self, deployment_id: str) -> None:
        """Wait until nothing of it runs."""
        with self._timed("Nobody calls: it sleeps") as told:
            self._until(deployment_id, "asleep")
            told.append("its process is gone")

    def end(self) -> None:
        """Make the key by which the reader may call it."""
        self.key = self._api.create_key("demo")["key"]

    def _until(self, deployment_id: str, *states: str) -> dict[str, Any]:
        ends = time.monotonic() + PATIENCE
        while (deployment := self._api.deployment(deployment_id))["state"] not in states:
            if deployment["state"] == "failed" or time.monotonic() > ends:
                raise UnavailableError(
                    f"the deployment is {deployment['state']}: {deployment['state_reason']}", code="failed"
                )
            time.sleep(POLL_SECONDS)
        return deployment

    def _step(self, step: dict[str, Any]) -> None:
        if step["outcome"] != "running" and step["seconds"] is not None:
            self._line(f"  {step['name']}", f"{step['seconds']:.1f} s", step["detail"])

    @contextmanager
    def _timed(self, words: str) -> Iterator[list[str]]:
        told: list[str] = []
        began = time.monotonic()
        yield told
        self._line(words, f"{time.monotonic() - began:.1f} s", *told)

    def _line(self, words: str, took: str, *more: str) -> None:
        line = f"  {words:<27}{took:>9}  {'; '.join(more)}".rstrip()
        self._say(line if len(line) < WIDTH else f"{line[: WIDTH - 2]}…")
