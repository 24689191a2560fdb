"""`kubeserve deploy`, `deployments`, `logs`, `rollback`, `limit`, `stop`, `start` and `delete`."""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from greenscale_worker.cli.terminal import harmless, hint, say, say_json, seconds_of

from kubeserve.cli import session
from kubeserve.cli.command import Command, Json, add_json, ago, describe, facts, number_or_none, show, table
from kubeserve.cli.names import deployment_of, find, model_of
from kubeserve.cli.names import version_of as named_version
from kubeserve.client import KubeServe
from kubeserve.errors import ConflictError, KubeServeError, NotFoundError, UnavailableError

SETTLED: Final = frozenset({"ready", "asleep"})
BROKEN: Final = frozenset({"failed", "degraded"})
PATIENCE: Final = 120.0
POLL: Final = 0.2
MIB: Final = 1024 * 1024


def _deploy_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Let a version that is ready answer calls, under a name (default: the model's).\n"
        "If there is a deployment of that name, of the same model, it gets a new\n"
        "revision; the one before answers until the new one is ready.",
        "kubeserve deploy iris:v1\nkubeserve deploy iris:v2 --minimum 1\n"
        "kubeserve deploy iris:v1 --name flowers --idle 10m --memory 512",
        "What is left out is as before, or as usual: 0 to 5 replicas, asleep after 60 s.",
    )
    parser.add_argument("version", metavar="VERSION")
    parser.add_argument("--name", metavar="NAME", help="the name of the deployment")
    parser.add_argument("--minimum", type=int, metavar="N", help="replicas that always run; 0: it sleeps")
    parser.add_argument("--maximum", type=int, metavar="N", help="replicas at most")
    parser.add_argument("--concurrency", type=int, metavar="N", help="calls that are worked on at a time")
    parser.add_argument(
        "--idle", type=seconds_of, metavar="TIME", help="without a call before it sleeps, as 90s or 10m"
    )
    parser.add_argument("--timeout", type=seconds_of, metavar="TIME", help="that one prediction may take")
    parser.add_argument("--memory", type=int, metavar="MIB", help="that one replica may use")
    parser.add_argument("--requests-per-minute", type=int, metavar="N", help="that all who call it may send together")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it answers")
    add_json(parser)


def _deploy(given: argparse.Namespace) -> int:
    with session.connect(patient=True) as api:
        version = named_version(api, given.version)
        name = given.name or model_of(api, version["model_id"])["name"]
        spec = {field: value for field in ("minimum", "maximum", "concurrency", "idle", "timeout")
                if (value := getattr(given, field)) is not None}  # fmt: skip
        if given.memory is not None:
            spec["memory"] = given.memory * MIB
        there = find(api.deployments(), "name", name)
        if there is None:
            most = {} if given.requests_per_minute is None else {"requests_per_minute": given.requests_per_minute}
            deployment = api.deploy(version["model_id"], name, version["id"], **spec, **most)
        elif there["model_id"] != version["model_id"]:
            whose = f"of the model {there['model']!r}"
            raise ConflictError(f"you have a deployment called {name!r} already, {whose}: choose another by --name")
        else:
            if given.requests_per_minute is not None:
                api.limit(there["id"], given.requests_per_minute)
            deployment = api.revise(there["id"], version_id=version["id"], **spec)
        if not given.no_wait:
            deployment = _settled(api, deployment)
        show(given, deployment, _shown(deployment))
    return 0


def _settled(api: KubeServe, deployment: Json) -> Json:
    """Wait until the revision that is wanted answers. Raises KubeServeError if it does not come up."""
    ends = time.monotonic() + PATIENCE
    while deployment["state"] not in SETTLED or deployment["active_revision"] != deployment["target_revision"]:
        if deployment["state"] in BROKEN:
            raise KubeServeError(f"it does not come up: {deployment['state_reason']}", code="failed")
        if time.monotonic() > ends:
            raise UnavailableError(f"it is still {deployment['state']} after {PATIENCE:g} s", code="late")
        time.sleep(POLL)
        deployment = api.deployment(deployment["id"])
    return deployment


def _deployments_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "List your deployments, or show one: its state, its URL, its revisions, and a\ncurl that calls it.",
        "kubeserve deployments\nkubeserve deployments iris",
    )
    parser.add_argument("name", nargs="?", metavar="DEPLOYMENT")
    add_json(parser)


def _deployments(given: argparse.Namespace) -> int:
    with session.connect() as api:
        if given.name:
            one = deployment_of(api, given.name)
            tags = {} if given.json else {each["id"]: each["tag"] for each in api.versions(one["model_id"])}
            show(given, one, f"{_shown(one)}\n\n{_revisions(one, tags)}")
            return 0
        found = api.deployments()
    rows = [
        (each["name"], f"{each['model']}:{each['version']}", each["state"], str(each["replicas"]), each["state_reason"])
        for each in found
    ]
    head = ("NAME", "VERSION", "STATE", "REPLICAS", "WHY")
    show(given, found, table(head, rows, "There are no deployments."))
    return 0


def _shown(deployment: Json) -> str:
    active, target = deployment["active_revision"], deployment["target_revision"]
    answers = "none yet" if active is None else f"{active}" if active == target else f"{active}, then {target}"
    limited = deployment["requests_per_minute"]
    now = next(each for each in deployment["revisions"] if each["number"] == target)
    rows = [
        ("name", deployment["name"]),
        ("state", ": ".join(filter(None, (deployment["state"], deployment["state_reason"])))),
        ("version", f"{deployment['model']}:{deployment['version']}"),
        ("revision", f"{answers} (of {len(deployment['revisions'])})"),
        (
            "replicas",
            f"{deployment['replicas']} of {now['minimum']} to {now['maximum']}, {now['memory'] // MIB} MiB each",
        ),
        ("limit", f"{limited:,} requests a minute" if limited else ""),
        ("created", ago(deployment["created_at"])),
        ("url", deployment["url"]),
    ]
    return f"{facts(rows)}\n\n{harmless(deployment['curl'])}"


def _revisions(deployment: Json, tags: Mapping[str, str]) -> str:
    """Return the revisions that `kubeserve rollback` may be given, newest first."""
    marks = {deployment["target_revision"]: "wanted", deployment["active_revision"]: "active"}
    rows = [
        (
            str(each["number"]),
            f"{deployment['model']}:{tags.get(each['version_id'], each['version_id'])}",
            ago(each["created_at"]),
            marks.get(each["number"], ""),
        )
        for each in reversed(deployment["revisions"])
    ]
    return table(("REVISION", "VERSION", "CREATED", "STATE"), rows, "")


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Show what the models of a deployment have written.",
        "kubeserve logs iris\nkubeserve logs iris --follow",
    )
    parser.add_argument("name", metavar="DEPLOYMENT")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    add_json(parser)


def _logs(given: argparse.Namespace) -> int:
    with session.connect() as api:
        line = None
        for line in api.logs(deployment_of(api, given.name)["id"], follow=given.follow):
            if given.json:
                say_json({"line": line})
            else:
                say(harmless(line))
    if line is None:
        hint("Nothing was written yet.")
    return 0


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Let an earlier revision answer again (default: the one before).",
        "kubeserve rollback iris\nkubeserve rollback iris 1",
    )
    parser.add_argument("name", metavar="DEPLOYMENT")
    parser.add_argument("revision", nargs="?", type=int, metavar="REVISION")
    add_json(parser)


def _rollback(given: argparse.Namespace) -> int:
    with session.connect() as api:
        deployment = deployment_of(api, given.name)
        revision = given.revision
        if revision is None:
            earlier = [each["number"] for each in deployment["revisions"]]
            earlier = [number for number in earlier if number < deployment["target_revision"]]
            if not earlier:
                raise NotFoundError(f"{given.name} has no earlier revision")
            revision = max(earlier)
        show(given, api.rollback(deployment["id"], revision), "")
        hint(f"Revision {revision} of {given.name} takes over.")
    return 0


def _limit_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Limit the requests a minute of all who call a deployment together; who comes too\n"
        "soon gets 429 and when to come again. It holds a second later, and is no new\n"
        "revision. `kubeserve keys limit` limits one key.",
        "kubeserve limit iris 600\nkubeserve limit iris none",
    )
    parser.add_argument("name", metavar="DEPLOYMENT")
    parser.add_argument("number", type=number_or_none, metavar="N", help="requests a minute, or none")
    add_json(parser)


def _limit(given: argparse.Namespace) -> int:
    with session.connect() as api:
        show(given, api.limit(deployment_of(api, given.name)["id"], given.number), "")
    said = f"answers {given.number:,} requests a minute" if given.number else "answers as many requests as come"
    hint(f"{given.name} {said}.")
    return 0


def _wish(text: str, example: str, ask: Callable[[KubeServe, str], Any], done: str) -> Command:
    """Make a command that asks one thing of one deployment."""

    def arguments(parser: argparse.ArgumentParser) -> None:
        describe(parser, text, example)
        parser.add_argument("name", metavar="DEPLOYMENT")
        add_json(parser)

    def run(given: argparse.Namespace) -> int:
        with session.connect() as api:
            show(given, ask(api, deployment_of(api, given.name)["id"]), "")
        hint(done.format(name=given.name))
        return 0

    return Command(arguments, run)


deploy = Command(_deploy_arguments, _deploy)
deployments = Command(_deployments_arguments, _deployments)
logs = Command(_logs_arguments, _logs)
rollback = Command(_rollback_arguments, _rollback)
limit = Command(_limit_arguments, _limit)
stop = _wish(
    "Let a deployment answer nothing, until it is started again.",
    "kubeserve stop iris",
    KubeServe.stop,
    "{name} stops.",
)
start = _wish("Let a stopped deployment answer again.", "kubeserve start iris", KubeServe.start, "{name} starts.")
delete = _wish(
    "Delete a deployment: calls that run may end, then all of it goes. Its model\nstays.",
    "kubeserve delete iris",
    KubeServe.delete,
    "{name} is being deleted.",
)
