"""Deploys a small model, lets users call it, and writes a report: `python -m load [--url URL] [--report FILE]`.

`--scenario baseline` has one replica, `scaling` up to five and ever more users, `both` one after the other.
KUBESERVE_TOKEN names who calls; without it a new account is made. Exit code 1: a call failed.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import requests

from e2e.platform import account, deployed, ready, unique
from kubeserve.client import KubeServe
from kubeserve.errors import KubeServeError, UnavailableError
from load.measured import Run, Sample, Scenario, Stage
from load.report import report

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
SCENARIOS = {"baseline": (1, (1.0,)), "scaling": (5, (0.2, 0.5, 1.0))}  # replicas, and shares of the users by stage
MEMORY = 512 * 1024 * 1024  # bytes of a replica
GRACE_SECONDS = 60.0
POLL_SECONDS = 0.5


def main() -> int:
    """Run the scenarios. Returns the exit code."""
    given = _arguments()
    run = Run(given.url, datetime.now(UTC), _version(given.url), [])
    names = list(SCENARIOS) if given.scenario == "both" else [given.scenario]
    try:
        with KubeServe(given.url, token=os.environ.get("KUBESERVE_TOKEN")) as api:
            account(api, unique())
            run.scenarios.extend(_scenario(api, given, name) for name in names)
    except KubeServeError as error:
        sys.stderr.write(f"load: {error.message}\n")
        return 1
    text = report(run)
    sys.stdout.write(text)
    given.report.write_text(text, "utf-8")
    sys.stderr.write(f"load: the report is in {given.report}\n")
    return 1 if any(scenario.failed for scenario in run.scenarios) else 0


def _version(url: str) -> str:
    """Return which KubeServe it is, as it says itself."""
    with suppress(requests.RequestException, ValueError, LookupError):
        return str(requests.get(f"{url}/openapi.json", timeout=60).json()["info"]["version"])
    return "of an unknown version"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m load", description=__doc__)
    parser.add_argument("--url", default=os.environ.get("KUBESERVE_URL", "http://127.0.0.1:8600"))
    parser.add_argument("--scenario", choices=[*SCENARIOS, "both"], default="baseline")
    parser.add_argument("--users", type=int, default=20, metavar="N", help="at most (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=30, metavar="N", help="of each stage (default: %(default)s)")
    parser.add_argument("--after", type=int, default=0, metavar="N",
                        help="seconds to watch the replicas once nobody calls (default: %(default)s)")  # fmt: skip
    parser.add_argument("--report", type=Path, default=Path("load-report.md"), metavar="FILE",
                        help="(default: %(default)s)")  # fmt: skip
    return parser.parse_args()


def _scenario(api: KubeServe, given: argparse.Namespace, name: str) -> Scenario:
    maximum, shares = SCENARIOS[name]
    scenario = Scenario(name, maximum)
    with _answering(api, maximum) as (deployment_id, key):
        watch = _Watch(api, deployment_id, scenario)
        for share in shares:
            users = max(1, round(given.users * share))
            scenario.stages.append(_stage(watch, given, deployment_id, key, users))
        ends = time.monotonic() + given.after
        while time.monotonic() < ends:
            watch.look(0)
            time.sleep(POLL_SECONDS)
    return scenario


@contextmanager
def _answering(api: KubeServe, maximum: int) -> Iterator[tuple[str, str]]:
    """Yield the id of a deployment that answers, and a key for it; at the end it goes, and its model."""
    name = unique()
    version = ready(api, name)
    try:
        deployment = deployed(api, name, version, maximum=maximum, memory=MEMORY)
        try:
            yield deployment["id"], api.create_key(name, deployment["id"])["key"]
        finally:
            _delete(api, deployment["id"])
    finally:
        api.delete_model(version["model_id"])


class _Watch:
    """Notes how many replicas there are, since it was made."""

    def __init__(self, api: KubeServe, deployment_id: str, scenario: Scenario) -> None:
        self._api = api
        self._id = deployment_id
        self._samples = scenario.samples
        self._began = time.monotonic()

    def look(self, users: int) -> None:
        """Look once, while so many call. A look that fails is left out."""
        with suppress(UnavailableError):
            seen = self._api.deployment(self._id)
            passed = time.monotonic() - self._began
            self._samples.append(Sample(passed, users, int(seen["replicas"]), str(seen["state"])))


def _stage(watch: _Watch, given: argparse.Namespace, deployment_id: str, token: str, users: int) -> Stage:
    """Let so many users call."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--json",
                   "--only-summary", "--host", given.url, "--users", str(users), "--spawn-rate", str(users),
                   "--run-time", f"{given.seconds}s", "--stop-timeout", f"{GRACE_SECONDS:.0f}", "--loglevel", "ERROR",
                   "--csv", str(Path(folder) / "seen"), "--exit-code-on-error", "0"]  # fmt: skip
        environment = {**os.environ, "LOAD_TOKEN": token, "LOAD_DEPLOYMENT": deployment_id}
        with out.open("wb") as said, (Path(folder) / "err").open("wb") as complained:
            process = subprocess.Popen(  # noqa: S603  locust, as installed
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=complained, env=environment
            )
            try:
                while process.poll() is None:
                    watch.look(users)
                    time.sleep(POLL_SECONDS)
            finally:
                process.kill()
                process.wait()
        return _told(Path(folder), users, given.seconds)


def _told(folder: Path, users: int, seconds: float) -> Stage:
    try:
        entries = json.loads((folder / "out").read_text("utf-8"))
    except ValueError:
        complaint = (folder / "err").read_text("utf-8", "replace")[-500:].strip()
        raise KubeServeError(f"locust gave no figures: {complaint}") from None
    failures = {}
    with suppress(FileNotFoundError), (folder / "seen_failures.csv").open(newline="", encoding="utf-8") as file:
        failures = {(row["Name"], row["Error"]): int(row["Occurrences"]) for row in csv.DictReader(file)}
    return Stage(users, seconds, entries, failures)


def _delete(api: KubeServe, deployment_id: str) -> None:
    api.delete(deployment_id)
    ends = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < ends and deployment_id in [each["id"] for each in api.deployments()]:
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
