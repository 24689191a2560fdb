"""What a worker's process says of itself: why nothing moves, and what a handler raised."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from greenscale_worker.backends.echo import EchoBackend
from greenscale_worker.cli.worker import log_exception
from greenscale_worker.job import decode
from greenscale_worker.queues import QueueClient, QueueOptions, RedisOptions
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.queues.registry import open_client
from greenscale_worker.simulator import CHAT_PATH, SimulatorOptions, running
from greenscale_worker.telemetry import configure_logging
from greenscale_worker.worker import Worker
from harness.eventually import PATIENCE, POLL
from harness.redis_server import free_port
from harness.worker_process import Fleet, WorkerProcess

HANDLER = """
async def handler(job):
    hidden = "a value of a variable"
    try:
        int(job.payload["prompt"])
    except ValueError as error:
        raise RuntimeError("a fault\\nof mine") from error
"""


@pytest.fixture
def fleet(redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", REDIS_URL=redis_url) as fleet:
        yield fleet


async def readyz(port: int) -> tuple[int, list[str]]:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as answer:
            return answer.status, (await answer.text()).splitlines()
    except aiohttp.ClientError:
        return 0, []


async def until_ready_says(port: int, says: Callable[[int, list[str]], object]) -> list[str]:
    said: tuple[int, list[str]] = (0, [])
    for _ in range(int(PATIENCE / POLL)):
        said = await readyz(port)
        if says(*said):
            return said[1]
        await asyncio.sleep(POLL)
    raise TimeoutError(said)


async def with_client(redis_url: str, use: Callable[[QueueClient], Awaitable[Any]]) -> None:
    admin = await open_client("list", RedisOptions(url=redis_url), QueueOptions())
    try:
        await use(admin)
    finally:
        await admin.aclose()


async def test_a_worker_says_why_it_waits_for_its_backend(fleet: Fleet) -> None:
    port, endpoint = free_port(), free_port()
    url = f"http://user:hush@127.0.0.1:{endpoint}/v1/chat/completions"
    worker = fleet.start(NEYSA_API_URL=url, GREENSCALE_HEALTH_PORT=port)
    said = await until_ready_says(
        port, lambda status, lines: status == 503 and len(lines) == 2 and "waiting" in lines[1]
    )
    assert said[0] == "the backend has not answered yet"
    assert said[1].startswith("waiting for the backend: ")
    assert f"127.0.0.1:{endpoint}" in said[1]
    assert f"127.0.0.1:{endpoint}" in (await worker.says("waiting_for_backend"))["why"]
    assert "hush" not in orjson.dumps([said, worker.log()]).decode()
    await worker.stop()


async def test_what_a_worker_waits_for_is_said_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Absent(EchoBackend):
        why_not_ready = "http://h: refused"

        async def ready(self) -> bool:
            return False

    monkeypatch.setattr("greenscale_worker.readiness.FIRST_WORD_SECONDS", 0.1)
    monkeypatch.setattr("greenscale_worker.readiness.READY_SECONDS", 0.01)
    configure_logging(json=True)
    worker = Worker(MemoryQueue(QueueOptions()), Absent())
    running = asyncio.create_task(worker.run())
    said: list[float] = []
    while len(said) < 4:
        await asyncio.sleep(POLL)
        lines = [line for line in capsys.readouterr().out.splitlines() if "waiting_for_backend" in line]
        assert all(orjson.loads(line)["why"] == Absent.why_not_ready for line in lines)
        said += [datetime.fromisoformat(orjson.loads(line)["timestamp"]).timestamp() for line in lines]
    worker.stop()
    assert await running
    assert [
        second - first >= least for first, second, least in zip(said, said[1:], (0.09, 0.19, 0.39), strict=False)
    ] == [True] * 3


async def test_a_worker_says_that_its_key_is_refused_and_that_it_is_paused(fleet: Fleet, redis_url: str) -> None:
    port = free_port()
    async with running(SimulatorOptions(api_key="right")) as url:
        worker = fleet.start(NEYSA_API_URL=url + CHAT_PATH, NEYSA_API_KEY="wrong-key", GREENSCALE_HEALTH_PORT=port)
        assert await until_ready_says(port, lambda status, _: status == 200) == ["ok"]
        jobs = [(str(number), orjson.dumps({"job_id": str(number), "prompt": "x"})) for number in range(20)]
        await with_client(redis_url, lambda admin: admin.put(jobs))
        (_, why) = await until_ready_says(port, lambda _, lines: len(lines) == 2)
        assert "http_401" in why
        assert "key" in why
        assert "wrong-key" not in why
        await with_client(redis_url, lambda admin: admin.pause())
        paused = "paused: `greenscale-worker resume` ends it"
        said = await until_ready_says(port, lambda status, lines: status == 200 and paused in lines)
        assert said[0] == "ok"
        await with_client(redis_url, lambda admin: admin.resume())
        await until_ready_says(port, lambda _, lines: paused not in lines)
        worker.terminate()
        assert await worker.exit_code() == 0


@pytest.fixture
def failing(fleet: Fleet, tmp_path: Path) -> Callable[..., WorkerProcess]:
    (tmp_path / "mine.py").write_text(HANDLER)

    def start(**environment: object) -> WorkerProcess:
        return fleet.start(GREENSCALE_BACKEND="mine:handler", PYTHONPATH=tmp_path, **environment)

    return start


@pytest.mark.parametrize("logged", [True, False])
async def test_what_a_handler_raised_can_be_seen(
    failing: Callable[..., WorkerProcess], redis_url: str, *, logged: bool
) -> None:
    worker = failing(**{"GREENSCALE_LOG_EXCEPTIONS": "true"} if logged else {})
    await with_client(redis_url, lambda admin: admin.put([("1", b'{"job_id": "1", "prompt": "no number"}')]))
    await worker.says("backend_error", job_id="1", error="RuntimeError")
    await worker.says("job")
    found = worker.log("backend_exception")
    assert bool(found) == logged
    for line in found:
        assert line["job_id"] == "1"
        for words in ("mine.py", "int(job.payload", "ValueError: invalid literal", "RuntimeError: a fault\nof mine"):
            assert words in line["exception"]
        assert "a value of a variable" not in line["exception"]
    worker.terminate()
    assert await worker.exit_code() == 0


def test_for_people_a_traceback_is_printed_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=False)
    job = decode(b'{"job_id": "1", "prompt": "x"}', max_bytes=100)
    try:
        int("mine")
    except ValueError as error:
        log_exception(job, error)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(" ERROR backend exception: job 1")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: invalid literal for int() with base 10: 'mine'"


def test_a_traceback_without_end_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=True)
    job = decode(b'{"job_id": "1", "prompt": "x"}', max_bytes=100)
    log_exception(job, RuntimeError("x" * 1_000_000 + "the end"))
    (line,) = map(orjson.loads, capsys.readouterr().out.splitlines())
    assert len(line["exception"]) < 20_000
    assert line["exception"].endswith("the end")
