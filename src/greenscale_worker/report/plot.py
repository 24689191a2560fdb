"""Draws a report by matplotlib, which comes with the extra `plot`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from greenscale_worker.errors import ConfigError
from greenscale_worker.report import HOUR, Savings, Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREEN, RED, BLUE, LIGHT, GREY = "#2a9d5c", "#d1495b", "#2f6f9f", "#9cc5e0", "#666666"
KINDS: Final = (".png", ".svg", ".pdf")
STYLE: Final[Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "font.size": 9,
    "svg.hashsalt": "greenscale",
}


def draw(file: Path, queue: str, series: Sequence[Step], savings: Savings | None) -> None:
    """Draw jobs, tokens and workers by step into a file whose ending says its kind.

    Raises ConfigError if matplotlib is not installed, or the ending is another, and OSError if it cannot be written.
    """
    if file.suffix.lower() not in KINDS:
        raise ConfigError(f"--plot {file}: a name that ends with {', '.join(KINDS[:-1])} or {KINDS[-1]} is expected")
    try:
        import matplotlib as mpl  # noqa: PLC0415  an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib; expected: pip install 'greenscale-worker[plot]'") from error
    with mpl.rc_context(STYLE):
        panels = 2 if savings is None else 3
        figure = Figure(figsize=(9, 2.3 * panels + 0.5), layout="constrained")
        axes = figure.subplots(panels, 1, sharex=True)
        figure.suptitle(f"queue {queue}: {_named(series[0].at)} to {_named(series[-1].at + series[-1].seconds)} UTC")
        _jobs(axes[0], series)
        _tokens(axes[1], series)
        if savings is not None:
            _workers(axes[2], series, savings)
        axes[-1].set_xlabel("UTC")
        figure.savefig(file, dpi=150)


def _jobs(axis: "Axes", series: Sequence[Step]) -> None:
    ended = [step.ended for step in series]
    axis.set_title("jobs")
    _bars(axis, series, ended, GREEN, "ended")
    _bars(axis, series, [step.failed for step in series], RED, "failed", on=ended)
    _finish(axis)


def _tokens(axis: "Axes", series: Sequence[Step]) -> None:
    prompts = [step.prompt_tokens for step in series]
    axis.set_title("tokens")
    _bars(axis, series, prompts, LIGHT, "in")
    _bars(axis, series, [step.completion_tokens for step in series], BLUE, "out", on=prompts)
    _finish(axis)


def _workers(axis: "Axes", series: Sequence[Step], savings: Savings) -> None:
    number, hours = savings.replicas_always_on, savings.saved_replica_seconds / HOUR
    axis.set_title(f"workers: {abs(hours):,.1f} worker-hours {'saved' if hours >= 0 else 'more'}")
    _bars(axis, series, [step.replicas for step in series], GREEN, "on average")
    axis.axhline(number, color=GREY, linestyle="--", linewidth=1.2, label=f"{number:,} always on")
    _finish(axis)


def _bars(  # noqa: PLR0913  what a bar has
    axis: "Axes", series: Sequence[Step], heights: Sequence[float], colour: str, label: str, *, on: Any = 0
) -> None:
    day = 24 * HOUR
    edges: Any = [datetime.fromtimestamp(step.at, UTC) for step in series]
    widths: Any = [step.seconds / day for step in series]
    axis.bar(edges, heights, widths, bottom=on, align="edge", color=colour, label=label, linewidth=0)


def _finish(axis: "Axes") -> None:
    """Set what depends on all that was drawn."""
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_ylim(bottom=0)
    axis.margins(x=0)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2)


def _named(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
