"""`submit`: hand in jobs, and wait for their answers where that is wanted."""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from greenscale_worker.cli.opening import with_admin
from greenscale_worker.cli.terminal import say, say_json, seconds_of
from greenscale_worker.errors import BadInputError, ConfigError, PermanentError

if TYPE_CHECKING:
    from greenscale_worker.config import Settings
    from greenscale_worker.queues import QueueAdmin

STDIN: Final = "-"

DESCRIPTION: Final = """\
Hand in jobs: one prompt (as an argument, a text file or stdin), or many (a JSONL file, a line each as in
the wire contract: {"prompt": …} or {"messages": …}, with a job_id or without). Everything is checked
before anything is handed in. The ids are written to stdout; with --wait, the answers instead."""

EPILOG: Final = """\
examples:
  greenscale-worker submit "What is 2+2?" --wait
  greenscale-worker submit --file question.txt --id test-001 --metadata team=search
  git diff | greenscale-worker submit --wait
  greenscale-worker submit --jsonl jobs.jsonl --wait --json > answers.jsonl

exit codes: 0 handed in, with --wait: all answered; 1 with --wait: some failed, or Redis does not answer;
2 wrong setting, option or input; 4 with --timeout: some have not finished yet"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "submit",
        help="hand in jobs, and wait for their answers",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("prompt", nargs="?", help="the prompt; - or nothing: all of stdin")
    source.add_argument("--file", metavar="FILE", help="a text file that is the prompt")
    source.add_argument("--jsonl", metavar="FILE", help="a file with a job in each line; - is stdin")

    job = parser.add_argument_group("of each job, unless its line says otherwise")
    job.add_argument("--id", metavar="ID", help="the id of a single job (default: a random one)")
    job.add_argument("--model", help="the model to ask")
    job.add_argument("--temperature", type=float, metavar="T")
    job.add_argument("--max-tokens", type=int, metavar="N")
    job.add_argument("--deadline", metavar="TIME", help="not to be run after it; RFC 3339, as 2030-01-02T03:04:05Z")
    job.add_argument(
        "--metadata", type=_pair, action="append", metavar="KEY=VALUE", help="echoed in the record; may be repeated"
    )

    wait = parser.add_argument_group("waiting")
    wait.add_argument("--wait", action="store_true", help="wait for the answers and write them as they come")
    wait.add_argument("--timeout", type=seconds_of, metavar="TIME", help="wait no longer than, such as 90s or 10m")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each job")


def run(args: argparse.Namespace) -> int:
    """Read everything, then hand it in. Raises ConfigError for what is wrong with options and input."""
    if args.timeout is not None and not args.wait:
        raise ConfigError("--timeout is for --wait; expected: both, or none of them")
    if args.jsonl is not None and args.id is not None:
        raise ConfigError("--id is for a single job; expected with --jsonl: a job_id in each line")
    return with_admin(partial(_submit, args))


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted; KEY=VALUE is expected")
    return key, value


async def _submit(args: argparse.Namespace, admin: "QueueAdmin", settings: "Settings") -> int:
    jobs = list(_jobs(args, settings))
    await admin.put(jobs)
    if args.wait:
        from greenscale_worker.cli.waiting import Show, wait  # noqa: PLC0415  only who waits needs a progress bar

        show = Show(as_json=args.json, many=args.jsonl is not None)
        return await wait(admin, [job_id for job_id, _ in jobs], show, timeout=args.timeout)
    for job_id, _ in jobs:
        say_json({"job_id": job_id}) if args.json else say(job_id)
    return 0


def _jobs(args: argparse.Namespace, settings: "Settings") -> Iterator[tuple[str, bytes]]:
    """Read and check all jobs. Raises ConfigError that names the line."""
    import orjson  # noqa: PLC0415  `--help` does not pay for it

    options = {
        "model": args.model,
        "temperature": args.temperature,
        "max_tokens": args.max_tokens,
        "deadline": args.deadline,
        "metadata": dict(args.metadata) if args.metadata else None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    lines: dict[str, str] = {}
    for where, fields in _inputs(args):
        job = {"job_id": args.id or uuid4().hex, **given, **fields}
        try:
            raw = orjson.dumps(job)
        except orjson.JSONEncodeError as error:
            raise ConfigError(f"{where}: {error}; expected: UTF-8") from None
        job_id = _check(where, raw, settings)
        if job_id in lines:
            raise ConfigError(f"{where}: job_id {job_id} is used in {lines[job_id]} too; expected: each once")
        lines[job_id] = where
        yield job_id, raw
    if not lines:
        raise ConfigError(f"{args.jsonl}: it is empty; expected: a job in each line")


def _inputs(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each job says itself, and where it was found."""
    if args.jsonl is not None:
        yield from _lines(args.jsonl)
    elif args.file is not None:
        yield args.file, {"prompt": _read(args.file)}
    elif args.prompt in (None, STDIN):
        if sys.stdin.isatty() and args.prompt is None:
            raise ConfigError("there is nothing to hand in; expected: a prompt, --file, --jsonl or text on stdin")
        yield "stdin", {"prompt": _read(STDIN)}
    else:
        yield "prompt", {"prompt": args.prompt}


def _lines(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import orjson  # noqa: PLC0415  as above

    for number, line in enumerate(_read(name).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{'stdin' if name == STDIN else name} line {number}"
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{where}: not JSON: {error}; expected: a JSON object") from None
        if not isinstance(fields, dict):
            raise ConfigError(f"{where}: {type(fields).__name__}; expected: a JSON object")
        yield where, fields


def _read(name: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}; expected: a file that can be read") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{'stdin' if name == STDIN else name}: it is not UTF-8; expected: UTF-8") from None


def _check(where: str, raw: bytes, settings: "Settings") -> str:
    """Refuse now what the worker would refuse later; gives the job's id."""
    from greenscale_worker.backends.request import chat_request  # noqa: PLC0415  as above
    from greenscale_worker.job import decode  # noqa: PLC0415  as above

    try:
        job = decode(raw, max_bytes=settings.max_payload_bytes)
        if settings.backend == "chat":
            chat_request(job.payload)
    except (BadInputError, PermanentError) as error:
        raise ConfigError(f"{where}: {error}") from None
    return job.job_id
