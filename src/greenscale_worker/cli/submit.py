"""`submit`: submits jobs, and waits for their answers if asked to."""

import argparse
import asyncio
import gc
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from greenscale_worker.cli.context import was_interrupted, with_client
from greenscale_worker.cli.jobs import check_kept
from greenscale_worker.cli.terminal import hint, patience_of, say, say_json, within
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import (
    BadInputError,
    ConfigError,
    QueueUnavailableError,
)

if TYPE_CHECKING:
    from greenscale_worker.config import Settings
    from greenscale_worker.queues import QueueClient

STDIN: Final = "-"
GROUP: Final = 100  # jobs submitted by one script
MOST_TOKENS: Final = 1_000_000

DESCRIPTION: Final = """\
Hand in jobs: one prompt (as an argument, a text file or stdin), or many (a
JSONL file, each line {"prompt": …} or {"messages": …}, with a job_id or
without). Everything is checked before anything is handed in.

Ids are written to stdout. With --wait they are written to stderr, before
anything is waited for, and the answers to stdout, in the order of the input.

A line of a file that names no job_id gets one that is made from its content
and from the options. So the same command may be run again after a failure:
what waits, runs or has an answer is not handed in twice. To ask the same
again on purpose: --metadata run=2."""

EXAMPLES: Final = """\
greenscale-worker submit "What is 2+2?" --wait
greenscale-worker submit --file question.txt --id test-001
git diff | greenscale-worker submit --wait --metadata team=search
greenscale-worker submit --jsonl jobs.jsonl --wait --json > answers.jsonl"""
CODES: Final = """\
  0  handed in; with --wait: all are answered
  1  with --wait: some failed; or Redis does not answer
  2  a wrong setting, option or input
  4  with --timeout: some have not finished yet
130  Ctrl-C: what was handed in goes on"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    text = "hand in jobs, and wait for their answers"
    parser = add_command(subparsers, "submit", text, DESCRIPTION, examples=EXAMPLES, codes=CODES)
    parser.set_defaults(run=run)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("prompt", nargs="?", help="the prompt; - or nothing: all of stdin")
    source.add_argument("--file", metavar="FILE", help="a text file that is the prompt")
    source.add_argument("--jsonl", metavar="FILE", help="a file with a job in each line; - is stdin")

    job = parser.add_argument_group("of each job, unless its line says otherwise")
    job.add_argument(
        "--id",
        metavar="ID",
        help="id of a single job (default: a random one); used again after its job has ended, it runs again",
    )
    job.add_argument("--model", help="the model to ask")
    job.add_argument("--temperature", type=within(0, 2), metavar="T", help="from 0 to 2")
    job.add_argument("--max-tokens", type=within(1, MOST_TOKENS, int), metavar="N", help="limit of the answer's tokens")
    job.add_argument(
        "--deadline", type=_deadline, metavar="TIME", help="not to be run after, such as 2030-01-02T03:04:05Z"
    )
    job.add_argument(
        "--metadata", type=_pair, action="append", metavar="KEY=VALUE", help="echoed in the record; may be repeated"
    )

    wait = parser.add_argument_group("waiting")
    wait.add_argument(
        "--wait", action="store_true", help="wait for the answers and write them in the order of the input"
    )
    wait.add_argument("--timeout", type=patience_of, metavar="TIME", help="wait no longer than, such as 90s or 10m")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each job")


def run(args: argparse.Namespace) -> int:
    """Read all jobs, then submit them. Raises ConfigError for wrong options or input."""
    if args.timeout is not None and not args.wait:
        raise ConfigError("--timeout is for --wait; expected: both, or none of them")
    if args.jsonl is not None and args.id is not None:
        raise ConfigError("--id is for a single job; expected with --jsonl: a job_id in each line")
    if args.id is not None:
        from greenscale_worker.job import check_job_id

        try:
            check_job_id(args.id)
        except BadInputError as error:
            raise ConfigError(f"--id: {error}") from None
    return with_client(partial(_submit, args))


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted; KEY=VALUE is expected")
    return key, value


def _deadline(text: str) -> str:
    from greenscale_worker.job import DEADLINE_ACCEPTED, deadline_of

    if (deadline := deadline_of(text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no such time; {DEADLINE_ACCEPTED}")
    if deadline <= datetime.now(UTC):
        raise argparse.ArgumentTypeError(f"{text!r} has passed; a time to come is expected")
    return text


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to be submitted. `derived`: its id was made from its content, so two with one id are the same job."""

    job_id: str
    payload: bytes
    where: str
    derived: bool


async def _submit(args: argparse.Namespace, client: "QueueClient", settings: "Settings") -> int:
    if args.wait:
        check_kept(settings)
    jobs = _all_jobs(args, settings)
    handed_in: list[Submission] = []
    await _check_unused(args.id, client)
    try:
        left_out = await _hand_in(jobs, client, handed_in)
    finally:  # even after an error or Ctrl-C: no id may be lost
        _say_ids(handed_in, args)
    if left_out:
        hint(f"{left_out} of {len(jobs)} were known already, and are not handed in twice")
    if not args.wait:
        return 0
    from greenscale_worker.cli.waiting import Show, wait

    show = Show(as_json=args.json, many=args.jsonl is not None)
    return await wait(client, {job.job_id: job.payload for job in jobs}, show, timeout=args.timeout)


def _all_jobs(args: argparse.Namespace, settings: "Settings") -> list[Submission]:
    """Read all jobs, with the garbage collector off: among 100,000 jobs it would take a tenth of the time."""
    gc.disable()
    try:
        jobs = list(_jobs(args, settings))
        gc.freeze()
    finally:
        gc.enable()
    return jobs


async def _check_unused(job_id: str | None, client: "QueueClient") -> None:
    """Raise ConfigError if a job with this id has not ended: with another prompt the new one would be a dead letter."""
    from greenscale_worker.queues import OPEN

    state = "" if job_id is None else (await client.record(job_id)).get("state", "")
    if state in OPEN - {"cancelling"}:
        wait = f"`greenscale-worker result {job_id} --wait` for its answer"
        raise ConfigError(f"--id: job {job_id} has not ended yet ({state}); expected: another id, or {wait}")


def _say_ids(jobs: list[Submission], args: argparse.Namespace) -> None:
    if args.wait:
        if jobs:
            hint("\n".join(f"submitted {job.job_id}" for job in jobs))
        return
    for job in jobs:
        say_json({"job_id": job.job_id}) if args.json else say(job.job_id)


async def _hand_in(jobs: list[Submission], client: "QueueClient", handed_in: list[Submission]) -> int:
    """Submit jobs in groups, each accepted or refused as a whole. Return how many were known before.

    Appends to `handed_in`. Raises QueueUnavailableError that says which jobs were accepted.
    """
    left_out = 0
    for derived, run_of in groupby(jobs, attrgetter("derived")):
        group: list[Submission] = []
        for job in run_of:
            group.append(job)
            if len(group) == GROUP:
                left_out += await _hand_in_group(group, jobs, client, handed_in, fold=derived)
                group = []
        if group:
            left_out += await _hand_in_group(group, jobs, client, handed_in, fold=derived)
    return left_out


async def _hand_in_group(
    group: list[Submission],
    jobs: list[Submission],
    client: "QueueClient",
    handed_in: list[Submission],
    *,
    fold: bool,
) -> int:
    try:
        put = await client.put([(job.job_id, job.payload) for job in group], fold=fold)
    except QueueUnavailableError as error:
        if was_interrupted():
            _say_interrupted(group)
            raise asyncio.CancelledError from error
        told = type(error)("; ".join([str(error), *_how_far(group, jobs, handed_in, undone=error.undone)]))
        told.undone = error.undone
        raise told from error
    except asyncio.CancelledError:  # Ctrl-C: Redis' reply is not waited for
        _say_interrupted(group)
        raise
    handed_in += group
    return put.count(False)


def _say_interrupted(group: list[Submission]) -> None:
    below = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C
    hint(below + _not_known(group))


def _how_far(
    group: list[Submission], jobs: list[Submission], handed_in: list[Submission], *, undone: bool
) -> list[str]:
    """Describe how many of all jobs Redis has accepted, after it failed at one group."""
    if undone and not handed_in:
        return ["nothing was handed in"]
    unknown = [] if undone else group
    rest = jobs[len(handed_in) + len(unknown) :]
    parts = [f"handed in: {_named(handed_in)}"] if handed_in else []
    parts += [_not_known(unknown)] if unknown else []
    return parts + ([f"not handed in: {_named(rest)}"] if rest else [])


def _not_known(jobs: list[Submission]) -> str:
    """Describe a lost reply, and what to do. A job with an id of the user's may run twice."""
    what = _named(jobs) if " line " in jobs[0].where else f"job {jobs[0].job_id}"
    unknown = f"it is not known whether {what} {'was' if len(jobs) == 1 else 'were'} handed in"
    if all(job.derived for job in jobs):
        return f"{unknown}; submit the file again, which hands no job in twice"
    given = jobs[0].job_id if len(jobs) == 1 else "ID"
    return f"{unknown}; `greenscale-worker status {given}` says so, before it is submitted again"


def _named(jobs: list[Submission]) -> str:
    """Name jobs by their places in the input; a single one by its id."""
    name, line, first = jobs[0].where.rpartition(" line ")
    if len(jobs) == 1:
        return f"{jobs[0].where} ({jobs[0].job_id})" if line else jobs[0].job_id
    return f"{name} lines {first} to {jobs[-1].where.rpartition(' ')[2]}"


def _jobs(args: argparse.Namespace, settings: "Settings") -> Iterator[Submission]:
    """Read and check all jobs. Raises ConfigError that names the line."""
    options = {
        "model": args.model,
        "temperature": args.temperature,
        "max_tokens": args.max_tokens,
        "deadline": args.deadline,
        "metadata": dict(args.metadata) if args.metadata else None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    lines: dict[str, str] = {}
    repeated: Counter[bytes] = Counter()
    for where, fields in _inputs(args):
        derived = args.jsonl is not None and fields.get("job_id") is None
        if derived:
            fields.pop("job_id", None)
            said = sha256(_written(where, {**given, **fields})).digest()
            repeated[said] += 1
            job_id = (said if repeated[said] == 1 else sha256(said + b"%d" % repeated[said]).digest()).hex()[:32]
        else:
            job_id = args.id or uuid4().hex
        raw = _written(where, {"job_id": job_id, **given, **fields})
        job_id = _check(where, raw, settings)
        if job_id in lines:
            raise ConfigError(f"{where}: job_id {job_id} is used in {lines[job_id]} too; expected: each once")
        lines[job_id] = where
        yield Submission(job_id, raw, where, derived)
    if not lines:
        raise ConfigError(f"{args.jsonl}: it is empty; expected: a job in each line")


def _written(where: str, job: dict[str, Any]) -> bytes:
    import orjson

    try:
        return orjson.dumps(job)
    except orjson.JSONEncodeError:  # a lone surrogate, as Python reads bytes that are no UTF-8
        raise ConfigError(f"{where}: it is not UTF-8; expected: UTF-8") from None


def _inputs(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of each job in the input, and its own fields."""
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
    import orjson

    from greenscale_worker.job import OBJECT_ACCEPTED
    from greenscale_worker.wire_json import fault_of, kind_of

    for number, line in enumerate(_read(name).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{'stdin' if name == STDIN else name} line {number}"
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{where}: not JSON: {fault_of(error, line.encode())}; {OBJECT_ACCEPTED}") from None
        if not isinstance(fields, dict):
            raise ConfigError(f"{where}: {kind_of(fields)}; {OBJECT_ACCEPTED}")
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
    """Return the job's id. Raises now what the worker would refuse later."""
    from greenscale_worker.client.payload import check

    try:
        return check(raw, max_bytes=settings.max_payload_bytes, chat=settings.backend == "chat")
    except BadInputError as error:
        told = str(error)
        raise ConfigError(told if told.startswith(f"{where}: ") else f"{where}: {told}") from None
