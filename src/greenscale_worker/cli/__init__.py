"""The command line: finds the command, and turns whatever ends it into a line and an exit code."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from greenscale_worker.errors import ConfigError, QueueUnavailableError

if TYPE_CHECKING:
    import argparse

FAILED: Final = 1
WRONG: Final = 2
UNKNOWN: Final = 3
UNFINISHED: Final = 4
INTERRUPTED: Final = 130
NOBODY_READS: Final = 141

DESCRIPTION: Final = """\
Run LLM jobs from a Redis queue against an OpenAI-compatible endpoint, and lose none.
Without a command: run the worker, until SIGTERM or Ctrl-C."""

EPILOG: Final = """\
settings come from the environment, or from a file .env in the working directory; these four are enough
for a start (`greenscale-worker config` shows all of them, and what is in force):
  NEYSA_API_KEY    key of the endpoint; empty for one without keys
  NEYSA_API_URL    its full URL, where it is not the default
  REDIS_HOST       where Redis is, or REDIS_URL
  REDIS_LIST_NAME  the list that jobs are pushed to

examples:
  greenscale-worker demo                             see it work: no Redis, no key
  NEYSA_API_KEY=… greenscale-worker                  run the worker
  greenscale-worker submit "What is 2+2?" --wait     ask, and wait for the answer
  greenscale-worker queue --watch                    see what there is to do, and who does it
  greenscale-worker batch IN.jsonl OUT.jsonl         run a file of prompts without Redis
  greenscale-worker dead list                        see what has failed for good
`greenscale-worker COMMAND --help` tells more.

exit codes:
    0  done; the worker: stopped, with nothing left behind
    1  it failed, or could not be done: a job failed, Redis does not answer, jobs could not be handed back
    2  a wrong setting, option or input, said in one line
    3  there is no such job or dead letter; a job may also be waiting, unclaimed
    4  the job has not finished yet
  130  interrupted by Ctrl-C
  141  nobody reads the output any more"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, the worker without one, and give the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except ConfigError as error:
        return _complain(str(error), WRONG)
    except QueueUnavailableError as error:
        return _complain(f"Redis does not answer: {error}", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is left in the buffer would be flushed at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    return code


def _run(arguments: list[str]) -> int:
    if not arguments:
        from greenscale_worker.cli import worker  # noqa: PLC0415  the worker starts without the parser

        return worker.run()
    try:
        args = parser().parse_args(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else WRONG
    run = args.run
    code: int = run(args)
    return code


def parser() -> "argparse.ArgumentParser":
    """Make the parser of all commands."""
    import argparse  # noqa: PLC0415  as above

    from greenscale_worker.cli import batch, config, dead, demo, jobs, queue, simulate, submit  # noqa: PLC0415  as above

    class Version(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
            from importlib.metadata import version  # noqa: PLC0415  only this option needs it

            sys.stdout.write(f"greenscale-worker {version('greenscale-worker')}\n")
            parser.exit()

    top = argparse.ArgumentParser(
        prog="greenscale-worker",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (submit, jobs, queue, dead, batch, demo, simulate, config):
        module.add_parser(commands)
    return top


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"greenscale-worker: {message}\n")
    return code
