"""`dead`: shows, replays or deletes the jobs that have failed for good."""

import argparse
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, Final

from greenscale_worker.cli import FAILED, UNKNOWN
from greenscale_worker.cli.context import with_client
from greenscale_worker.cli.terminal import (
    columns,
    facts,
    harmless,
    hint,
    moment,
    say,
    say_json,
    seconds_of,
    since_of,
    whole_number,
)
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import ConfigError
from greenscale_worker.for_people import age

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greenscale_worker.config import Settings
    from greenscale_worker.queues import DeadFilter, DeadLetter, QueueClient

    Use = Callable[[argparse.Namespace, QueueClient, Settings], Awaitable[int]]

DESCRIPTION: Final = """\
Dead letters are jobs that have failed for good: bad input, a refusal, too many
tries. They keep their payload as it was pushed, and stay until they are
replayed or purged."""

SINCE: Final = """\
--since takes a time, 2030-01-02T03:04:05Z or 03:04:05 of the last 24 hours (UTC
unless it has an offset), or an age: 30m, 12h, 7d."""
EXAMPLES: Final = {
    "list": "greenscale-worker dead list --limit 20\ngreenscale-worker dead list --code http_400 --since 14:30",
    "codes": "greenscale-worker dead codes",
    "show": "greenscale-worker dead show test-001",
    "replay": "greenscale-worker dead replay test-001\ngreenscale-worker dead replay --code http_400 --since 14:30",
    "purge": "greenscale-worker dead purge --older-than 7d --code not_json --dry-run",
}
DONE: Final = """\
0  done
1  Redis does not answer
2  a wrong setting or option"""
NO_SUCH: Final = f"{DONE}\n3  there is no such dead letter, or none of this code"
CODES: Final = {
    "list": f"{DONE}\n3  --after: there is no such dead letter",
    "codes": DONE,
    "show": NO_SUCH,
    "replay": NO_SUCH.replace("1  ", "1  some could not be replayed; or "),
    "purge": NO_SUCH,
}

WITH_SINCE: Final = ("list", "replay")
NOT_FOUND: Final = "there is no such dead letter"
SHOWN: Final = 100
UNTOLD: Final[dict[str, str]] = {
    "unknown": NOT_FOUND,
    "payload_lost": "its payload was deleted by somebody, so there is nothing to run; `dead purge` deletes the rest",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its five actions."""
    text = "list, count, show, replay or purge jobs that have failed for good"
    examples = "\n".join(EXAMPLES.values())
    dead = add_command(subparsers, "dead", text, DESCRIPTION, notes=SINCE, examples=examples, codes=CODES["replay"])
    actions = dead.add_subparsers(title="actions", metavar="ACTION")

    listing = _action(actions, "list", "list them, the latest first", _list)
    _filter_options(listing)
    listing.add_argument(
        "--limit", metavar="N", type=whole_number, help=f"no more than so many; 0: all (default: {SHOWN}; --json: all)"
    )
    listing.add_argument("--after", metavar="ID", help="go on behind the one of this id")
    listing.add_argument("--json", action="store_true", help="one line of JSON each, without payloads")

    codes = _action(actions, "codes", "count them by code", _codes)
    codes.add_argument("--json", action="store_true", help="one line of JSON")

    show = _action(actions, "show", "show one, with its payload", _show)
    show.add_argument("id", metavar="ID", help="its own id, or the job's")
    show.add_argument("--json", action="store_true", help="one line of JSON")

    replay = _action(actions, "replay", "put some back to the head of the queue, with a clean record", _replay)
    replay.add_argument("id", metavar="ID", nargs="*", default=[], help="their own ids, or the jobs'")
    _filter_options(replay)
    replay.add_argument("--all", action="store_true", help="all")
    replay.add_argument("--limit", metavar="N", type=_count, help="no more than so many, the oldest first")
    _dry_run(replay)

    purge = _action(actions, "purge", "delete those that died long ago", _purge)
    purge.add_argument(
        "--older-than", metavar="AGE", type=seconds_of, required=True, help="such as 45s, 30m, 12h, 7d or 2w; 0: all"
    )
    purge.add_argument("--code", metavar="CODE", help="only those that failed with this code")
    _dry_run(purge)


def _action(actions: Any, name: str, text: str, use: "Use") -> argparse.ArgumentParser:
    description, notes = text[0].upper() + text[1:] + ".", SINCE if name in WITH_SINCE else ""
    parser = add_command(actions, name, text, description, notes=notes, examples=EXAMPLES[name], codes=CODES[name])
    parser.set_defaults(run=lambda args: with_client(partial(use, args)))
    return parser


def _filter_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--code", metavar="CODE", help="only those that failed with this code")
    parser.add_argument("--since", metavar="TIME", type=since_of, help="only those that died since: a time, or an age")


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say how many it would be")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted; a whole number above 0 is expected")
    return int(text)


def _which(args: argparse.Namespace) -> "DeadFilter":
    from greenscale_worker.queues import DeadFilter

    since, younger_than = args.since or (None, None)
    return DeadFilter(code=args.code, since=since, younger_than=younger_than)


async def _list(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    which = _which(args)
    limit = (0 if args.json else SHOWN) if args.limit is None else args.limit
    if args.after is not None and await client.dead_letter(args.after, payload=False) is None:
        hint(f"{args.after}: {NOT_FOUND}")
        return UNKNOWN
    found = client.dead(which, limit=limit + 1 if limit else None, after=args.after, payloads=False)
    letters = [_summary(letter) async for letter in found]
    more = 0 < limit < len(letters)
    letters = letters[: limit or None]
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
    elif await _knows(args.code, client):
        hint("there are no dead letters" + ("" if which == type(which)() else " of this kind"))
    if more:
        shown = f"{len(letters):,}" + ("" if args.after else f" of {await client.dead_count(which):,}")
        hint(f"… {shown} shown; for more: --after {letters[-1]['id']}, or --limit 0")
    return 0


def _summary(letter: "DeadLetter") -> dict[str, Any]:
    """Return a letter without its payload: there may be many, and each may be large."""
    names = ("id", "job_id", "code", "message", "attempts", "crashes", "died_at")
    return {name: getattr(letter, name) for name in names}


async def _codes(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    counts = await client.dead_codes()
    if args.json:
        say_json(counts)
    elif counts:
        say(columns([(f"{count:>7,}", code) for code, count in _by_count(counts)], head=("LETTERS", "CODE")))
    else:
        hint("there are no dead letters")
    return 0


async def _show(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    letter = await client.dead_letter(args.id)
    if letter is None:
        hint(f"{args.id}: {NOT_FOUND}")
        return UNKNOWN
    _print(letter, as_json=args.json)
    return 0


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
        ("attempts", str(letter.attempts)),
        ("crashes", str(letter.crashes)),
        ("bytes", str(len(letter.payload))),
    ]
    say(facts(rows))
    say("\n" + harmless(letter.payload.decode(errors="backslashreplace")))


async def _knows(code: str | None, client: "QueueClient") -> bool:
    """Return whether any dead letter has this code; if none has, print which codes there are."""
    if code is None or code in (counts := await client.dead_codes()):
        return True
    there_are = ", ".join(f"{each} ({count:,})" for each, count in _by_count(counts)) or "no dead letters at all"
    hint(f"no dead letter has the code {code!r}; there are: {there_are}")
    return False


def _by_count(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


async def _replay(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    which = _which(args)
    chosen = args.all or which != type(which)()
    if bool(args.id) == chosen:
        what = "ids and a choice exclude each other" if chosen else "nothing is chosen"
        raise ConfigError(f"dead replay: {what}; expected: ids, or else --all, --code or --since")
    if args.id:
        return await _replay_ids(args, client)
    known = await _knows(args.code, client)
    found = client.dead(which, limit=args.limit, oldest_first=True, payloads=False)
    ids = [letter.id async for letter in found]
    if args.dry_run:
        say(f"to be replayed: {len(ids)}")
        return 0 if known else UNKNOWN
    answers = await client.replay_many(ids)
    for letter_id, answer in zip(ids, answers, strict=True):
        if answer != "replayed":
            hint(f"{letter_id}: {UNTOLD[answer]}")
    say(f"replayed: {answers.count('replayed')}")
    if not known:
        return UNKNOWN
    return 0 if answers.count("replayed") == len(ids) else FAILED


async def _replay_ids(args: argparse.Namespace, client: "QueueClient") -> int:
    done = 0
    names = list(dict.fromkeys(args.id))[: args.limit]
    for name in names:
        letter = await client.dead_letter(name, payload=False)
        answer = "unknown" if letter is None else "replayed"
        if letter is not None and not args.dry_run:
            (answer,) = await client.replay_many([letter.id])
        if answer == "replayed":
            done += 1
        else:
            hint(f"{name}: {UNTOLD[answer]}")
    say(f"{'to be replayed' if args.dry_run else 'replayed'}: {done}")
    missing = len(names) - done
    return 0 if not missing else FAILED if done else UNKNOWN


async def _purge(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    known = await _knows(args.code, client)
    if args.dry_run:
        from greenscale_worker.queues import DeadFilter

        say(f"to be purged: {await client.dead_count(DeadFilter(code=args.code, older_than=args.older_than))}")
    else:
        say(f"purged: {await client.purge(older_than=args.older_than, code=args.code)}")
    return 0 if known else UNKNOWN
