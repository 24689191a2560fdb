"""The system as a whole: it comes up by one command, its README is true, and no death loses or doubles a reading."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from aiohttp import ClientSession
from harness.eventually import eventually
from harness.redis_server import RedisServer, free_port
from harness.worker_process import Fleet

from energy_readings.processing import WORKER
from system import System, until

HERE = Path(__file__).parent
README = (HERE.parent / "README.md").read_text()
EXAMPLES = re.findall(r"^```sh\n(curl .*?)```\n\n```json\n(.*?)```$", README, re.MULTILINE | re.DOTALL)
SITE = "site-001"
STREAM = "energy_readings"


@pytest.fixture
def system(tmp_path: Path, shared_server: RedisServer, db: redis.Redis) -> Iterator[System]:
    db.flushall()
    with System(tmp_path, shared_server) as system:
        yield system


@pytest.fixture
def fleet(tmp_path: Path, shared_server: RedisServer, db: redis.Redis) -> Iterator[Fleet]:
    db.flushall()
    with Fleet(tmp_path, **WORKER, REDIS_URL=f"{shared_server.url}/0", GREENSCALE_LEASE_SECONDS=1) as fleet:
        yield fleet


def reading(number: int) -> dict[str, Any]:
    seconds = f"{number // 60 % 60:02}:{number % 60:02}"
    return {
        "site_id": SITE,
        "device_id": f"meter-{number // 3600}",
        "power_reading": float(number),
        "timestamp": f"2024-01-15T10:{seconds}Z",
    }


def powers(db: redis.Redis) -> list[float]:
    return [json.loads(each)["power_reading"] for each in db.lrange(f"site_readings:{SITE}", 0, -1)]


def put(db: redis.Redis, *readings: dict[str, Any], array: bool = False) -> None:
    """Do as the ingestion API does."""
    if array:
        db.xadd(STREAM, {"readings": json.dumps(readings)})
    for each in () if array else readings:
        db.xadd(STREAM, dict(each))


def test_the_examples_of_the_readme_work_as_printed(system: System) -> None:
    assert len(EXAMPLES) >= 6
    for command, printed in EXAMPLES:
        for port, role in (("8000", "ingest"), ("8001", "readings"), ("3000", "page")):
            command = command.replace(f":{port}/", f":{system.ports[role]}/")  # noqa: PLW2901  on other ports

        def as_printed(command: str = command, printed: str = printed) -> bool:
            ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)  # noqa: S603, S607  of our own README
            return normal(ran.stdout) == normal(printed)

        try:
            until(as_printed, 10)  # a reading that was accepted is stored a moment later
        except TimeoutError:
            shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)  # noqa: S603, S607  likewise
            pytest.fail(f"{command} gave {shown.stdout}, not {printed}")


def normal(text: str) -> Any:
    answer = json.loads(text)
    if "entry_id" in answer:
        assert re.fullmatch(r"[0-9]+-[0-9]+", answer["entry_id"])
        answer["entry_id"] = "of its own"
    if answer.get("next"):
        answer["next"] = "of its own"
    return answer


def test_a_child_that_dies_ends_all(system_process: tuple[System, "subprocess.Popen[bytes]"]) -> None:
    system, process = system_process
    until(lambda: "is up" in system.said())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 4
    os.kill(int(children[0]), signal.SIGKILL)
    assert process.wait(60) == 1
    assert re.search(r"(ingest|process|readings|page) has ended with -9; so do the others", system.said())
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


@pytest.fixture
def system_process(
    tmp_path: Path, shared_server: RedisServer, db: redis.Redis
) -> Iterator[tuple[System, "subprocess.Popen[bytes]"]]:
    db.flushall()
    system = System(tmp_path, shared_server)
    process = system.start()
    yield system, process
    if process.poll() is None:
        process.terminate()
        process.wait(60)


def test_up_says_what_is_missing(tmp_path: Path) -> None:
    ran = subprocess.run(
        (sys.executable, "-m", "energy_readings", "up"),
        env={"REDIS_PORT": str(free_port())},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "Redis does not answer" in ran.stderr
    assert "redis-server" in ran.stderr


def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    ran = subprocess.run(
        (sys.executable, "-m", "energy_readings", "ingest"),
        env={"ENERGY_PORT_INGEST": "many"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("energy-readings: ENERGY_PORT_INGEST: ")
    assert ran.stderr.count("\n") == 1


async def test_rubbish_becomes_a_dead_letter_and_no_loop(fleet: Fleet, db: redis.Redis) -> None:
    db.xadd(STREAM, {"rubbish": "yes"})
    put(db, reading(1))
    worker = fleet.start()
    await eventually(lambda: db.xlen(STREAM) == 0)
    assert powers(db) == [1.0]
    (letter,) = await asyncio.to_thread(dead_letters, db)
    assert letter["code"] == "bad_reading"
    (command,) = re.findall(r"^energy-readings .* dead list$", README, re.MULTILINE)
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "REDIS_URL": url_of(db)}
    shown = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    assert "bad_reading" in shown.stdout, "the command looks at the queue of readings, without a word of which it is"
    await worker.stop()


async def test_no_junk_in_the_stream_stops_the_worker(fleet: Fleet, db: redis.Redis) -> None:
    rng = random.Random(1)
    junk: list[Any] = [
        b"",
        b"\xff\xfe",
        b"a|b",
        b"{}",
        b"[" * 10_000,
        b"null",
        b"x" * 100_000,
        b"\x00",
        b"-1",
        b"1e999",
    ]
    names = [b"", b"\xff", b"job", b"job_id", b"readings", b"payload", b"prompt", b"site_id", b"timestamp", b"messages"]
    entries = [{name: value} for name in names for value in junk]
    entries += [{rng.choice(names): rng.choice(junk) for _ in range(rng.randrange(2, 5))} for _ in range(100)]
    worker = fleet.start()
    for number, entry in enumerate(entries):
        db.xadd(STREAM, entry)
        put(db, reading(number))
    await eventually(lambda: db.xlen(STREAM) == 0)
    assert Counter(powers(db)) == Counter(float(number) for number in range(len(entries)))
    assert len(await asyncio.to_thread(dead_letters, db)) == len(entries)
    assert worker.alive
    await worker.stop()


def url_of(db: redis.Redis) -> str:
    return f"redis://127.0.0.1:{db.connection_pool.connection_kwargs['port']}/0"


def dead_letters(db: redis.Redis) -> list[dict[str, Any]]:
    ran = subprocess.run(
        (sys.executable, "-m", "greenscale_worker", "dead", "list", "--json"),
        env=os.environ | WORKER | {"REDIS_URL": url_of(db)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in ran.stdout.splitlines()]


async def test_a_worker_that_dies_between_storing_and_acknowledging_stores_nothing_twice(
    fleet: Fleet, db: redis.Redis
) -> None:
    put(db, *(reading(number) for number in range(20)))
    put(db, *(reading(number) for number in range(20, 40)), array=True)
    dying = fleet.start(GREENSCALE_BACKEND="dying:Dying", PYTHONPATH=HERE)
    await eventually(lambda: not dying.alive)
    stored = powers(db)
    assert stored, "it had stored"
    assert db.xlen(STREAM) > 0, "and not acknowledged"
    survivor = fleet.start()
    await eventually(lambda: db.xlen(STREAM) == 0)
    assert Counter(powers(db)) == Counter(float(number) for number in range(40))
    await survivor.stop()


async def test_kill_9_loses_and_doubles_nothing(fleet: Fleet, api: str, db: redis.Redis) -> None:
    accepted: list[float] = []
    async with ClientSession() as session:
        fleet.start()
        for first in range(0, 6000, 1000):
            victim = fleet.start()
            readings = [reading(number) for number in range(first, first + 1000)]
            sending = asyncio.create_task(send(session, f"{api}/readings", readings, accepted))
            await eventually(partial(begun, db, first))
            victim.kill()
            await sending
    await eventually(lambda: db.xlen(STREAM) == 0, 60)
    assert len(accepted) == 6000
    assert Counter(powers(db)) == Counter(accepted)


@pytest.fixture
def api(tmp_path: Path, shared_server: RedisServer) -> Iterator[str]:
    """The ingestion API, alone."""
    port = free_port()
    process = subprocess.Popen(
        (sys.executable, "-m", "energy_readings", "ingest"),
        env={"REDIS_URL": f"{shared_server.url}/0", "ENERGY_PORT_INGEST": str(port)},
        cwd=tmp_path,
    )
    url = f"http://127.0.0.1:{port}"
    until(lambda: answers(f"{url}/health"))
    yield url
    process.terminate()
    assert process.wait(30) == 0


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310  our own
            return bool(reply.status == 200)
    except OSError:
        return False


def begun(db: redis.Redis, first: int) -> bool:
    """Say whether readings from this number on have begun to arrive."""
    return any(power >= first for power in powers(db))


async def send(session: ClientSession, url: str, readings: list[dict[str, Any]], accepted: list[float]) -> None:
    """Post a half one by one, and a half as arrays of 100."""
    half = len(readings) // 2
    bodies: list[Any] = [*readings[:half], *(readings[at : at + 100] for at in range(half, len(readings), 100))]
    for body in bodies:
        async with session.post(url, json=body) as reply:
            assert reply.status == 202
        accepted += [each["power_reading"] for each in (body if isinstance(body, list) else [body])]
