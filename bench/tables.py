"""Formats figures as Markdown tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.results import Results
from bench.systems import SYSTEMS
from harness.figures import amount, bold, table


@dataclass(frozen=True, slots=True)
class Column:
    """A figure with its heading. `ratio`: whether its ratio to the bare loop is shown beside it."""

    title: str
    figure: str
    ratio: bool = True


def by_system(results: Results, scenario: str, columns: Sequence[Column], systems: Iterable[str] = SYSTEMS) -> str:
    """Return a table with a row for each system; one that failed or could not be installed has the reason."""
    runs = results.scenarios.get(scenario, {})
    rows = []
    for system in systems:
        if system in results.not_installed:
            rows.append([system, "could not be installed", *[""] * (len(columns) - 1)])
        elif failure := results.failure(scenario, system):
            rows.append([system, f"nothing to show: {failure}", *[""] * (len(columns) - 1)])
        elif system in runs:
            rows.append([bold(system), *(cell(results, scenario, system, column) for column in columns)])
    return table(["", *(column.title for column in columns)], rows) if rows else "Not measured."


def by_variant(results: Results, variants: dict[str, str], columns: Sequence[Column]) -> str:
    """Return a table with a row for each variant (scenario name: title), the bare loop's figures beside ours."""
    systems = ("bare loop", "greenscale")
    header = ["", *(f"{column.title}, {system}" for column in columns for system in systems)]
    rows = [
        [title, *(cell(results, name, system, column) for column in columns for system in systems)]
        for name, title in variants.items()
    ]
    return table(header, rows)


def cell(results: Results, scenario: str, system: str, column: Column) -> str:
    """Format the median, with the median of its ratios to the bare loop."""
    median = results.median(scenario, system, column.figure)
    if median is None:
        return "–"
    ratio = results.ratio(scenario, system, column.figure) if column.ratio and system != "bare loop" else None
    return amount(median) + (f" ({ratio:.2f} ×)" if ratio is not None else "")
