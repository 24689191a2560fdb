"""`kubeserve upload` and `kubeserve watch`."""

import argparse
import sys
import time
from pathlib import Path
from typing import Final, TextIO

from greenscale_worker.cli.terminal import hint, one_line, say
from greenscale_worker.for_people import edge_of

from kubeserve.cli import session
from kubeserve.cli.command import Command, Json, add_json, describe, show, size
from kubeserve.cli.names import find, split, version_of
from kubeserve.client import KubeServe
from kubeserve.errors import ConflictError

REQUIREMENTS: Final = "requirements.txt"
SAMPLE: Final = "sample.json"
OPEN: Final = frozenset({"draft", "receiving", "rejected", "failed"})  # of the latter two the files are replaced
WIDTH: Final = 30  # of the bar
NAMES: Final = 12  # of steps
RUNNING: Final = "running"
ERASE: Final = "\r\x1b[K"


def _upload_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Send a model (.joblib .pkl .pickle .skops .onnx, up to 500 MB) as a version of\n"
        "a model, each created if missing; then watch its proof: it is looked through,\n"
        "loaded and asked once, behind walls, before it is ready.",
        "kubeserve upload iris:v1 model.joblib\nkubeserve upload iris:v2 model.joblib --requirements requirements.txt",
        "An upload that was interrupted goes on where it ended: repeat the command.\n"
        "Files for a version that was rejected, or whose proof failed, replace its own.",
    )
    parser.add_argument("version", metavar="MODEL:TAG")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--requirements", metavar="FILE", type=Path, help="a requirements.txt, of names and versions")
    parser.add_argument("--sample", metavar="FILE", type=Path, help="a JSON list of rows, which the proof asks it")
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the proof; `kubeserve watch` does")
    add_json(parser)


def _upload(given: argparse.Namespace) -> int:
    name, tag = split(given.version)
    files = {given.file.name: given.file}
    if given.requirements is not None:
        files[REQUIREMENTS] = given.requirements
    if given.sample is not None:
        files[SAMPLE] = given.sample
    for path in files.values():
        path.open("rb").close()  # before anything is made there
    with session.connect(patient=True) as api:
        try:
            version = _version(api, name, tag)
            for sent_as, path in files.items():
                bar = Bar(sent_as, sys.stderr)
                api.upload(version["id"], path, sent_as, bar)
                bar.end()
            version = api.finish(version["id"])
        except KeyboardInterrupt:
            hint("\nInterrupted; the same command goes on from here.")
            raise
        if given.no_wait:
            show(given, version, "")
            return 0
        return _watched(api, version, given)


def _version(api: KubeServe, name: str, tag: str) -> Json:
    """Return the version to send to, which is new, not complete yet, or did not pass its proof."""
    model = find(api.models(), "name", name) or api.create_model(name)
    version = find(api.versions(model["id"]), "tag", tag) or api.create_version(model["id"], tag)
    if version["state"] not in OPEN:
        state = version["state"]
        raise ConflictError(f"the version {name}:{tag} is there already ({state}): send it under another tag")
    return version


def _watch_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Follow the proof of a version until it is ready. Exit code 1: it was rejected,\nor the proof failed.",
        "kubeserve watch iris:v1",
    )
    parser.add_argument("version", metavar="VERSION")
    add_json(parser)


def _watch(given: argparse.Namespace) -> int:
    with session.connect(patient=True) as api:
        return _watched(api, version_of(api, given.version), given)


def _watched(api: KubeServe, version: Json, given: argparse.Namespace) -> int:
    proved = version["state"] == "ready"
    steps = Steps(sys.stderr if given.json else sys.stdout)
    began = time.monotonic()
    try:
        ready = api.wait_until_ready(version["id"], steps.follow)
    finally:
        steps.end()
    seconds = sum(step["seconds"] or 0 for step in ready["steps"]) if proved else time.monotonic() - began
    how = f"it was proved before, in {seconds:.1f} s" if proved else f"ready after {seconds:.1f} s"
    show(given, ready, f"{how}; next: kubeserve deploy {given.version}")
    return 0


class Bar:
    """Shows on a terminal how far an upload is; elsewhere nothing."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self._stream = stream
        self._shown = stream.isatty()
        self._began = time.monotonic()
        self._first: int | None = None

    def __call__(self, sent: int, total: int) -> None:
        """Show that so many bytes of the file are there."""
        if not self._shown:
            return
        self._first = sent if self._first is None else self._first
        seconds = time.monotonic() - self._began
        rate = f"  {size((sent - self._first) / seconds)}/s" if sent > self._first and seconds else ""
        filled = WIDTH * sent // total if total else WIDTH
        bar = "█" * filled + "░" * (WIDTH - filled)
        self._stream.write(f"{ERASE}{one_line(self._name)[:20]}  {bar}  {size(sent)} of {size(total)}{rate}")
        self._stream.flush()

    def end(self) -> None:
        """Go on below."""
        if self._shown:
            self._stream.write("\n")


class Steps:
    """Shows the steps of a proof: on a terminal also the one that runs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lively = stream.isatty()
        self._open = False

    def follow(self, step: Json) -> None:
        """Show a step as it begins and as it ends."""
        name, outcome = str(step["name"]), str(step["outcome"])
        if outcome == RUNNING:
            if self._lively:
                self._stream.write(f"{ERASE}  {name:<{NAMES}}       …")
                self._stream.flush()
                self._open = True
            return
        seconds = f"{step['seconds']:6.1f} s" if step["seconds"] is not None else " " * 8
        mark = "" if outcome == "done" else f"{outcome}: "
        self.end()
        line = f"  {name:<{NAMES}}{seconds}  {mark}{one_line(step['detail'])}"
        edge = edge_of(self._stream)
        if outcome == "done" and edge is not None and len(line) > edge:
            line = f"{line[: edge - 1]}…"
        say(line, self._stream)
        self._stream.flush()

    def end(self) -> None:
        """Remove the line of a step that runs."""
        if self._open:
            self._stream.write(ERASE)
            self._open = False


upload = Command(_upload_arguments, _upload)
watch = Command(_watch_arguments, _watch)
