"""`config`: every setting, its value and its source; and the page of the documentation that lists them."""

import argparse
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from greenscale_worker.cli.context import settings_of_command
from greenscale_worker.cli.terminal import bold, columns, facts, say, say_json
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import ConfigError

if TYPE_CHECKING:
    from greenscale_worker.config import Settings
    from greenscale_worker.config.catalogue import Setting

DESCRIPTION: Final = """\
Show every setting, its value and where it came from; secrets are masked. Below
them: the endpoint and the Redis that they amount to, or why a worker would not
start."""

EXAMPLES: Final = """\
greenscale-worker config
greenscale-worker config --json | jq '.settings.GREENSCALE_CONCURRENCY'
greenscale-worker config --markdown | diff docs/configuration.md -"""
CODES: Final = """\
0  shown
2  a wrong setting or option"""

UP_SIMULATES: Final = (
    "none is set: `greenscale-worker up` simulates one; any other worker, and `batch`, would not start without"
    " NEYSA_API_KEY, or OPENAI_API_KEY and GREENSCALE_MODEL"
)

PAGE: Final = """\
<!-- Written by `greenscale-worker config --markdown` from src/greenscale_worker/config/settings.py; do not edit. -->

# Configuration

Everything is set by environment variables. A file `.env` in the working directory is read where there is one: lines
`NAME=value`, taken literally (a `$` is a `$`), 64 KiB at most. The environment goes before it, and other programs'
variables in it are ignored. `greenscale-worker config` shows what is in force, and where each value came from.

A `.env` may have come with a folder that somebody else made, so it is trusted with less than the environment:

- It may not choose code to run (`GREENSCALE_BACKEND=package.module:handler`), nor a file to read a secret from
  (`NEYSA_API_KEY_FILE`, …).
- A key, `GREENSCALE_ENDPOINT_HEADERS` or `REDIS_PASSWORD` goes only to the host that the same source names, or to the
  default one: a key from the environment and a URL from `.env` are refused, and so are the two the other way round, and
  a `.env` that names the certificates to trust for a host that gets a key from the environment.
- `--env-file FILE`, an option of `greenscale-worker` and of each of its commands, reads that file instead and trusts it
  like the environment.

For every variable, wherever it comes from:

- An empty variable counts as not set, except the two keys: there it means an endpoint without keys. An empty
  variable in the environment also undoes the one in `.env`.
- A secret may be in a file instead, whose name is in `NAME_FILE`; both at once is an error. Line breaks at the end of a
  secret do not count.
- A value that is not accepted, and settings that contradict each other, stop the start with one line and exit code 2.
  Only what a command needs must be there: `greenscale-worker queue` asks for no key.
- A variable that begins with `GREENSCALE_` and is no setting is a warning, which names the nearest one that is. So is a
  `REDIS_PORT` or `GREENSCALE_HEALTH_PORT` such as `tcp://10.0.0.1:6379`: Kubernetes sets those for a Service called
  `redis` or `greenscale-health`, and they are not taken for settings.
- Plug-ins have settings of their own, in the environment only, whose names do not begin with `GREENSCALE_`
  ([plugins.md](plugins.md)).
"""

ENDPOINT: Final = """\
### Which endpoint, which key

A key is sent to the URL of its own pair and nowhere else; `NEYSA_…` goes before `OPENAI_…`.

| `NEYSA_API_URL` | `NEYSA_API_KEY` | `OPENAI_BASE_URL` | `OPENAI_API_KEY` | jobs go to | with the key |
|---|---|---|---|---|---|
| not set | set | any | any | `{neysa}` | `NEYSA_API_KEY` |
| set | set | any | any | `NEYSA_API_URL` | `NEYSA_API_KEY` |
| not set | empty | any | any | `{neysa}` | none |
| set | empty | any | any | `NEYSA_API_URL` | none |
| set | not set | any | any | nowhere: `NEYSA_API_URL` is set without `NEYSA_API_KEY` | |
| not set | not set | not set | set | `{openai}/chat/completions` | `OPENAI_API_KEY` |
| not set | not set | set | set | `OPENAI_BASE_URL` + `/chat/completions` | `OPENAI_API_KEY` |
| not set | not set | set | empty | `OPENAI_BASE_URL` + `/chat/completions` | none |
| not set | not set | not set | empty | nowhere: `OPENAI_API_KEY` is empty | |
| not set | not set | set | not set | nowhere: `OPENAI_BASE_URL` is set without `OPENAI_API_KEY` | |
| not set | not set | not set | not set | nowhere: no endpoint is set | |

Where jobs go by `OPENAI_…`, `GREENSCALE_MODEL` must be set, but not for a `batch`: of its lines, those that name no
model fail. An endpoint by `http://` is asked directly, one by `https://` through `HTTPS_PROXY` unless `NO_PROXY` names
its host.
"""

REDIS: Final = """\
`REDIS_URL` excludes `REDIS_HOST`, `REDIS_PORT` and `REDIS_DB`. It is one of

| | |
|---|---|
| `redis://host:port/0` | one server |
| `redis+sentinel://host:port,host:port/master/0` | the master of that name, by Sentinel |
| `redis+cluster://host:port,host:port` | a Cluster, by some of its nodes |

and the same with `rediss` for `redis` where there is TLS; only then the files of certificates are accepted.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    text = "show every setting, its value and where it came from"
    parser = add_command(subparsers, "config", text, DESCRIPTION, examples=EXAMPLES, codes=CODES)
    parser.set_defaults(run=run)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one line of JSON")
    how.add_argument("--markdown", action="store_true", help="write docs/configuration.md instead; reads no setting")


def run(args: argparse.Namespace) -> int:
    """Show the settings. Raises ConfigError for a value that is not accepted."""
    if args.markdown:
        sys.stdout.write(markdown())
        return 0
    settings = settings_of_command()
    if args.json:
        say_json(_as_json(settings))
    else:
        say(_as_text(settings))
    return 0


def markdown() -> str:
    """Return the page that documents every setting."""
    from greenscale_worker.config.catalogue import catalogue
    from greenscale_worker.config.settings import NEYSA_URL, OPENAI_BASE, EndpointSettings, RedisSettings

    notes = {
        EndpointSettings.__doc__: ENDPOINT.format(neysa=NEYSA_URL, openai=OPENAI_BASE),
        RedisSettings.__doc__: REDIS,
    }
    parts = [PAGE]
    for section, settings in groupby(catalogue(), key=_section):
        rows = "\n".join(_row(setting) for setting in settings)
        parts.append(f"## {section}\n\n| variable | accepted | default | |\n|---|---|---|---|\n{rows}\n")
        parts += [note for heading, note in notes.items() if (heading or "").rstrip(".") == section]
    return "\n".join(parts)


def _section(setting: "Setting") -> str:
    return setting.section


def _row(setting: "Setting") -> str:
    names = f"`{setting.name}`" + (f"<br>`{setting.name}_FILE`" if setting.secret else "")
    default = setting.info.default
    shown = "" if default is None else f"`{_plain(default)}`"
    return f"| {names} | {setting.accepts} | {shown} | {setting.info.description} |"


def _plain(value: object) -> str:
    """Return a value as it would be set."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _shown(settings: "Settings", setting: "Setting") -> str | None:
    """Return a value as it may be shown: secrets mask themselves, and passwords in URLs are cut out."""
    from greenscale_worker.config.rules import masked

    value = getattr(settings, setting.field)
    return None if value is None else masked(_plain(value))


def _is_text(settings: "Settings", setting: "Setting") -> bool:
    return setting.secret or isinstance(getattr(settings, setting.field), str)


def _as_text(settings: "Settings") -> str:
    from greenscale_worker.config.catalogue import catalogue

    rows: list[tuple[str, str, str]] = []
    headings: dict[int, str] = {}
    for section, group in groupby(catalogue(), key=_section):
        headings[len(rows)] = section
        for setting in group:
            value = _shown(settings, setting)
            shown = "-" if value is None else value or "(empty)"
            rows.append(("  " + setting.name, settings.origins.get(setting.field, "default"), shown))
    lines: list[str] = []
    for number, line in enumerate(columns(rows).splitlines()):
        if number in headings:
            lines += ["", bold(headings[number])]
        lines.append(line)
    verdicts = [(f"  {what}", "  ".join(facts.values())) for what, facts in _in_force(settings)]
    return "\n".join([*lines[1:], "", bold("In force"), facts(verdicts)])


def _as_json(settings: "Settings") -> dict[str, Any]:
    from greenscale_worker.config.catalogue import catalogue

    values = {
        setting.name: {
            "value": _shown(settings, setting) if _is_text(settings, setting) else getattr(settings, setting.field),
            "source": settings.origins.get(setting.field, "default"),
        }
        for setting in catalogue()
    }
    return {"settings": values, **dict(_in_force(settings))}


def _in_force(settings: "Settings") -> list[tuple[str, dict[str, str]]]:
    """Return the options that the settings result in, or the error that they result in."""
    from greenscale_worker.config import chat_options, has_endpoint, redis_options
    from greenscale_worker.config.rules import masked

    found: list[tuple[str, dict[str, str]]] = []
    try:
        chat = chat_options(settings)
        found.append(("endpoint", {"url": masked(chat.url), "model": str(chat.model)}))
    except ConfigError as error:
        if settings.backend == "chat" and not has_endpoint(settings):
            found.append(("endpoint", {"error": UP_SIMULATES}))
        elif settings.backend == "chat":
            found.append(("endpoint", {"error": str(error)}))
    try:
        found.append(("redis", {"url": masked(redis_options(settings).url)}))
    except ConfigError as error:
        found.append(("redis", {"error": str(error)}))
    return found
