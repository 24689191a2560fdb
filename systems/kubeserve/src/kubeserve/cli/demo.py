"""`kubeserve demo`: a model's whole way, on a KubeServe of its own."""

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from greenscale_worker.cli.terminal import bold, hint, say

from kubeserve.cli import FAILED
from kubeserve.cli.command import describe
from kubeserve.cli.up import show_progress
from kubeserve.client import KubeServe
from kubeserve.demo.platform import running
from kubeserve.demo.story import EMAIL, ROWS, Story
from kubeserve.up.environment import prepare

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DATA: Final = Path(".kubeserve-demo")


def arguments(parser: argparse.ArgumentParser) -> None:
    """It takes little."""
    describe(
        parser,
        "Train a small model, upload it, see it proved, deploy it, call it, let it sleep\n"
        "and wake it; on a KubeServe of its own, which is ended afterwards. The first\n"
        "time, packages are fetched, which takes a minute or more.",
        "kubeserve demo\nkubeserve demo --keep",
    )
    parser.add_argument("--keep", action="store_true", help="go on until Ctrl-C, to call it yourself")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", default=DATA, help="folder that keeps the packages (default: %(default)s)"
    )


def run(given: argparse.Namespace) -> int:
    """Run it. Raises ConfigError, KubeServeError."""
    data = given.data.resolve()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    (data / ".gitignore").write_text("*\n")
    say("The environment that models run in is built once (scikit-learn, ONNX …).")
    sys.stdout.flush()
    base = asyncio.run(prepare(data, hint, show_progress))
    if base is None:
        return FAILED
    with tempfile.TemporaryDirectory() as made, running(data) as url, KubeServe(url) as api:
        say(f"{bold('KubeServe runs:')} {url}\n")
        deployment, story = _tell(api, base, Path(made))
        say(_what_next(url, deployment, story, keep=given.keep))
        sys.stdout.flush()
        if given.keep:
            _until_interrupted()
    say(f"All of it has ended. Packages stay in {given.data}, which may be removed.")
    return 0


def _tell(api: KubeServe, base: Path, folder: Path) -> "tuple[Mapping[str, Any], Story]":
    def line(text: str) -> None:
        say(text)
        sys.stdout.flush()

    story = Story(api, line)
    story.register()
    model = story.train(base / "bin" / "python", folder)
    deployment = story.deploy(story.prove(model))
    story.call(deployment["id"], "It is called")
    story.call(deployment["id"], "Again")
    story.sleep(deployment["id"])
    story.call(deployment["id"], "A call wakes it")
    story.end()
    return deployment, story


def _what_next(url: str, deployment: "Mapping[str, Any]", story: Story, *, keep: bool) -> str:
    curl = [
        f"  curl {deployment['url']} \\",
        f"    -H 'Authorization: Bearer {story.key}' \\",
        f"    -d '{{\"instances\": [{ROWS[0]}]}}'",
    ]
    if keep:
        page = f"  {url}  as {EMAIL}, password {story.password}"
        return "\n".join(["", "The page:", page, "A call:", *curl, "", "Ctrl-C ends all of it."])
    return "\n".join(["", "Any program calls it like this (with --keep it stays, to try):", *curl, ""])


def _until_interrupted() -> None:
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        hint("")
