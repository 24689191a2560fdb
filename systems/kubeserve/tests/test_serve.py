"""`kubeserve serve` and `kubeserve door` as processes: killed, stopped, started again."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from harness.redis_server import RedisServer, free_port

from kubeserve.domain import VersionState as State
from kubeserve.places.layout import Layout
from models import IRIS, make
from stack import PASSWORD, Stack, left_in

PATIENCE = 60.0


class Process:
    """A command of ours, with its log."""

    def __init__(self, command: str, environ: dict[str, str]) -> None:
        self.lines = list[str]()
        self.process = subprocess.Popen(  # noqa: S603  our own
            [sys.executable, "-m", "kubeserve.cli", command],
            env={"PATH": os.environ["PATH"], "TMPDIR": os.environ["TMPDIR"], **environ},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def end(self, number: signal.Signals) -> int:
        """Send a signal, wait for the end, and give the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self._reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()
        return status

    def _read(self) -> None:
        if self.process.stderr is not None:
            self.lines.extend(self.process.stderr)


class Machine:
    """The commands on one data directory, and a caller."""

    def __init__(self, data: Path, redis_url: str) -> None:
        port = free_port()
        self.data = data
        self.url = f"http://127.0.0.1:{port}/api/v1"
        self.environ = {"KUBESERVE_DATA": str(data), "KUBESERVE_PORT": str(port), "REDIS_URL": redis_url}
        self.processes = list[Process]()
        self.http = requests.Session()

    def start(self, command: str) -> Process:
        """Start a command."""
        self.processes.append(Process(command, self.environ))
        return self.processes[-1]

    def health(self) -> tuple[int, Any]:
        """What /healthz answers, 0 if nobody does."""
        try:
            answer = self.http.get(self.url.replace("/api/v1", "/healthz"), timeout=10)
        except requests.ConnectionError:
            return 0, None
        return answer.status_code, answer.json()

    def log_in(self) -> None:
        """Call as somebody from now on."""
        person = {"email": "anna@example.org", "password": PASSWORD}
        self.http.post(f"{self.url}/auth/register", json=person, timeout=30)
        token = self.http.post(f"{self.url}/auth/login", json=person, timeout=30).json()["token"]
        self.http.headers["Authorization"] = f"Bearer {token}"


@pytest.fixture
def machine(tmp_path: Path, redis_server: RedisServer, db: redis.Redis) -> Iterator[Machine]:
    db.ping()
    machine = Machine(tmp_path, f"{redis_server.url}/0")
    yield machine
    machine.http.close()
    for process in machine.processes:
        if process.process.poll() is None:
            process.end(signal.SIGKILL)


def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_health_names_what_is_away_and_both_commands_end_when_told(machine: Machine) -> None:
    serve = machine.start("serve")
    until(lambda: machine.health()[0] == 503)
    assert machine.health()[1]["away"] == ["door"]
    door = machine.start("door")
    until(lambda: machine.health() == (200, {"status": "ok", "away": []}))
    assert door.end(signal.SIGTERM) == 0
    until(lambda: machine.health()[0] == 503)
    assert serve.end(signal.SIGTERM) == 0
    assert machine.health()[0] == 0


def test_an_upload_goes_on_after_the_control_plane_was_killed(machine: Machine) -> None:
    serve = machine.start("serve")
    until(lambda: machine.health()[0])
    machine.log_in()
    model = machine.http.post(f"{machine.url}/models", json={"name": "m"}, timeout=30).json()
    version = machine.http.post(f"{machine.url}/models/{model['id']}/versions", json={"tag": "v1"}, timeout=30).json()
    place = f"{machine.url}/versions/{version['id']}/files/m.joblib"
    first = machine.http.put(place, data=b"a" * 1000, headers={"Content-Range": "bytes 0-999/3000"}, timeout=30)
    assert (first.status_code, first.headers["Upload-Offset"]) == (200, "1000")

    def endless() -> Iterator[bytes]:
        yield b"b" * 500
        serve.end(signal.SIGKILL)
        yield b"b" * 500

    with pytest.raises(requests.RequestException):
        machine.http.put(place, data=endless(), headers={"Content-Range": "bytes 1000-2999/3000"}, timeout=30)
    machine.start("serve")
    until(lambda: machine.health()[0])
    offset = int(machine.http.head(place, timeout=30).headers["Upload-Offset"])
    assert offset >= 1000
    rest = (b"a" * 1000 + b"b" * 2000)[offset:]
    headers = {"Content-Range": f"bytes {offset}-2999/3000"}
    done = machine.http.put(place, data=rest, headers=headers, timeout=30)
    assert (done.status_code, done.json()["complete"]) == (201, True)


def test_who_follows_and_who_uploads_does_not_hold_up_the_end(machine: Machine) -> None:
    serve = machine.start("serve")
    until(lambda: machine.health()[0])
    machine.log_in()
    model = machine.http.post(f"{machine.url}/models", json={"name": "m"}, timeout=30).json()
    version = machine.http.post(f"{machine.url}/models/{model['id']}/versions", json={"tag": "v1"}, timeout=30).json()
    place = f"{machine.url}/versions/{version['id']}"
    followed = machine.http.get(f"{place}/steps", stream=True, timeout=30)
    lines = followed.iter_lines()
    assert next(lines) == b"event: version"
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(serve.end, signal.SIGTERM)
        list(lines)
        assert ended.result() == 0
    followed.close()


def test_a_data_directory_has_one_control_plane(machine: Machine) -> None:
    first = machine.start("serve")
    until(lambda: machine.health()[0])
    second = machine.start("serve")
    assert second.process.wait(PATIENCE) == 2
    second.end(signal.SIGKILL)
    assert "another control plane runs" in "".join(second.lines)
    assert machine.health()[0]
    assert first.end(signal.SIGINT) == 0


def test_the_log_has_no_secret(machine: Machine) -> None:
    serve = machine.start("serve")
    until(lambda: machine.health()[0])
    machine.log_in()
    machine.http.get(f"{machine.url}/models?after=hidden", timeout=30)
    machine.http.get(f"{machine.url}/hidden", timeout=30)
    token = str(machine.http.headers["Authorization"]).removeprefix("Bearer ")
    serve.end(signal.SIGTERM)
    lines = [json.loads(line) for line in serve.lines]
    requests_ = [line for line in lines if line["event"] == "http_request"]
    assert "POST /api/v1/auth/login" in {line["route"] for line in requests_}
    text = "".join(serve.lines)
    assert PASSWORD not in text
    assert "hidden" not in text
    assert token not in text


@pytest.mark.parametrize(
    ("name", "value"), [("KUBESERVE_PORT", "x"), ("REDIS_URL", "ftp://x"), ("KUBESERVE_DATABASE_URL", "mysql://x")]
)
def test_a_setting_that_is_wrong_is_one_line_and_status_2(machine: Machine, name: str, value: str) -> None:
    machine.environ[name] = value
    process = machine.start("serve")
    assert process.process.wait(PATIENCE) == 2
    process.end(signal.SIGKILL)
    assert len(process.lines) == 1
    assert process.lines[0].startswith(f"kubeserve serve: {name}")


async def _deployed(data: Path, science: Path, redis_url: str) -> tuple[str, str]:
    """Leave a platform on `data` with a model that is deployed, and give the deployment's id and its owner's token."""
    async with Stack.open(data, science, redis_url, door=False) as stack:
        anna = await stack.person()
        registry = stack.plane.registry
        model = await registry.create_model(anna.id, "m")
        version = await registry.create_version(anna.id, model.id, "v1")
        path = await asyncio.to_thread(make, science, data / "m.joblib", IRIS)
        await anna.ask("PUT", f"/versions/{version.id}/files/m.joblib", data=path.read_bytes())
        path.unlink()
        await stack.plane.uploads.finish(anna.id, version.id)
        fields = {"format": "joblib", "environment": "science"}
        for before, after in pairwise((State.SCANNING, State.BUILDING, State.CHECKING, State.READY)):
            await registry.set_state(version.id, after, "as usual", expected={before}, **fields)
        made = await anna.ask("POST", "/deployments", {"name": "d", "version_id": version.id})
        return made["id"], str(anna.token)


def test_a_deployment_outlives_all_that_is_killed_and_is_deleted_to_the_last_key(
    machine: Machine, science: Path, db: redis.Redis
) -> None:
    deployment_id, token = asyncio.run(_deployed(machine.data, science, machine.environ["REDIS_URL"]))
    machine.environ["KUBESERVE_SECRET"] = "s" * 40
    machine.http.headers["Authorization"] = f"Bearer {token}"
    predict, place = f"{machine.url}/predict/{deployment_id}", f"{machine.url}/deployments/{deployment_id}"
    rows = [[5.1, 3.5, 1.4, 0.2]]
    serve, door = machine.start("serve"), machine.start("door")
    until(lambda: machine.health()[0] == 200)
    assert machine.http.post(predict, json=rows, timeout=90).json()["predictions"] == [0]
    assert zygotes(machine.data)
    door.end(signal.SIGKILL)
    later = machine.http.post(predict, json=rows, timeout=30, headers={"Prefer": "respond-async"})
    assert later.status_code == 202
    serve.end(signal.SIGKILL)
    serve, door = machine.start("serve"), machine.start("door")
    until(lambda: machine.health()[0] == 200)
    answer = f"{machine.url}/predictions/{later.json()['id']}"
    until(lambda: machine.http.get(answer, timeout=30).status_code == 200)
    assert machine.http.delete(place, timeout=30).status_code == 202
    serve.end(signal.SIGKILL)
    machine.start("serve")
    until(lambda: machine.health()[0])
    until(lambda: machine.http.get(place, timeout=30).status_code == 404)
    assert left_in(db) == []
    for folder in ("place", "models", "deployments"):
        assert [path for path in (machine.data / folder).rglob("*") if path.is_file()] == []
    assert door.end(signal.SIGTERM) == 0
    until(lambda: not zygotes(machine.data))


def zygotes(data: Path) -> list[str]:
    """The processes that any door on `data` has left."""
    run = str(Layout(data).run).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if run in path.read_bytes():
                found.append(path.parent.name)
    return found


def test_the_command_serves_the_page_beside_the_api(machine: Machine) -> None:
    machine.environ["GRAFANA_URL"] = "https://graphs.example.org"
    machine.start("serve")
    until(lambda: machine.health()[0])
    answer = machine.http.get(machine.url.replace("/api/v1", "/login"), timeout=10)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"].endswith("frame-src https://graphs.example.org")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
