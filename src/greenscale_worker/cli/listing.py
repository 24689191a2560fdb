"""`jobs`: lists jobs and their states."""

import argparse
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from time import time
from typing import TYPE_CHECKING, Final

from greenscale_worker.cli.context import with_client
from greenscale_worker.cli.terminal import columns, hint, say, say_json, whole_number
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import ConfigError
from greenscale_worker.for_people import age

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from greenscale_worker.config import Settings
    from greenscale_worker.queues import JobInfo, QueueClient, State

SHOWN: Final = 20
STATES: "Final[tuple[State, ...]]" = (
    "running",
    "waiting",
    "delayed",
    "held",
    "scheduled",
    "cancelling",
    "succeeded",
    "failed",
    "cancelled",
)
COUNTED: Final = {"running", "waiting", "delayed", "held", "scheduled"}
IDLE: Final = {"waiting", "cancelling"}
PAUSED: Final = "paused"
HEAD: Final = ("ID", "STATE", "AGE", "ATTEMPTS", "WORKER / WHY")

DESCRIPTION: Final = """\
Show jobs: those that run, wait, are delayed, held and scheduled for later,
then the last 1,000 that ended, the latest first.

  AGE       since it was handed in; of a job that runs: since this run began;
            of one that ended: since then
  ATTEMPTS  how often it was run, the run under way among them; runs that a
            crash cut off are not, and stand in the last column
  WORKER    who runs it, or ran it last
  WHY       it failed, is delayed or held, or that the queue is paused"""

NOTES: Final = "`status ID` shows one job, `dead list` all that have failed for good."
EXAMPLES: Final = """\
greenscale-worker jobs
greenscale-worker jobs --state running
greenscale-worker jobs --state delayed --state held
greenscale-worker jobs --state failed --code http_400 --limit 0
greenscale-worker jobs --json | jq -r 'select(.attempts > 2).job_id'"""
CODES: Final = """\
0  shown
1  Redis does not answer
2  a wrong setting or option"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    text = "list jobs, and how each stands"
    parser = add_command(subparsers, "jobs", text, DESCRIPTION, notes=NOTES, examples=EXAMPLES, codes=CODES)
    parser.add_argument(
        "--state",
        choices=STATES,
        action="append",
        metavar="STATE",
        help=f"only those in this state; may be repeated: {', '.join(STATES)}",
    )
    parser.add_argument("--code", metavar="CODE", help="only those that failed, are delayed or held with this code")
    parser.add_argument("--worker", metavar="NAME", help="only those of this worker; a part of its name is enough")
    parser.add_argument(
        "--limit", metavar="N", type=whole_number, help=f"no more than so many; 0: all (default: {SHOWN}; --json: all)"
    )
    parser.add_argument("--skip", metavar="N", type=whole_number, default=0, help="leave out the first so many")
    parser.add_argument("--json", action="store_true", help="one line of JSON each, what is not known is null")
    parser.set_defaults(run=lambda args: with_client(partial(_jobs, args)))


async def _jobs(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    limit = args.limit if args.limit is not None else 0 if args.json else SHOWN
    if args.worker is not None:
        args.worker = await _full_name(args.worker, client)
    shown: list[JobInfo] = []
    more = False
    async with aclosing(_wanted(args, client)) as jobs:
        place = 0
        async for job in jobs:
            place += 1
            if more := 0 < limit < place - args.skip:
                break
            if place > args.skip:
                say_json(asdict(job)) if args.json else shown.append(job)
    if shown:
        now, paused = time(), (await client.depth()).paused
        say(columns([_row(job, now, paused=paused) for job in shown], head=HEAD, cut=True))
    elif not args.json:
        hint("there are no such jobs" if args.skip or args.state or args.code or args.worker else "there are no jobs")
    if more:
        hint(f"… {limit:,}{await _total(args, client)} shown; for more: --skip {args.skip + limit}, or --limit 0")
    return 0


async def _wanted(args: argparse.Namespace, client: "QueueClient") -> "AsyncGenerator[JobInfo, None]":
    """Yield the jobs that the options select, each once, though it may change its state meanwhile."""
    from greenscale_worker.queues import JobFilter

    seen: set[str | None] = set()
    states: list[State | None] = [state for state in STATES if state in args.state] if args.state else [None]
    for state in states:
        async for job in client.jobs(JobFilter(state=state, code=args.code, worker=args.worker)):
            if job.job_id not in seen:
                yield job
            if len(states) > 1 and job.job_id is not None:
                seen.add(job.job_id)


async def _full_name(part: str, client: "QueueClient") -> str:
    """Return the full name of a live worker, or `part` itself if none matches: that worker may have ended."""
    names = [worker.name for worker in await client.workers() if part in worker.name]
    if len(names) > 1 and part not in names:
        raise ConfigError(f"--worker: {part!r} is part of {len(names)} names; expected: of one, as `queue` shows them")
    return names[0] if len(names) == 1 else part


async def _total(args: argparse.Namespace, client: "QueueClient") -> str:
    """Return ` of` and the total, or nothing where the queue does not count these."""
    states = set(args.state or ())
    if not states or not states <= COUNTED or args.code or args.worker:
        return ""
    depth = asdict(await client.depth())
    return f" of {sum(depth[state] for state in states):,}"


def _row(job: "JobInfo", now: float, *, paused: bool) -> tuple[str, ...]:
    since = {"running": job.claimed_at}.get(job.state, job.finished_at or job.submitted_at)
    # Without blanks, so that beside a UUID the end of a worker's name fits 80 columns.
    passed = "-" if since is None else age(max(0.0, now - since)).replace(" ", "")
    return (
        job.job_id or "-",
        job.state,
        passed,
        f"{job.attempts:>8}",
        _told(job, now) or (PAUSED if paused and job.state in IDLE else ""),
    )


def _told(job: "JobInfo", now: float) -> str:
    """Return the notes on a job: how often it crashed, why it does not move, or which worker runs it."""
    crashes = f"{job.crashes} {'crash' if job.crashes == 1 else 'crashes'}" if job.crashes else ""
    told = _why_or_who(job, now)
    return "; ".join(filter(None, (crashes, told)))


def _why_or_who(job: "JobInfo", now: float) -> str:
    why = ": ".join(word for word in (job.code, job.message) if word)
    if job.due_at is not None:
        due = f"due in {age(job.due_at - now)}" if job.due_at > now else "due"
        return f"{due}; {why}" if why else due
    return why or job.worker or ""
