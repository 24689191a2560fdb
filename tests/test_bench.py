"""The benchmark's own parts: its document says what its figures say, every system is complete. No speed is judged."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bench import batches, flow, report, script_cost
from bench.bars import all_bars
from bench.results import Results
from bench.systems import SYSTEMS
from bench.tables import Column, cell
from harness.environments import PEERS, ROOT
from harness.figures import percentile
from harness.report import PLOTS, README
from harness.systems import GREENSCALE, Place, System

everybody = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)


@pytest.mark.parametrize("path", [report.DOCUMENT, README], ids=["document", "readme"])
def test_the_text_is_what_the_kept_figures_render(path: Path) -> None:
    assert report.texts()[path] == path.read_text(), "stale: make bench ARGS=report"


@pytest.mark.parametrize("bench", [batches, flow, script_cost])
def test_the_document_of_a_benchmark_says_the_kept_figures(bench: Any) -> None:
    kept = json.loads(bench.RESULTS.read_text())
    assert bench.document(kept) == bench.DOCUMENT.read_text()


def test_every_picture_of_the_document_is_there() -> None:
    pictures = re.findall(r"\(plots/(.*?)\)", report.DOCUMENT.read_text())
    assert len(pictures) == 3
    for name in pictures:
        assert (PLOTS / name).exists()


def test_pictures_say_what_the_tables_say() -> None:
    results = Results.load(report.RESULTS)
    pickup, throughput = ((PLOTS / f"{name}.svg").read_text() for name in ("pickup", "throughput"))
    for system in SYSTEMS:
        p50 = cell(results, "pickup", system, Column("p50 ms", "p50", ratio=False))
        assert f"<!-- {system} (p50 {p50} ms) -->" in pickup
        for figure in ("jobs_per_second", "cpu_per_1000"):
            assert f"<!--  {cell(results, 'throughput', system, Column('', figure, ratio=False))} -->" in throughput


def test_every_finding_belongs_to_something() -> None:
    names = {bar.name for bar in all_bars(Results.load(report.RESULTS))} | {"found", "noise"}
    assert set(tomllib.loads(report.FINDINGS.read_text())) <= names


@everybody
def test_a_system_is_complete(system: System) -> None:
    place = Place(redis_port=1, url="http://127.0.0.1:2/", lanes=3)
    assert system.worker(place.lanes)[0] == "-m"
    assert (ROOT / f"{system.producer.replace('.', '/')}.py").exists()
    assert system.packages
    assert all(system.settings.values()), "each choice has its reason"
    assert all(isinstance(value, str) for value in system.variables(place).values())
    if system.environment != GREENSCALE.environment:
        locked = (PEERS / f"{system.environment}.txt").read_text()
        assert all(f"{package}==" in locked for package in system.packages)


def test_ratios_are_to_the_bare_loop_of_the_same_repetition() -> None:
    runs = {"bare loop": [{"x": 1.0}, {"x": 10.0}, {"x": 4.0}], "greenscale": [{"x": 3.0}, {"x": 10.0}, {"x": 8.0}]}
    results = Results(machine={}, commit="", began="", scenarios={"some": runs})
    assert results.ratios("some", "greenscale", "x") == [1.0, 2.0, 3.0]
    assert results.ratio("some", "greenscale", "x") == 2.0
    assert results.median("some", "greenscale", "x") == 8.0


def test_a_failure_is_told_and_does_not_count() -> None:
    runs = {"bare loop": [{"x": 1.0}, {"x": 2.0}], "greenscale": [{"failed": "why"}, {"x": 6.0}]}
    results = Results(machine={}, commit="", began="", scenarios={"some": runs, "none": {"rq": [{"failed": "why"}]}})
    assert results.ratios("some", "greenscale", "x") == [3.0]
    assert results.failure("some", "greenscale") is None
    assert results.failure("none", "rq") == "why"


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile([1, 2, 3, 4], share) for share in (1, 50, 75, 99)] == [1, 2, 3, 4]
    runs = {"bare loop": [{"waits_ms": [1.0, 2.0]}, {"waits_ms": [3.0, 5.0]}]}
    assert Results(machine={}, commit="", began="", scenarios={"some": runs}).values("some", "bare loop", "p50") == [
        1.0,
        3.0,
    ]
