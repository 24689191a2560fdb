"""`kubeserve register`, `login`, `logout`, `me` and `keys`."""

import argparse
import getpass
import sys
from datetime import UTC, datetime, timedelta
from typing import Final

from greenscale_worker import ConfigError
from greenscale_worker.cli.terminal import hint, seconds_of

from kubeserve.cli import session
from kubeserve.cli.command import Command, Json, add_json, ago, describe, facts, number_or_none, show, table
from kubeserve.cli.names import deployment_of
from kubeserve.client import KubeServe
from kubeserve.domain import EMAIL_ACCEPTED, SHORTEST_PASSWORD, is_email
from kubeserve.errors import NotFoundError

ASKED: Final = "The password is asked for, or read from stdin (one line)."


def _credentials(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("email", metavar="EMAIL")
    parser.add_argument("--url", metavar="URL", help="where KubeServe is; later commands call it, too")


def _register_arguments(parser: argparse.ArgumentParser) -> None:
    text = "Make an account and log in. The first account of an installation is its admin's."
    describe(parser, text, "kubeserve register anna@example.org", ASKED)
    _credentials(parser)


def _register(given: argparse.Namespace) -> int:
    return _log_in(given, new=True)


def _login_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Log in. The token is kept in a file that only you can read, for later commands.",
        "kubeserve login anna@example.org\nkubeserve login anna@example.org --url https://models.example.org < file",
        ASKED,
    )
    _credentials(parser)


def _login(given: argparse.Namespace) -> int:
    return _log_in(given, new=False)


def _log_in(given: argparse.Namespace, *, new: bool) -> int:
    if new and not is_email(given.email.strip()):
        raise ConfigError(f"{given.email!r}: {EMAIL_ACCEPTED}")
    address = session.checked(given.url) if given.url else session.url()
    password, warning = _password(again=new), None
    with KubeServe(address, patience=session.HURRIED) as api:
        if new:
            warning = api.register(given.email, password).get("warning")
        answer = api.login(given.email, password)
    session.remember(address, answer["token"])
    if warning:
        hint(f"Note: {warning}.")
    hint(f"{'Registered and logged' if new else 'Logged'} in at {address} as {given.email}.")
    return 0


def _password(*, again: bool) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    try:
        password = getpass.getpass(f"Password ({SHORTEST_PASSWORD} characters or more): " if again else "Password: ")
        if again and getpass.getpass("Once more: ") != password:
            raise ConfigError("the two passwords differ")
    except EOFError:
        raise ConfigError("a password is expected") from None
    return password


def _logout_arguments(parser: argparse.ArgumentParser) -> None:
    describe(parser, "Forget the token of the KubeServe that is called.", "kubeserve logout")


def _logout(_given: argparse.Namespace) -> int:
    address = session.url()
    hint(f"Logged out of {address}." if session.forget(address) else f"Nobody was logged in at {address}.")
    return 0


def _me_arguments(parser: argparse.ArgumentParser) -> None:
    describe(parser, "Show who calls, and which KubeServe.", "kubeserve me\nkubeserve me --json")
    add_json(parser)


def _me(given: argparse.Namespace) -> int:
    with session.connect() as api:
        user = api.me()
    rows = [("email", user["email"]), ("role", user["role"]), ("id", user["id"]), ("url", session.url())]
    show(given, user, facts(rows))
    return 0


def _keys_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "List your API keys, create one, limit one, or revoke one. Keys are for programs:\n"
        "a key goes where a token goes, and may be for the predictions of one deployment\n"
        "alone.",
        "kubeserve keys\nkubeserve keys create laptop\n"
        "kubeserve keys create shop --deployment iris --requests-per-minute 600\n"
        "kubeserve keys create guest --expires 30d\nkubeserve keys limit guest 60\nkubeserve keys revoke laptop",
    )
    add_json(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    create = actions.add_parser("create", help="create a key; its text is shown this once")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--deployment", metavar="DEPLOYMENT", help="for the predictions of this one alone")
    create.add_argument(
        "--expires", type=seconds_of, metavar="TIME", help="until it is good for nothing, as 12h or 30d"
    )
    create.add_argument("--requests-per-minute", type=int, metavar="N", help="predictions that it may ask in a minute")
    limited = actions.add_parser("limit", help="change how many predictions a key may ask for in a minute")
    revoke = actions.add_parser("revoke", help="let a key be good for nothing any more")
    for action in (limited, revoke):
        action.add_argument("name", metavar="NAME", help="the key's name, or its text's beginning")
    limited.add_argument("number", type=number_or_none, metavar="N", help="predictions a minute, or none: no limit")
    for action in (create, limited, revoke):
        action.set_defaults(run="keys")
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _keys(given: argparse.Namespace) -> int:
    with session.connect() as api:
        if given.action == "create":
            only = deployment_of(api, given.deployment)["id"] if given.deployment else None
            ends = None if given.expires is None else _in(given.expires)
            made = api.create_key(given.name, only, expires_at=ends, requests_per_minute=given.requests_per_minute)
            show(given, made, made["key"])
            hint("This text is shown this once: keep it.")
        elif given.action == "limit":
            key = api.limit_key(_meant(api.keys(), given.name)["id"], given.number)
            show(given, key, "")
            said = f"may ask for {given.number:,} predictions a minute" if given.number else "has no limit"
            hint(f"The key {key['name']} {said}.")
        elif given.action == "revoke":
            key = _meant(api.keys(), given.name)
            api.revoke_key(key["id"])
            hint(f"The key {key['name']} is good for nothing any more.")
        else:
            found = api.keys()
            rows = [
                (
                    key["name"],
                    _state(key),
                    key.get("deployment") or key["deployment_id"] or "all",
                    f"{key['requests_per_minute']}/min" if key["requests_per_minute"] else "",
                    key["prefix"],
                    ago(key["created_at"]),
                )
                for key in found
            ]
            show(
                given, found, table(("NAME", "STATE", "FOR", "LIMIT", "BEGINS", "CREATED"), rows, "There are no keys.")
            )
    return 0


def _in(seconds: float) -> datetime:
    """Return the time in so many seconds. Raises ConfigError."""
    try:
        return datetime.now(UTC) + timedelta(seconds=seconds)
    except OverflowError:
        raise ConfigError("--expires: a time to come within the calendar is accepted") from None


def _state(key: Json) -> str:
    if key["revoked_at"]:
        return "revoked"
    ends = key["expires_at"]
    return "expired" if ends and datetime.fromisoformat(ends) <= datetime.now(UTC) else "valid"


def _meant(found: list[Json], text: str) -> Json:
    """Return the key, not yet revoked, of that name, beginning or id. Raises NotFoundError, ConfigError if several."""
    valid = [key for key in found if key["revoked_at"] is None]
    those = [key for key in valid if text in {key["name"], key["prefix"], key["id"]}]
    if not those:
        raise NotFoundError(f"there is no key {text!r}; `kubeserve keys` lists them")
    if len(those) > 1:
        lines = (f"  {key['prefix']}  created {ago(key['created_at'])}" for key in those)
        raise ConfigError("\n".join((f"{len(those)} keys are called {text!r}: give the beginning of one", *lines)))
    return those[0]


register = Command(_register_arguments, _register)
login = Command(_login_arguments, _login)
logout = Command(_logout_arguments, _logout)
me = Command(_me_arguments, _me)
keys = Command(_keys_arguments, _keys)
