"""Draws the pictures of docs/benchmarks.md, in an environment of its own: `python -m bench.plots FIGURES FOLDER`.

The same figures give the same bytes.
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from bench.results import Results
from harness.figures import amount
from harness.plots import COLOURS, GREY, OTHERS, STYLE


def colours(systems: list[str]) -> dict[str, str]:
    """Return a fixed colour for each system."""
    others = (system for system in systems if system not in COLOURS)
    return COLOURS | dict(zip(others, OTHERS, strict=False))


def throughput(results: Results) -> Any:
    """Draw jobs per second, and CPU per job."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    systems = list(results.scenarios.get("throughput", {}))
    panels = (("jobs_per_second", "jobs per second (more is better)"), ("cpu_per_1000", "CPU s per 1,000 jobs (less)"))
    for axis, (name, title) in zip(axes, panels, strict=True):
        values = [results.median("throughput", system, name) or 0.0 for system in systems]
        bars = axis.barh(systems, values, color=[COLOURS.get(system, OTHERS[0]) for system in systems], height=0.7)
        labels = [f" {amount(value)}" for value in values]
        axis.bar_label(bars, labels, color=GREY, fontsize=9)
        axis.set_title(title)
        axis.margins(x=0.14)
        axis.xaxis.set_visible(False)
        axis.spines["bottom"].set_visible(False)
        axis.tick_params(left=False)
    axes[0].invert_yaxis()
    return figure


def pickup(results: Results) -> Any:
    """Draw for each system the share of jobs picked up within a time, by the percentiles of the tables."""
    figure, axis = plt.subplots(figsize=(9, 4))
    systems = list(results.scenarios.get("pickup", {}))
    palette = colours(systems)
    for system in sorted(systems, key=lambda name: name in COLOURS):
        points = {percent: results.median("pickup", system, f"p{percent}") for percent in range(1, 101)}
        times = [time for time in points.values() if time is not None]
        if not times:
            continue
        label = f"{system} (p50 {amount(points[50] or 0)} ms)"
        axis.plot(times, list(points), label=label, color=palette[system], linewidth=2.4 if system in COLOURS else 1.3)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel("ms from push to the endpoint")
    axis.set_ylabel("% of jobs picked up")
    axis.set_title("Pick-up by an idle worker, medians of the repetitions")
    axis.grid(visible=True)
    if axis.lines:
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelcolor=GREY)
    return figure


def scale(results: Results) -> Any:
    """Draw jobs per second by the number of workers, beside the ideal."""
    figure, axis = plt.subplots(figsize=(9, 3.8))
    crews = sorted(int(name.removeprefix("scale_")) for name in results.scenarios if name.startswith("scale_"))
    axis.plot(crews, [500 * crew for crew in crews], color=GREY, linestyle=":", label="ideal")
    for system in ("bare loop", "greenscale"):
        rates = [results.median(f"scale_{crew}", system, "jobs_per_second") or 0.0 for crew in crews]
        axis.plot(crews, rates, color=COLOURS[system], marker="o", linewidth=2.2, label=system)
    axis.set_xticks(crews)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("workers on one Redis, 100 lanes each")
    axis.set_ylabel("jobs per second")
    axis.set_title(f"Endpoint at 200 ms, {results.machine['cores']} cores for everything")
    axis.grid(visible=True)
    axis.legend(labelcolor=GREY)
    return figure


def main() -> None:
    results, folder = Results.load(Path(sys.argv[1])), Path(sys.argv[2])
    with mpl.rc_context(STYLE):
        for draw in (throughput, pickup, scale):
            figure = draw(results)
            figure.savefig(folder / f"{draw.__name__}.svg", transparent=True, metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    main()
