"""The load test runs, finds no failed call, and writes a report; the report tells what was seen."""

import ast
import asyncio
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from processes import Up

SYSTEM = Path(__file__).parents[1]
FEW = {"10": 90, "200": 9, "3000": 1}  # milliseconds, and how many calls took so long


def entry(name: str, failed: int = 0) -> dict[str, Any]:
    return {"name": name, "num_requests": sum(FEW.values()), "num_failures": failed, "response_times": FEW}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of the load test, which is run from the folder of the system."""
    monkeypatch.syspath_prepend(str(SYSTEM))
    from load import measured, report  # noqa: PLC0415

    return measured, report


def test_the_report_tells_when_where_what_and_how_many_replicas(told: Any) -> None:
    measured, report = told
    samples = [
        measured.Sample(seconds, users, replicas, "ready")
        for seconds, users, replicas in ((0.0, 4, 1), (0.5, 4, 1), (1.0, 20, 1), (1.5, 20, 3), (2.0, 20, 3))
    ]
    stages = [
        measured.Stage(4, 10, [entry("single"), entry("health")]),
        measured.Stage(20, 10, [entry("batch", failed=2)], {("batch", "status 503 | busy"): 2}),
    ]
    run = measured.Run(
        "http://127.0.0.1:8600", datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "0.1.0",
        [measured.Scenario("scaling", 5, stages, samples)],
    )  # fmt: skip
    text = report.report(run)
    for line in (
        "# KubeServe under load: scaling",
        "- when: 2026-01-02 03:04 UTC",
        "## scaling: up to 5 replicas",
        "| 4 | single | 100 | 0 | 10.0 | 10 | 200 | 200 | 3000 |",
        "| 20 | batch | status 503 \\| busy | 2 |",
    ):
        assert line in text.splitlines(), text
    assert re.search(r"- what: http://127.0.0.1:8600, KubeServe 0.1.0", text)
    assert "the machine that it may run on itself" in text
    replicas = re.findall(r"^\| ([\d.]+) s \| (\d+) \| (\d+) \| ready \|$", text, re.MULTILINE)
    assert replicas == [("0.0", "4", "1"), ("1.0", "20", "1"), ("1.5", "20", "3"), ("2.0", "20", "3")]
    assert run.scenarios[0].failed


def test_there_are_the_tasks_and_scenarios_that_were_promised() -> None:
    """Read, for locust has an environment of its own; `test_a_short_run` runs them."""
    tree = ast.parse((SYSTEM / "load" / "locustfile.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    tasks = {each.name for each in functions if any("task(" in ast.unparse(mark) for mark in each.decorator_list)}
    assert tasks == {"single", "batch", "health"}
    (scenarios,) = re.findall(r"^SCENARIOS = (\{.*?\})", (SYSTEM / "load" / "__main__.py").read_text(), re.MULTILINE)
    replicas = {name: replicas for name, (replicas, _) in ast.literal_eval(scenarios).items()}
    assert replicas == {"baseline": 1, "scaling": 5}


def test_a_scenario_without_calls_has_failed(told: Any) -> None:
    measured, report = told
    assert measured.Scenario("baseline", 1).failed
    assert measured.Scenario("baseline", 1, [measured.Stage(1, 1, [])]).failed
    good = measured.Scenario("baseline", 1, [measured.Stage(1, 1, [entry("single")])])
    assert not good.failed
    assert "No call failed." in report.report(measured.Run("http://a.test", datetime.now(UTC), "1", [good]))


@pytest.mark.long
@pytest.mark.parametrize(("scenario", "rows"), [("baseline", 3), ("both", 12)])
async def test_a_short_run(tmp_path: Path, science: Path, scenario: str, rows: int) -> None:
    async with Up(tmp_path, science) as up:
        written = tmp_path / "report.md"
        words = f"--url {up.url} --scenario {scenario} --users 5 --seconds 5 --after 1 --report {written}"
        ended = await asyncio.to_thread(
            subprocess.run,
            ["make", "load", f"ARGS={words}"],
            cwd=SYSTEM,
            env={**os.environ, "KUBESERVE_TOKEN": ""},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, (ended.stdout, ended.stderr)
        text = written.read_text()
        assert text in ended.stdout
        assert re.search(r"KubeServe \d+\.\d+\.\d+", text), "which it was"
        assert len(re.findall(r"^\| \d+ \| (?:single|batch|health) \| [1-9]\d* \| 0 \|", text, re.MULTILINE)) == rows
        assert re.search(r"^\| [\d.]+ s \| 0 \| \d \| \w+ \|$", text, re.MULTILINE), "the replicas afterwards"
        assert await up.stop() == 0
