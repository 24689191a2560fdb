"""The images: what they hold, and how they behave as the manifests run them: read-only, no rights, no root."""

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import docker
import pytest
import redis
from docker.models.containers import Container
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from harness.redis_server import IMAGE as REDIS_IMAGE
from harness.redis_server import docker_answers, until
from tests.support.kustomize import ROOT, named, render

DOCKER: Final = shutil.which("docker") or ""
if not DOCKER or not docker_answers():
    pytest.skip("no Docker engine answers, or there is no docker command", allow_module_level=True)

testcontainers_config.ryuk_disabled = True  # whatever is started is ended here, and offline its image is not to be had

BASE: Final = "python:3.13-slim"
LARGEST_ADDITION: Final = 85_000_000
LOCKED_DOWN: Final = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
CALL_SECONDS: Final = 2.0
LANES: Final = 4
JOBS: Final = 2 * LANES
HEALTH: Final = "8080"
PAGE: Final = 8501


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command where the Containerfile lies."""
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603  our own


@pytest.fixture(scope="module")
def image() -> str:
    """The image of this tree; GREENSCALE_TEST_IMAGE names one that has been built already."""
    if name := os.environ.get("GREENSCALE_TEST_IMAGE"):
        return name
    return build("greenscale-worker:test", "Containerfile", ".")


@pytest.fixture(scope="module")
def page_image() -> str:
    """The image of the dashboard of this tree."""
    return build("greenscale-dashboard:test", "dashboard/Containerfile", "dashboard")


def build(name: str, file: str, folder: str) -> str:
    built = ran(DOCKER, "build", "--quiet", "--network", "host", "-f", file, "-t", name, folder)
    assert built.returncode == 0, built.stderr
    return name


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


class World:
    """A network with a Redis and a simulated endpoint in it, and the workers that a test starts there."""

    def __init__(self, image: str, stack: ExitStack) -> None:
        self._image = image
        self._stack = stack
        self._network = stack.enter_context(Network())
        server = self._start(DockerContainer(REDIS_IMAGE).with_tmpfs_mount("/data"), "redis", ports=[6379])
        self.redis = stack.enter_context(redis.Redis(*address(server, 6379)))
        self._simulator = self.run("simulate", "--host", "0.0.0.0", "--latency", str(CALL_SECONDS), name="simulator")  # noqa: S104  in its own network
        until(lambda: answers(self.redis) and bool(self.asked() is not None))

    def worker(self, **settings: str) -> Container:
        """Start a worker."""
        standard = {
            "REDIS_HOST": "redis",
            "NEYSA_API_URL": "http://simulator:8000/v1/chat/completions",
            "NEYSA_API_KEY": "",
            "GREENSCALE_CONCURRENCY": str(LANES),
            "GREENSCALE_HEALTH_HOST": "0.0.0.0",  # noqa: S104  as in a pod
            "GREENSCALE_HEALTH_PORT": HEALTH,
        }
        return self.run(**standard | settings).get_wrapped_container()

    def run(self, *command: str, name: str = "", **settings: str) -> DockerContainer:
        """Start a container of the image."""
        container = DockerContainer(self._image).with_command(list(command)).with_envs(**settings)
        return self._start(container, name, ports=[8000])

    def asked(self) -> int | None:
        """How many requests the endpoint has got; None: it does not answer."""
        host, port = address(self._simulator, 8000)
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/stats", timeout=5) as answer:
                requests: int = json.load(answer)["requests"]
                return requests
        except OSError:
            return None

    def _start(self, container: DockerContainer, name: str, *, ports: list[int]) -> DockerContainer:
        container.with_kwargs(**LOCKED_DOWN).with_network(self._network).with_exposed_ports(*ports)
        if name:
            container.with_network_aliases(name)
        return self._stack.enter_context(container)


def address(container: DockerContainer, port: int) -> tuple[str, int]:
    return container.get_container_host_ip(), int(container.get_exposed_port(port))


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture(scope="module")
def shared_world(image: str) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(image, stack)


@pytest.fixture
def world(shared_world: World) -> World:
    """An empty queue, nobody working on it."""
    shared_world.redis.flushall()
    return shared_world


def stop(container: Container) -> tuple[int, str]:
    """As by `docker stop -t 30`; gives exit code and log."""
    container.stop(timeout=30)
    code: int = container.wait()["StatusCode"]
    return code, container.logs().decode()


# What it holds --------------------------------------------------------------------------------------------------------


def test_it_adds_little_to_its_base(image: str, engine: docker.DockerClient) -> None:
    added = engine.images.get(image).attrs["Size"] - engine.images.get(BASE).attrs["Size"]
    assert 0 < added < LARGEST_ADDITION


def test_it_says_what_it_is_and_who_it_runs_as(image: str, engine: docker.DockerClient) -> None:
    config = engine.images.get(image).attrs["Config"]
    assert config["Entrypoint"] == ["greenscale-worker"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"])
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert config["Labels"]["org.opencontainers.image.version"] == version[1]
    assert {f"org.opencontainers.image.{label}" for label in ("title", "licenses", "revision")} <= config[
        "Labels"
    ].keys()
    said = engine.containers.run(image, ["--version"], remove=True, **LOCKED_DOWN)
    assert said.decode().strip() == f"greenscale-worker {version[1]}"


def test_it_holds_compiled_code_and_no_tools(image: str, engine: docker.DockerClient) -> None:
    script = """
import importlib.util, json, pathlib, sys
files = list(pathlib.Path(sys.prefix).rglob("*.py"))
raw = [str(file) for file in files if not pathlib.Path(importlib.util.cache_from_source(file)).exists()]
found = sorted({file.name.lower() for file in pathlib.Path(sys.prefix, "bin").iterdir()})
print(json.dumps({"files": len(files), "raw": raw, "bin": found, "pip": importlib.util.find_spec("pip") is not None}))
"""
    said = engine.containers.run(image, ["-c", script], entrypoint="python", remove=True, **LOCKED_DOWN)
    held = json.loads(said)
    assert held["files"] > 100
    assert held["raw"] == []
    assert not held["pip"]
    assert "greenscale-worker" in held["bin"]
    assert not any(name.startswith("pip") for name in held["bin"])


# How it behaves -------------------------------------------------------------------------------------------------------


def test_a_wrong_setting_ends_it_with_one_line(image: str, engine: docker.DockerClient) -> None:
    settings = {"NEYSA_API_KEY": "", "GREENSCALE_CONCURRENCY": "many"}
    container = engine.containers.run(image, environment=settings, detach=True, **LOCKED_DOWN)
    try:
        assert container.wait()["StatusCode"] == 2
        (line,) = container.logs().decode().splitlines()
        assert line.startswith("greenscale-worker: GREENSCALE_CONCURRENCY: 'many'")
    finally:
        container.remove(force=True)


def test_pushed_and_answered(world: World) -> None:
    worker = world.worker()
    world.redis.lpush("jobs", '{"job_id":"test-001","prompt":"What is 2+2?"}')
    until(lambda: world.redis.exists("result:test-001") == 1)
    assert world.redis.hget("job:test-001", "state") == b"succeeded"
    probe = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{HEALTH}/readyz')"
    assert worker.exec_run(["python", "-c", probe]).exit_code == 0
    code, log = stop(worker)
    assert code == 0
    assert [json.loads(line)["event"] for line in log.splitlines()][-1] == "stopped"


@pytest.mark.parametrize(("drain", "finished"), [("25", LANES), ("0.1", 0)], ids=["time to finish", "no time"])
def test_stopped_amid_its_work_it_loses_nothing(world: World, drain: str, finished: int) -> None:
    names = [f"job-{number}" for number in range(JOBS)]
    worker = world.worker(GREENSCALE_DRAIN_SECONDS=drain)
    before = world.asked() or 0
    for name in names:
        world.redis.lpush("jobs", json.dumps({"job_id": name, "prompt": f"Who is {name}?"}))
    until(lambda: world.asked() == before + LANES)
    code, log = stop(worker)
    assert code == 0, log
    assert '"level":"error"' not in log
    answered = [name for name in names if world.redis.exists(f"result:{name}")]
    assert answered == names[:finished]
    assert world.redis.llen("jobs") + world.redis.hlen("{jobs}:open") == JOBS - finished
    successor = world.worker(GREENSCALE_CONCURRENCY=str(JOBS))
    until(lambda: all(world.redis.exists(f"result:{name}") for name in names))
    assert stop(successor)[0] == 0
    assert world.asked() == before + JOBS + (LANES - finished), "only what was cut off was asked again"
    assert world.redis.hlen("{jobs}:dead") == world.redis.hlen("{jobs}:open") == 0


def test_without_redis_it_lives_is_not_ready_and_stops_at_once(world: World) -> None:
    worker = world.worker(REDIS_HOST="nobody.invalid")
    until(lambda: b"queue_unavailable" in worker.logs())
    for path, exit_code in (("livez", 0), ("readyz", 1)):
        probe = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{HEALTH}/{path}')"
        assert worker.exec_run(["python", "-c", probe]).exit_code == exit_code, path
    assert stop(worker)[0] == 0


@pytest.mark.parametrize("password", ["", "s3cret of spaces"], ids=["without a password", "with a password"])
def test_the_redis_of_the_manifests_starts_remembers_and_passes_its_probe(
    engine: docker.DockerClient, password: str
) -> None:
    (spec,) = named(render("dev"), "StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
    pod = named(render("dev"), "StatefulSet", "redis")["spec"]["template"]["spec"]["securityContext"]
    container = engine.containers.create(
        spec["image"],
        spec["command"][1:],
        entrypoint=spec["command"][0],
        environment={"REDISCLI_AUTH": password} if password else {},
        user=f"{pod['runAsUser']}:{pod['runAsGroup']}",
        tmpfs={"/data": f"uid={pod['runAsUser']}"},
        volumes={str(ROOT / "kustomize/components/redis"): {"bind": "/etc/redis", "mode": "ro"}},
        **LOCKED_DOWN,
    )
    try:
        container.start()
        until(lambda: container.exec_run(spec["readinessProbe"]["exec"]["command"]).exit_code == 0)
        said = container.exec_run(["redis-cli", "info"]).output.decode()
        assert "aof_enabled:1" in said
        assert "maxmemory_policy:noeviction" in said
        stranger = container.exec_run(["redis-cli", "ping"], environment={"REDISCLI_AUTH": ""}).output
        assert (b"NOAUTH" in stranger) == bool(password)
    finally:
        container.remove(force=True)


def test_the_page_is_served_and_nothing_but_its_gateway_is_asked(page_image: str, engine: docker.DockerClient) -> None:
    draw = """
from streamlit.testing.v1 import AppTest
page = AppTest.from_string("from greenscale_dashboard import app, now; now.page()").run(timeout=30)
print(len(page.exception), *(each.value for each in page.error))
"""
    gateway = {"GREENSCALE_GATEWAY_URL": "http://127.0.0.1:9"}
    scratch = {"/tmp": "size=64m"}  # noqa: S108  in the container, as in the pod
    container = engine.containers.create(
        page_image, environment=gateway, tmpfs=scratch, ports={PAGE: ("127.0.0.1", None)}, **LOCKED_DOWN
    )
    try:
        container.start()
        container.reload()
        (bound,) = container.ports[f"{PAGE}/tcp"]
        until(lambda: healthy(bound["HostPort"]))
        assert container.exec_run(["id", "-u"]).output.decode().strip() == "65532"
        drawn = container.exec_run(["python", "-c", draw], stderr=False).output.decode()
        assert drawn.startswith("0 "), drawn
        assert "No gateway answers" in drawn
        code, log = stop(container)
        assert code == 0, log
        assert "xternal" not in log, "it asks the internet for no address of its own"
    finally:
        container.remove(force=True)


def healthy(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5) as answer:
            return bool(answer.read() == b"ok")
    except OSError:
        return False


def test_compose_answers() -> None:
    found = [[DOCKER, "compose"], *([[path]] if (path := shutil.which("docker-compose")) else [])]
    program = next((words for words in found if ran(*words, "version").returncode == 0), None)
    if program is None:
        pytest.skip("there is neither docker compose nor docker-compose")

    def compose(*words: str) -> str:
        done = ran(*program, "--project-name", "greenscale-test", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        compose("up", "--build", "--detach")
        compose("exec", "-T", "redis", "redis-cli", "LPUSH", "jobs", '{"job_id":"test-001","prompt":"What is 2+2?"}')
        until(lambda: compose("exec", "-T", "redis", "redis-cli", "EXISTS", "result:test-001").strip() == "1")
    finally:
        compose("down", "--volumes")
