"""`greenscale-worker simulate`: runs a simulated endpoint."""

import argparse
import asyncio
import os
import signal
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from greenscale_worker.cli import interrupt
from greenscale_worker.cli.streams import is_of_stdout
from greenscale_worker.cli.terminal import say, text_of, within
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import ConfigError
from greenscale_worker.for_people import fitted

if TYPE_CHECKING:
    from greenscale_worker.simulator import SimulatorOptions

DESCRIPTION = """\
Serve an OpenAI-compatible endpoint (chat completions and completions with and
without streaming, embeddings, models, health) that needs no model and fails as
often as you like.

Rates are shares of the requests, from 0 to 1, together at most 1. What becomes
of a request depends on the seed, on its job (its field "user", else its
messages, prompt or input) and on how often that job was seen: the same seed
repeats the same run, in whatever order requests arrive."""

NOTES = """\
while it runs:
  GET /stats     requests in all, by outcome and by job; in flight now and at
                 most; arrivals that did not wait for Retry-After; what is in
                 the engine; what was taken of a rate limit and refused by it
  GET /metrics   with --engine: what the engine says of itself, as vLLM does
  POST /engine   from now on these options of the engine, such as
                 {"slots": 8}; the others stay as they are
  POST /faults   from now on these faults, named like the options here, with _
                 for -, and {} for none; also "cut": "before" or "amid" and
                 "malformed": "html", "half" or "no_choices"

Give the worker the URL that is printed; NEYSA_API_KEY is then the --api-key,
or empty (NEYSA_API_KEY=) where there is none."""
EXAMPLES = """\
greenscale-worker simulate --latency 0.2
greenscale-worker simulate --ttft 0.3 --per-token 0.02 --rate-429 0.05
greenscale-worker simulate --engine --slots 16 --queue-limit 32
greenscale-worker simulate --requests-per-minute 600 --tokens-per-minute 60000
curl -d '{"rate_5xx": 1, "status_5xx": 503}' http://127.0.0.1:8000/faults"""
CODES = """\
0  stopped by SIGINT or SIGTERM
2  a wrong option, or a port that is in use"""
LONGEST_SECONDS = 86_400
MOST = 1_000_000_000


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    text = "serve a simulated endpoint, with faults on request"
    parser = add_command(subparsers, "simulate", text, DESCRIPTION, notes=NOTES, examples=EXAMPLES, codes=CODES)
    parser.set_defaults(run=run)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=_port, default=8000, help="port to listen on, 0 for a free one (default: %(default)s)"
    )
    parser.add_argument("--api-key", type=text_of, metavar="KEY", help="refuse requests without this key with 401")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which run to play (default: 0)")

    time = parser.add_argument_group("time of an answer, in seconds")
    _add(time, "--latency", "S", 0.0, "the whole time")
    _add(time, "--ttft", "S", 0.0, "instead: time to the first token")
    _add(time, "--per-token", "S", 0.0, "and time for each token")

    _add_engine(parser)
    _add_budget(parser)
    faults = parser.add_argument_group("faults")
    _add(faults, "--rate-429", "RATE", 0.0, "too many requests")
    _add(faults, "--retry-after", "S", 1.0, "what a 429 says in Retry-After; 0: nothing")
    _add(faults, "--rate-5xx", "RATE", 0.0, "server errors")
    faults.add_argument(
        "--status-5xx", type=within(500, 599, int), metavar="CODE", help="their status (default: 500, 502 or 503)"
    )
    _add(faults, "--rate-hang", "RATE", 0.0, "requests that are never answered")
    _add(faults, "--rate-cut", "RATE", 0.0, "connections closed before or amid the answer")
    _add(faults, "--rate-malformed", "RATE", 0.0, "status 200 with HTML, half the JSON, or no choices")
    _add(faults, "--rate-slow", "RATE", 0.0, "good answers whose body comes slowly")
    _add(faults, "--slow-seconds", "S", 5.0, "how long such a body takes")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    text = "instead of a time: slots, a queue before them, steps that give each a token"
    group = parser.add_argument_group("an engine inside", text)
    group.add_argument("--engine", action="store_true", help="have one")
    whole = within(1, MOST, int)
    group.add_argument("--slots", type=whole, default=256, metavar="N", help="how many run (default: %(default)s)")
    _add(group, "--step", "S", 0.012, "time of a step")
    _add(group, "--per-sequence", "S", 0.00012, "and time for each request that runs")
    _add(group, "--per-prompt-token", "S", 0.00002, "and time for each token of the prompts that begin with it")
    group.add_argument(
        "--queue-limit", type=within(0, MOST, int), metavar="N", help="refuse requests beyond these that wait"
    )
    group.add_argument(
        "--queue-full", type=int, choices=(503, 429), default=503, help="with this status (default: %(default)s)"
    )


def _add_budget(parser: argparse.ArgumentParser) -> None:
    text = "as a provider has, judged over one second; beyond them is 429"
    group = parser.add_argument_group("rate limits", text)
    for name in ("requests", "tokens"):
        group.add_argument(f"--{name}-per-minute", type=within(1, MOST), metavar="N", help="default: no limit")
    text = "estimate: tokens count at arrival, as the prompt and max_tokens; usage: at the end (default: %(default)s)"
    choices = ("estimate", "usage")
    group.add_argument("--count-tokens", choices=choices, metavar="HOW", default="estimate", help=text)


def _add(group: "argparse._ArgumentGroup", option: str, metavar: str, default: float, text: str) -> None:
    most = 1 if metavar == "RATE" else LONGEST_SECONDS
    group.add_argument(
        option, type=within(0, most), metavar=metavar, default=default, help=f"{text} (default: %(default)g)"
    )


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):  # noqa: PLR2004  the highest port there is
        raise argparse.ArgumentTypeError(f"{text}: a port is a number from 0 to 65535")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Raises ConfigError if options contradict each other or the port is in use."""
    from pydantic import ValidationError

    from greenscale_worker.simulator import BudgetOptions, EngineOptions, Faults, SimulatorOptions, explain

    given = vars(args)
    engine = EngineOptions(**_given(EngineOptions, given))
    if engine != EngineOptions() and not args.engine:
        raise ConfigError("simulate: slots, steps and a queue are those of an engine inside; expected: --engine")
    try:
        options = SimulatorOptions(
            faults=Faults(**_given(Faults, given)),
            seed=args.seed,
            latency=args.latency,
            ttft=args.ttft,
            per_token=args.per_token,
            engine=engine if args.engine else None,
            budget=BudgetOptions(
                requests=args.requests_per_minute, tokens=args.tokens_per_minute, count=args.count_tokens
            ),
            api_key=args.api_key,
        )
    except ValidationError as error:
        raise ConfigError(f"simulate: {explain(error)}") from None
    try:
        interrupt.run(_serve(options, args.host, args.port))
    except OSError as error:
        if is_of_stdout(error):
            raise
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ConfigError(
            f"simulate: cannot listen on {args.host} port {args.port}: {reason}; expected: a free one, such as --port 0"
        ) from None
    return 0


def _given(options: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that are fields of a dataclass."""
    return {field.name: given[field.name] for field in fields(options) if field.name in given}


async def _serve(options: "SimulatorOptions", host: str, port: int) -> None:
    from greenscale_worker.simulator import CHAT_PATH, running

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running(options, host=host, port=port) as url:
        line = f"listening: NEYSA_API_URL={url}{CHAT_PATH} or OPENAI_BASE_URL={url}/v1"
        say(fitted(line, sys.stdout) if sys.stdout.isatty() else line)
        sys.stdout.flush()
        await stopped.wait()
