"""`keys`: makes, lists and revokes the keys of the gateway."""

import argparse
import re
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, Final

from greenscale_worker.cli import UNKNOWN
from greenscale_worker.cli.context import with_client
from greenscale_worker.cli.terminal import columns, hint, moment, say, say_json, seconds_of, text_of
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import ConfigError
from greenscale_worker.for_people import age

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greenscale_worker.config import Settings
    from greenscale_worker.gateway.keys import Key
    from greenscale_worker.queues import QueueClient

    Use = Callable[[argparse.Namespace, QueueClient, Settings], Awaitable[int]]

DESCRIPTION: Final = """\
Keys of the gateway (`greenscale-worker serve`). They are kept in Redis, so
all gateways know them; of a secret only its SHA-256 is kept. A revoked key is
refused everywhere within 5 s. As soon as there is a key, nobody may call
without one."""
CREATE: Final = """\
Make a key, and print it: it is shown this once, and kept nowhere.

A key of a tenant sees that tenant's jobs only, under ids of its own; one
without sees everything. Scopes: submit, read, cancel, batch, and admin for all
of them."""
LIMITS: Final = """\
Each gateway counts for itself, except tokens and stored bytes: all that the
tenant uses count."""
EXAMPLES: Final = {
    "create": "greenscale-worker keys create --tenant search --expires 90d\n"
    "greenscale-worker keys create --scopes read --note dashboard",
    "list": "greenscale-worker keys list",
    "revoke": "greenscale-worker keys revoke 3f1c9a0b2d",
}
DONE: Final = """\
0  done
1  Redis does not answer
2  a wrong setting or option"""
CODES: Final = {"create": DONE, "list": DONE, "revoke": f"{DONE}\n3  there is no such key"}
DEFAULT_SCOPES: Final = "submit,read,cancel"
NUMBERS: Final = {
    "in_flight": "requests at a time",
    "waiting": "jobs that have not ended",
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "bytes_per_minute": "bytes of requests a minute",
    "stored_bytes": "bytes of files, outputs of batches among them",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its three actions."""
    examples = "\n".join(EXAMPLES.values())
    text = "make, list or revoke keys of the gateway"
    keys = add_command(subparsers, "keys", text, DESCRIPTION, examples=examples, codes=CODES["revoke"])
    actions = keys.add_subparsers(title="actions", metavar="ACTION")

    create = _action(actions, "create", "make a key, and show it once", CREATE, _create, notes=LIMITS)
    create.add_argument("--tenant", type=tenant_of, metavar="NAME", help="whose jobs it is for (default: all jobs)")
    create.add_argument(
        "--scopes", metavar="LIST", default=DEFAULT_SCOPES, help="what it may do (default: %(default)s)"
    )
    create.add_argument("--expires", type=seconds_of, metavar="AGE", help="such as 90d (default: never)")
    create.add_argument("--note", type=text_of, metavar="TEXT", help="what it is for")
    limits = create.add_argument_group("limits (default: none)")
    for name, help_ in NUMBERS.items():
        option = f"--{name.removesuffix('_per_minute').replace('_', '-')}"
        limits.add_argument(option, dest=name, type=count_of, metavar="N", help=help_)
    create.add_argument("--json", action="store_true", help="one line of JSON")

    listing = _action(actions, "list", "list them, without their secrets", "List all keys.", _list)
    listing.add_argument("--json", action="store_true", help="one line of JSON each")

    revoke = _action(actions, "revoke", "refuse a key from now on", "Refuse a key, within 5 s.", _revoke)
    revoke.add_argument("id", metavar="ID", help="its id, or the key itself")


def _action(  # noqa: PLR0913  the parts of a help
    actions: Any, name: str, text: str, description: str, use: "Use", *, notes: str = ""
) -> argparse.ArgumentParser:
    parser = add_command(actions, name, text, description, notes=notes, examples=EXAMPLES[name], codes=CODES[name])
    parser.set_defaults(run=lambda args: with_client(partial(use, args)))
    return parser


def tenant_of(text: str) -> str:
    """Parse a tenant's name."""
    from greenscale_worker.job import TENANT

    if TENANT.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not accepted; 1 to 32 of small letters, digits and - are expected"
        )
    return text


def count_of(text: str) -> int:
    """Parse a whole number above 0."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted; a whole number above 0 is expected")
    return int(text)


async def _create(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    from greenscale_worker.gateway.keys import Limits, new_key
    from greenscale_worker.gateway.route import SCOPES

    scopes = tuple(dict.fromkeys(filter(None, args.scopes.split(","))))
    if not scopes or not set(scopes) <= set(SCOPES):
        raise ConfigError(f"keys create: --scopes: {args.scopes!r} is not accepted; expected: {', '.join(SCOPES)}")
    key_id, token, key = new_key(
        tenant=args.tenant,
        scopes=scopes,
        note=args.note or "",
        expires_at=None if args.expires is None else time() + args.expires,
        limits=Limits(**{name: getattr(args, name) for name in NUMBERS}),
    )
    await client.set_key(key_id, key.model_dump_json(exclude_defaults=True).encode())
    if args.json:
        say_json({"key": token, **_facts(key_id, key)})
    else:
        say(token)
        hint(f"This is the only time that the key is shown. Its id is {key_id}.")
    return 0


async def _list(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    from greenscale_worker.gateway.keys import read_key

    documents, now, rows = await client.keys(), time(), list[tuple[str, ...]]()
    keys = {key_id: read_key(document) for key_id, document in documents.items()}
    for key_id, key in sorted(keys.items(), key=lambda each: each[1].created_at if each[1] else 0.0):
        if args.json:
            say_json({"id": key_id, "state": "unreadable"} if key is None else _facts(key_id, key))
        elif key is None:
            rows.append((key_id, "unreadable", "-", "-", "-", "-", ""))
        else:
            limits = ", ".join(f"{name} {value}" for name, value in _limits(key).items())
            made, expires = f"{age(now - key.created_at)} ago", _until(key.expires_at, now)
            about = ", ".join(filter(None, (limits, key.note)))
            rows.append((key_id, key.state(now), key.tenant or "-", ",".join(key.scopes), made, expires, about))
    if rows:
        say(columns(rows, head=("ID", "STATE", "TENANT", "SCOPES", "MADE", "EXPIRES", "LIMITS, NOTE"), cut=True))
    elif not args.json:
        hint("there are no keys: a gateway listens on this machine only, and everybody on it may call")
    return 0


async def _revoke(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    from greenscale_worker.gateway.keys import NO_SECRET, Key, read_key

    found = re.fullmatch(r"gs_([a-z0-9]+)_\w+", args.id)
    key_id = found[1] if found else args.id
    documents = await client.keys()
    if key_id not in documents:
        hint(f"{key_id}: there is no such key")
        return UNKNOWN
    key = read_key(documents[key_id]) or Key(hash=NO_SECRET, scopes=())
    if key.revoked_at is None:  # it stays in the list: a gateway that had keys must not open to everybody
        revoked = key.model_copy(update={"revoked_at": time()})
        await client.set_key(key_id, revoked.model_dump_json(exclude_defaults=True).encode())
    say(f"The key {key_id} is revoked.")
    return 0


def _facts(key_id: str, key: "Key") -> dict[str, Any]:
    """Return what may be shown of a key."""
    times = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at")}
    told = {name: None if value is None else moment(value).partition(" ")[0] for name, value in times.items()}
    state, scopes = key.state(time()), list(key.scopes)
    return {
        "id": key_id,
        "state": state,
        "tenant": key.tenant,
        "scopes": scopes,
        "note": key.note,
        **told,
        "limits": _limits(key),
    }


def _until(moment: float | None, now: float) -> str:
    if moment is None:
        return "-"
    return f"in {age(moment - now)}" if moment > now else f"{age(now - moment)} ago"


def _limits(key: "Key") -> dict[str, int]:
    return key.limits.model_dump(exclude_none=True)
