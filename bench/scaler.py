"""Measures the push scaler: `python -m bench.scaler` (five minutes).

From a push to the message that has KEDA start a pod, with one queue and with a thousand, each with a stream as KEDA
holds it; and what watching costs the scaler and Redis meanwhile. It keeps the figures in bench/results and writes their
table into docs/scaling.md.
"""

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from greenscale_worker.scaler import contract
from greenscale_worker.tasks import end
from harness import machine
from harness.endpoint import wait
from harness.environments import ROOT
from harness.figures import amount, table
from harness.processes import Process, cpu_seconds, cpu_seconds_of, memory_mib
from harness.redis_server import RedisServer, free_port

RESULTS: Final = ROOT / "bench" / "results" / "scaler.json"
DOCUMENT: Final = ROOT / "docs" / "scaling.md"
BEGIN: Final = "<!-- Written by `python -m bench.scaler`; do not edit. -->\n"
END: Final = "<!-- End of what `python -m bench.scaler` wrote. -->"
OURSELVES: Final = (sys.executable, "-m", "greenscale_worker", "scaler")
MANY: Final = 1000
PUSHES: Final = 20
REST_SECONDS: Final = 10.0
START_SECONDS: Final = 60.0
SCENES: Final = (
    ("one empty list", "listName", 1, False),
    (f"{MANY:,} empty lists", "listName", MANY, False),
    (f"{MANY:,} empty streams", "stream", MANY, False),
    (f"{MANY:,} lists with a job and no worker", "listName", MANY, True),
)


@contextmanager
def processes(folder: Path) -> Iterator[tuple[Process, RedisServer, int]]:
    server = RedisServer(folder / "redis", docker=False)
    server.start()
    try:
        port = free_port()
        environment = {"REDIS_URL": server.url, "GREENSCALE_SCALER_LISTEN": f"127.0.0.1:{port}"}
        with Process(OURSELVES, environment, folder / "log") as scaler:
            if not wait(lambda: "scaler_started" in (folder / "log").read_text(), START_SECONDS):
                raise SystemExit(f"the scaler does not start: {(folder / 'log').read_text()[-500:]}")
            yield scaler, server, port
    finally:
        server.close()


@asynccontextmanager
async def listening(port: int, key: str, names: list[str]) -> AsyncIterator[dict[str, asyncio.Queue[int]]]:
    """Hold a stream for each queue, all on one connection."""
    heard: dict[str, asyncio.Queue[int]] = {name: asyncio.Queue() for name in names}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream(
            f"/{contract.SERVICE}/StreamIsActive",
            request_serializer=contract.ScaledObjectRef.SerializeToString,
            response_deserializer=contract.IsActiveResponse.FromString,
        )

        async def hold(name: str) -> None:
            async for _ in call(contract.ScaledObjectRef(scalerMetadata={key: name})):
                heard[name].put_nowait(time.monotonic_ns())

        tasks = [asyncio.create_task(hold(name)) for name in names]
        try:
            yield heard
        finally:
            for task in tasks:
                await end(task)


async def measure(folder: Path, key: str, number: int, *, busy: bool) -> dict[str, float]:
    """Measure one scene."""
    names = [f"queue-{each}" for each in range(number)]
    with processes(folder) as (scaler, server, port), server.client() as redis:
        async with listening(port, key, names) as heard:
            if busy:
                for name in names:
                    redis.lpush(name, "{}")
                await asyncio.gather(*(heard[name].get() for name in names))
            await asyncio.sleep(REST_SECONDS)  # until each has been read
            figures = await cost(scaler, redis)
            if not busy:
                waits = [await push(redis, key, name, heard[name]) for name in random.choices(names, k=PUSHES)]  # noqa: S311
                figures |= {"median_ms": statistics.median(waits), "most_ms": max(waits)}
            return figures


async def cost(scaler: Process, redis: Any) -> dict[str, float]:
    """Measure what watching costs for some seconds: shares of a core, commands a second, and memory."""
    pid = redis.info("server")["process_id"]

    def spent() -> tuple[float, float, int]:
        return cpu_seconds([scaler]), cpu_seconds_of([pid]), redis.info("stats")["total_commands_processed"]

    before, began = spent(), time.monotonic()
    await asyncio.sleep(REST_SECONDS)
    seconds = time.monotonic() - began
    ours, theirs, commands = ((new - old) / seconds for new, old in zip(spent(), before, strict=True))
    return {"scaler": ours, "redis": theirs, "commands": commands, "mib": memory_mib([scaler])}


async def push(redis: Any, key: str, name: str, heard: asyncio.Queue[int]) -> float:
    """Push a job to an empty queue; return the ms until KEDA was told. Leave the queue as it was."""
    await asyncio.sleep(random.uniform(0, 0.2))  # noqa: S311  at any moment of the scaler's round
    began = time.monotonic_ns()
    entry = redis.lpush(name, "{}") if key == "listName" else redis.xadd(name, {"payload": "{}"})
    told = await heard.get()
    redis.delete(name) if key == "listName" else redis.xdel(name, entry)
    await asyncio.sleep(2.5)  # it is read each second, and twice so that it is found empty
    while not heard.empty():
        heard.get_nowait()
    return (told - began) / 1e6


def render(kept: dict[str, Any]) -> str:
    """Render the table."""
    rows = [
        [
            scene,
            f"{f['median_ms']:.0f} ms, {f['most_ms']:.0f} ms at most" if "median_ms" in f else "told each second",
            f"{f['scaler']:.1%}, {f['mib']:.0f} MiB",
            f"{f['redis']:.1%}, {amount(f['commands'])} commands a second",
        ]
        for scene, f in kept["figures"].items()
    ]
    header = ["queues", f"from a push to the message, {PUSHES} pushes", "scaler, of a core", "Redis, of a core"]
    where = kept["machine"]
    return f"""{table(header, rows)}

Measured by `python -m bench.scaler` on {kept["began"]}, commit {kept["commit"]}, {where["processor"]},
{where["cores"]} cores, {where["busy_before_percent"]} % busy with other things, Python {where["python"]}, Redis
{where["redis"]}; scaler, Redis and client share the machine.
"""


def document(kept: dict[str, Any]) -> str:
    """Return the whole document with the table in its place."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{render(kept)}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    kept: dict[str, Any] = {"machine": machine.describe(), "commit": machine.commit(), "began": machine.now()}
    kept["figures"] = {}
    for scene, key, number, busy in SCENES:
        with tempfile.TemporaryDirectory(prefix="scaler-") as name:
            figures = asyncio.run(measure(Path(name), key, number, busy=busy))
        kept["figures"][scene] = {name: round(value, 4) for name, value in figures.items()}
        print(scene, json.dumps(kept["figures"][scene]), file=sys.stderr, flush=True)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    if "--keep-document" not in sys.argv:
        DOCUMENT.write_text(document(kept))
    print(render(kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
