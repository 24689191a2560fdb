"""Measures hot predictions: `.venv/bin/python -m bench.hot` (two minutes).

`kubeserve up` beside a bare aiohttp handler that has the same model in its process, asked in turns: one call at a time,
and by 64 callers at once. Servers and callers share the machine.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Final

import orjson
from greenscale_worker.up.probes import free_port
from harness import machine
from harness.figures import amount, percentile, table

from environments import environment
from models import IRIS, make
from processes import PATIENCE, Up, ready

ROUNDS: Final = 8
EACH: Final = 100  # calls of a round, one at a time
CALLERS: Final = 64
SECONDS: Final = 2.0  # of a round with all callers
ROW: Final = [5.1, 3.5, 1.4, 0.2]
BODY: Final = orjson.dumps({"instances": [ROW]})
FOREST: Final = """
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
rows, labels = load_iris(return_X_y=True)
model = RandomForestClassifier(100, random_state=0).fit(rows, labels)
"""
MODELS: Final = {"logistic regression": IRIS, "forest of 100 trees": FOREST}


@dataclass
class Server:
    """Where a model is asked, and what was measured there."""

    name: str
    port: int
    path: str
    headers: str = ""
    waits: list[float] = field(default_factory=list)  # ms
    rates: list[float] = field(default_factory=list)  # rows a second

    @property
    def p50(self) -> float:
        """The median of a call, in ms."""
        return statistics.median(self.waits)

    @property
    def rate(self) -> float:
        """Rows a second of all callers."""
        return statistics.median(self.rates)


class Caller:
    """A connection that is kept, and costs little beside what it measures."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"POST {server.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{server.headers}"
        self._request = f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
        self._reader, self._writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def open(cls, server: Server) -> AsyncIterator["Caller"]:
        """Connect."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        yield cls(server, reader, writer)
        writer.close()

    async def ask(self) -> None:
        """Ask for one row, and check that one prediction comes."""
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        told = orjson.loads(await self._reader.readexactly(length))
        if not head.startswith(b"http/1.1 200 ") or len(told.get("predictions", ())) != 1:
            raise SystemExit(f"no answer: {head!r} {told}")


async def alone(server: Server) -> None:
    """Ask one at a time."""
    async with Caller.open(server) as caller:
        for _ in range(EACH // 10):
            await caller.ask()
        for _ in range(EACH):
            began = perf_counter()
            await caller.ask()
            server.waits.append(1000 * (perf_counter() - began))


async def together(server: Server) -> None:
    """Ask as many as there are callers at once."""
    ends = perf_counter() + SECONDS

    async def call() -> int:
        async with Caller.open(server) as caller:
            asked = 0
            while perf_counter() < ends:
                await caller.ask()
                asked += 1
            return asked

    began = perf_counter()
    asked = sum(await asyncio.gather(*(call() for _ in range(CALLERS))))
    server.rates.append(asked / (perf_counter() - began))


@contextmanager
def bare(science: Path, model: Path) -> Iterator[Server]:
    """Run the handler that everything is compared with."""
    server = Server("bare aiohttp handler", free_port(), "/predict")
    script = Path(__file__).with_name("bare.py")
    process = subprocess.Popen([sys.executable, script, science, model, str(server.port)])  # noqa: S603  ours
    try:
        yield server
    finally:
        process.kill()
        process.wait()


def deployed(up: Up, model: Path, name: str) -> Server:
    """Deploy a model, and let it wake."""
    with up.person(name) as api:
        version = ready(api, model, name)
        deployment = api.deploy(version["model_id"], name, version["id"], idle=3600.0, maximum=1)
        api.predict(deployment["id"], [ROW])
        key = api.create_key("bench", deployment["id"])["key"]
        path = f"/api/v1/predict/{deployment['id']}"
    return Server("kubeserve, hot", up.port, path, f"Authorization: Bearer {key}\r\n")


async def until_up(server: Server) -> None:
    """Wait until it answers."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                async with Caller.open(server) as caller:
                    return await caller.ask()
            except OSError:
                await asyncio.sleep(0.1)


async def compared(science: Path, up: Up, model: Path, name: str) -> list[list[str]]:
    """Ask both in turns, and return the rows of the table."""
    with bare(science, model) as plain:
        ours = await asyncio.to_thread(deployed, up, model, name)
        for server in (plain, ours):
            await until_up(server)
        for _ in range(ROUNDS):
            for server in (plain, ours):
                await alone(server)
                await together(server)
    return [
        [
            f"{name}: {server.name}",
            f"{amount(server.p50)} ms ({server.p50 / plain.p50:.1f} ×)",
            f"{amount(percentile(sorted(server.waits), 95))} ms",
            f"{amount(server.rate)} ({server.rate / plain.rate:.1f} ×)",
        ]
        for server in (plain, ours)
    ]


async def measure(folder: Path, chosen: list[str]) -> str:
    """Measure all, and render the table."""
    science = environment()
    rows = []
    async with Up(folder, science) as up:
        for name in chosen:
            model = make(science, folder / f"{name.split()[0]}.joblib", MODELS[name])
            rows += await compared(science, up, model, name.split()[0])
        await up.stop()
    return table(["one row a call", "p50", "p95", f"rows a second, {CALLERS} callers"], rows)


def main() -> int:
    """Print the table, and where and when it was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, action="append", help="measure this one alone")
    given = parser.parse_args()
    where, began, commit = machine.describe(), machine.now(), machine.commit()
    with tempfile.TemporaryDirectory(prefix="bench-hot-") as name:
        print(asyncio.run(measure(Path(name), given.model or list(MODELS))))
    print(f"""
Measured by `python -m bench.hot` on {began}, commit {commit}, {where["processor"]}, {where["cores"]} cores
({where["busy_before_percent"]} % busy before), Python {where["python"]}; servers and callers share the machine.""")
    return 0


if __name__ == "__main__":
    sys.exit(main())
