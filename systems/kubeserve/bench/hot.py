"""Measures hot predictions: `.venv/bin/python -m bench.hot` (two minutes).

`kubeserve up` beside a bare aiohttp handler that has the same model in its process, asked in turns: one call at a time,
and by 64 callers at once. Its door is asked alone, too, by its socket: what is left is the API's part. With
`--mlserver PROGRAM`, the `mlserver` of an environment of its own (`pip install mlserver mlserver-sklearn`), that one
stands beside them. Servers and callers share the machine.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Final

import orjson
from greenscale_worker.up.probes import free_port
from harness import machine
from harness.figures import amount, percentile, table

from environments import environment
from kubeserve.places.layout import Layout
from models import IRIS, make
from processes import PATIENCE, Up, ready

ROUNDS: Final = 8
EACH: Final = 100  # calls of a round, one at a time
CALLERS: Final = 64
SECONDS: Final = 2.0  # of a round with all callers
ROW: Final = [5.1, 3.5, 1.4, 0.2]
BODY: Final = orjson.dumps({"instances": [ROW]})
ROWS: Final = orjson.dumps([ROW])  # as the API sends them on
TENSOR: Final = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": ROW}]})
FOREST: Final = """
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
rows, labels = load_iris(return_X_y=True)
model = RandomForestClassifier({trees}, random_state=0).fit(rows, labels)
"""
MODELS: Final = {
    "logistic regression": IRIS,
    **{f"forest of {trees} trees": FOREST.format(trees=trees) for trees in (10, 100)},
}


@dataclass
class Server:
    """Where a model is asked, and what was measured there."""

    name: str
    port: int | Path
    path: str
    headers: str = ""
    body: bytes = BODY
    answer: str = "predictions"
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
        self._request = f"{head}Content-Length: {len(server.body)}\r\n\r\n".encode() + server.body
        self._answer = server.answer
        self._reader, self._writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def open(cls, server: Server) -> AsyncIterator["Caller"]:
        """Connect."""
        if isinstance(server.port, Path):
            reader, writer = await asyncio.open_unix_connection(server.port)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        yield cls(server, reader, writer)
        writer.close()

    async def ask(self) -> None:
        """Ask for one row, and check that one prediction comes."""
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        told = orjson.loads(await self._reader.readexactly(length))
        if not head.startswith(b"http/1.1 200 ") or len(told.get(self._answer, ())) != 1:
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


@contextmanager
def mlserver(program: str, model: Path, *, batch: bool) -> Iterator[Server]:
    """Run MLServer, with the model in its process; `batch`: it collects up to as many calls as there are callers."""
    settings = {"name": "m", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": str(model)}}
    batches = {"max_batch_size": CALLERS, "max_batch_time": 0.001} if batch else {}
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    with tempfile.TemporaryDirectory(prefix="bench-mlserver-") as folder:
        Path(folder, "model-settings.json").write_bytes(orjson.dumps(settings | batches))
        Path(folder, "settings.json").write_bytes(orjson.dumps({**ports, "host": "127.0.0.1", "parallel_workers": 0}))
        quiet = subprocess.DEVNULL
        process = subprocess.Popen([program, "start", folder], stdin=quiet, stdout=quiet, stderr=quiet)  # noqa: S603  the given one
        try:
            name = f"MLServer{', adaptive batching' if batch else ''}"
            yield Server(name, ports["http_port"], "/v2/models/m/infer", body=TENSOR, answer="outputs")
        finally:
            process.terminate()
            process.wait()


def deployed(up: Up, model: Path, name: str) -> Sequence[Server]:
    """Deploy a model, and let it wake. Returns the way of all callers, and that of the API to its door."""
    with up.person(name) as api:
        version = ready(api, model, name)
        deployment = api.deploy(version["model_id"], name, version["id"], idle=3600.0, maximum=1)
        api.predict(deployment["id"], [ROW])
        key = api.create_key("bench", deployment["id"])["key"]
    door = Server("of which its door", Layout(up.data).socket, f"/predict/{deployment['id']}", body=ROWS)
    path = f"/api/v1/predict/{deployment['id']}"
    return Server("kubeserve, hot", up.port, path, f"Authorization: Bearer {key}\r\n"), door


async def until_up(server: Server) -> None:
    """Wait until it answers."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                async with Caller.open(server) as caller:
                    return await caller.ask()
            except (OSError, EOFError):
                await asyncio.sleep(0.1)


async def compared(science: Path, up: Up, model: Path, name: str, program: str | None) -> list[list[str]]:
    """Ask all in turns, and return the rows of the table."""
    with ExitStack() as stack:
        plain = stack.enter_context(bare(science, model))
        servers = [plain, *await asyncio.to_thread(deployed, up, model, name.replace(" ", "-"))]
        if program is not None:
            servers += [stack.enter_context(mlserver(program, model, batch=batch)) for batch in (False, True)]
        for server in servers:
            await until_up(server)
        for _ in range(ROUNDS):
            for server in servers:
                await alone(server)
                await together(server)
    return [
        [
            f"{name}: {server.name}",
            f"{amount(server.p50)} ms ({server.p50 / plain.p50:.1f} ×)",
            f"{amount(percentile(sorted(server.waits), 95))} ms",
            f"{amount(server.rate)} ({server.rate / plain.rate:.1f} ×)",
        ]
        for server in servers
    ]


async def measure(folder: Path, chosen: list[str], program: str | None) -> str:
    """Measure all, and render the table."""
    science = environment()
    rows = []
    async with Up(folder, science) as up:
        for name in chosen:
            model = make(science, folder / f"{name.replace(' ', '-')}.joblib", MODELS[name])
            rows += await compared(science, up, model, name, program)
        await up.stop()
    return table(["one row a call", "p50", "p95", f"rows a second, {CALLERS} callers"], rows)


def main() -> int:
    """Print the table, and where and when it was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, action="append", help="measure this one alone")
    parser.add_argument("--mlserver", metavar="PROGRAM", help="the `mlserver` that is measured, too")
    given = parser.parse_args()
    where, began, commit = machine.describe(), machine.now(), machine.commit()
    with tempfile.TemporaryDirectory(prefix="bench-hot-") as name:
        print(asyncio.run(measure(Path(name), given.model or list(MODELS), given.mlserver)))
    print(f"""
Measured by `python -m bench.hot` on {began}, commit {commit}, {where["processor"]}, {where["cores"]} cores
({where["busy_before_percent"]} % busy before), Python {where["python"]}; servers and callers share the machine.""")
    return 0


if __name__ == "__main__":
    sys.exit(main())
