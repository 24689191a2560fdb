"""The command `kubeserve`. Each command is imported when it is called: none waits for what another one needs."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from kubeserve.errors import KubeServeError

COMMANDS: Final = {  # the module that is imported when it is called, or an object there
    "up": ("up:up", "run all of it on this machine"),
    "down": ("up:down", "end what `up` runs; --purge removes its data"),
    "demo": ("demo", "see it work: train, upload, deploy, call, wake"),
    "register": ("accounts:register", "make an account, and log in"),
    "login": ("accounts:login", "log in; the token is kept for later commands"),
    "logout": ("accounts:logout", "forget the token"),
    "me": ("accounts:me", "who calls, and where"),
    "upload": ("upload:upload", "send a model, and watch its proof"),
    "watch": ("upload:watch", "watch the proof of a version"),
    "models": ("models:models", "list, create or delete models"),
    "versions": ("models:versions", "list or delete the versions of a model"),
    "deploy": ("deployments:deploy", "let a version answer; again: another version"),
    "deployments": ("deployments:deployments", "list deployments, or show one"),
    "predict": ("predict", "ask a model"),
    "logs": ("deployments:logs", "what a model writes"),
    "rollback": ("deployments:rollback", "let an earlier revision answer again"),
    "manifests": ("manifests", "a deployment as files for a cluster"),
    "stop": ("deployments:stop", "let a deployment answer nothing, until start"),
    "start": ("deployments:start", "let a stopped deployment answer again"),
    "delete": ("deployments:delete", "delete a deployment and all that runs for it"),
    "keys": ("accounts:keys", "list, create or revoke API keys"),
    "dashboards": ("dashboards", "bring the dashboards into Grafana"),
    "cluster": ("cluster", "install it on a Kubernetes cluster, or remove it"),
    "serve": ("serve", "the control plane: API, page, proofs, reconciler"),
    "door": ("door", "what answers on this machine, or in a pod: runs the models"),
    "fetch": ("fetch", "bring a pod its model, before it answers"),
}
FAILED: Final = 1
MISUSED: Final = 2
UNKNOWN: Final = 3
AWAY: Final = 4
INTERRUPTED: Final = 130
NOBODY_READS: Final = 141
FIRST: Final = "log in by `kubeserve login EMAIL`, or make an account by `kubeserve register EMAIL`"
DESCRIPTION: Final = """\
Upload a model, see it proved, deploy it, call it. It sleeps when nobody calls."""
EPILOG: Final = """\
MODEL is a model's name, VERSION is MODEL:TAG, DEPLOYMENT a deployment's name;
their ids are accepted, too. KUBESERVE_URL says where KubeServe is (default:
where you logged in, or http://127.0.0.1:8600), KUBESERVE_TOKEN who calls, by a
token or an API key (default: the token of `kubeserve login`).

examples:
  kubeserve up                                     run all of it on this machine
  kubeserve register anna@example.org              in another terminal
  kubeserve upload iris:v1 model.joblib
  kubeserve deploy iris:v1
  kubeserve predict iris 5.1,3.5,1.4,0.2
`kubeserve COMMAND --help` tells more.

exit codes:
    0  done
    1  it was refused, or failed
    2  a wrong option, setting or input
    3  there is no such model, version, deployment or key
    4  nobody answers, or not in time: later it may succeed
  130  interrupted by Ctrl-C
  141  nobody reads the output any more"""


class Command(Protocol):
    """A module with a command, or an object in one."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say what the command takes."""

    def run(self, given: argparse.Namespace) -> int:
        """Do it, and return the exit status. Raises ConfigError, KubeServeError."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status; see `kubeserve --help`."""
    from greenscale_worker.cli import interrupt, streams

    words = list(sys.argv[1:] if argv is None else argv)
    streams.open_missing()
    try:
        with interrupt.ends_at_once():
            try:
                name, command, given = _parsed(words)
            except SystemExit as end:
                return end.code if isinstance(end.code, int) else MISUSED
        return _run(name, command, given)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        streams.discard()


def _parsed(words: Sequence[str]) -> tuple[str, Command, argparse.Namespace]:
    from greenscale_worker.cli.usage import Parser

    parser = Parser(prog="kubeserve", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    parser.set_defaults(run=None)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, (_, summary) in COMMANDS.items():
        of_command = commands.add_parser(name, help=summary, description=summary)
        of_command.set_defaults(run=name)
        if words[:1] == [name]:
            _found(name).arguments(of_command)
    given = parser.parse(words)
    return given.command, _found(given.command), given


def _found(name: str) -> Command:
    module, _, part = COMMANDS[name][0].partition(":")
    found = import_module(f"kubeserve.cli.{module}")
    return cast("Command", getattr(found, part) if part else found)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"kubeserve {version('kubeserve')}\n")
        parser.exit()


def _run(name: str, command: Command, given: argparse.Namespace) -> int:
    from greenscale_worker import ConfigError
    from greenscale_worker.cli import streams

    from kubeserve.errors import KubeServeError

    try:
        code = command.run(given)
        sys.stdout.flush()
    except ConfigError as error:
        return _complain(name, str(error), MISUSED)
    except KubeServeError as error:
        return _complain(name, _words(error, name), _code(error))
    except BrokenPipeError:
        return NOBODY_READS
    except OSError as error:
        what = "the output cannot be written" if streams.is_of_stdout(error) else error.filename
        reason = error.strerror or str(error)
        return _complain(name, f"{what}: {reason}" if what else reason, FAILED)
    return code


def _words(error: "KubeServeError", name: str) -> str:
    """Return what was refused, each fault on a line of its own, and what may help."""
    from kubeserve.cli import session
    from kubeserve.errors import UnauthenticatedError

    lines = [error.message, *(f"  {fault.field}: {fault.message}" for fault in error.faults)]
    if error.faults and all(fault.message in error.message for fault in error.faults):
        lines = lines[:1]
    if error.code in {"away", "unreachable"}:
        lines[0] += "; is `kubeserve up` running? KUBESERVE_URL names another address"
    if isinstance(error, UnauthenticatedError) and name != "login":
        again = f"{lines[0]}; `kubeserve login EMAIL` logs in"
        lines[0] = again if session.has_credential() else FIRST
    return "\n".join(lines)


def _code(error: "KubeServeError") -> int:
    from kubeserve.errors import NotFoundError, UnavailableError

    if isinstance(error, NotFoundError):
        return UNKNOWN
    return AWAY if isinstance(error, UnavailableError) and error.code != "failed" else FAILED


def _complain(name: str, message: str, code: int) -> int:
    from greenscale_worker.cli.terminal import harmless
    from greenscale_worker.for_people import fitted

    with suppress(OSError):  # stderr cannot be written; the exit code says it
        sys.stderr.write(fitted(harmless(f"kubeserve {name}: {message}"), sys.stderr) + "\n")
    return code
