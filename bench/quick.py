"""Three figures next to the floor, in one run on one machine: `python bench/quick.py [throughput|pickup|start] …`.

throughput: 5,000 jobs preloaded, endpoint at 0 ms, 100 lanes: jobs/s and CPU seconds for 1,000 jobs.
pickup:     an idle worker, a push every 50 ms: push to arrival at the endpoint.
start:      start of the process to the first request, one job waiting.
Runs alternate between the floor and the worker; medians and the ratio to the floor are printed.
"""

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

HERE = Path(__file__).parent
JOBS, LANES, PUSHES, REPEATS = 5000, 100, 100, 5


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def process(*command: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(command, env=os.environ | env, stdout=quiet, stderr=quiet)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(10)


def wait_port(port: int) -> None:
    for _ in range(200):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"nothing listens on {port}")


def command(kind: str, redis_port: int, url: str, lanes: int) -> tuple[tuple[str, ...], dict[str, str]]:
    if kind == "floor":
        settings = {"FLOOR_LANES": str(lanes), "FLOOR_REDIS_PORT": str(redis_port), "FLOOR_URL": url}
        return (sys.executable, str(HERE / "floor.py")), settings
    return (sys.executable, "-m", "greenscale_worker"), {
        "GREENSCALE_CONCURRENCY": str(lanes),
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_port),
        "NEYSA_API_URL": url,
        "NEYSA_API_KEY": "",
    }


def payload(number: int) -> bytes:
    return b'{"job_id":"job-%06d","prompt":"%s"}' % (number, b"What is 2+2? " * 12)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def script_calls(db: redis.Redis) -> int:
    return int(db.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


def throughput(kind: str, db: redis.Redis, redis_port: int, stub_port: int) -> dict[str, float]:
    db.flushall()
    words, env = command(kind, redis_port, f"http://127.0.0.1:{stub_port}/v1/chat/completions", LANES)
    with process(*words, **env) as child:
        db.lpush("jobs", payload(0))
        while not db.exists("result:job-000000"):
            time.sleep(0.005)
        time.sleep(0.3)
        for start in range(1, JOBS + 1, 500):
            db.lpush("preload", *(payload(number) for number in range(start, start + 500)))
        cpu, scripts, began = cpu_seconds(child.pid), script_calls(db), time.perf_counter()
        db.rename("preload", "jobs")
        db.lpush("jobs", payload(999_999))
        while not db.exists(f"result:job-{JOBS:06d}"):
            time.sleep(0.005)
        while db.llen("jobs") or db.hlen("{jobs}:open"):
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        cpu = cpu_seconds(child.pid) - cpu
        scripts = script_calls(db) - scripts
    return {"jobs/s": JOBS / seconds, "CPU s / 1,000": cpu * 1000 / JOBS, "scripts / job": scripts / JOBS}


def pickup(kind: str, db: redis.Redis, redis_port: int, _: int) -> dict[str, float]:
    db.flushall()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        arrivals = Path(folder) / "arrivals"
        with process(sys.executable, str(HERE / "stub.py"), str(port), "0", str(arrivals)):
            wait_port(port)
            words, env = command(kind, redis_port, f"http://127.0.0.1:{port}/v1/chat/completions", 16)
            with process(*words, **env):
                pushed = []
                for number in range(PUSHES + 5):
                    at = time.monotonic_ns()
                    db.lpush("jobs", payload(number))
                    pushed.append(at)
                    while not db.exists(f"result:job-{number:06d}"):
                        time.sleep(0.01)
                    time.sleep(0.05)
        arrived = [int(line) for line in arrivals.read_text().split()]
    waits = sorted((b - a) / 1e6 for a, b in zip(pushed[5:], arrived[5:], strict=True))
    return {"p50 ms": waits[len(waits) // 2], "p99 ms": waits[int(len(waits) * 0.99)]}


def start(kind: str, db: redis.Redis, redis_port: int, _: int) -> dict[str, float]:
    db.flushall()
    db.lpush("jobs", payload(1))
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        arrivals = Path(folder) / "arrivals"
        with process(sys.executable, str(HERE / "stub.py"), str(port), "0", str(arrivals)):
            wait_port(port)
            words, env = command(kind, redis_port, f"http://127.0.0.1:{port}/v1/chat/completions", 16)
            began = time.monotonic_ns()
            with process(*words, **env):
                while not db.exists("result:job-000001"):
                    time.sleep(0.01)
        return {"ms": (int(arrivals.read_text().split()[0]) - began) / 1e6}


def main() -> None:
    redis_port, stub_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        server = ("redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", folder)
        with process(*server), process(sys.executable, str(HERE / "stub.py"), str(stub_port), "0"):
            wait_port(redis_port)
            wait_port(stub_port)
            db = redis.Redis(port=redis_port)
            for measure in sys.argv[1:] or ("throughput", "pickup", "start"):
                runs: dict[str, list[dict[str, float]]] = {"floor": [], "worker": []}
                for _ in range(REPEATS):
                    for kind, results in runs.items():
                        results.append(globals()[measure](kind, db, redis_port, stub_port))
                for figure in runs["floor"][0]:
                    floor, worker = (statistics.median(run[figure] for run in runs[kind]) for kind in runs)
                    ratio = f"{worker / floor:.2f} x" if floor else "-"
                    line = f"{measure:<11} {figure:<14} floor {floor:10.3f}   worker {worker:10.3f}   {ratio}"
                    print(line, flush=True)


main()
