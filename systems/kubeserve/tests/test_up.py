"""`kubeserve up` as people run it: processes for real, killed at any time, and nothing of them left."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis
from harness.eventually import eventually
from harness.redis_server import RedisServer

from kubeserve.client import KubeServe
from kubeserve.errors import UnprocessableError
from kubeserve.places.layout import Layout
from processes import PASSWORD, PATIENCE, Up, ready

MIB = 1024 * 1024
SYSTEM = Path(__file__).parents[1]
MODEL = SYSTEM / "e2e" / "iris.onnx"
FLOWERS = [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3], [7.7, 3.0, 6.1, 2.3]]


@pytest.fixture
async def up(tmp_path: Path, science: Path) -> AsyncIterator[Up]:
    async with Up(tmp_path, science) as running:
        yield running


async def test_the_whole_way_and_nothing_is_left(up: Up) -> None:
    assert f"KubeServe is up: {up.url}\n" in up.said
    assert f"  export KUBESERVE_URL={up.url}\n" in up.said
    told = [line for line in up.said.splitlines() if str(up.data) not in line]
    assert max(map(len, told)) < 80

    script = [sys.executable, "-m", "e2e", "--url", up.url]
    ended = await asyncio.to_thread(subprocess.run, script, cwd=SYSTEM, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, (ended.stdout, ended.stderr)
    assert "passed" in ended.stdout

    assert await up.stop() == 0
    assert [line for line in up.complained.splitlines() if "stopping" in line] == [
        "up: stopping API",
        "up: stopping door: predictions that run may end, the rest waits for the next `up`",
        f"up: stopping Valkey: jobs and answers are kept in {up.data / 'valkey'}",
    ]
    assert up.left() == {}
    assert not Layout(up.data).run.exists()


async def test_a_second_one_on_the_same_data_is_refused(up: Up) -> None:
    second = up.command("up", "--data", str(up.data), check=False)
    assert second.returncode == 2
    assert f"another `up` uses it (pid {up.process.pid}" in second.stderr
    assert up.command("me", check=False).returncode == 1  # the first one answers


async def test_a_port_in_use_is_refused_where_it_is_named_only(up: Up, tmp_path: Path) -> None:
    second = up.command("up", "--data", str(tmp_path / "other"), check=False)
    assert second.returncode == 2
    assert f"KUBESERVE_PORT={up.port}: Address already in use" in second.stderr
    assert up.left() != {}


async def test_down_ends_it_and_purge_removes_its_data(up: Up) -> None:
    await asyncio.to_thread(up.person)
    (up.data / "mine.txt").write_text("kept")
    refused = up.command("down", "--data", str(up.data), "--purge", check=False)
    assert (refused.returncode, up.process.poll()) == (2, None)
    assert "--yes is expected" in refused.stderr

    assert "It is down." in up.command("down", "--data", str(up.data)).stderr
    assert up.process.wait(5) == 0
    assert up.left() == {}
    assert "Nothing ran." in up.command("down", "--data", str(up.data), "--purge", "--yes").stderr
    assert [path.name for path in up.data.iterdir()] == ["mine.txt"]
    again = up.command("down", "--data", str(up.data), check=False)
    assert again.returncode == 2
    assert "no `up` has ever run there" in again.stderr


@pytest.mark.parametrize("part", ["API", "door", "Valkey"])
async def test_predictions_outlast_any_part(up: Up, part: str) -> None:
    with await asyncio.to_thread(up.person) as api:
        deployment = await asyncio.to_thread(deployed, api)
        with frozen(up):
            asked = await asyncio.to_thread(begun, api, deployment["id"])
            waiting = asyncio.create_task(asyncio.to_thread(predict_elsewhere, up, deployment["id"]))
            await up.kill(part)
        assert await asyncio.to_thread(answers, api, asked) == [0, 1, 2]
        assert await waiting == 1
    assert await up.stop() == 0
    assert up.left() == {}


async def test_predictions_outlast_all_of_it(up: Up) -> None:
    with await asyncio.to_thread(up.person) as api:
        deployment = await asyncio.to_thread(deployed, api)
        with frozen(up):
            asked = await asyncio.to_thread(begun, api, deployment["id"])
            await up.stop(signal.SIGKILL)
            await eventually(lambda: up.left() == {}, PATIENCE)

        await up.start()
        assert await asyncio.to_thread(answers, api, asked) == [0, 1, 2]
        assert api.deployment(deployment["id"])["active_revision"] == 1


async def test_what_waits_at_the_end_is_answered_after_the_next_start(up: Up) -> None:
    with await asyncio.to_thread(up.person) as api:
        deployment = await asyncio.to_thread(deployed, api)
        with frozen(up):
            asked = await asyncio.to_thread(begun, api, deployment["id"])
            up.process.send_signal(signal.SIGTERM)
            await eventually(lambda: "stopping door" in up.complained, PATIENCE)
            assert await up.stop() == 1  # a second signal hurries: what does not end is killed
            assert "up: door does not stop; it is killed" in up.complained
        assert up.left() == {}

        await up.start()
        assert await asyncio.to_thread(answers, api, asked) == [0, 1, 2]


async def test_an_upload_outlasts_the_api(up: Up, tmp_path: Path) -> None:
    big = tmp_path / "big.pkl"
    big.write_bytes(os.urandom(64 * MIB))
    with await asyncio.to_thread(up.person) as api:
        version = api.create_version(api.create_model("big")["id"], "v1")
        sent: list[int] = []
        uploading = asyncio.create_task(
            asyncio.to_thread(api.upload, version["id"], big, progress=lambda bytes_, _: sent.append(bytes_))
        )
        await eventually(lambda: len(sent) > 1, PATIENCE)
        await up.kill("API")
        await uploading
        api.finish(version["id"])  # compares the hashes
        with pytest.raises(UnprocessableError, match="rejected"):  # random bytes are no model
            await asyncio.to_thread(api.wait_until_ready, version["id"])


@pytest.mark.parametrize("whole", [False, True], ids=["API", "all"])
async def test_a_proof_outlasts_a_kill(up: Up, whole: bool) -> None:
    with await asyncio.to_thread(up.person) as api:
        version = api.create_version(api.create_model("iris")["id"], "v1")
        await asyncio.to_thread(api.upload, version["id"], MODEL)
        api.finish(version["id"])
        await eventually(lambda: proofs(up) != [], PATIENCE)
        proof = proofs(up)[0]
        os.kill(proof, signal.SIGSTOP)
        if whole:
            await up.stop(signal.SIGKILL)
            await eventually(lambda: up.left() == {}, PATIENCE)
            await up.start()
        else:
            await up.kill("API")
        await eventually(lambda: proof not in up.left(), PATIENCE)
        again = await asyncio.to_thread(api.wait_until_ready, version["id"])
        assert again["attempt"] == 2
    assert await up.stop() == 0
    assert list((up.data / "proofs").glob("*")) == []


async def test_a_redis_of_ones_own(
    tmp_path: Path, science: Path, redis_server: RedisServer, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = Up(tmp_path, science)
    environment = {**up.environment, "REDIS_URL": f"redis://:@127.0.0.1:{redis_server.port}/0"}
    monkeypatch.setattr(Up, "environment", environment)
    async with up:
        assert "Valkey" not in up.said
        with await asyncio.to_thread(up.person) as api:
            deployment = await asyncio.to_thread(deployed, api)
            assert db.keys("*ks:*") != []
            api.delete(deployment["id"])
            await eventually(lambda: api.deployments() == [], PATIENCE)
        assert db.keys("*ks:*") == []
        assert await up.stop() == 0
    db.ping()


def deployed(api: KubeServe) -> dict:
    """A deployment that has a replica."""
    version = ready(api, MODEL, "iris")
    deployment = api.deploy(version["model_id"], "iris", version["id"])
    wait(lambda: api.deployment(deployment["id"])["active_revision"] == 1)
    api.predict(deployment["id"], FLOWERS)
    return deployment


@contextmanager
def frozen(up: Up) -> Iterator[None]:
    """The replicas that there are do nothing until the block is left."""
    parents = {pid: parent(pid) for pid, words in up.left().items() if " zygote " in words}
    replicas = [pid for pid, above in parents.items() if above in parents]
    assert replicas
    for pid in replicas:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in replicas:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def begun(api: KubeServe, deployment_id: str) -> list[str]:
    """Predictions that a replica works on."""
    asked = [api.predict_async(deployment_id, [row]) for row in FLOWERS]
    for each in asked:
        wait(lambda each=each: api._calls.ask("GET", f"/predictions/{each}")["state"] == "running")
    return asked


def answers(api: KubeServe, asked: list[str]) -> list[int]:
    told = {}
    for each in asked:
        wait(lambda each=each: told.setdefault(each, api.result(each)) or told.pop(each))
    return [told[each]["predictions"][0]["label"] for each in asked]


def predict_elsewhere(up: Up, deployment_id: str) -> int:
    with KubeServe(up.url, patience=PATIENCE) as api:
        api.login("anna@example.org", PASSWORD)
        return api.predict(deployment_id, FLOWERS[1:2])["predictions"][0]["label"]


def wait(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def proofs(up: Up) -> list[int]:
    """The proofs that are behind their walls."""
    found = [pid for pid, words in up.left().items() if words.rstrip().endswith(" prove")]
    return [pid for pid in found if is_below(up.data / "proofs", pid)]


def is_below(folder: Path, pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(folder)
    except OSError:
        return False
