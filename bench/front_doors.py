"""Measures the gateway beside what it stands in front of: `python -m bench.front_doors` (three minutes).

Jobs: from a `POST /v1/jobs` to its call of the endpoint, beside a push to the list. Chat: through the gateway, beside a
direct call of the endpoint, whole and streamed. Each pair alternates within one run, so that the machine's weather is
the same for both. Waiting: memory of one gateway while chats wait. It keeps the figures in bench/results and writes
their table into docs/gateway.md.
"""

import asyncio
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from harness import machine
from harness.endpoint import Endpoint, wait
from harness.environments import ROOT
from harness.figures import table
from harness.processes import Process, memory_mib
from harness.redis_server import RedisServer, free_port

RESULTS: Final = ROOT / "bench" / "results" / "front_doors.json"
DOCUMENT: Final = ROOT / "docs" / "gateway.md"
BEGIN: Final = "<!-- Written by `python -m bench.front_doors`; do not edit. -->\n"
END: Final = "<!-- End of what `python -m bench.front_doors` wrote. -->"
OURSELVES: Final = (sys.executable, "-m", "greenscale_worker")
TIMES: Final = 150  # of each pair
PAUSE_SECONDS: Final = 0.02
STREAMS: Final = 60
TTFT_SECONDS: Final = 0.05
WAITING: Final = 1000
WARM: Final = 10
START_SECONDS: Final = 30.0
Figures = dict[str, float]


@dataclass(frozen=True)
class Scene:
    """Addresses of what runs, and the gateway's process."""

    redis: Any
    redis_url: str
    gateway: str
    endpoint: str
    process: Process


@contextmanager
def scene(endpoint: str, folder: Path, *, workers: int = 1, **settings: str) -> Iterator[Scene]:
    """Run a Redis, workers and a gateway in front of an endpoint."""
    with ExitStack() as stack:
        server = RedisServer(folder / "redis", docker=None)
        server.start()
        stack.callback(server.close)
        port = free_port()
        environment = {"REDIS_URL": server.url, "NEYSA_API_URL": endpoint, "NEYSA_API_KEY": ""}
        environment |= {"GREENSCALE_GATEWAY_PORT": str(port), "GREENSCALE_LOG_LEVEL": "warning"} | settings
        for _ in range(workers):
            stack.enter_context(Process(OURSELVES, environment, folder / "log"))
        gateway = stack.enter_context(Process([*OURSELVES, "serve"], environment, folder / "log"))
        if not wait(lambda: _answers(port, "/readyz"), START_SECONDS):
            raise SystemExit(f"the gateway does not answer: {(folder / 'log').read_text()[-500:]}")
        redis = stack.enter_context(server.client())
        yield Scene(redis, server.url, f"http://127.0.0.1:{port}/v1", endpoint, gateway)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def simulator(folder: Path, *options: str) -> Iterator[str]:
    """Run the simulated endpoint; yields its URL."""
    port = free_port()
    with Process([*OURSELVES, "simulate", "--port", str(port), *options], {}, folder / "simulator.log"):
        wait(lambda: _answers(port, "/health"), START_SECONDS)
        yield f"http://127.0.0.1:{port}/v1/chat/completions"


def jobs(folder: Path) -> Figures:
    """Measure from handing in to the call, in ms: by HTTP, and by a push to the list."""
    endpoint = Endpoint(folder, 0)
    with endpoint.process, scene(endpoint.url, folder) as here:
        pushed = asyncio.run(_hand_in(here))
        wait(lambda: endpoint.count() >= len(pushed), START_SECONDS)
        arrived = {call.job_id: call.at for call in reversed(endpoint.calls())}
    waits = [(arrived[job_id] - at) / 1e6 for job_id, at in pushed.items()][2 * WARM :]
    return {"http_ms": statistics.median(waits[::2]), "push_ms": statistics.median(waits[1::2])}


def _job(number: int) -> dict[str, str]:
    """Return a job whose id the endpoint recognises."""
    return {"job_id": f"job-{number:07d}", "prompt": f"job-{number:07d}"}


async def _hand_in(here: Scene) -> dict[str, int]:
    pushed: dict[str, int] = {}
    async with aiohttp.ClientSession() as http:
        for number in range(1, TIMES + WARM + 1):
            job = _job(2 * number)
            pushed[job["job_id"]] = time.monotonic_ns()
            async with http.post(f"{here.gateway}/jobs", json=job) as response:
                response.raise_for_status()
            await asyncio.sleep(PAUSE_SECONDS)
            job = _job(2 * number + 1)
            pushed[job["job_id"]] = time.monotonic_ns()
            here.redis.lpush("jobs", json.dumps(job))
            await asyncio.sleep(PAUSE_SECONDS)
    return pushed


def chat(folder: Path) -> Figures:
    """Measure whole and streamed answers, in ms: through the gateway, and directly."""
    with simulator(folder, "--latency", "0.02") as endpoint, scene(endpoint, folder) as here:
        whole = asyncio.run(_alternate(here, _whole, TIMES))
    timing = ("--ttft", f"{TTFT_SECONDS:g}", "--per-token", "0.005")
    with simulator(folder, *timing) as endpoint, scene(endpoint, folder / "streams") as here:
        streamed = asyncio.run(_alternate(here, _first_token, STREAMS))
    names = (("chat", whole), ("first_token", streamed))
    return {f"{name}_{how}_ms": value for name, pair in names for how, value in pair.items()}


async def _alternate(
    here: Scene, ask: Callable[[aiohttp.ClientSession, str, int], Awaitable[float]], times: int
) -> Figures:
    urls = {"gateway": f"{here.gateway}/chat/completions", "direct": here.endpoint}
    waits: dict[str, list[float]] = {how: [] for how in urls}
    async with aiohttp.ClientSession() as http:
        for number in range(times + WARM):
            for how, url in urls.items():
                took = await ask(http, url, number)
                if number >= WARM:
                    waits[how].append(1000 * took)
    return {how: statistics.median(each) for how, each in waits.items()}


def _body(number: int, **fields: object) -> dict[str, object]:
    model = "meta-llama/Llama-3.3-70B-Instruct"
    return {"model": model, "messages": [{"role": "user", "content": f"question {number}"}], **fields}


async def _whole(http: aiohttp.ClientSession, url: str, number: int) -> float:
    began = time.monotonic()
    async with http.post(url, json=_body(number)) as response:
        response.raise_for_status()
        await response.read()
    return time.monotonic() - began


async def _first_token(http: aiohttp.ClientSession, url: str, number: int) -> float:
    """Return the time until the first chunk with text; the rest is read, too."""
    began, first = time.monotonic(), None
    async with http.post(url, json=_body(number, stream=True)) as response:
        response.raise_for_status()
        async for line in response.content:
            if first is None and line.startswith(b"data: {") and _text_in(line):
                first = time.monotonic() - began
    if first is None:
        raise SystemExit(f"{url}: a stream without text")
    return first


def _text_in(line: bytes) -> str:
    choices = json.loads(line.removeprefix(b"data: ")).get("choices") or [{}]
    return str(choices[0].get("delta", {}).get("content") or "")


def waiting(folder: Path) -> Figures:
    """Measure the memory of one gateway, in MiB: idle, and while chats wait."""
    with simulator(folder, "--latency", "120") as endpoint, scene(endpoint, folder) as here:
        idle = memory_mib([here.process])
        return {"idle_mib": idle, "waiting_mib": asyncio.run(_hold(here))}


async def _hold(here: Scene) -> float:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http:
        asks = {asyncio.create_task(_whole(http, f"{here.gateway}/chat/completions", n)) for n in range(WAITING)}
        lists = ("jobs", "{jobs}:interactive", "{jobs}:background")
        while sum(map(here.redis.llen, lists)) + here.redis.hlen("{jobs}:open") < WAITING:
            await asyncio.sleep(0.1)
            if ended := [ask for ask in asks if ask.done()]:
                ended[0].result()
        await asyncio.sleep(5)
        occupied = memory_mib([here.process])
        for ask in asks:
            ask.cancel()
        await asyncio.gather(*asks, return_exceptions=True)
        return occupied


def render(kept: dict[str, Any]) -> str:
    """Render the table."""
    f = kept["figures"]
    rows = [
        ["a job, from handing in to its call", f"{f['http_ms']:.1f} ms by HTTP, {f['push_ms']:.1f} ms by a push",
         "≤ 1.5 ×", f"{f['http_ms'] / f['push_ms']:.2f} ×"],
        ["a chat", f"{f['chat_gateway_ms']:.1f} ms, {f['chat_direct_ms']:.1f} ms directly", "≤ 5 ms more",
         f"{f['chat_gateway_ms'] - f['chat_direct_ms']:+.1f} ms"],
        ["first text of a stream",
         f"{f['first_token_gateway_ms']:.1f} ms, {f['first_token_direct_ms']:.1f} ms directly",
         "≤ 10 ms more", f"{f['first_token_gateway_ms'] - f['first_token_direct_ms']:+.1f} ms"],
        [f"{WAITING:,} chats that wait", f"{f['waiting_mib']:.0f} MiB, {f['idle_mib']:.0f} MiB idle", "≤ 150 MiB",
         f"{f['waiting_mib']:.0f} MiB"],
    ]  # fmt: skip
    where = kept["machine"]
    return f"""{table(["what", "medians of one run", "goal", "reached"], rows)}

Measured by `python -m bench.front_doors` on {kept["began"]}, commit {kept["commit"]}, {where["processor"]},
{where["cores"]} cores, Python {where["python"]}, Redis {where["redis"]}; worker, gateway, Redis, endpoint and client
share the machine.
"""


def document(kept: dict[str, Any]) -> str:
    """Return the whole document with the table in its place."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{render(kept)}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    kept: dict[str, Any] = {"machine": machine.describe(), "commit": machine.commit(), "began": machine.now()}
    figures: Figures = {}
    for measure in (jobs, chat, waiting):
        with tempfile.TemporaryDirectory(prefix="front-doors-") as name:
            figures |= measure(Path(name))
        print(json.dumps(figures), file=sys.stderr, flush=True)
    kept["figures"] = {name: round(value, 3) for name, value in figures.items()}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    if "--keep-document" not in sys.argv:
        DOCUMENT.write_text(document(kept))
    print(render(kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
