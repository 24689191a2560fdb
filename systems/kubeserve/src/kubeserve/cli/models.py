"""`kubeserve models` and `kubeserve versions`."""

import argparse

from greenscale_worker.cli.terminal import hint

from kubeserve.cli import session
from kubeserve.cli.command import Command, add_json, ago, describe, show, table
from kubeserve.cli.names import model_of, version_of


def _models_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "List your models, create one, or delete one with all of its versions.",
        "kubeserve models\nkubeserve models create iris --description 'flowers by their leaves'\n"
        "kubeserve models delete iris",
        "`kubeserve upload` creates the model it needs.",
    )
    add_json(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    create = actions.add_parser("create", help="create a model")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--description", default="", metavar="TEXT")
    delete = actions.add_parser("delete", help="delete a model that is not deployed")
    delete.add_argument("name", metavar="MODEL")
    for action in (create, delete):
        action.set_defaults(run="models")
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _models(given: argparse.Namespace) -> int:
    with session.connect() as api:
        if given.action == "create":
            made = api.create_model(given.name, given.description)
            show(given, made, "")
            hint(f"The model {made['name']} is there: kubeserve upload {made['name']}:v1 FILE")
        elif given.action == "delete":
            api.delete_model(model_of(api, given.name)["id"])
            hint(f"The model {given.name} is gone.")
        else:
            found = api.models()
            rows = [(model["name"], ago(model["created_at"]), model["description"]) for model in found]
            show(given, found, table(("NAME", "CREATED", "DESCRIPTION"), rows, "There are no models."))
    return 0


def _versions_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "List the versions of a model with their states, or delete one.",
        "kubeserve versions iris\nkubeserve versions iris:v1 --delete",
    )
    parser.add_argument("name", metavar="MODEL", help="with --delete: MODEL:TAG")
    parser.add_argument("--delete", action="store_true", help="delete a version that is not deployed")
    add_json(parser)


def _versions(given: argparse.Namespace) -> int:
    with session.connect() as api:
        if given.delete:
            api.delete_version(version_of(api, given.name)["id"])
            hint(f"The version {given.name} is gone.")
            return 0
        found = api.versions(model_of(api, given.name)["id"])
        rows = [(each["tag"], each["state"], ago(each["created_at"]), each["state_reason"]) for each in found]
        show(given, found, table(("TAG", "STATE", "CREATED", "WHY"), rows, "There are no versions."))
    return 0


models = Command(_models_arguments, _models)
versions = Command(_versions_arguments, _versions)
