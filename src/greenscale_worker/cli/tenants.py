"""`tenants`: weights and limits of tenants, and how each stands."""

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from greenscale_worker.cli import UNKNOWN
from greenscale_worker.cli.context import with_client
from greenscale_worker.cli.keys import NUMBERS as OF_KEYS
from greenscale_worker.cli.keys import count_of, tenant_of
from greenscale_worker.cli.terminal import columns, hint, say, say_json
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import BadInputError, ConfigError
from greenscale_worker.for_people import age

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greenscale_worker.config import Settings
    from greenscale_worker.queues import QueueClient, TenantStanding

    Use = Callable[[argparse.Namespace, QueueClient, Settings], Awaitable[int]]

DESCRIPTION: Final = """\
Tenants share the fleet: jobs that are handed in for a tenant with an entry
wait in a line of its own. In each class, lines are served by weight, all other
jobs together being those of one more tenant of weight 1. A tenant at a limit
of its own is passed over, and keeps nobody else waiting."""
SET: Final = """\
Give a tenant an entry, in place of any that it has: what is left out is not
limited. It holds for jobs that are handed in from now on, by the gateway (the
tenant is the key's), a batch, or put(tenant=…); jobs that producers push
themselves are in no line, whatever tenant they name."""
LIST: Final = """\
List tenants: weight and limits, how many jobs wait in their lines, how many
were claimed and have not ended, and what holds those that wait back."""
DELETE: Final = """\
Delete a tenant's entry. Its jobs keep their place in its line and are served
with weight 1."""
EXAMPLES: Final = {
    "set": "greenscale-worker tenants set search --weight 3 --in-flight 8\n"
    "greenscale-worker tenants set trial --requests-per-minute 60",
    "list": "greenscale-worker tenants list",
    "delete": "greenscale-worker tenants delete trial",
}
DONE: Final = """\
0  done
1  Redis does not answer
2  a wrong setting or option"""
CODES: Final = {"set": DONE, "list": DONE, "delete": f"{DONE}\n3  the tenant has no entry"}
NUMBERS: Final = {
    "weight": "share of each class (default: 1, at most 1000)",
    "in_flight": "jobs at a time, with those that wait to be tried again",
    "requests_per_minute": "calls that may begin in a minute",
    "tokens_per_minute": "tokens, of prompts and answers, in a minute",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its three actions."""
    text, examples = "share the fleet among tenants", "\n".join(EXAMPLES.values())
    tenants = add_command(subparsers, "tenants", text, DESCRIPTION, examples=examples, codes=CODES["delete"])
    actions = tenants.add_subparsers(title="actions", metavar="ACTION")

    setting = _action(actions, "set", "give a tenant a weight and limits", SET, _set)
    setting.usage = "%(prog)s [-h] [options] NAME"  # that of argparse does not fit 60 columns
    setting.add_argument("name", metavar="NAME", type=tenant_of, help="as in `keys create --tenant`")
    for name, help_ in NUMBERS.items():
        setting.add_argument(f"--{name.replace('_', '-')}", dest=name, type=count_of, metavar="N", help=help_)
    setting.usage = "%(prog)s [-h] [LIMITS] NAME"  # written out, it is wider than a terminal of 60 columns

    listing = _action(actions, "list", "show how each stands", LIST, _list)
    listing.add_argument("--json", action="store_true", help="one line of JSON each")

    deleting = _action(actions, "delete", "delete an entry", DELETE, _delete)
    deleting.add_argument("name", metavar="NAME", help="its name")


def _action(actions: Any, name: str, text: str, description: str, use: "Use") -> argparse.ArgumentParser:
    parser = add_command(actions, name, text, description, examples=EXAMPLES[name], codes=CODES[name])
    parser.set_defaults(run=lambda args: with_client(partial(use, args)))
    return parser


async def _set(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    from greenscale_worker.queues import TenantLimits

    given = {name: value for name in NUMBERS if (value := getattr(args, name)) is not None}
    try:
        limits = TenantLimits(**given)
        await client.set_tenant(args.name, limits)
    except (ValueError, BadInputError) as error:
        raise ConfigError(f"tenants set: {error}") from None
    say(f"The tenant {args.name} has {_limits(limits)}.")
    return 0


async def _list(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    found = await client.tenants()
    if args.json:
        for each in found:
            say_json(_facts(each))
        return 0
    if not found:
        hint("no tenant has an entry: all jobs of a class are served in their order")
        return 0
    rows = [
        (each.name, f"{each.waiting:,}".rjust(7), f"{each.in_flight:,}".rjust(9), _held(each), _limits(each.limits))
        for each in found
    ]
    say(columns(rows, head=("TENANT", "WAITING", "IN FLIGHT", "HELD BACK BY", "ENTRY"), cut=True))
    return 0


async def _delete(args: argparse.Namespace, client: "QueueClient", _settings: "Settings") -> int:
    if not any(each.limits for each in await client.tenants(args.name)):
        hint(f"{args.name}: the tenant has no entry")
        return UNKNOWN
    await client.set_tenant(args.name, None)
    say(f"The tenant {args.name} has no entry any more.")
    return 0


def _facts(standing: "TenantStanding") -> dict[str, Any]:
    limits = standing.limits
    return {
        "name": standing.name,
        "limits": None if limits is None else {name: getattr(limits, name) for name in NUMBERS},
        "waiting": standing.waiting,
        "in_flight": standing.in_flight,
        "oldest_seconds": standing.oldest_seconds,
        "held_back": standing.held or None,
        "held_seconds": round(standing.held_seconds, 3),
    }


def _held(standing: "TenantStanding") -> str:
    if not standing.held:
        return "-"
    return standing.held + (f", {age(standing.held_seconds)}" if standing.held_seconds else "")


def _limits(limits: Any) -> str:
    if limits is None:
        return "none"
    words = [f"weight {limits.weight}"]
    words += [f"{name} {value}" for name in NUMBERS if name in OF_KEYS and (value := getattr(limits, name)) is not None]
    return ", ".join(words)
