"""The image, and a pod of its containers as the manifest constrains them: read-only, no rights, each its own user."""

import asyncio
import fcntl
import hashlib
import json
import os
import re
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pytest
import redis
from greenscale_worker import RedisOptions
from greenscale_worker.up.probes import free_port
from harness.eventually import eventually
from harness.redis_server import RedisServer
from harness.s3_server import S3Server

import containers
from containers import docker
from kubeserve.domain import Format
from kubeserve.manifests import ClusterSettings, Download, Endpoint, Redis, Urls
from kubeserve.objects import Digest, Objects, open_objects
from kubeserve.packing import LIBRARY, pack
from kubeserve.places.workload import Workload
from kubeserve.predictions import Answer, Predictions
from pods import workload_of
from replicas import pickled

pytestmark = [
    pytest.mark.timeout(1800),  # the image is built by the first one
    pytest.mark.skipif(not containers.answers(), reason="no Docker engine answers, or there is no docker command"),
]
BASE: Final = "python:3.13-slim"
LARGEST_ADDITION: Final = 650_000_000
LOCKED: Final = ("--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
PATIENCE: Final = 120.0
IRIS: Final = Path(__file__).parents[1] / "e2e" / "iris.onnx"
SLOW: Final = """
import time
class Model:
    n_features_in_ = 1
    def predict(self, rows): return [time.sleep(0.5) or 2 * row[0] for row in rows]
"""
PRYING: Final = """
import os, pathlib, socket
def attempt(what):
    try: what()
    except OSError: return "refused"
    return "done"
class Model:
    n_features_in_ = 1
    def predict(self, rows):
        return [[attempt(what) for what in (
            lambda: socket.socket(), lambda: socket.socket(socket.AF_UNIX), os.fork,
            lambda: os.execv("/bin/sh", ["sh"]), lambda: open("/etc/passwd"), lambda: open("/models/mine", "w"),
            lambda: open("/run/kubeserve/mine", "w"), lambda: os.listdir("/run/kubeserve"),
            lambda: open("/proc/1/environ").read(), lambda: os.kill(1, 0), lambda: open("mine", "w").close(),
        )] for row in rows]
"""
REFUSED: Final = ["refused"] * 10 + ["done"]  # but its own scratch


@pytest.fixture(scope="session")
def image() -> str:
    """The image of this tree; KUBESERVE_TEST_IMAGE names one that has been built already."""
    if name := os.environ.get("KUBESERVE_TEST_IMAGE"):
        return name
    with Path(tempfile.gettempdir(), "kubeserve-test-image.lock").open("w") as lock:  # several workers of a run
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = ("--quiet", "--network", "host", "--file", "systems/kubeserve/Containerfile", "--tag", "kubeserve:test")
        docker("build", *words, ".", seconds=1700)
    return "kubeserve:test"


@dataclass(frozen=True, slots=True)
class World:
    """Where pods of a test find what they need."""

    image: str
    redis_url: str
    objects: Objects
    folder: Path

    async def download(self, key: str, content: bytes) -> Download:
        digest: Digest = await self.objects.put_bytes(key, content)
        return Download(await self.objects.presign(key, 3600), digest.sha256, digest.size)


class Running:
    """A pod, and who asks it."""

    def __init__(self, world: World, workload: Workload, urls: Urls) -> None:
        redis_port = int(world.redis_url.rpartition(":")[2])
        settings = ClusterSettings(
            image=world.image, namespace="kubeserve", redis=Redis(Endpoint("127.0.0.1", redis_port)),
            store=Endpoint("127.0.0.1", 1), installation="ours", walls={"landlock": 1, "seccomp": True},
        )  # fmt: skip
        folder = world.folder / uuid.uuid4().hex
        folder.mkdir(mode=0o755)
        self.id = workload.id
        self.pod = containers.Pod(workload, settings, urls, folder, f"{world.redis_url}/0")
        self.predictions = Predictions(RedisOptions(url=f"{world.redis_url}/0"))
        self.port = free_port()
        self._redis_url = world.redis_url

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.pod.__enter__)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.pod.__exit__, None, None, None)
        await self.predictions.aclose()

    async def up(self) -> None:
        """Fetch, start both, and wait until it is ready."""
        await asyncio.to_thread(self.pod.fetch)
        for name in ("model", "door"):
            await self.start(name)
        await self.until_ready()

    async def start(self, name: str) -> None:
        await asyncio.to_thread(self.pod.start, name, port=self.port if name == "door" else None)

    async def until_ready(self) -> None:
        try:
            await eventually(self.ready, PATIENCE)
        except AssertionError:
            pytest.fail("\n".join((self.get("/readyz")[1], self.pod.log("model"), self.pod.log("door"))))

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def get(self, path: str, body: bytes | None = None) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", body, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    async def ask(self, *rows: Any) -> Answer:
        return await self.predictions.wait(await self.predictions.submit(self.id, list(rows)), PATIENCE)

    def taken(self) -> int:
        """How many predictions the door has taken."""
        with redis.Redis.from_url(self._redis_url) as client:
            return int(client.hlen(f"{{ks:{self.id}}}:open"))


@pytest.fixture
def objects(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Objects:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return open_objects(f"s3://models/{uuid.uuid4()}")


@pytest.fixture
def world(image: str, objects: Objects, redis_server: RedisServer, db: redis.Redis, tmp_path: Path) -> World:
    db.ping()
    return World(image, redis_server.url, objects, tmp_path)


@pytest.fixture
async def pod_of(world: World, base: str) -> AsyncIterator[Callable[..., Any]]:
    """Make a pod of a model, which is fetched from the store."""
    async with AsyncExitStack() as stack:

        async def make(
            model: bytes, form: Format = Format.PICKLE, packages: Path | None = None, **changes: Any
        ) -> Running:
            name = base if packages is None else hashlib.sha256(b"packages").hexdigest()[:32]
            key = f"models/anna/iris/v1/model.{'onnx' if form is Format.ONNX else 'pkl'}"
            workload = workload_of(Path("unused"), Path(name), key=key, format=form, **changes)
            archive = None
            if packages is not None:
                pack(packages, world.folder / "packages.tar.gz")
                content = (world.folder / "packages.tar.gz").read_bytes()
                archive = await world.download(f"environments/{name}.tar.gz", content)
            urls = Urls(await world.download(key, model), archive)
            return await stack.enter_async_context(Running(world, workload, urls))

        yield make


@pytest.fixture(scope="session")
def base(image: str) -> str:
    """The id of the environment that the image has."""
    (name,) = docker("run", *LOCKED, "--entrypoint", "ls", image, "/opt/kubeserve/environments").split()
    return name


# What the image holds -------------------------------------------------------------------------------------------------


def _inspected(name: str) -> Any:
    return json.loads(docker("image", "inspect", name))[0]


def test_it_adds_what_models_need_and_says_what_it_is(image: str) -> None:
    found = _inspected(image)
    assert 0 < found["Size"] - _inspected(BASE)["Size"] < LARGEST_ADDITION
    config = found["Config"]
    assert config["Entrypoint"] == ["kubeserve"]
    assert config["User"] == "65532:65532"
    assert config["Labels"]["org.opencontainers.image.title"] == "kubeserve"
    assert (
        docker("run", *LOCKED, image, "--version")
        == f"kubeserve {config['Labels']['org.opencontainers.image.version']}"
    )


def test_its_environment_is_the_base_of_its_own_platform_and_can_be_written_by_nobody(image: str, base: str) -> None:
    script = """
import asyncio, os, pathlib
from kubeserve.intake import Environments
from kubeserve.runtime import PRELOAD
base = asyncio.run(Environments(pathlib.Path("/tmp/environments")).base())
root = base.path.resolve()
written = [str(path) for path in root.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
packages = [next(root.glob(f"lib/python*/site-packages/{name}")) for name in ("numpy", "sklearn", "onnxruntime")]
found = [any(package.glob("__pycache__/__init__*.pyc")) for package in packages]
print(base.id, base.built, written, all(found), (pathlib.Path("/opt/kubeserve/runtime") / "zygote.py").exists())
"""
    words = (*LOCKED, "--tmpfs", "/tmp", "--entrypoint", "python", image, "-c", script)  # noqa: S108  the container's
    assert docker("run", *words) == f"{base} False [] True True"


# A pod ----------------------------------------------------------------------------------------------------------------


async def test_a_model_is_fetched_loaded_and_answers_through_the_queue_and_by_http(pod_of: Callable[..., Any]) -> None:
    running = await pod_of(IRIS.read_bytes(), Format.ONNX)
    assert re.search(r"\d.* are there after", await asyncio.to_thread(running.pod.fetch))
    await running.up()  # which fetches again, and finds all there
    answer = await running.ask([5.1, 3.5, 1.4, 0.2])
    assert answer.answer is not None
    assert (answer.answer["revision"], len(answer.answer["predictions"])) == (1, 1)
    told = await asyncio.to_thread(running.get, f"/predict/{running.id}", b"[[5.1, 3.5, 1.4, 0.2]]")
    assert json.loads(told[1])["predictions"] == answer.answer["predictions"]
    assert 'outcome="success"} 2.0' in running.get("/metrics")[1]


async def test_a_model_reaches_nothing_though_it_shares_the_network_of_its_pod(pod_of: Callable[..., Any]) -> None:
    running = await pod_of(pickled(PRYING))
    await running.up()
    answer = (await running.ask([1])).answer
    assert answer is not None
    assert answer["predictions"] == [REFUSED]
    users = {name: running.pod.run(name, "id", "-u") for name in ("door", "model")}
    assert users == {"door": "65532", "model": "65533"}


async def test_an_environment_of_ones_own_is_unpacked_and_run(
    pod_of: Callable[..., Any], image: str, tmp_path: Path
) -> None:
    python = docker(
        "run", *LOCKED, "--entrypoint", "python", image, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"
    )
    library = tmp_path / "made" / LIBRARY.parents[1] / f"python{python}" / "site-packages"
    library.mkdir(parents=True)
    (library / "mine.py").write_text("def answer(rows): return ['mine' for row in rows]\n")
    source = "import mine\nclass Model:\n    n_features_in_ = 1\n    def predict(self, rows): return mine.answer(rows)"
    running = await pod_of(pickled(source), packages=tmp_path / "made")
    await running.up()
    assert running.pod.python.startswith("/environment/")
    answer = (await running.ask([1])).answer
    assert answer is not None
    assert answer["predictions"] == ["mine"]


async def test_whichever_container_dies_no_prediction_is_lost(pod_of: Callable[..., Any]) -> None:
    running = await pod_of(pickled(SLOW))
    await running.up()
    for name in ("model", "door"):
        asked = [asyncio.create_task(running.ask([number])) for number in range(3)]
        await eventually(lambda: running.taken() > 0, PATIENCE)
        await asyncio.to_thread(running.pod.signal, name, "KILL")
        assert await asyncio.to_thread(running.pod.ended, name) == 137
        await running.start(name)
        answers = await asyncio.gather(*asked)
        assert [answer.answer and answer.answer["predictions"] for answer in answers] == [[0], [2], [4]], name
        await running.until_ready()


async def test_told_to_end_it_lets_its_calls_end_and_leaves_the_rest(pod_of: Callable[..., Any]) -> None:
    running = await pod_of(pickled(SLOW), concurrency=1)
    await running.up()
    asked = [asyncio.create_task(running.ask([number])) for number in range(4)]
    await eventually(lambda: running.taken() > 0, PATIENCE)
    for name in ("model", "door"):  # as a node does, at once
        await asyncio.to_thread(running.pod.signal, name, "TERM")
    for name in ("door", "model"):
        assert await asyncio.to_thread(running.pod.ended, name) == 0, running.pod.log(name)
    assert running.taken() == 0
    done, left = await asyncio.wait(asked, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    assert done
    assert left
    for name in ("model", "door"):
        await running.start(name)
    answers = await asyncio.gather(*asked)
    assert [answer.answer and answer.answer["predictions"] for answer in answers] == [[0], [2], [4], [6]]


async def test_what_cannot_be_fetched_is_said_in_one_line(pod_of: Callable[..., Any], world: World) -> None:
    running = await pod_of(pickled(SLOW))
    await world.objects.delete("models")
    with pytest.raises(AssertionError, match=r"kubeserve fetch: 127\.0\.0\.1:\d+: the store has no such file"):
        await asyncio.to_thread(running.pod.fetch)
