"""`status`, `result` and `cancel`: commands on one job."""

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from greenscale_worker.cli import FAILED, UNFINISHED, UNKNOWN
from greenscale_worker.cli.context import with_client
from greenscale_worker.cli.terminal import facts, harmless, hint, moment, one_line, patience_of, say, say_json
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import ConfigError
from greenscale_worker.for_people import fitted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greenscale_worker.config import Settings
    from greenscale_worker.queues import QueueClient

    Use = Callable[[argparse.Namespace, QueueClient, Settings], Awaitable[int]]

MS: Final = "_ms"
NUMBERS: Final = ("attempts", "crashes", "drains", "prompt_tokens", "completion_tokens", "total_tokens")
IN_ORDER: Final = (
    *("attempts", "crashes", "drains", "worker", "backend", "model", "finish_reason"),
    *("prompt_tokens", "completion_tokens", "total_tokens", "error_code", "error_message"),
    *("class", "created_at", "metadata"),
)
UNKNOWN_TEXT: Final = "unknown or waiting"
WITH_REASON: Final = ("failed", "delayed", "held")

STATUS: Final = """\
Show the record of a job: its state, how often it was run, when, by whom, what
it cost and why it failed. A job that was pushed by hand has no record before a
worker claims it, and none has one after GREENSCALE_RESULT_TTL_SECONDS: both
are "unknown or waiting". A failed job that waits behind fresh ones may still
be "delayed" here; `jobs` says that it is held."""

RESULT: Final = """\
Write the answer of a job, and nothing else, to stdout. With --wait, wait for it
first: the job need not be there yet, and stderr says why it does not move."""

CANCEL: Final = """\
End a job that has not finished. If it runs, its call is cut off; if no worker
has claimed it yet, it is ended when one does. That holds for seven days, also
for a job that is only handed in later: the next job with this id is cancelled,
and the one after it runs. --undo takes that back, as long as no job has been
ended by it."""

CODES: Final = {
    "status": """\
0  there is a record
1  Redis does not answer
2  a wrong setting, option or id
3  unknown or waiting""",
    "result": """\
  0  answered
  1  it failed or was cancelled; or Redis does not answer (--wait waits)
  2  a wrong setting, option or id
  3  unknown or waiting, or the answer is kept no longer
  4  not finished yet
130  Ctrl-C: the job goes on""",
    "cancel": """\
0  cancelled, or will be when it is claimed; --undo: taken back
1  it had finished before; or Redis does not answer
2  a wrong setting, option or id
3  it has no record: the id is a slip, or it was pushed by hand and waits;
   --undo: there is no cancellation that could be taken back""",
}
EXAMPLES: Final = {
    "status": "greenscale-worker status test-001",
    "result": "greenscale-worker result test-001\ngreenscale-worker result test-001 --wait --timeout 10m",
    "cancel": "greenscale-worker cancel test-001\ngreenscale-worker cancel test-001 --undo",
}
CANCELLATIONS: Final = {
    "cancelled": " is cancelled",
    "will_be_cancelled": " will be cancelled when a worker claims it; this takes that back:",
    "finished": " had finished before",
    "unknown": " has no record: if it waits in the queue, or comes within seven days, it is cancelled when a worker"
    " claims it; if the id is a slip, this takes that back:",
}
UNDO: Final = "  greenscale-worker cancel {id} --undo"  # on a line of its own, to be copied
UNDONE: Final = {
    True: ": the cancellation is taken back; a job with this id will run",
    False: ": there is no cancellation that could be taken back",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the three commands."""
    commands = (
        ("status", "show what has become of a job", STATUS, _status),
        ("result", "write the answer of a job", RESULT, _result),
        ("cancel", "end a job that has not finished", CANCEL, _cancel),
    )
    for name, text, description, use in commands:
        parser = add_command(subparsers, name, text, description, examples=EXAMPLES[name], codes=CODES[name])
        parser.add_argument("job_id", metavar="ID", help="the job's id")
        parser.add_argument("--json", action="store_true", help="one line of JSON")
        if name == "cancel":
            parser.add_argument("--undo", action="store_true", help="take a cancellation back that has ended no job")
        if name == "result":
            parser.add_argument("--wait", action="store_true", help="wait until the job has ended")
            parser.add_argument(
                "--timeout", type=patience_of, metavar="TIME", help="wait no longer than, such as 90s or 10m"
            )
        parser.set_defaults(run=lambda args, use=use: _run(use, args))


def _run(use: "Use", args: argparse.Namespace) -> int:
    """Run a command on a job. Raises BadInputError for an id that no job can have."""
    from greenscale_worker.job import check_job_id

    check_job_id(args.job_id)
    return with_client(partial(use, args))


def readable(job_id: str, record: dict[str, str]) -> dict[str, Any]:
    """Convert a record to JSON's types: numbers are numbers, metadata is an object."""
    import orjson

    values: dict[str, Any] = {"job_id": job_id, "state": "unknown_or_waiting", **record}
    for name, value in record.items():
        if (name in NUMBERS or name.endswith(MS)) and value.isdecimal():
            values[name] = int(value)
    if "metadata" in record:
        values["metadata"] = orjson.loads(record["metadata"])
    return values


def reason(job_id: str, record: dict[str, str]) -> str:
    """Return in one line the state of a job without an answer, and why."""
    if not record:
        return f"{job_id} is gone: Redis keeps no record of it"
    state = record.get("state", UNKNOWN_TEXT)
    why = [record.get("error_code", ""), record.get("error_message", "")] if state in WITH_REASON else []
    return one_line(": ".join([f"{job_id} {state}", *filter(None, why)]))


async def _status(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    record = await client.record(args.job_id)
    if args.json:
        say_json(readable(args.job_id, record))
    elif record:
        say(facts(_rows(record)))
    else:
        say(f"{args.job_id}: {UNKNOWN_TEXT}")
    return 0 if record else UNKNOWN


def _rows(record: dict[str, str]) -> list[tuple[str, str]]:
    """Order a record for people: state, times, then the rest as in the wire contract. Redis keeps no order."""
    times = {name: value for name, value in record.items() if name.endswith(MS) and value.isdecimal()}
    rest = {name: value for name, value in record.items() if name not in times and name != "state"}
    return [
        ("state", record.get("state", "")),
        *((name.removesuffix(MS), moment(int(value) / 1000)) for name, value in sorted(times.items(), key=_when)),
        *sorted(rest.items(), key=_place),
    ]


def _place(item: tuple[str, str]) -> int:
    return IN_ORDER.index(item[0]) if item[0] in IN_ORDER else len(IN_ORDER)


def _when(item: tuple[str, str]) -> int:
    return int(item[1])


def check_kept(settings: "Settings") -> None:
    """Raise ConfigError if results are not kept, as waiting for one would never end."""
    if settings.result_ttl_seconds == 0:
        raise ConfigError("--wait: GREENSCALE_RESULT_TTL_SECONDS is 0, so no result is kept; expected: more")


async def _ended(
    args: argparse.Namespace, client: "QueueClient", settings: "Settings"
) -> tuple[dict[str, str], bytes | None]:
    """Wait for the job if asked to, then read its record and its answer."""
    if args.timeout is not None and not args.wait:
        raise ConfigError("--timeout is for --wait; expected: both, or none of them")
    if args.wait:
        from greenscale_worker.cli.waiting import wait_for

        check_kept(settings)
        if (ended := await wait_for(client, args.job_id, args.timeout)) is not None:
            return ended.record, ended.answer
    answer, record = await client.result(args.job_id), await client.record(args.job_id)
    # An answer beside an open job is that of an earlier job with this id.
    return record, None if _is_open(record) else answer


async def _result(args: argparse.Namespace, client: "QueueClient", settings: "Settings") -> int:
    record, answer = await _ended(args, client, settings)
    state = record.get("state", "")
    text = None if answer is None else answer.decode(errors="replace")
    if args.json:
        say_json({**readable(args.job_id, record), "result": text})
    elif text is not None:
        say(harmless(text) if sys.stdout.isatty() else text)
    if text is not None:
        return 0
    if _is_open(record):
        hint(f"{args.job_id} has not finished yet: {state}")
        return UNFINISHED
    if state in {"failed", "cancelled"}:
        hint(reason(args.job_id, record))
        return FAILED
    hint(f"{args.job_id}: {'the answer is kept no longer' if state else UNKNOWN_TEXT}")
    return UNKNOWN


def _is_open(record: dict[str, str]) -> bool:
    from greenscale_worker.queues import OPEN

    return record.get("state") in OPEN


async def _cancel(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    if args.undo:
        return await _undo(args, client)
    answer = await client.cancel(args.job_id)
    if args.json:
        say_json({"job_id": args.job_id, "cancellation": answer})
    else:
        told = args.job_id + CANCELLATIONS[answer]
        say(fitted(told, sys.stdout))
        if told.endswith(":"):
            say(UNDO.format(id=args.job_id))
    return {"finished": FAILED, "unknown": UNKNOWN}.get(answer, 0)


async def _undo(args: argparse.Namespace, client: "QueueClient") -> int:
    undone = await client.uncancel(args.job_id)
    if args.json:
        say_json({"job_id": args.job_id, "undone": undone})
    else:
        say(fitted(args.job_id + UNDONE[undone], sys.stdout))
    return 0 if undone else UNKNOWN
