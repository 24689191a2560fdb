"""Formats figures for readers: percentiles, amounts, Markdown tables."""

from collections.abc import Iterable, Sequence
from typing import Final

DIGITS: Final = ((100, 0), (10, 1), (1, 2), (0.1, 3))


def percentile(rising: Sequence[float], percent: int) -> float:
    """Return the smallest value not below `percent` percent of them."""
    return rising[max(0, -(-len(rising) * percent // 100) - 1)]


def amount(value: float) -> str:
    """Format with three significant digits; thousands whole."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    digits = next((digits for limit, digits in DIGITS if abs(value) >= limit), 4)
    return f"{value:.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def bold(system: str) -> str:
    """Set our name in bold."""
    return f"**{system}**" if system == "greenscale" else system
