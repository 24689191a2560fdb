"""`queue`, `pause` and `resume`: shows a queue and its workers, pauses it, and resumes it."""

import argparse
import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

from greenscale_worker.cli.context import with_client
from greenscale_worker.cli.terminal import patience_of, say, say_json
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import QueueUnavailableError

if TYPE_CHECKING:
    from greenscale_worker.config import Settings
    from greenscale_worker.queues import QueueClient

WATCH_SECONDS: Final = 2.0
HOME_AND_CLEAR: Final = "\x1b[H\x1b[J"
CLEAR: Final = "\x1b[2J"

QUEUE: Final = """\
Show how much there is to do and who does it.

  waiting   not claimed yet, or back at the head of the queue
  running   claimed by a worker
  delayed   to be tried again later
  held      failed while nothing succeeds; to be tried again behind all that
            waits, or once another job has succeeded
  dead      failed for good: `greenscale-worker dead list`
  scheduled not due yet; shown if there are any
  oldest    age of the oldest job that waits or is held, if known

Below: how many jobs end, of late, and when all are done at that rate; why
nothing moves, where nothing does, or what holds jobs back; and which workers
are alive, how many jobs each runs, and for how long the longest has run."""

QUEUE_EXAMPLES: Final = """\
greenscale-worker queue
greenscale-worker queue --watch
greenscale-worker queue --json | jq .waiting"""
QUEUE_CODES: Final = """\
  0  shown
  1  Redis does not answer (--watch waits for it)
  2  a wrong setting or option
130  Ctrl-C"""

PAUSE: Final = """\
Let no worker claim a job until `greenscale-worker resume`; what runs goes on.
Meanwhile KEDA keeps as many workers as the running jobs need, and one while
jobs wait; with --scale-to-zero none: it stops all after its cooldown (30 s in
the manifests), and calls that still run then have GREENSCALE_DRAIN_SECONDS."""

RESUME: Final = """\
Let the workers claim jobs again, and KEDA start them."""

CODES: Final = """\
0  done, or it was so already
1  Redis does not answer
2  a wrong setting or option"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the three commands."""
    text = "show what there is to do, and who does it"
    look = add_command(subparsers, "queue", text, QUEUE, examples=QUEUE_EXAMPLES, codes=QUEUE_CODES)
    look.add_argument(
        "--watch",
        nargs="?",
        type=_interval,
        const=WATCH_SECONDS,
        metavar="SECONDS",
        help=f"show it again every so many seconds (default: {WATCH_SECONDS:g}) until Ctrl-C",
    )
    look.add_argument("--json", action="store_true", help="one line of JSON; with --watch one each time")
    look.set_defaults(run=lambda args: with_client(partial(_queue, args)))
    for name, text, description in (
        ("pause", "let no worker claim a job until `resume`", PAUSE),
        ("resume", "end a pause", RESUME),
    ):
        parser = add_command(subparsers, name, text, description, examples=f"greenscale-worker {name}", codes=CODES)
        if name == "pause":
            parser.add_argument(
                "--scale-to-zero", action="store_true", help="let KEDA stop all workers, too, until `resume`"
            )
        use = _pause if name == "pause" else _resume
        parser.set_defaults(run=lambda args, use=use: with_client(partial(use, args)))


def _interval(text: str) -> float:
    """Parse a time span; a number alone is seconds, as the help says."""
    if (seconds := patience_of(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is too short; more than 0 s is expected")
    return seconds


async def _queue(args: argparse.Namespace, client: "QueueClient", settings: "Settings") -> int:
    if args.watch is None:
        await _show(args, client, settings)
        return 0
    screen = sys.stdout.isatty() and not args.json
    if screen:
        sys.stdout.write(CLEAR)
    while True:
        if screen:
            sys.stdout.write(HOME_AND_CLEAR)
        try:
            await _show(args, client, settings)
        except QueueUnavailableError as error:
            say_json({"error": str(error)}) if args.json else say(f"Redis does not answer: {error}")
        sys.stdout.flush()
        await asyncio.sleep(args.watch)


async def _show(args: argparse.Namespace, client: "QueueClient", settings: "Settings") -> None:
    from greenscale_worker.cli.overview import look

    overview, name = await look(client), _name(settings)
    say_json({"queue": name, **overview.facts()}) if args.json else say(overview.view(name))


def _name(settings: "Settings") -> str:
    from greenscale_worker.config import queue_name

    return queue_name(settings)


async def _pause(args: argparse.Namespace, client: "QueueClient", settings: "Settings") -> int:
    was_paused = (await client.depth()).paused
    await client.pause(scale_to_zero=args.scale_to_zero)
    is_paused = "was paused already" if was_paused else "is paused"
    say(f"The queue {_name(settings)!r} {is_paused}: what runs goes on, nothing more is claimed.")
    if args.scale_to_zero:
        say("KEDA stops all its workers soon; `greenscale-worker resume` ends that.")
    return 0


async def _resume(_args: argparse.Namespace, client: "QueueClient", settings: "Settings") -> int:
    was_paused = (await client.depth()).paused
    await client.resume()  # even if not paused: it wakes a worker that has missed the end of a pause
    say(f"The queue {_name(settings)!r} {'goes on' if was_paused else 'was not paused'}.")
    return 0
