"""The report of a load test, in Markdown."""

import os
import platform
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from load.measured import Run, Scenario, Stage, percentile

TASKS = "single: one row; batch: 100 rows; health: `GET /healthz`. Each user waits 50 to 150 ms between calls."
SHARES = (0.5, 0.95, 0.99)
LOCAL = ("127.0.0.1", "localhost", "::1")


def report(run: Run) -> str:
    """Return the text: when and where, then each scenario with its calls, its errors and its replicas over time."""
    names = " and ".join(scenario.name for scenario in run.scenarios)
    parts = [f"# KubeServe under load: {names}", _where(run), TASKS]
    for scenario in run.scenarios:
        replicas = "one replica" if scenario.maximum == 1 else f"up to {scenario.maximum} replicas"
        parts += [f"## {scenario.name}: {replicas}", _calls(scenario), _failures(scenario), _replicas(scenario)]
    return "\n\n".join(parts) + "\n"


def _where(run: Run) -> str:
    here = f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    same = urlsplit(run.url).hostname in (*LOCAL, socket.gethostname())
    return "\n".join(
        [
            f"- when: {run.began:%Y-%m-%d %H:%M} UTC",
            f"- what: {run.url}, KubeServe {run.platform}{_commit()}",
            f"- called from: {here}{', the machine that it may run on itself' if same else ''}",
            f"- for: {', '.join(f'{stage.seconds:g}' for each in run.scenarios for stage in each.stages)} s a stage",
        ]
    )


def _commit() -> str:
    here = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607  as on the PATH
            cwd=here, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return f", these scripts at commit {told.stdout.strip()}"


def _calls(scenario: Scenario) -> str:
    head = ["users", "task", "calls", "failed", "calls a second", "p50 ms", "p95 ms", "p99 ms", "slowest ms"]
    rows = [
        [str(stage.users), entry["name"], *_figures(stage, entry)]
        for stage in scenario.stages
        for entry in sorted(stage.entries, key=lambda each: str(each["name"]))
    ]
    return _table(head, rows)


def _figures(stage: Stage, entry: dict) -> list[str]:
    times = entry["response_times"]
    slowest = max(map(float, times), default=0.0)
    return [
        str(entry["num_requests"]),
        str(entry["num_failures"]),
        f"{entry['num_requests'] / stage.seconds:.1f}",
        *(f"{percentile(times, share):.0f}" for share in SHARES),
        f"{slowest:.0f}",
    ]


def _failures(scenario: Scenario) -> str:
    rows = [
        [str(stage.users), task, words.replace("|", "\\|"), str(count)]
        for stage in scenario.stages
        for (task, words), count in stage.failures.items()
    ]
    return _table(["users", "task", "error", "calls"], rows) if rows else "No call failed."


def _replicas(scenario: Scenario) -> str:
    rows = [[f"{each.seconds:.1f} s", str(each.users), str(each.replicas), each.state] for each in scenario.changes()]
    return "Replicas over time, whenever something changed:\n\n" + _table(["after", "users", "replicas", "state"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
