"""`dead`: the jobs that have failed for good; look at them, run them again, or delete them."""

import argparse
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, Final

from greenscale_worker.cli import FAILED, UNKNOWN
from greenscale_worker.cli.opening import with_admin
from greenscale_worker.cli.terminal import age, columns, harmless, hint, moment, say, say_json, seconds_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greenscale_worker.config import Settings
    from greenscale_worker.queues import DeadLetter, QueueAdmin

    Use = Callable[[argparse.Namespace, QueueAdmin, Settings], Awaitable[int]]

DESCRIPTION: Final = """\
Dead letters are jobs that have failed for good: bad input, a refusal, too many tries. They keep their
payload as it was pushed, and stay until they are replayed or purged."""

EPILOG: Final = """\
examples:
  greenscale-worker dead list
  greenscale-worker dead show test-001
  greenscale-worker dead replay test-001
  greenscale-worker dead replay --code timeout
  greenscale-worker dead purge --older-than 7d

exit codes: 0 done; 1 some could not be replayed, or Redis does not answer; 2 wrong setting or option;
3 there is no such dead letter"""

NOT_FOUND: Final = "there is no such dead letter"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its four actions."""
    dead = subparsers.add_parser(
        "dead",
        help="list, show, replay or purge jobs that have failed for good",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = dead.add_subparsers(title="actions", metavar="ACTION", required=True)

    listing = _action(actions, "list", "list them, the latest first", _list)
    listing.add_argument("--json", action="store_true", help="one line of JSON each, without payloads")

    show = _action(actions, "show", "show one, with its payload", _show)
    show.add_argument("id", metavar="ID", help="its own id, or the job's")
    show.add_argument("--json", action="store_true", help="one line of JSON")

    replay = _action(actions, "replay", "put some back to the head of the queue, with a clean record", _replay)
    which = replay.add_mutually_exclusive_group(required=True)
    which.add_argument("id", metavar="ID", nargs="*", default=[], help="their own ids, or the jobs'")
    which.add_argument("--code", metavar="CODE", help="all that failed with this code")
    which.add_argument("--all", action="store_true", help="all")

    purge = _action(actions, "purge", "delete those that died long ago", _purge)
    purge.add_argument(
        "--older-than", metavar="AGE", type=seconds_of, required=True, help="such as 45s, 30m, 12h, 7d or 2w; 0: all"
    )


def _action(actions: Any, name: str, text: str, use: "Use") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=lambda args: with_admin(partial(use, args)))
    return parser


async def _list(args: argparse.Namespace, admin: "QueueAdmin", _settings: "Settings") -> int:
    letters = sorted([_summary(letter) async for letter in admin.dead()], key=_age, reverse=True)
    if args.json:
        for letter in letters:
            say_json(letter)
    elif letters:
        now = time()
        rows = [
            (each["id"], each["job_id"] or "-", f"{age(now - each['died_at'])} ago", each["code"], each["message"])
            for each in letters
        ]
        say(columns(rows, head=("ID", "JOB", "DIED", "CODE", "MESSAGE"), cut=True))
    else:
        hint("there are no dead letters")
    return 0


def _age(summary: dict[str, Any]) -> tuple[float, str]:
    return summary["died_at"], summary["id"]


def _summary(letter: "DeadLetter") -> dict[str, Any]:
    """All but the payload: there may be many, and each may be large."""
    names = ("id", "job_id", "code", "message", "tries", "crashes", "died_at")
    return {name: getattr(letter, name) for name in names}


async def _show(args: argparse.Namespace, admin: "QueueAdmin", _settings: "Settings") -> int:
    async for letter in admin.dead():
        if args.id in (letter.id, letter.job_id):
            _print(letter, as_json=args.json)
            return 0
    hint(f"{args.id}: {NOT_FOUND}")
    return UNKNOWN


def _print(letter: "DeadLetter", *, as_json: bool) -> None:
    if as_json:
        try:
            payload = {"payload": letter.payload.decode()}
        except UnicodeDecodeError:
            payload = {"payload_hex": letter.payload.hex()}
        say_json({**_summary(letter), **payload})
        return
    rows = [
        ("id", letter.id),
        ("job", letter.job_id or "-"),
        ("died", moment(letter.died_at)),
        ("code", letter.code),
        ("message", letter.message),
        ("tries", str(letter.tries)),
        ("crashes", str(letter.crashes)),
        ("bytes", str(len(letter.payload))),
    ]
    say(columns(rows))
    say("\n" + harmless(letter.payload.decode(errors="backslashreplace")))


async def _replay(args: argparse.Namespace, admin: "QueueAdmin", _settings: "Settings") -> int:
    if args.id:
        return await _replay_ids(args.id, admin)
    chosen = [letter.id async for letter in admin.dead() if args.all or letter.code == args.code]
    replayed = sum([await admin.replay(letter_id) for letter_id in chosen])
    say(f"replayed: {replayed}")
    return 0 if replayed == len(chosen) else FAILED


async def _replay_ids(wanted: list[str], admin: "QueueAdmin") -> int:
    by_job: dict[str, str] | None = None
    missing = 0
    for name in wanted:
        found = await admin.replay(name)
        if not found:
            if by_job is None:
                by_job = {letter.job_id: letter.id async for letter in admin.dead() if letter.job_id}
            found = name in by_job and await admin.replay(by_job[name])
        if not found:
            hint(f"{name}: {NOT_FOUND}")
            missing += 1
    say(f"replayed: {len(wanted) - missing}")
    return UNKNOWN if missing == len(wanted) else FAILED if missing else 0


async def _purge(args: argparse.Namespace, admin: "QueueAdmin", _settings: "Settings") -> int:
    say(f"purged: {await admin.purge(older_than=args.older_than)}")
    return 0
