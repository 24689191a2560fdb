"""Measures batches of a gateway: `python -m bench.batches` (nine minutes; `--lines N`: less).

One batch of 50,000 lines of 1 KB, then two of two tenants at once, of a fifth each; a gateway, two workers, Redis, an
endpoint that takes 0.9 s, and a real S3 server for the files. Lanes are the bound, at 142 calls a second. What lanes
do is looked at between the first tenth of the calls and the last: how many hold a line, and for how much of their time
the endpoint has their call. On a busy machine calls are late, and lanes hold lines meanwhile. It keeps the figures in
bench/results and writes their table into docs/batches.md.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench.front_doors import Scene, scene
from greenscale_worker.gateway.keys import new_key
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.registry import open_client
from greenscale_worker.tasks import end
from harness import machine
from harness.endpoint import Call, Endpoint
from harness.environments import ROOT
from harness.figures import table
from harness.processes import cpu_seconds
from harness.s3_server import BUCKET, S3Server

RESULTS: Final = ROOT / "bench" / "results" / "batches.json"
DOCUMENT: Final = ROOT / "docs" / "batches.md"
BEGIN: Final = "<!-- Written by `python -m bench.batches`; do not edit. -->\n"
END: Final = "<!-- End of what `python -m bench.batches` wrote. -->"
LINES: Final = 50_000
LINE_BYTES: Final = 1000
WORKERS: Final = 2
LANES: Final = 64  # of each
LATENCY: Final = 0.9  # seconds
FIRST_NAMES: Final = (1_000_000, 2_000_000)  # of the lines of each tenant: the endpoint calls them job-1000000, …
SOON: Final = 0.1  # seconds between two looks when something is about to happen
LATER: Final = 2.0
SAMPLE: Final = 0.25  # between two looks at the queue
MIB: Final = 2**20
Figures = dict[str, Any]


@dataclass
class Run:
    """One tenant's batch, by the clock of this machine."""

    tenant: str
    first: int
    lines: int
    key: str
    created: float = 0.0
    first_part: float = 0.0
    ended: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def file(self) -> bytes:
        """Return the input file."""
        return b"".join(self._line(number) for number in range(self.first, self.first + self.lines))

    def _line(self, number: int) -> bytes:
        name = f"job-{number}"
        messages = [{"role": "user", "content": "word " * ((LINE_BYTES - 170) // 5)}]
        body = {"user": name, "model": "m", "messages": messages}
        line = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(line).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Sample:
    """How many lines lanes held, and how many waited, at a moment (ns)."""

    at: int
    running: int
    waiting: int


@contextmanager
def stage(folder: Path) -> Iterator[tuple[Scene, Endpoint, S3Server]]:
    """Run all that takes part."""
    (folder / "s3").mkdir()
    endpoint = Endpoint(folder, LATENCY * 1000)
    with endpoint.process, S3Server(folder / "s3") as s3:
        settings = {"GREENSCALE_FILES": f"s3://{BUCKET}/x", "GREENSCALE_CONCURRENCY": str(LANES)} | s3.environment()
        with scene(endpoint.url, folder, workers=WORKERS, **settings) as here:
            yield here, endpoint, s3


def measure(folder: Path, *lines: int) -> Figures:
    """Run batches of so many lines at once, each of a tenant."""
    with stage(folder) as (here, endpoint, s3):
        runs = [Run(name, first, count, _key(here, name)) for name, first, count in zip("ab", FIRST_NAMES, lines)]  # noqa: B905  the tenants that there are
        time.sleep(LATER)
        idle_redis, idle_gateway = _redis_mib(here, "used_memory"), _peak_mib(here)
        samples: list[Sample] = []
        files, commands, processor = asyncio.run(_all(here, runs, s3, samples))
        calls = endpoint.calls()
        return {
            "lines": list(lines),
            "calls": len(calls),
            "completed": [run.counts["completed"] for run in runs],
            **_of_lanes(calls, runs, samples),
            "seconds": max(run.ended for run in runs) - min(run.created for run in runs),
            "first_part_seconds": max(run.first_part - run.created for run in runs),
            "tail_seconds": max(run.ended for run in runs) - calls[-1].at / 1e9,
            "redis_idle_mib": idle_redis,
            "redis_peak_mib": _redis_mib(here, "used_memory_peak"),
            "gateway_idle_mib": idle_gateway,
            "gateway_peak_mib": _peak_mib(here),
            "files_per_1000": files / sum(lines) * 1000,
            "commands_per_line": commands / sum(lines),
            "gateway_cpu_per_1000": processor / sum(lines) * 1000,
        }


def _of_lanes(calls: list[Call], runs: list[Run], samples: list[Sample]) -> Figures:
    """Return what the lanes did while there was enough to do, and each tenant's share of the calls."""
    tenth = len(calls) // 10
    inner = calls[tenth:-tenth]
    seconds = (inner[-1].at - inner[0].at) / 1e9
    owners = Counter(int(call.job_id.removeprefix("job-")) // FIRST_NAMES[0] for call in inner)
    within = [each for each in samples if inner[0].at <= each.at <= inner[-1].at]
    return {
        "busy": sum(each.running for each in within) / (WORKERS * LANES * len(within)),
        "dry": sum(not each.waiting for each in within) / len(within),
        "calling": (len(inner) - 1) * LATENCY / (WORKERS * LANES * seconds),
        "shares": [owners[run.first // FIRST_NAMES[0]] / len(inner) for run in runs],
    }


def _key(here: Scene, tenant: str) -> str:
    """Make a key of a tenant."""
    key_id, token, key = new_key(scopes=("batch",), tenant=tenant)
    here.redis.hset("{jobs}:keys", key_id, key.model_dump_json())
    return token


async def _look(here: Scene, samples: list[Sample]) -> None:
    """Look at the queue, again and again."""
    async with aclosing(await open_client("list", RedisOptions(url=here.redis_url), QueueOptions())) as queue:
        while True:
            depth = await queue.depth()
            samples.append(Sample(time.monotonic_ns(), depth.running, depth.waiting))
            await asyncio.sleep(SAMPLE)


async def _all(here: Scene, runs: list[Run], s3: S3Server, samples: list[Sample]) -> tuple[float, ...]:
    """Run all batches at once. Return requests to S3, commands of Redis and the gateway's CPU seconds meanwhile."""

    def read() -> tuple[float, ...]:
        return s3.requests(), _commands(here), cpu_seconds([here.process])

    async with aiohttp.ClientSession() as http:
        files = [await _upload(http, here, run) for run in runs]
        before = read()
        looking = asyncio.create_task(_look(here, samples))
        await asyncio.gather(*(_follow(http, here, run, file) for run, file in zip(runs, files, strict=True)))
        await end(looking)
        return tuple(new - old for new, old in zip(read(), before, strict=True))


async def _ask(http: aiohttp.ClientSession, run: Run, url: str, **body: Any) -> Any:
    method, headers = ("POST" if body else "GET"), {"Authorization": f"Bearer {run.key}"}
    async with http.request(method, url, headers=headers, **body) as response:
        if response.status != 200:
            raise SystemExit(f"{url}: {response.status} {await response.text()}")
        return await response.json()


async def _upload(http: aiohttp.ClientSession, here: Scene, run: Run) -> str:
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", run.file(), filename="lines.jsonl")
    return str((await _ask(http, run, f"{here.gateway}/files", data=form))["id"])


async def _follow(http: aiohttp.ClientSession, here: Scene, run: Run, file: str) -> None:
    """Create the batch of a file, and wait for its end."""
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    run.created = time.monotonic()
    batch = await _ask(http, run, f"{here.gateway}/batches", json=body)
    while batch["status"] not in {"completed", "failed"}:
        done = batch["request_counts"]["completed"]
        await asyncio.sleep(LATER if 0 < done < run.lines * 0.95 else SOON)
        batch = await _ask(http, run, f"{here.gateway}/batches/{batch['id']}")
        if not run.first_part and batch["request_counts"]["completed"]:
            run.first_part = time.monotonic()
            print(f"{run.tenant}: the first part after {run.first_part - run.created:.1f} s", file=sys.stderr)
    run.ended, run.counts = time.monotonic(), batch["request_counts"]


def _redis_mib(here: Scene, name: str) -> float:
    return float(here.redis.info("memory")[name]) / MIB


def _commands(here: Scene) -> int:
    """Return how many commands there were, those within scripts included."""
    return sum(each["calls"] for each in here.redis.info("commandstats").values())


def _peak_mib(here: Scene) -> float:
    """Return the most memory that the gateway has had."""
    status = Path(f"/proc/{here.process.popen.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def render(kept: dict[str, Any]) -> str:
    """Render the table."""
    where, (one, two) = kept["machine"], kept["runs"]

    def row(what: str, goal: str, form: str) -> list[str]:
        return [what, goal, *(form.format(**run).replace("%", " %") for run in (one, two))]

    rows = [
        row("lanes that hold a line", "≥ 95 %", "{busy:.1%}"),
        row("looks at which no line waited for a lane", "", "{dry:.1%}"),
        row("time of all lanes in which the endpoint had their call", "", "{calling:.1%}"),
        row("memory of Redis at its peak (idle)", "< 48 MiB", "{redis_peak_mib:.1f} MiB ({redis_idle_mib:.1f})"),
        row("of the gateway, the upload included (idle)", "", "{gateway_peak_mib:.0f} MiB ({gateway_idle_mib:.0f})"),
        row("requests to S3 for 1,000 lines", "", "{files_per_1000:.0f}"),
        row("commands of Redis for a line, all that run it included", "", "{commands_per_line:.1f}"),
        row("CPU of the gateway for 1,000 lines", "", "{gateway_cpu_per_1000:.1f} s"),
        row("from the batch's creation to the first part", "", "{first_part_seconds:.1f} s"),
        row("from the last call's begin to `completed`", "", "{tail_seconds:.1f} s"),
        ["share of the calls of each tenant", "", "", " and ".join(f"{100 * share:.0f} %" for share in two["shares"])],
        row("from creation to end", "", "{seconds:.0f} s"),
    ]
    header = ["", "goal", f"a batch of {one['lines'][0]:,} lines", f"two at once of {two['lines'][0]:,}"]
    return f"""{table(header, rows)}

Lines of 1 KB, {WORKERS} workers of {LANES} lanes, an endpoint that takes {LATENCY:g} s, files in SeaweedFS. Measured by
`python -m bench.batches` on {kept["began"]}, commit {kept["commit"]}, {where["processor"]}, {where["cores"]} cores,
{where["busy_before_percent"]} % busy before, Python {where["python"]}, Redis {where["redis"]}; all of it shares the
machine.
"""


def document(kept: dict[str, Any]) -> str:
    """Return the whole document with the table in its place."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{render(kept)}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.batches", description="Measure batches of a gateway.")
    parser.add_argument("--lines", type=int, default=LINES, help="of the one batch; fewer are only printed")
    lines: int = parser.parse_args().lines
    kept: dict[str, Any] = {"machine": machine.describe(), "commit": machine.commit(), "began": machine.now()}
    kept["runs"] = []
    for counts in ((lines,), (lines // 5, lines // 5)):
        with tempfile.TemporaryDirectory(prefix="batches-") as name:
            kept["runs"].append(measure(Path(name), *counts))
        print(json.dumps(kept["runs"][-1]), file=sys.stderr, flush=True)
    if lines == LINES:
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        DOCUMENT.write_text(document(kept))
    print(render(kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
