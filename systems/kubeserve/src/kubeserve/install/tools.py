"""Runs kubectl and its like, and says each step in a line with its seconds."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from greenscale_worker import ConfigError
from greenscale_worker.cli.terminal import one_line

from kubeserve.errors import KubeServeError, UnavailableError

ANSWER_SECONDS: Final = 60.0
LONGEST_COMPLAINT: Final = 600
WHERE: Final = {
    "kubectl": "https://kubernetes.io/docs/tasks/ tells how to install it",
    "docker": "install Docker, or name an image that is in a registry by --image",
    "kind": "install kind, or name an image that is in a registry by --image",
    "minikube": "install minikube, or name an image that is in a registry by --image",
    "k3d": "install k3d, or name an image that is in a registry by --image",
}

Say = Callable[[str], None]
Json = dict[str, Any]


class FailedError(KubeServeError):
    """A program that was called has failed; its own words say why."""

    code = "failed"


def run(words: Sequence[str], *, given: str | None = None, seconds: float = ANSWER_SECONDS) -> str:
    """Run a program and return its output. Raises ConfigError where it is not installed, FailedError, UnavailableError.

    `given` is its input; nothing secret belongs into `words`, which others on this machine can read.
    """
    name = words[0]
    program = shutil.which(name)
    if program is None:
        raise ConfigError(f"{name} is not on the PATH; {WHERE[name]}")
    try:
        ran = subprocess.run(  # noqa: S603  ours
            [program, *words[1:]],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"`{_shown(words)}` has not ended within {seconds:.0f} s", code="failed") from None
    if ran.returncode:
        complaint = one_line(ran.stderr.strip() or ran.stdout.strip())[-LONGEST_COMPLAINT:]
        raise FailedError(f"`{_shown(words)}` fails: {complaint or f'exit code {ran.returncode}'}")
    return ran.stdout


def _shown(words: Sequence[str]) -> str:
    return " ".join(words)


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl for one context."""

    context: str

    def run(self, *words: str, given: str | None = None, seconds: float = ANSWER_SECONDS) -> str:
        """Run it, and return its output. Raises ConfigError, FailedError, UnavailableError."""
        return run(["kubectl", "--context", self.context, *words], given=given, seconds=seconds)

    def json(self, *words: str) -> Json:
        """Return what it tells as JSON. Raises as `run`."""
        told = self.run(*words, "--output", "json")
        try:
            found: Json = json.loads(told)
        except ValueError:
            raise FailedError(f"`kubectl {_shown(words)}` does not answer with JSON") from None
        return found


@contextmanager
def step(say: Say, words: str) -> Iterator[list[str]]:
    """Say a line when the step has ended: what was done, what is added to the list, and the seconds it took."""
    began = time.monotonic()
    told: list[str] = []
    yield told
    what = f"{words}: {', '.join(told)}" if told else words
    say(f"  {what}  ({time.monotonic() - began:.1f} s)")
