"""Readings per second from POST to stored, next to the loop this system replaces: `python bench/run.py [REPEATS]`.

Everything runs on this machine, pinned to two cores: a Redis of its own (append-only file, fsync every second), the
ingestion API, which is the same for both, the load, and either bench/loop.py or the worker. Turns are interleaved:
loop and worker, single readings and arrays of 100, and again. Each turn has servers of its own, for two processes that
happen to share a core go on doing so, and are slower or faster for it by a third. Two figures for each turn:

POST to stored:    from the first POST, over 32 connections, until the last reading lies in the list of its site.
stream to stored:  as many entries lie in the stream already; from the first stored reading to the last.

Medians, the least and the most are printed and written to bench/results.md.
"""

import asyncio
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

from energy_readings.processing import worker_environment

HERE = Path(__file__).parent
SINGLES, ARRAYS, PER_ARRAY, SITES, CONNECTIONS = 6000, 600, 100, 10, 32
START = datetime(2024, 1, 1, tzinfo=UTC)
KINDS = ("loop, single readings", "worker, single readings", "loop, arrays of 100", "worker, arrays of 100")
STORED_SECONDS = 120.0
SERVER = shutil.which("redis-server") or "redis-server"

Figures = dict[str, dict[str, list[float]]]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def process(*command: str, **env: str) -> Iterator[None]:
    child = subprocess.Popen(command, env=os.environ | env, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def wait_for(port: int) -> None:
    for _ in range(500):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"nothing listens on {port}")


def reading(number: int) -> dict[str, Any]:
    when = START + timedelta(seconds=number)
    return {
        "site_id": f"site-{number % SITES:03}",
        "device_id": f"meter-{number % 97:02}",
        "power_reading": 1000 + number % 5000 / 4,
        "timestamp": when.isoformat().replace("+00:00", "Z"),
    }


def bodies(kind: str) -> tuple[list[bytes], int]:
    """The bodies of the requests, and how many readings there are in them."""
    if "single" in kind:
        return [json.dumps(reading(number)).encode() for number in range(SINGLES)], SINGLES
    groups = [[reading(PER_ARRAY * at + number) for number in range(PER_ARRAY)] for at in range(ARRAYS)]
    return [json.dumps(group).encode() for group in groups], ARRAYS * PER_ARRAY


async def send(port: int, requests: list[bytes]) -> None:
    """Post all of them, over some connections at a time."""
    left = iter(requests)

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in left:
            writer.write(b"POST /readings HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            answer = await reader.readuntil(b"}\n")
            assert answer.startswith(b"HTTP/1.1 202"), answer  # noqa: S101  a figure with refusals in it says nothing
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))


def stored(db: redis.Redis) -> int:
    with db.pipeline(transaction=False) as pipeline:
        for site in range(SITES):
            pipeline.llen(f"site_readings:site-{site:03}")
        return sum(pipeline.execute())


def wait_stored(db: redis.Redis, readings: int) -> float:
    ends = time.monotonic() + STORED_SECONDS
    while stored(db) < readings:
        if time.monotonic() > ends:
            raise SystemExit(f"only {stored(db)} of {readings} readings were stored in {STORED_SECONDS:g} s")
        time.sleep(0.005)
    return time.monotonic()


@contextmanager
def processing(kind: str, port: int) -> Iterator[None]:
    if kind.startswith("loop"):
        with process(sys.executable, str(HERE / "loop.py"), str(port)):
            yield
    else:
        env = worker_environment({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port)})
        with process(sys.executable, "-m", "greenscale_worker", **env):
            yield


def turn(kind: str, db: redis.Redis, redis_port: int, api_port: int) -> dict[str, float]:
    """One measurement of both figures, in readings per second."""
    requests, readings = bodies(kind)
    db.flushall()
    with processing(kind, redis_port):
        while not db.exists("energy_readings") or not db.xinfo_groups("energy_readings"):
            time.sleep(0.02)
        asyncio.run(send(api_port, requests[:100]))  # warm
        wait_stored(db, min(readings, 100 * (readings // len(requests))))
        db.delete(*(f"site_readings:site-{site:03}" for site in range(SITES)))
        db.delete(*(f"{{site_readings:site-{site:03}}}:by_time" for site in range(SITES)))
        began = time.monotonic()
        asyncio.run(send(api_port, requests))
        whole = readings / (wait_stored(db, readings) - began)
    db.flushall()
    asyncio.run(send(api_port, requests))
    with processing(kind, redis_port):
        while not (before := stored(db)):
            time.sleep(0.002)
        began = time.monotonic()
        alone = (readings - before) / (wait_stored(db, readings) - began)
    return {"POST to stored": whole, "stream to stored": alone}


@contextmanager
def servers() -> Iterator[tuple[redis.Redis, int, int]]:
    """A Redis and the ingestion API; gives a client of the one, and both ports."""
    redis_port, api_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as directory:
        server = (SERVER, "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", directory)
        with process(*server, "--save", "", "--appendonly", "yes", "--daemonize", "no"):
            wait_for(redis_port)
            env = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis_port), "ENERGY_PORT_INGEST": str(api_port)}
            with process(sys.executable, "-m", "energy_readings", "ingest", **env), redis.Redis(port=redis_port) as db:
                wait_for(api_port)
                yield db, redis_port, api_port


def measure(repeats: int) -> Figures:
    figures: Figures = {kind: {} for kind in KINDS}
    for number in range(repeats):
        for kind in KINDS:
            with servers() as (db, redis_port, api_port):
                for figure, value in turn(kind, db, redis_port, api_port).items():
                    figures[kind].setdefault(figure, []).append(value)
            print(f"{number + 1}/{repeats} {kind}", file=sys.stderr)
    return figures


def table(figures: Figures) -> str:
    lines = ["| readings per second | POST to stored | to the loop | stream to stored | to the loop |"]
    lines += ["|---|---|---|---|---|"]
    for kind, both in figures.items():
        cells = [kind]
        for figure, values in both.items():
            middle = statistics.median(values)
            floor = statistics.median(figures[KINDS[0]][figure])
            cells += [f"{middle:,.0f} ({min(values):,.0f} to {max(values):,.0f})", f"**{middle / floor:.2f}**"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    ran = subprocess.run((SERVER, "--version"), capture_output=True, text=True, check=True)
    server = ran.stdout.split()[2]
    packages = ", ".join(f"{name} {version(name)}" for name in ("greenscale-worker", "redis", "aiohttp"))
    system = f"Linux {platform.release()}, Python {platform.python_version()}, Redis {server.removeprefix('v=')}"
    return f"two cores of {model}, {system}, {packages}"


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    when, load = datetime.now(UTC), os.getloadavg()[0]
    text = table(measure(repeats))
    about = (
        f"`make -C systems/energy_readings bench`, {when:%Y-%m-%d}: {machine()}. Medians of {repeats} interleaved "
        "runs, the least and the most in brackets; in bold what it is to the loop with single readings. Load of the "
        f"machine before: {load:.1f}; above 1, others had a part of the two cores."
    )
    (HERE / "results.md").write_text(f"# Figures\n\n{about}\n\n{text}\n")
    print(f"{about}\n\n{text}")


if __name__ == "__main__":
    main()
