"""The command line: finds the command, and turns any error that ends it into a line and an exit code."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from greenscale_worker.cli import interrupt, streams
from greenscale_worker.cli.interrupt import INTERRUPTED
from greenscale_worker.errors import BadInputError, ConfigError, QueueFullError, QueueUnavailableError

if TYPE_CHECKING:
    from greenscale_worker.cli.usage import Parser

FAILED: Final = 1
WRONG: Final = 2
UNKNOWN: Final = 3
UNFINISHED: Final = 4
NOBODY_READS: Final = 141
WHERE_REDIS_IS: Final = (
    "; REDIS_URL, or REDIS_HOST and REDIS_PORT, say where it is, and `greenscale-worker up` brings one"
)

DESCRIPTION: Final = """\
Run LLM jobs from a Redis queue against an OpenAI-compatible endpoint, and
lose none. Without a command: run the worker, until SIGTERM or Ctrl-C."""

EPILOG: Final = """\
settings come from the environment, or from a file .env in the working
directory (which may not choose code to run, unless you name it: --env-file
.env). These four are enough for a start; `greenscale-worker config` shows all
of them, and what is in force:
  NEYSA_API_KEY    key of the endpoint; empty for one without keys
  NEYSA_API_URL    its full URL, where it is not the default
  REDIS_HOST       where Redis is, or REDIS_URL
  REDIS_LIST_NAME  the list that jobs are pushed to

examples:
  greenscale-worker demo                           no Redis, no key: see it work
  greenscale-worker up                             run all of it on this machine
  NEYSA_API_KEY=… greenscale-worker                run the worker
  greenscale-worker submit "What is 2+2?" --wait   ask, and wait for the answer
  greenscale-worker queue --watch                  what there is to do
  greenscale-worker jobs --state running           which jobs run, and where
  greenscale-worker report --since 7d              what was done, what was saved
  greenscale-worker serve                          jobs over HTTP
  greenscale-worker batch IN.jsonl OUT.jsonl       answer a file, without Redis
  greenscale-worker dead list                      what has failed for good
`greenscale-worker COMMAND --help` tells more.

exit codes:
    0  done; the worker: stopped, with nothing left behind
    1  it failed, or could not be done: a job failed, Redis does not answer,
       jobs could not be handed back
    2  a wrong setting, option or input, said in one line
    3  there is no such job or dead letter; a job may also be waiting, unclaimed
    4  the job has not finished yet
  130  interrupted by Ctrl-C
  141  nobody reads the output any more"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, or the worker if none is named. Return the exit code."""
    streams.open_missing()
    try:
        with interrupt.ends_at_once():
            return _main(sys.argv[1:] if argv is None else list(argv))
    finally:
        streams.discard()


def _main(arguments: list[str]) -> int:
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except (ConfigError, BadInputError) as error:
        return _complain(str(error), WRONG)
    except QueueUnavailableError as error:
        what = "Redis is full (maxmemory)" if isinstance(error, QueueFullError) else "Redis does not answer"
        advice = WHERE_REDIS_IS if error.undone and not isinstance(error, QueueFullError) else ""
        return _complain(f"{what}: {error}{advice}", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return NOBODY_READS
    except OSError as error:
        what = "the output cannot be written" if streams.is_of_stdout(error) else error.filename
        reason = error.strerror or str(error)
        return _complain(f"{what}: {reason}" if what else reason, FAILED)
    return code


def _run(arguments: list[str]) -> int:
    if not arguments:
        from greenscale_worker.cli import worker

        return worker.run()
    try:
        args = parser().parse(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else WRONG
    from greenscale_worker.cli.context import ENV_FILE

    ENV_FILE.set(args.env_file)
    if args.run is None:
        from greenscale_worker.cli import worker

        return worker.run()
    run = args.run
    code: int = run(args)
    return code


def parser() -> "Parser":
    """Make the parser of all commands."""
    import argparse

    from greenscale_worker.cli import (
        batch,
        config,
        dead,
        demo,
        jobs,
        keys,
        listing,
        queue,
        report,
        scaler,
        serve,
        simulate,
        submit,
        tenants,
        up,
    )
    from greenscale_worker.cli.usage import Parser

    class Version(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
            from importlib.metadata import version

            sys.stdout.write(f"greenscale-worker {version('greenscale-worker')}\n")
            parser.exit()

    top = Parser(
        prog="greenscale-worker",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
    )
    top.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    top.add_argument(
        "--env-file", type=Path, metavar="FILE", help="read settings from FILE instead of .env, and trust it"
    )
    top.set_defaults(run=None)
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    of_jobs = (up, submit, jobs, listing, queue, report, dead)
    of_a_fleet = (serve, scaler, keys, tenants, batch, demo, simulate, config)
    for module in (*of_jobs, *of_a_fleet):
        module.add_parser(commands)
    return top


def _complain(message: str, code: int) -> int:
    from greenscale_worker.for_people import fitted

    with suppress(OSError):  # stderr cannot be written; the exit code says it
        sys.stderr.write(fitted(f"greenscale-worker: {message}", sys.stderr) + "\n")
    return code
