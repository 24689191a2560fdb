"""The door of a pod, and its zygote, as processes: either may die and come back, and no prediction is lost."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from greenscale_worker import RedisOptions
from harness.eventually import POLL, eventually
from harness.redis_server import RedisServer

from environments import environment
from kubeserve.domain import Quota
from kubeserve.door import pod_zygote, zygote
from kubeserve.door.pod import PodDoor, read_workload
from kubeserve.queueing import answers_key
from pods import KUBESERVE, PATIENCE, Pod

DOUBLE = "class Model:\n    n_features_in_ = 1\n    def predict(self, rows): return [2 * row[0] for row in rows]"
SLOW = f"import time\n{DOUBLE.replace('return', 'time.sleep(0.5); return')}"


@pytest.fixture(scope="module")
def bare() -> Path:
    return environment(())


@pytest.fixture
async def pod_of(bare: Path, redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[Callable[..., Pod]]:
    db.ping()
    pods: list[Pod] = []

    def make(source: str = DOUBLE, **changes: Any) -> Pod:
        pods.append(Pod(bare, f"{redis_server.url}/0", source, **changes))
        return pods[-1]

    yield make
    for pod in pods:
        await pod.__aexit__(None, None, None)


async def test_a_job_of_the_queue_is_answered_once_the_model_is_loaded(
    pod_of: Callable[..., Pod], db: redis.Redis
) -> None:
    pod = pod_of()
    pod.start_door()
    await eventually(lambda: pod.get("/healthz")[0] == 200, PATIENCE)
    assert pod.get("/readyz") == (503, "the model is being loaded\n")
    asked = asyncio.create_task(pod.ask([4]))
    pod.start_zygote()
    answer = (await asked).answer
    assert answer == {"predictions": [8], "revision": 1, "version": "v1"}
    assert pod.ready()
    assert f'predictions_total{{deployment="{pod.workload.id}",outcome="success"}} 1.0' in pod.get("/metrics")[1]
    assert '"state":"ready"' in pod.get("/status")[1]
    assert pod.get(f"/predict/{pod.workload.id}")[0] == 405  # it is there, and is asked by POST
    assert len(pod.replicas) == 1
    await eventually(lambda: db.exists(answers_key(pod.workload.tenant)))  # counted with those of other pods


async def test_a_model_that_dies_is_waited_for_and_its_predictions_are_answered(pod_of: Callable[..., Pod]) -> None:
    pod = pod_of(SLOW)
    pod.start_zygote()
    pod.start_door()
    await eventually(pod.ready, PATIENCE)
    asked = [asyncio.create_task(pod.ask([number])) for number in range(4)]
    await asyncio.sleep(0)
    assert pod.kill(pod.zygote) == -signal.SIGKILL
    await eventually(lambda: not pod.ready(), PATIENCE)
    assert pod.get("/healthz")[0] == 200
    pod.start_zygote()
    answers = await asyncio.gather(*asked)
    assert [answer.answer and answer.answer["predictions"] for answer in answers] == [[0], [2], [4], [6]]
    await eventually(pod.ready, PATIENCE)


async def test_a_door_that_dies_leaves_its_predictions_to_the_next_one(pod_of: Callable[..., Pod]) -> None:
    pod = pod_of(SLOW)
    pod.start_zygote()
    pod.start_door()
    await eventually(pod.ready, PATIENCE)
    former = pod.replicas
    asked = asyncio.create_task(pod.ask([21]))
    await eventually(lambda: len(pod.predictions_open()) == 1, PATIENCE)
    assert pod.kill(pod.door) == -signal.SIGKILL
    pod.start_door()
    answer = (await asked).answer
    assert answer is not None
    assert answer["predictions"] == [42]
    assert former != pod.replicas, "the zygote has ended what the former door had"


async def test_sigterm_lets_what_runs_end_and_leaves_the_rest_in_the_queue(pod_of: Callable[..., Pod]) -> None:
    pod = pod_of(SLOW, concurrency=1)
    pod.start_zygote()
    pod.start_door()
    await eventually(pod.ready, PATIENCE)
    asked = [asyncio.create_task(pod.ask([number])) for number in range(3)]
    await eventually(lambda: len(pod.predictions_open()) == 1, PATIENCE)
    assert pod.zygote is not None
    pod.zygote.send_signal(signal.SIGTERM)  # the cluster tells all containers at once
    assert pod.kill(pod.door, signal.SIGTERM) == 0
    assert pod.zygote.wait(PATIENCE) == 0
    done, left = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
    assert (len(done), len(left)) == (1, 2)
    assert pod.predictions_open() == []
    pod.start_zygote()
    pod.start_door()
    answers = await asyncio.gather(*asked)
    assert [answer.answer and answer.answer["predictions"] for answer in answers] == [[0], [2], [4]]


async def test_a_door_that_waits_for_its_model_ends_when_it_is_told_to(pod_of: Callable[..., Pod]) -> None:
    pod = pod_of()
    pod.start_door()
    await eventually(lambda: pod.get("/healthz")[0] == 200, PATIENCE)
    assert pod.kill(pod.door, signal.SIGTERM) == 0


async def test_a_model_that_does_not_load_is_told_and_the_door_lives(pod_of: Callable[..., Pod]) -> None:
    pod = pod_of("raise RuntimeError('no such weights')")
    pod.start_zygote()
    pod.start_door()
    await eventually(lambda: "no such weights" in pod.get("/readyz")[1], PATIENCE)
    assert pod.get("/readyz")[0] == 503
    assert pod.get("/healthz")[0] == 200


async def test_a_zygote_that_hangs_is_told_so_that_its_container_is_started_again(
    pod_of: Callable[..., Pod], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_zygote, "LOST_SECONDS", 0.5)
    monkeypatch.setattr(zygote, "FORK_SECONDS", 1.0)
    pod, stopping = pod_of(), asyncio.Event()

    async def told(path: str, status: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while (await asyncio.to_thread(pod.get, path))[0] != status:  # noqa: ASYNC110  another process
                await asyncio.sleep(POLL)

    socket = pod.folder / "run" / "zygote.sock"
    door = PodDoor(read_workload(pod.told), socket, RedisOptions(url=f"{redis_server.url}/0"), Quota())
    running = asyncio.create_task(door.run(stopping, "127.0.0.1", pod.port))
    await told("/zygotez", 503)  # there is none
    pod.start_zygote()
    await told("/readyz", 200)
    await told("/zygotez", 200)
    assert pod.zygote is not None
    (replica,) = pod.replicas
    pod.zygote.send_signal(signal.SIGSTOP)
    os.kill(replica, signal.SIGKILL)
    asked = asyncio.create_task(pod.ask([4]))
    await told("/zygotez", 503)
    assert (await asyncio.to_thread(pod.get, "/healthz"))[0] == 200, "the door is well"
    pod.kill(pod.zygote)
    pod.start_zygote()
    await told("/readyz", 200)
    await told("/zygotez", 200)
    assert (await asked).answer is not None
    stopping.set()
    await running


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--workload", "missing"], "--workload and --zygote belong together"),
        (["--workload", "missing", "--zygote", "z"], "missing: No such file or directory; a file with a workload"),
        (["--workload", "other", "--zygote", "z"], "other: no workload of this version of kubeserve"),
    ],
)
def test_what_it_cannot_read_ends_it_with_one_line(words: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("{}")
    ended = subprocess.run(  # noqa: S603  ours
        [KUBESERVE, "door", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert told in ended.stderr
    assert ended.stderr.count("\n") <= 2  # a long one is broken for a terminal
