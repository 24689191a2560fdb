"""The door among models, files and neighbours that mean it no good: each has its end, and nobody else notices."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis
from harness.eventually import POLL, eventually
from harness.redis_server import RedisServer
from uv import find_uv_bin

from doors import PATIENCE, Platform
from kubeserve.domain import DeploymentState
from kubeserve.door import replica, zygote
from kubeserve.door.app import Door
from kubeserve.errors import UnavailableError
from kubeserve.places.layout import Layout
from kubeserve.places.logs import LARGEST_READ, new_lines, open_log
from kubeserve.predictions import problem
from kubeserve.queueing import answers_key
from models import IRIS, of_python

SETOSA = [5.1, 3.5, 1.4, 0.2]
READY, ASLEEP, FAILED = DeploymentState.READY, DeploymentState.ASLEEP, DeploymentState.FAILED
SLOW = of_python("return [__import__('time').sleep(0.2) or 1 for row in rows]")
WITH_PID = of_python("return [__import__('os').getpid() for row in rows]")
HANGS = "import time\ntime.sleep(1000)"
ITS_OWN = """
import json, socket, struct, time
connection = socket.socket(fileno=3).accept()[0]
def hear():
    (size,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
    connection.recv(size, socket.MSG_WAITALL)
def send(body):
    connection.sendall(struct.pack(">I", len(body)) + body)
hear()
send(b'{"ready": true}')
hear()
%s
time.sleep(1000)
"""
DOOR = """
import asyncio, sys
from pathlib import Path
from greenscale_worker import RedisOptions
from kubeserve.door.app import Door
from kubeserve.places.layout import Layout
asyncio.run(Door(Layout(Path(sys.argv[1])), RedisOptions(url=sys.argv[2])).run(asyncio.Event()))
"""


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (r"send(b'\xff')", "bad_prediction"),
        ("send(b'[' * 100_000)", "bad_prediction"),
        ("send(b'5')", "bad_prediction"),
        ("connection.sendall(b'\\xff\\xff\\xff\\xff')", "bad_prediction"),
        ("""send(b'{"predictions": 5}')""", "bad_prediction"),
        ("""send(b'{"predictions": [1, 2]}')""", "bad_prediction"),
        ("""send(b'{"error": {"code": "odd", "message": [], "index": 1000000000}}')""", "odd"),
        ("""send(b'{"error": {"code": "odd", "index": -1}}')""", "odd"),
        ("""send(b'{"error": "odd"}')""", "model_error"),
        ("socket.socket(fileno=3).close(); connection.close()", "model_died"),
    ],
)
async def test_whatever_a_model_sends_is_the_end_of_its_own_call(platform: Platform, answer: str, code: str) -> None:
    workload = await platform.deploy(platform.written(ITS_OWN % answer))
    ended = await platform.ask(workload, [1])
    assert ended.error is not None
    assert ended.error[0] == code


async def test_a_model_that_never_loads_ends_when_it_is_taken_away(platform: Platform) -> None:
    workload = await platform.deploy(platform.written(HANGS))
    await eventually(lambda: len(platform.replicas()) == 1)
    async with asyncio.timeout(replica.LOAD_SECONDS / 2):
        while not await platform.place.remove(workload.id):  # noqa: ASYNC110  as the reconciler asks
            await asyncio.sleep(POLL)
    await eventually(lambda: platform.zygotes() == [])


async def test_a_model_that_never_loads_keeps_no_door_from_ending(platform: Platform) -> None:
    await platform.deploy(platform.written(HANGS))
    await eventually(lambda: len(platform.replicas()) == 1)
    async with asyncio.timeout(replica.LOAD_SECONDS / 2):
        await platform.close()
    assert platform.zygotes() == []


async def test_a_revision_that_never_loads_gives_way_to_the_next(platform: Platform) -> None:
    workload = await platform.deploy(IRIS)
    await platform.until(workload, lambda seen: seen.state is READY)
    hangs = platform.written(HANGS, revision=2)
    update = {"target": hangs, "fallback": workload.target, "generation": 2}
    await platform.place.apply(workload.model_copy(update=update))
    await eventually(lambda: len(platform.replicas()) == 2)
    assert (await platform.ask(workload, SETOSA)).answer is not None
    third = (await asyncio.to_thread(platform.model, WITH_PID)).model_copy(update={"revision": 3})
    update |= {"target": third, "generation": 3}
    await platform.place.apply(workload.model_copy(update=update))
    await platform.until(workload, lambda seen: seen.active == 3)
    await eventually(lambda: len(platform.replicas()) == 1)


async def test_a_door_that_is_killed_leaves_no_process_and_the_next_one_answers(platform: Platform) -> None:
    await platform.close()
    workload = await platform.deploy(SLOW)
    arguments = ("-c", DOOR, str(platform.layout.data), platform.redis.url)
    door = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    await platform.until(workload, lambda seen: seen.state is READY)
    asked = [asyncio.create_task(platform.ask(workload, [1])) for _ in range(30)]
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    started = [pid for zygote in platform.children(door.pid) for pid in (zygote, *platform.children(zygote))]
    door.kill()
    await door.wait()
    await eventually(lambda: not any(_runs(pid) for pid in started))
    assert len(started) > 1
    platform.open()
    assert [(await task).state for task in asked] == ["succeeded"] * 30
    assert [line async for line in platform.place.logs(workload.id)] == []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def test_a_call_that_outlasts_the_drain_time_is_handed_back(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubeserve.door.served.DRAIN_SECONDS", 0.2)
    workload = await platform.deploy(of_python("return [__import__('time').sleep(3) or 1 for row in rows]"))
    asked = asyncio.create_task(platform.ask(workload, [1]))
    await eventually(lambda: len(platform.replicas()) == 1)
    await platform.until(workload, lambda seen: seen.replicas == 1)
    await platform.close()
    assert platform.zygotes() == []
    assert not asked.done()
    platform.open()
    assert (await asked).answer is not None


async def test_a_data_folder_may_be_relative_long_and_have_spaces(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Platform(Path("a folder") / ("long " * 40), platform.science, platform.redis.url or "")
    own.open()
    try:
        workload = await own.deploy(IRIS)
        assert (await own.ask(workload, SETOSA)).answer is not None
    finally:
        await own.close()
        await own.predictions.aclose()
        await own.place.aclose()


async def test_a_zygote_cannot_fill_the_disk_by_a_file(platform: Platform) -> None:
    await platform.deploy(IRIS)
    await eventually(lambda: len(platform.replicas()) == 1)
    limits = Path(f"/proc/{platform.zygotes()[0]}/limits").read_text()
    size = next(line.split()[3] for line in limits.splitlines() if line.startswith("Max file size"))
    assert size != "unlimited"


async def test_a_second_door_is_refused_and_the_first_goes_on(platform: Platform) -> None:
    workload = await platform.deploy(IRIS)
    await platform.until(workload, lambda seen: seen.state is READY)
    with pytest.raises(UnavailableError, match="another door"):
        await Door(platform.layout, platform.redis).run(asyncio.Event())
    assert (await platform.ask(workload, SETOSA)).answer is not None


@pytest.mark.parametrize("kind", ["link", "open to all", "file"])
def test_a_run_folder_that_another_may_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "shared"))
    layout = Layout(tmp_path / "data")
    if kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        layout.run.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        layout.run.touch()
    else:
        layout.run.mkdir()
        layout.run.chmod(0o777)
    with pytest.raises(UnavailableError, match="kubeserve-"):
        layout.make_run()


async def test_folders_that_cannot_be_written_are_told_and_waited_for(platform: Platform) -> None:
    workload = (await platform.deploy(IRIS)).model_copy(update={"id": "0" * 36})
    blocked = platform.layout.folder_of(workload.id)
    blocked.parent.mkdir(exist_ok=True)
    blocked.touch()
    await platform.place.apply(workload)
    await platform.until(workload, lambda seen: seen.state is FAILED and "log" in seen.reason)
    blocked.unlink()
    (blocked / "came-up").mkdir(parents=True)
    await platform.until(workload, lambda seen: seen.state is READY)
    assert (await platform.ask(workload, SETOSA)).answer is not None


async def test_a_folder_of_workloads_that_cannot_be_read_ends_none(platform: Platform) -> None:
    workload = await platform.deploy(WITH_PID)
    before = (await platform.ask(workload, [1])).answer
    aside = platform.layout.workloads.with_name("aside")
    platform.layout.workloads.rename(aside)
    looked = Path(platform.layout.workloads)
    for _ in range(5):
        await platform.place.poke()
    assert await platform.place.observe(workload.id) is not None
    aside.rename(looked)
    assert (await platform.ask(workload, [1])).answer == before


async def test_a_file_under_the_name_of_another_deployment_is_left_alone(platform: Platform) -> None:
    workload = await platform.deploy(IRIS)
    await platform.until(workload, lambda seen: seen.state is READY)
    (platform.layout.workloads / f"{'0' * 36}.json").write_text(workload.model_dump_json())
    await platform.place.poke()
    assert (await platform.ask(workload, SETOSA)).answer is not None
    assert len(platform.replicas()) == 1


async def test_many_large_calls_are_answered_by_one_replica(platform: Platform) -> None:
    body = "return __import__('time').sleep(1) or [__import__('os').getpid()] * len(rows)"
    workload = await platform.deploy(of_python(body), maximum=1, timeout=60)
    rows = [[number / 7] for number in range(150_000)]
    ids = [await platform.predictions.submit(workload.id, rows) for _ in range(14)]
    answers = [await platform.predictions.wait(each, PATIENCE) for each in ids]
    assert len({(answer.answer or {"predictions": [answer]})["predictions"][0] for answer in answers}) == 1


async def test_calls_that_together_take_longer_than_the_timeout_kill_no_replica(platform: Platform) -> None:
    body = "return [__import__('time').sleep(0.2) or __import__('os').getpid() for row in rows]"
    workload = await platform.deploy(of_python(body), maximum=1, timeout=1.5)
    answers = await asyncio.gather(*(platform.ask(workload, [1]) for _ in range(24)))
    assert len({tuple((answer.answer or {}).get("predictions", ())) for answer in answers}) == 1


async def test_the_same_revision_told_again_keeps_its_replica(platform: Platform) -> None:
    workload = await platform.deploy(WITH_PID)
    before = (await platform.ask(workload, [1])).answer
    await platform.place.apply(workload.model_copy(update={"generation": 2, "fallback": workload.target}))
    await platform.until(workload, lambda seen: seen.generation == 2 and seen.state is READY)
    assert (await platform.ask(workload, [1])).answer == before


async def test_what_answers_keeps_its_environment_whatever_is_wanted_meanwhile(platform: Platform) -> None:
    workload = await platform.deploy(WITH_PID)
    other = platform.layout.data / "other environment"
    other.symlink_to(platform.science)
    second = workload.target.model_copy(update={"revision": 2, "environment": other})
    update = {"target": second, "fallback": workload.target, "generation": 2}
    await platform.place.apply(workload.model_copy(update=update))
    await platform.until(workload, lambda seen: seen.active == 2)
    before = (await platform.ask(workload, [1])).answer
    assert before is not None
    await platform.place.apply(
        workload.model_copy(update={**update, "target": platform.written(HANGS, revision=3), "generation": 3})
    )
    await eventually(lambda: len(platform.replicas()) == 2)
    await platform.until(workload, lambda seen: seen.generation == 3)
    for _ in range(5):
        await platform.place.poke()
    assert (await platform.ask(workload, [1])).answer == before


async def test_a_revision_may_take_more_calls_at_a_time(platform: Platform) -> None:
    body = "return [__import__('time').sleep(0.1) or len(rows) for row in rows]"
    workload = await platform.deploy(of_python(body), concurrency=1, maximum=1)
    alone = await asyncio.gather(*(platform.ask(workload, [1]) for _ in range(4)))
    assert [answer.answer["predictions"] for answer in alone if answer.answer] == [[1]] * 4
    target = workload.target.model_copy(update={"revision": 2, "concurrency": 8})
    update = {"target": target, "fallback": workload.target, "generation": 2}
    await platform.place.apply(workload.model_copy(update=update))
    await platform.until(workload, lambda seen: seen.active == 2)
    await platform.ask(workload, [1])  # by which it is known how long a row takes
    together = await asyncio.gather(*(platform.ask(workload, [1]) for _ in range(8)))
    assert max(answer.answer["predictions"][0] for answer in together if answer.answer) > 1


async def test_a_storm_on_a_sleeping_deployment_is_answered(platform: Platform) -> None:
    workload = await platform.deploy(IRIS, idle=0.5)
    await platform.until(workload, lambda seen: seen.state is ASLEEP)
    answers = await asyncio.gather(*(platform.ask(workload, SETOSA) for _ in range(500)))
    assert [answer.state for answer in answers] == ["succeeded"] * 500


async def test_wakes_leave_no_file_open(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeserve.door.pool.LOOK_SECONDS", 0.02)
    workload = await platform.deploy(IRIS, idle=0.01)
    opened = list[int]()
    for _ in range(30):
        assert (await platform.ask(workload, SETOSA)).answer is not None
        await eventually(lambda: platform.replicas() == [])
        opened.append(len(list(Path("/proc/self/fd").iterdir())))
    assert min(opened[-10:]) <= max(opened[:10])  # what is open for a moment, such as to count usage, is no leak


async def test_redis_that_is_killed_under_load_costs_no_prediction(platform: Platform, tmp_path: Path) -> None:
    await platform.close()
    server = RedisServer(tmp_path / "its own", "appendonly yes", "appendfsync always", docker=False)
    server.start()
    own = Platform(tmp_path / "own", platform.science, f"{server.url}/0")
    own.open()
    try:
        workload = await own.deploy(SLOW)
        await own.until(workload, lambda seen: seen.state is READY)
        ids = [await own.predictions.submit(workload.id, [[1]]) for _ in range(20)]
        await own.predictions.wait(ids[0], PATIENCE)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        assert [await _ended(own, each) for each in ids] == ["succeeded"] * 20
    finally:
        await own.close()
        await own.predictions.aclose()
        await own.place.aclose()
        server.close()


async def _ended(platform: Platform, prediction_id: str) -> str:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                answer = await platform.predictions.wait(prediction_id, PATIENCE)
            except UnavailableError:
                await asyncio.sleep(POLL)
            else:
                return answer.state


async def test_a_call_whose_zygote_is_killed_again_and_again_is_answered(platform: Platform) -> None:
    workload = await platform.deploy(of_python("return [__import__('time').sleep(1) or 1 for row in rows]"))
    asked = asyncio.create_task(platform.ask(workload, [1]))
    for _ in range(4):
        await platform.until(workload, lambda seen: seen.replicas > 0)
        await eventually(lambda: len(platform.replicas()) == 1 or asked.done())
        for pid in platform.zygotes():
            os.kill(pid, signal.SIGKILL)
    assert (await asked).answer is not None, asked


async def test_a_replica_that_is_killed_while_it_loads_is_made_again(platform: Platform) -> None:
    source = (
        "import time\ntime.sleep(0.5)\nclass Model:\n    n_features_in_ = 1\n    def predict(self, rows): return [1]"
    )
    workload = await platform.deploy(platform.written(source))
    await eventually(lambda: len(platform.replicas()) == 1)
    for pid in platform.replicas():
        os.kill(pid, signal.SIGKILL)
    await platform.until(workload, lambda seen: seen.state is READY)
    assert (await platform.ask(workload, [1])).answer is not None


FLOODS = """
import kubeserve.runtime.zygote as zygote
def run(self):
    while True:
        zygote.frames.send(self._control, {"exited": "nobody"})
zygote._Zygote.run = run
"""
FILLS = """
import sys, pathlib
run = pathlib.Path(sys.argv[sys.argv.index("--socket") + 1]).parent
for number in range(8):
    (run / f"{number}.mine").write_bytes(b"x" * (1 << 20))
"""


def _hostile_environment(place: Path, package: str) -> Path:
    """An environment whose numpy is that."""
    venv = place / "hostile"
    subprocess.run([find_uv_bin(), "-q", "venv", "--python", sys.executable, str(venv)], check=True, timeout=60)  # noqa: S603
    (next(venv.glob("lib/python*/site-packages")) / "numpy.py").write_text(package)
    return venv


@pytest.mark.parametrize(("package", "reason"), [(FLOODS, "not asked for"), (FILLS, "write takes more than 1,048,576")])
async def test_packages_that_flood_the_door_or_its_disk_end_with_their_own_deployment(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, reason: str
) -> None:
    monkeypatch.setattr(zygote, "LARGEST_FOLDER", 1 << 20)
    other = await platform.deploy(IRIS)
    environment = await asyncio.to_thread(_hostile_environment, tmp_path, package)
    source = "import time\nclass Model:\n    n_features_in_ = 1\n    def predict(self, rows): return [1]"
    workload = await platform.deploy(platform.written(source, environment=environment, minimum=1))
    await platform.until(workload, lambda seen: reason in seen.reason)
    assert (await platform.ask(other, SETOSA)).answer is not None
    assert len(platform.zygotes()) == 1


async def test_answers_that_take_all_the_room_of_a_tenant_are_not_kept(platform: Platform, db: redis.Redis) -> None:
    await platform.close()
    platform.open(answers=2000)
    workload = await platform.deploy(of_python("return ['x' * 500 for row in rows]"))
    told = [await platform.ask(workload, [1]) for _ in range(5)]
    assert [answer.state for answer in told] == ["succeeded"] * 3 + ["failed"] * 2
    assert told[-1].error is not None
    refused = problem(told[-1])
    assert (refused.status, refused.code) == (429, "answers_full")
    await eventually(lambda: sum(map(int, db.hvals(answers_key(workload.tenant)))) > 1500)  # the door has told it


def test_a_log_is_read_as_what_a_stranger_wrote(tmp_path: Path) -> None:
    (tmp_path / "1.log").write_bytes(b"red \x1b[31m\r\n\xff\xe2\x80\xae\n\n" + b"no end")
    (tmp_path / "2.log").symlink_to(tmp_path / "gone")
    (tmp_path / "3.log").write_bytes(b"x" * (LARGEST_READ + 5) + b"\nlast\n")
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "4.log").symlink_to(tmp_path / "link")
    os.mkfifo(tmp_path / "5.log")
    read = dict[Path, int]()
    lines = [*new_lines(tmp_path, read), *new_lines(tmp_path, read)]
    assert sorted(line for line in lines if "x" not in line) == sorted(["red \ufffd[31m", "\ufffd\ufffd", "", "last"])
    (tmp_path / "6.log").write_bytes(b"x" * LARGEST_READ)
    assert new_lines(tmp_path, read) == ["x" * LARGEST_READ]


def test_what_a_replica_left_is_kept_within_bounds_and_no_link_is_followed(tmp_path: Path) -> None:
    log, written, secret = tmp_path / "1.log", tmp_path / "written", tmp_path / "secret"
    secret.write_text("secret")
    written.symlink_to(secret)
    replica.keep_log(written, log)
    assert not log.exists()
    with pytest.raises(OSError, match="written"):
        open_log(written)
    written.unlink()
    with written.open("wb") as file:
        file.truncate(1 << 40)
    replica.keep_log(written, log)
    assert log.stat().st_size < 1 << 22
    assert not written.exists()
