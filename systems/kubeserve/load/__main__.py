"""Deploys a small model, lets users call it, and prints how long they waited: `python -m load [--url URL]`.

`--scenario baseline` has one replica, `scaling` up to five and ever more users. KUBESERVE_TOKEN names who calls;
without it a new account is made. Exit code 1: a call failed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from e2e.platform import account, deployed, ready, unique
from kubeserve.client import KubeServe
from kubeserve.errors import KubeServeError

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
SCENARIOS = {"baseline": (1, (1.0,)), "scaling": (5, (0.2, 0.5, 1.0))}  # replicas, and shares of the users by stage
GRACE_SECONDS = 60.0
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Stage:
    """What was seen while so many users called."""

    users: int
    replicas: int
    entries: list[dict[str, Any]]


def main() -> int:
    """Run a scenario. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m load", description=__doc__)
    parser.add_argument("--url", default=os.environ.get("KUBESERVE_URL", "http://127.0.0.1:8600"))
    parser.add_argument("--scenario", choices=SCENARIOS, default="baseline")
    parser.add_argument("--users", type=int, default=20, metavar="N", help="at most (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=30, metavar="N", help="of each stage (default: %(default)s)")
    given = parser.parse_args()
    try:
        with KubeServe(given.url, token=os.environ.get("KUBESERVE_TOKEN")) as api:
            stages = _run(api, given)
    except KubeServeError as error:
        sys.stderr.write(f"load: {error.message}\n")
        return 1
    _print(given, stages)
    failed = sum(entry["num_failures"] for stage in stages for entry in stage.entries)
    return 1 if failed or not all(stage.entries for stage in stages) else 0


def _run(api: KubeServe, given: argparse.Namespace) -> list[Stage]:
    maximum, shares = SCENARIOS[given.scenario]
    name = unique()
    account(api, name)
    version = ready(api, name)
    try:
        deployment = deployed(api, name, version, maximum=maximum, memory=512 * 1024 * 1024)
        try:
            key = api.create_key(name, deployment["id"])
            users = [max(1, round(given.users * share)) for share in shares]
            return [_stage(api, given, deployment["id"], key["key"], count) for count in users]
        finally:
            _delete(api, deployment["id"])
    finally:
        api.delete_model(version["model_id"])


def _stage(api: KubeServe, given: argparse.Namespace, deployment_id: str, token: str, users: int) -> Stage:
    """Let so many users call, and see how many replicas there were at most."""
    command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--json",
               "--only-summary", "--host", given.url, "--users", str(users), "--spawn-rate", str(users),
               "--run-time", f"{given.seconds}s", "--stop-timeout", f"{GRACE_SECONDS:.0f}", "--loglevel", "ERROR",
               "--exit-code-on-error", "0"]  # fmt: skip
    environment = {**os.environ, "LOAD_TOKEN": token, "LOAD_DEPLOYMENT": deployment_id}
    replicas = 0
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = subprocess.Popen(  # noqa: S603  locust, as installed
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=complained, env=environment
        )
        try:
            while process.poll() is None:
                replicas = max(replicas, int(api.deployment(deployment_id)["replicas"]))
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()
            process.wait()
        said.seek(0), complained.seek(0)
        try:
            return Stage(users, replicas, json.loads(said.read()))
        except ValueError:
            raise KubeServeError(f"locust gave no figures: {complained.read()[-500:].strip()}") from None


def _delete(api: KubeServe, deployment_id: str) -> None:
    api.delete(deployment_id)
    ends = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < ends and deployment_id in [each["id"] for each in api.deployments()]:
        time.sleep(POLL_SECONDS)


def _print(given: argparse.Namespace, stages: list[Stage]) -> None:
    """Print a table, and when and where it was made."""
    lines = ["users  replicas  task      calls  failed  a second    p50    p95    p99 (ms)"]
    for stage in stages:
        for entry in sorted(stage.entries, key=lambda each: str(each["name"])):
            times = {float(each): count for each, count in entry["response_times"].items()}
            calls = entry["num_requests"]
            percentiles = "".join(f"{_percentile(times, share):>7.0f}" for share in (0.5, 0.95, 0.99))
            lines.append(
                f"{stage.users:>5}  {stage.replicas:>8}  {entry['name']:<8}{calls:>7}  {entry['num_failures']:>6}"
                f"  {calls / given.seconds:>8.1f}{percentiles}"
            )
    machine = f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    where = f"{given.scenario}, {given.seconds} s a stage; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {machine}"
    sys.stdout.write("\n".join([where, *lines, ""]))


def _percentile(times: dict[float, int], share: float) -> float:
    """Return the time within which that share of the calls was answered."""
    left = share * sum(times.values())
    for value in sorted(times):
        left -= times[value]
        if left <= 0:
            return value
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
