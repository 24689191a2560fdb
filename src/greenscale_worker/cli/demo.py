"""`greenscale-worker demo`: fifty prompts and their answers, with nothing to set up."""

import argparse
import shutil
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from greenscale_worker.cli import interrupt
from greenscale_worker.cli.batch import DRAIN_SECONDS, drive, exit_code, log_beside_a_bar
from greenscale_worker.cli.context import open_configured_backend, settings_of_command
from greenscale_worker.cli.terminal import bold, columns, harmless, own_name, say
from greenscale_worker.cli.usage import add_command

if TYPE_CHECKING:
    from greenscale_worker.backends import Backend
    from greenscale_worker.batch import Tally
    from greenscale_worker.batch.requests import Request
    from greenscale_worker.execution import Policy
    from greenscale_worker.job import Failed, Succeeded

WIDEST: Final = 80
MOST_LINES: Final = 8
CONCURRENCY: Final = 8
SEED: Final = 95  # some of each fault, but no prompt fails twice: the last one, alone, would wait two minutes

DESCRIPTION: Final = """\
Answer fifty prompts and show questions, answers and figures. The endpoint is a
simulated one, in this process, that takes its time and refuses or drops some
calls, as real ones do: no Redis, no key, no network. --real asks the endpoint
of your settings instead (greenscale-worker config), and costs what that costs."""

EXAMPLES: Final = """\
greenscale-worker demo
NEYSA_API_KEY=… greenscale-worker demo --real"""
CODES: Final = """\
  0  all prompts are answered
  1  some failed
  2  a wrong option, or with --real: a wrong setting
130  stopped by Ctrl-C"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    text = "see it work: fifty prompts, no Redis, no key"
    parser = add_command(subparsers, "demo", text, DESCRIPTION, examples=EXAMPLES, codes=CODES)
    parser.set_defaults(run=run)
    parser.add_argument("--real", action="store_true", help="ask the endpoint of your settings")


def run(args: argparse.Namespace) -> int:
    """Run the bundled prompts through `batch`. Raises ConfigError; OSError if its output cannot be written."""
    return interrupt.run(_run(_real() if args.real else _simulated()))


@dataclass(frozen=True, slots=True)
class _Stage:
    """The backend that answers, its description, and how it is called."""

    backend: "Backend"
    words: str
    concurrency: int
    policy: "Policy | None" = None


@asynccontextmanager
async def _simulated() -> AsyncIterator[_Stage]:
    from greenscale_worker.backends import ChatOptions, open_backend
    from greenscale_worker.simulator import CHAT_PATH, Faults, SimulatorOptions, running
    from greenscale_worker.telemetry import configure_logging

    configure_logging(json=False, level="error")
    faults = Faults(rate_429=0.08, rate_5xx=0.04, rate_cut=0.04, retry_after=0.5)
    async with running(SimulatorOptions(seed=SEED, ttft=0.15, per_token=0.01, faults=faults)) as url:
        options = ChatOptions(url=url + CHAT_PATH, model="meta-llama/Llama-3.3-70B-Instruct", concurrency=CONCURRENCY)
        words = "a simulated endpoint, which refuses or drops some calls, as real ones do"
        yield _Stage(open_backend("chat", options), words, CONCURRENCY)


@asynccontextmanager
async def _real() -> AsyncIterator[_Stage]:
    from greenscale_worker.config import chat_options, policy

    settings = settings_of_command()
    log_beside_a_bar(settings)
    words = settings.backend if settings.backend != "chat" else str(chat_options(settings).model)
    yield _Stage(open_configured_backend(settings), words, settings.concurrency, policy(settings))


async def _run(open_stage: AbstractAsyncContextManager[_Stage]) -> int:
    from greenscale_worker.batch import Batch

    unwritable: list[OSError] = []

    def show(request: "Request", outcome: "Succeeded | Failed") -> None:
        try:
            say(_shown(request, outcome) + "\n")
            sys.stdout.flush()
        except OSError as error:
            unwritable.append(error)
            batch.stop()
            batch.stop()

    prompts = files("greenscale_worker") / "data" / "demo.jsonl"
    async with open_stage as stage:
        with as_file(prompts) as source, tempfile.TemporaryDirectory() as directory:
            batch = Batch(
                source,
                Path(directory) / "answers.jsonl",
                stage.backend,
                concurrency=stage.concurrency,
                drain=DRAIN_SECONDS,
                policy=stage.policy,
                on_finished=show,
            )
            say(_wrapped(f"{batch.tally.total} prompts, {stage.concurrency} at a time, to {stage.words}.") + "\n")
            stopped_by = await drive(batch, stage.backend)
    if unwritable:
        raise unwritable[0]
    say(_figures(batch.tally))
    code = exit_code(batch, stopped_by)
    if stopped_by is None:
        say(_what_next())
    return code


def _shown(request: "Request", outcome: "Succeeded | Failed") -> str:
    import orjson

    from greenscale_worker.job import Failed

    number = f"{request.job_id:>3}  "
    question = _wrapped(orjson.loads(request.payload)["prompt"], indent=len(number))
    said = f"{outcome.code}: {outcome.message}" if isinstance(outcome, Failed) else outcome.output.text
    lines = [_wrapped(line, indent=len(number)) for line in harmless(said).splitlines()]
    answer = "\n".join(lines).splitlines()
    if len(answer) > MOST_LINES:
        answer[MOST_LINES - 1 :] = [f"{' ' * len(number)}…"]
    return "\n".join([number + bold(question[len(number) :]), *answer])


def _wrapped(text: str, indent: int = 0) -> str:
    width = min(WIDEST, shutil.get_terminal_size().columns) - 1
    margin = " " * indent
    return textwrap.fill(text, width, initial_indent=margin, subsequent_indent=margin, replace_whitespace=False)


def _what_next() -> str:
    command = own_name()
    return "\n".join(
        [
            "",
            "Next, all of it on this machine, a Redis among it (in a clone: make up):",
            f"  {command} up",
            "then, in another terminal:",
            f'  {command} submit "What is 2+2?" --wait',
            "With an endpoint of yours (NEYSA_API_URL and NEYSA_API_KEY):",
            f"  {command} demo --real",
        ]
    )


def _figures(tally: "Tally") -> str:
    again = "calls made again" if tally.total == tally.done else "calls to make again"
    rows = [
        ("answered", f"{tally.answered}", f"in {tally.seconds:.1f} s, {tally.rate:.1f} a second"),
        ("failed", f"{tally.failed}", ""),
        (again, f"{tally.retries}", "because they had been refused or dropped"),
        ("tokens", f"{tally.tokens:,}", f"{tally.prompt_tokens:,} asked, {tally.completion_tokens:,} answered"),
    ]
    return columns(rows)
