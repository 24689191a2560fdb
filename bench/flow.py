r"""Measures a fleet as one client: `python -m bench.flow` (twenty minutes; `--quick`: five, and nothing is kept).

Before a simulated engine: tokens a second and what waits inside, for fixed limits and for GREENSCALE_LIMIT=engine with
one and with eight workers; how soon half the engine gone is found; what others' requests gain by being yielded to.
Before a simulated provider: what its rate limits refuse a fleet, and how much of them it uses, while workers are
killed. The figures are kept in bench/results/flow.json, their tables written into docs/flow-control.md.

`python -m bench.flow --vllm --slots 8 -- COMMAND` compares limits before a real engine; bench/real_engine.py says how
to have one. The limits take turns, six times each (`--quick`: once, and nothing is kept): a figure is the median of
these.
"""

import argparse
import json
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.engine_stage import MODEL, Stage, stage
from bench.real_engine import Engine
from greenscale_worker.engine_metrics import read_load
from harness import machine
from harness.endpoint import wait
from harness.environments import ROOT
from harness.figures import table
from harness.simulated import Simulated

RESULTS: Final = ROOT / "bench" / "results" / "flow.json"
DOCUMENT: Final = ROOT / "docs" / "flow-control.md"
BEGIN: Final = "<!-- Written by `python -m bench.flow`; do not edit. -->\n"
END: Final = "<!-- End of what `python -m bench.flow` wrote. -->"
SLOTS: Final = 64
FEW: Final = 3
QUEUE_LIMIT: Final = 48
LANES: Final = 128  # of the fleet
ENGINE: Final = ("--engine", "--slots", str(SLOTS), "--queue-limit", str(QUEUE_LIMIT))
FIXED: Final = (16, 32, 64, 80, 96, None)
FLEETS: Final = (1, 8)
OTHERS: Final = 32
JOBS_A_SECOND: Final = 100  # more than the engine can answer
REQUESTS, TOKENS = 600, 60_000  # a minute, of the provider
ANSWER: Final = 84  # tokens: with its prompt a request takes about its share of both
START_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.25
ROUNDS, ROUND_SECONDS, ROUND_WARM = 6, 15.0, 8.0  # before the real engine
SHARES: Final = (0.5, 1, 1.25, 1.5, 2)  # of its slots: the fixed limits tried
FEW_WORKERS: Final = (1, 3)
REFUSED: Final = re.compile(r'^http_requests_total\{handler="/v1/chat/completions".*status="5xx"\} (\S+)', re.MULTILINE)
Figures = dict[str, Any]


def read_page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  our own engine
        return str(answer.read().decode())


def page_of(url: str) -> tuple[float, float, float]:
    """Return what an engine's page says: tokens made so far, requests that run and that wait."""
    page = read_page(url)
    lines = (line for line in page.splitlines() if line.startswith("vllm:generation_tokens_total"))
    load = read_load(page)
    return sum(float(line.rpartition(" ")[2]) for line in lines), load.running, load.waiting


def watched(url: str, seconds: float) -> Figures:
    """Watch an engine for so long."""
    began, (first, _, _) = time.monotonic(), page_of(url)
    seen = []
    while time.monotonic() < began + seconds:
        time.sleep(LOOK_SECONDS)
        seen.append(page_of(url))
    tokens = (seen[-1][0] - first) / (time.monotonic() - began)
    running, waiting = ([each[which] for each in seen] for which in (1, 2))
    means = {"running": statistics.fmean(running), "waiting": statistics.fmean(waiting)}
    return {"tokens": tokens, **means, "most_waiting": max(waiting)}


@contextmanager
def fleet(root: str, workers: int, jobs: int, settings: Mapping[str, object], **asks: object) -> Iterator[Stage]:
    """Run so many workers on so many jobs, which may ask for something else than usual."""
    with stage(root, GREENSCALE_CONCURRENCY=LANES // workers, **settings) as here:
        here.push(jobs, **asks)
        for _ in range(workers):
            here.fleet.start()
        if not wait(lambda: all(worker.log("ready") for worker in here.fleet.workers), START_SECONDS):
            raise SystemExit("not all workers are ready")
        yield here


def limits(limit: int | str | None, metrics_url: str) -> dict[str, object]:
    """Return the settings for a limit: a number, `engine`, or none."""
    if limit == "engine":
        return {"GREENSCALE_LIMIT": "engine", "GREENSCALE_ENGINE_METRICS_URL": metrics_url}
    return {} if limit is None else {"GREENSCALE_LIMIT": limit}


def throughput(limit: int | str | None, workers: int, seconds: float, warm: float) -> Figures:
    """Measure tokens a second, and what waits inside, under a limit."""
    jobs = int(JOBS_A_SECOND * (seconds + warm))
    with (
        tempfile.TemporaryDirectory(prefix="flow-") as name,
        Simulated(Path(name), *ENGINE) as engine,
        fleet(engine.root, workers, jobs, limits(limit, engine.metrics_url)),
    ):
        time.sleep(warm)
        before = engine.stats()["engine"]["refused"]
        figures = watched(engine.metrics_url, seconds)
        figures["refused"] = engine.stats()["engine"]["refused"] - before
    return {"limit": limit, "workers": workers, **figures}


def halved(workers: int, warm: float) -> Figures:
    """Measure how long it takes until no more than a few wait in an engine that lost half its slots."""
    options = ENGINE[:3]
    with tempfile.TemporaryDirectory(prefix="flow-") as name, Simulated(Path(name), *options) as engine:
        settings = limits("engine", engine.metrics_url)
        with fleet(engine.root, workers, int(JOBS_A_SECOND * (warm + 30)), settings):
            time.sleep(warm)
            engine.change(slots=SLOTS // 2)
            began = time.monotonic()
            time.sleep(LOOK_SECONDS)  # until it shows
            found = wait(lambda: page_of(engine.metrics_url)[2] <= FEW, 30)
            return {"workers": workers, "seconds": time.monotonic() - began if found else None}


def beside(limit: int | str | None, workers: int, warm: float) -> Figures:
    """Measure what others wait for their answers, in ms: half the engine's slots, beside a fleet with this limit."""
    with tempfile.TemporaryDirectory(prefix="flow-") as name, Simulated(Path(name), *ENGINE[:3]) as engine:
        alone = _others(engine.url, warm)
        settings = limits(limit, engine.metrics_url)
        with fleet(engine.root, workers, int(JOBS_A_SECOND * 3 * warm), settings):
            time.sleep(warm)
            together = _others(engine.url, warm)
    return {"limit": limit, "alone_ms": 1000 * alone, "beside_ms": 1000 * together}


def _others(url: str, seconds: float) -> float:
    """Send requests, so many at once, and return how long they took in the mean, the first ones left out."""
    ends, took = time.monotonic() + seconds, list[float]()
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 40, "ignore_eos": True}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310  ours

    def ask() -> None:
        while (began := time.monotonic()) < ends:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  as above
                answer.read()
            if began > ends - seconds / 2:
                took.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask) for _ in range(OTHERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.fmean(took)


def rates(workers: int, seconds: float, warm: float, kills: int) -> Figures:
    """Measure what a provider refuses a fleet, and how much of its limits is used, while workers are killed."""
    options = ("--latency", "0.5", "--requests-per-minute", str(REQUESTS), "--tokens-per-minute", str(TOKENS))
    settings = {"GREENSCALE_REQUESTS_PER_MINUTE": REQUESTS, "GREENSCALE_TOKENS_PER_MINUTE": TOKENS}
    jobs = int(REQUESTS / 60 * (seconds + warm + START_SECONDS))
    with (
        tempfile.TemporaryDirectory(prefix="flow-") as name,
        Simulated(Path(name), *options) as provider,
        fleet(provider.root, workers, jobs, settings, max_tokens=ANSWER) as here,
    ):

        def kill() -> None:
            for victim in range(kills):
                time.sleep(seconds / (kills + 1))
                here.fleet.workers[victim].kill()
                here.fleet.start()

        time.sleep(warm)
        killing = threading.Thread(target=kill)
        killing.start()
        window = provider.watch(seconds)
        killing.join()
    used = {f"used_{what}": window.used(what) for what in ("requests", "tokens")}
    return {"workers": workers, "seconds": seconds, "kills": kills, "refused": window.refused, **used}


def measure(*, quick: bool) -> Figures:
    """Measure everything before the simulator."""
    seconds, warm, minutes = (8.0, 15.0, 0.5) if quick else (30.0, 25.0, 5.0)
    fixed = [throughput(limit, 1, seconds, warm) for limit in ((SLOTS,) if quick else FIXED)]
    looked = [throughput("engine", workers, seconds, warm) for workers in FLEETS]
    return {
        "fixed": fixed,
        "engine": looked,
        "halved": [halved(workers, warm) for workers in FLEETS],
        "beside": [beside(limit, 1, warm) for limit in (None, "engine")],
        "rates": [rates(8, 60 * minutes, 10, 4)],
    }


def real(command: Sequence[str], slots: int, *, quick: bool) -> Figures:
    """Compare fixed limits with the engine's word before a real vLLM."""
    fixed = [(int(share * slots), 1) for share in SHARES]
    tried: list[tuple[int | str, int]] = [*fixed, *(("engine", workers) for workers in FEW_WORKERS)]
    runs: dict[tuple[int | str, int], list[Figures]] = {each: [] for each in tried}
    with tempfile.TemporaryDirectory(prefix="flow-") as name:
        engine = Engine(command, Path(name) / "engine.log")
        try:
            engine.up("--max-num-seqs", str(slots))
            for each in tried * (1 if quick else ROUNDS):
                runs[each].append(before_real(engine, *each))
                print(each, json.dumps(runs[each][-1]), file=sys.stderr, flush=True)
        finally:
            engine.end()
    rows = [{"limit": limit, "workers": workers, **middle(runs[limit, workers])} for limit, workers in tried]
    return {"fixed": rows[: len(fixed)], "engine": rows[len(fixed) :], "slots": slots}


def before_real(engine: Engine, limit: int | str, workers: int) -> Figures:
    """Measure like `throughput`, before a real engine, which is idle afterwards."""
    url = f"{engine.url}/metrics"
    with fleet(engine.url, workers, int(JOBS_A_SECOND * (ROUND_SECONDS + ROUND_WARM)), limits(limit, url)):
        time.sleep(ROUND_WARM)
        before = _refused(url)
        figures = watched(url, ROUND_SECONDS)
        figures["refused"] = _refused(url) - before
    wait(lambda: page_of(url)[1] == 0, START_SECONDS)
    return figures


def _refused(url: str) -> int:
    return int(sum(map(float, REFUSED.findall(read_page(url)))))


def middle(runs: Sequence[Figures]) -> Figures:
    """Return the medians of several runs, the most that waited in any, and what all together were refused."""
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    most, refused = max(run["most_waiting"] for run in runs), sum(run["refused"] for run in runs)
    return medians | {"most_waiting": most, "refused": refused}


def throughputs(figures: Figures) -> str:
    """Render the table of limits."""
    best = max(row["tokens"] for row in figures["fixed"])
    rows = [
        [
            f"none ({LANES} lanes)" if row["limit"] is None else str(row["limit"]),
            str(row["workers"]),
            f"{row['tokens']:,.0f}",
            f"{row['tokens'] / best:.2f}",
            *([f"{row['running']:.1f}"] if "running" in row else []),
            f"{row['waiting']:.1f}",
            f"{row['most_waiting']:.0f}",
            str(row["refused"]),
        ]
        for row in (*figures["fixed"], *figures["engine"])
    ]
    head = ["limit", "workers", "tokens a second", "of the best fixed"]
    head += ["running"] if "running" in figures["fixed"][0] else []
    return table([*head, "waiting inside: mean", "most", "refused, 503"], rows)


def render(kept: Figures) -> str:
    """Render what the document says."""
    figures, where = kept["figures"], kept["machine"]
    lost = ", ".join(
        f"{row['seconds']:.1f} s with {row['workers']}" if row["seconds"] is not None else "not found"
        for row in figures["halved"]
    )
    others = "; ".join(
        f"{row['beside_ms']:.0f} ms beside a fleet {'without a limit' if row['limit'] is None else 'that looks'}"
        for row in figures["beside"]
    )
    rate = figures["rates"][0]
    text = f"""An engine of {SLOTS} slots, simulated; it lets {QUEUE_LIMIT} requests wait and refuses more:

{throughputs(figures)}

- Half its slots gone: no more than {FEW} wait inside after {lost} workers.
- {OTHERS} requests of others at a time take {figures["beside"][0]["alone_ms"]:.0f} ms alone; {others}.
- A provider of {REQUESTS} requests and {TOKENS:,} tokens a minute, judged over one second, before {rate["workers"]}
  workers for {rate["seconds"] / 60:g} minutes, {rate["kills"]} of which were killed and replaced: it refused
  {100 * rate["refused"]:.2f} % of what was sent, and {rate["used_requests"]:.3f} of its requests were used,
  {rate["used_tokens"]:.3f} of its tokens.

Measured by `python -m bench.flow` on {kept["began"]}, commit {kept["commit"]}, {where["processor"]},
{where["cores"]} cores, Python {where["python"]}, Redis {where["redis"]}; all share the machine.
"""
    if vllm := kept.get("vllm"):
        text += f"""
A real vLLM ({vllm["version"]}) of {vllm["figures"]["slots"]} slots on processors, by `python -m bench.flow --vllm` on
{vllm["began"]}, commit {vllm["commit"]}, medians of six rounds in which the limits took turns, the machine idle
but for engine and workers:

{throughputs(vllm["figures"])}
"""
    return text


def document(kept: Figures) -> str:
    """Return the whole document with the tables in their place."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{render(kept)}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter, and keep nothing")
    parser.add_argument("--vllm", action="store_true", help="before a real engine, started by COMMAND")
    parser.add_argument("--slots", type=int, default=8, help="of the real engine (default: %(default)s)")
    parser.add_argument("--version", default="0.32", help="of the real engine (default: %(default)s)")
    parser.add_argument("command", nargs="*", help=f"what starts it; it serves the model {MODEL}")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all started processes are ended
    about = {"commit": machine.commit(), "began": machine.now()}
    if args.vllm:
        figures = real(args.command, args.slots, quick=args.quick)
        kept = json.loads(RESULTS.read_text()) | {"vllm": {"version": args.version, **about, "figures": figures}}
        print(throughputs(figures))
    else:
        kept = {"machine": machine.describe(), **about, "figures": measure(quick=args.quick)}
        print(render(kept))
    if not args.quick:
        former = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(former | kept, indent=1) + "\n")
        DOCUMENT.write_text(document(former | kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
