"""A pod in containers of a Docker engine: what its manifest says, as far as `docker run` has words for it."""

import shutil
import subprocess
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from kubeserve.manifests import ClusterSettings, Urls
from kubeserve.manifests.pod import pod
from kubeserve.manifests.told import environment_of, urls_json, workload_json
from kubeserve.places.workload import Workload

DOCKER: Final = shutil.which("docker") or ""
ROOT: Final = Path(__file__).parents[3]
LIMIT: Final = 300.0
TOLD: Final = frozenset({"told", "urls"})  # volumes of what is written by the platform


def answers() -> bool:
    """Whether a Docker engine does."""
    return bool(DOCKER) and _ran("version").returncode == 0


def docker(*words: str, seconds: float = LIMIT) -> str:
    """What the command prints, on stdout and stderr."""
    ended = _ran(*words, seconds=seconds)
    assert ended.returncode == 0, (words, ended.stdout)
    return ended.stdout.strip()


def _ran(*words: str, seconds: float = LIMIT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603  ours
        [DOCKER, *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=seconds, check=False,
    )  # fmt: skip


class Pod:
    """The three containers of a workload. They share the network of this machine, as those of a pod share one."""

    def __init__(self, workload: Workload, settings: ClusterSettings, urls: Urls, folder: Path, redis_url: str) -> None:
        self._name = f"kubeserve-test-{uuid.uuid4().hex[:8]}"
        self.spec = pod(workload, workload.target, settings, urls)
        self.grace: int = self.spec["terminationGracePeriodSeconds"]
        self._folder = folder
        self._environment = {"door": {"REDIS_URL": redis_url}}
        self._volumes = [each["name"] for each in self.spec["volumes"] if each["name"] not in TOLD]
        self.python = f"{environment_of(workload.target, urls)}/bin/python"
        for volume, file, text in (
            ("told", "workload.json", workload_json(workload, workload.target, urls)),
            ("urls", "urls.json", urls_json(workload.target, urls)),
        ):
            (folder / volume).mkdir(mode=0o755)
            (folder / volume / file).write_text(text)

    def __enter__(self) -> Self:
        """Make its volumes, as a node makes empty ones for a group."""
        group, image = self.spec["securityContext"]["fsGroup"], self._container("door")["image"]
        mounts = [word for name in self._volumes for word in ("--volume", f"{self._name}-{name}:/volumes/{name}")]
        script = f"chown 0:{group} /volumes/* && chmod 2777 /volumes/*"
        docker("run", "--rm", "--user", "0", *mounts, "--entrypoint", "sh", image, "-c", script)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name in ("fetch", "door", "model"):
            _ran("rm", "--force", f"{self._name}-{name}")
        for name in self._volumes:
            _ran("volume", "rm", "--force", f"{self._name}-{name}")

    def fetch(self) -> str:
        """Run the container that comes first; what it says."""
        return docker("run", "--rm", *self._words("fetch"))

    def start(self, name: str, *, port: int | None = None) -> None:
        """Start a container, which may have been there before."""
        if docker("ps", "--all", "--quiet", "--filter", f"name=^{self._name}-{name}$"):
            docker("start", f"{self._name}-{name}")
            return
        more = [] if port is None else ["--host", "127.0.0.1", "--port", str(port)]
        docker("run", "--detach", "--name", f"{self._name}-{name}", *self._words(name), *more)

    def signal(self, name: str, number: str) -> None:
        docker("kill", "--signal", number, f"{self._name}-{name}")

    def ended(self, name: str) -> int:
        """Wait for its end; its exit code."""
        return int(docker("wait", f"{self._name}-{name}", seconds=self.grace + 10))

    def log(self, name: str) -> str:
        return docker("logs", f"{self._name}-{name}")

    def run(self, name: str, *words: str) -> str:
        """What a command prints in a running container, as its user."""
        return docker("exec", f"{self._name}-{name}", *words)

    def _container(self, name: str) -> dict[str, Any]:
        containers: list[dict[str, Any]] = [*self.spec["initContainers"], *self.spec["containers"]]
        return next(each for each in containers if each["name"] == name)

    def _words(self, name: str) -> list[str]:
        container = self._container(name)
        walls = container["securityContext"]
        assert walls["readOnlyRootFilesystem"]
        assert not walls["allowPrivilegeEscalation"]
        words = ["--network", "host", "--read-only", "--security-opt", "no-new-privileges"]
        words += [word for right in walls["capabilities"]["drop"] for word in ("--cap-drop", right)]
        words += ["--user", f"{walls['runAsUser']}:{walls['runAsGroup']}"]
        words += ["--group-add", str(self.spec["securityContext"]["fsGroup"])]
        words += ["--memory", container["resources"]["limits"]["memory"].replace("Mi", "m")]
        for key, value in self._environment.get(name, {}).items():
            words += ["--env", f"{key}={value}"]
        for mount in container["volumeMounts"]:
            volume = str(self._folder / mount["name"]) if mount["name"] in TOLD else f"{self._name}-{mount['name']}"
            words += ["--volume", f"{volume}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}"]
        first, *rest = container["command"]
        return [*words, "--entrypoint", first, container["image"], *rest]
