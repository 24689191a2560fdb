"""`greenscale-worker batch`: a file of prompts, answered without Redis."""

import argparse
import asyncio
import io
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from shlex import quote
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final, TextIO

from greenscale_worker.cli import FAILED, interrupt
from greenscale_worker.cli.context import open_configured_backend, settings_of_command
from greenscale_worker.cli.terminal import hint, one_line, say, say_json
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import ConfigError

if TYPE_CHECKING:
    from greenscale_worker.backends import Backend
    from greenscale_worker.batch import Batch, Tally
    from greenscale_worker.config import Settings

DRAIN_SECONDS: Final = 5.0
REDRAW_SECONDS: Final = 0.2
WIDTH: Final = 79
MOST_CODES: Final = 8

DESCRIPTION: Final = """\
Answer a file of prompts, one JSON object a line, and append what comes of each
line to another file as it finishes. It is the same worker as behind Redis,
with its settings and its retries."""

NOTES: Final = """\
a line of IN is one of these:
  {"prompt": "What is 2+2?"}
  {"messages": [{"role": "user", "content": "What is 2+2?"}]}
  {"custom_id": "a-1", "method": "POST", "url": "/v1/chat/completions",
   "body": {"messages": …}}                                        (in one line)
The first two take any parameter of a chat completion, and a custom_id; where
they name no temperature or max_tokens, those of the settings are sent. A body
is sent as it is: only a model is added, where it names none. A url may be that
of /v1/completions or /v1/embeddings, too.

lines of OUT are in the order in which they finish; response or error is null:
  {"id": …, "custom_id": "a-1", "response": {"status_code": 200,
   "request_id": …, "body": {…}}, "error": null}                   (in one line)
A line without a custom_id is called by its number: line-1, line-2 …

Start it again after a crash or Ctrl-C, and it goes on: a line that has its
answer is not asked again unless it has changed. Lines that failed are asked
again; lines that are wrong in themselves (not JSON, no prompt, too large, a
custom_id used twice) only once they have been mended. Where OUT has several
lines for a custom_id, the last one counts. Half a line at its end is repaired.

Ctrl-C takes no further line and gives running calls 5 s; a second one ends them
at once. A key that the endpoint refuses from the first call on ends it, too."""
EXAMPLES: Final = """\
greenscale-worker simulate                        in another terminal
NEYSA_API_URL=http://127.0.0.1:8000/v1/chat/completions NEYSA_API_KEY= \\
  greenscale-worker batch prompts.jsonl answers.jsonl

NEYSA_API_KEY=… greenscale-worker batch prompts.jsonl answers.jsonl
jq -r '.response.body.choices[0].message.content' answers.jsonl
jq -c 'select(.error) | [.custom_id, .error]' answers.jsonl"""
CODES: Final = """\
  0  all lines are answered
  1  some failed
  2  a wrong setting, option or file
130  stopped by Ctrl-C"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    text = "answer a file of prompts, without Redis"
    parser = add_command(subparsers, "batch", text, DESCRIPTION, notes=NOTES, examples=EXAMPLES, codes=CODES)
    parser.set_defaults(run=run)
    parser.add_argument("source", type=Path, metavar="IN", help="file of prompts")
    parser.add_argument("target", type=Path, metavar="OUT", help="file to append to; is made where there is none")
    parser.add_argument("--json", action="store_true", help="end with the figures as one line of JSON on stdout")


def run(args: argparse.Namespace) -> int:
    """Answer the lines of one file, and write to another. Raises ConfigError."""
    from greenscale_worker.batch import Batch
    from greenscale_worker.config import policy

    settings = settings_of_command()
    log_beside_a_bar(settings)
    try:
        args.source.stat()
        backend = open_configured_backend(settings, model_optional=True)  # a line may name its own
        batch = Batch(
            args.source,
            args.target,
            backend,
            concurrency=settings.concurrency,
            drain=min(DRAIN_SECONDS, settings.drain_seconds),
            max_bytes=settings.max_payload_bytes,
            policy=policy(settings),
        )
    except OSError as error:
        raise ConfigError(f"{error.filename or args.target}: {error.strerror or error}") from None
    stopped_by = interrupt.run(drive(batch, backend))
    hint(_summary(batch.tally))
    if batch.tally.failed:
        hint(_reasons(batch.tally, args.target))
    if batch.tally.refused:
        hint("Lines that were wrong before are asked again once they have been mended; this shows them:")
        say(f"  jq -c 'select(.error) | [.custom_id, .error]' {quote(str(args.target))}", sys.stderr)
    if args.json:
        say_json(_figures(batch.tally))
    return exit_code(batch, stopped_by)


def log_beside_a_bar(settings: "Settings") -> None:
    """Log warnings only, and none about single jobs, unless a level is set: the bar and the summary show the rest."""
    from greenscale_worker.telemetry import configure_logging

    json = settings.log_format == "json"
    if "log_level" in settings.origins:
        configure_logging(json=json, level=settings.log_level)
    else:
        configure_logging(json=json, level="warning", left_out=("job",))


async def drive(batch: "Batch", backend: "Backend") -> int | None:
    """Run a batch with a progress bar. SIGINT and SIGTERM stop it. Return which of them came first, or None."""
    received: list[int] = []

    def stop(number: int) -> None:
        if not received:
            hint("stopping: waiting for calls that run; once more ends them at once")
        received.append(number)
        batch.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        async with _bar(batch.tally):
            await batch.run()
    finally:
        await backend.aclose()
    return received[0] if received else None


def exit_code(batch: "Batch", stopped_by: int | None) -> int:
    """Return the exit code of a batch. Raises ConfigError if a file or the endpoint ended it early."""
    if isinstance(batch.fault, OSError):
        raise ConfigError(f"the batch ended early: {batch.fault.strerror or batch.fault}") from None
    if batch.fault is not None:
        raise batch.fault
    if stopped_by is not None:
        return 128 + stopped_by
    return FAILED if batch.tally.failed or batch.tally.refused else 0


def _summary(tally: "Tally") -> str:
    parts = [f"{tally.answered:,} answered, {tally.failed:,} failed in {tally.seconds:.1f} s ({tally.rate:.1f}/s)"]
    if tally.earlier:
        wrong = f", {tally.refused:,} of them wrong" if tally.refused else ""
        parts.append(f"{tally.earlier:,} done before{wrong}")
    if tally.total is not None and tally.total > tally.done:
        parts.append(f"{tally.total - tally.done:,} left")
    again = "made again" if tally.total == tally.done else "to make again"
    return "; ".join([*parts, f"{tally.tokens:,} tokens, {tally.retries:,} calls {again}"])


def _reasons(tally: "Tally", target: Path) -> str:
    """Return why lines have failed, one message for each code, and which file has the details."""
    lines = []
    for code, count in tally.codes.most_common(MOST_CODES):
        told = one_line(f"{count:,} x {code}: {tally.messages[code]}")
        lines.append(fill(told, WIDTH, initial_indent="  ", subsequent_indent="    ", max_lines=2, placeholder=" …"))
    if (others := len(tally.codes) - MOST_CODES) > 0:
        lines.append(f"  and {others:,} other codes")
    return "\n".join([*lines, f"Answers and errors are in {target}."])


def _figures(tally: "Tally") -> dict[str, Any]:
    names = ("total", "answered", "failed", "earlier", "refused", "retries", "prompt_tokens", "completion_tokens")
    return {name: getattr(tally, name) for name in names} | {"codes": tally.codes, "seconds": round(tally.seconds, 3)}


@asynccontextmanager
async def _bar(tally: "Tally") -> AsyncIterator[None]:
    """Show a progress bar if stderr is a terminal; other output appears above it."""
    if not sys.stderr.isatty():
        yield
        return
    from greenscale_worker.cli.progress import Bar
    from greenscale_worker.telemetry import log_above

    Bar.monitor_interval = 0  # switches off tqdm's monitor thread: this bar is redrawn anyway
    with Bar(total=tally.total, unit=" lines", dynamic_ncols=True, smoothing=0) as bar:
        drawing = asyncio.create_task(_draw_for_ever(bar, tally))
        try:
            above = _above(bar, sys.stderr)
            with log_above(above), redirect_stdout(_above(bar, sys.stdout)), redirect_stderr(above):
                yield
        finally:
            drawing.cancel()
            _draw(bar, tally)


async def _draw_for_ever(bar: Any, tally: "Tally") -> None:
    while True:
        _draw(bar, tally)
        await asyncio.sleep(REDRAW_SECONDS)


def _draw(bar: Any, tally: "Tally") -> None:
    bar.total, bar.initial, bar.n = tally.total, tally.earlier, tally.done
    bar.set_postfix({"failed": tally.failed, "tokens": f"{tally.tokens:,}"}, refresh=True)


class _AboveTheBar(io.RawIOBase):
    """Stands in for a stream to the terminal, and writes lines above the bar."""

    def __init__(self, bar: Any, stream: TextIO) -> None:
        self._bar = bar
        self._stream = stream

    def isatty(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._bar.clear()
        self._stream.buffer.write(data)
        self._stream.flush()
        return len(data)


def _above(bar: Any, stream: TextIO) -> TextIO:
    if not stream.isatty():
        return stream
    raw = io.BufferedWriter(_AboveTheBar(bar, stream))
    return io.TextIOWrapper(raw, encoding=stream.encoding, errors="replace", line_buffering=True)
