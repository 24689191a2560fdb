"""Uploads into a real process: its memory, and that it may be killed at any time."""

import hashlib
import http.client
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import pytest
from harness.eventually import eventually
from harness.processes import Process
from harness.redis_server import free_port
from harness.s3_server import S3Server

MIB = 1024 * 1024
STUB = Path(__file__).with_name("stub_api.py")
ACCOUNT = {"email": "a@example.org", "password": "correct horse battery"}


class Api:
    """The stub of the API in a process, and a user's calls to it."""

    def __init__(self, data: Path, objects: str, environment: dict[str, str]) -> None:
        data.mkdir(exist_ok=True)
        self.port = free_port()
        command = (sys.executable, str(STUB), str(self.port), str(data), objects)
        self.process = Process(command, environment, data.parent / "log")
        self.token = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()

    async def up(self) -> None:
        def answers() -> bool:
            assert self.process.alive, self.process.log.read_text()
            try:
                return self.call("GET", "/api/v1/me")[0] == 401
            except OSError:
                return False

        await eventually(answers)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            if isinstance(body, dict):
                body = orjson.dumps(body)
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Authorization": f"Bearer {self.token}"} | sent)
            with connection.getresponse() as response:
                text = response.read()
                return response.status, orjson.loads(text) if text else dict(response.getheaders())
        finally:
            connection.close()

    def log_in(self) -> None:
        self.token = self.call("POST", "/api/v1/auth/login", ACCOUNT)[1]["token"]

    def make_version(self) -> str:
        self.call("POST", "/api/v1/auth/register", ACCOUNT)
        self.log_in()
        model = self.call("POST", "/api/v1/models", {"name": "churn"})[1]
        version = self.call("POST", f"/api/v1/models/{model['id']}/versions", {"tag": "v1"})[1]
        return f"/api/v1/versions/{version['id']}"

    def memory(self, what: str) -> float:
        """MiB, by a name of /proc/PID/status."""
        status = Path(f"/proc/{self.process.popen.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith(what))) / 1024


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """Where objects go, and the environment that finds them."""
    if request.param == "directory":
        return str(tmp_path / "objects"), {}
    server: S3Server = request.getfixturevalue("s3_server")
    return f"s3://models/{tmp_path.name}", server.environment()


@pytest.mark.parametrize(("mib", "most"), [(48, 40), pytest.param(500, 80, marks=pytest.mark.long)])
async def test_memory(tmp_path: Path, store: tuple[str, dict[str, str]], mib: int, most: int) -> None:
    """Receiving, hashing and putting away take less than the file, and than 80 MiB over idle, whatever its size."""
    block = os.urandom(MIB)
    with Api(tmp_path / "data", *store) as api:
        await api.up()
        version = api.make_version()
        idle = api.memory("VmRSS")

        status, received = api.call(
            "PUT", f"{version}/files/model.pkl", iter([block] * mib), Content_Length=str(mib * MIB)
        )
        assert (status, received["complete"]) == (200, True)
        status, finished = api.call("POST", f"{version}/finish")
        assert (status, finished["state"]) == (200, "scanning")
        expected = hashlib.sha256()
        for _ in range(mib):
            expected.update(block)
        assert finished["files"][0]["sha256"] == expected.hexdigest()
        assert api.memory("VmHWM") - idle < most


async def test_a_server_that_is_killed_goes_on_where_it_ended(tmp_path: Path) -> None:
    content = os.urandom(20 * MIB)
    data, objects = tmp_path / "data", str(tmp_path / "objects")
    with Api(data, objects, {}) as api:
        await api.up()
        version = api.make_version()
        path = f"{version}/files/model.pkl"
        connection = http.client.HTTPConnection("127.0.0.1", api.port)
        connection.putrequest("PUT", path)
        connection.putheader("Authorization", f"Bearer {api.token}")
        connection.putheader("Content-Length", str(len(content)))
        connection.endheaders()
        connection.send(content[: 12 * MIB])
        await eventually(lambda: int(api.call("HEAD", path)[1]["Upload-Offset"]) > 8 * MIB)
    connection.close()

    with Api(data, objects, {}) as api:
        await api.up()
        api.log_in()
        offset = int(api.call("HEAD", path)[1]["Upload-Offset"])
        assert 8 * MIB < offset <= 12 * MIB
        of = f"bytes {offset}-{len(content) - 1}/{len(content)}"
        assert api.call("PUT", path, content[offset:], Content_Range=of)[1]["complete"]
        finished = api.call("POST", f"{version}/finish")[1]
        assert finished["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()


async def test_a_finish_that_is_killed_is_called_again(tmp_path: Path, s3_server: S3Server) -> None:
    """At moments spread over what it takes."""
    content = os.urandom(24 * MIB)
    data, objects = tmp_path / "data", f"s3://models/{tmp_path.name}"
    for kill in range(4):
        with Api(data, objects, s3_server.environment()) as api:
            await api.up()
            if not kill:
                version = api.make_version()
                assert api.call("PUT", f"{version}/files/model.pkl", content)[1]["complete"]
            api.log_in()
            connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=kill * 0.1 + 0.01)
            connection.request("POST", f"{version}/finish", headers={"Authorization": f"Bearer {api.token}"})
            with suppress(TimeoutError):
                connection.getresponse()
        connection.close()
    with Api(data, objects, s3_server.environment()) as api:
        await api.up()
        api.log_in()
        status, finished = api.call("POST", f"{version}/finish")
        assert (status, finished["state"]) == (200, "scanning")
        assert finished["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
        assert not list((data / "staging").iterdir())
