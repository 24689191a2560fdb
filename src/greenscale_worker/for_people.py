"""Text for people: lines that fit their terminal, and time spans."""

import os
from textwrap import fill
from typing import Final, TextIO

WIDTH: Final = 80
NARROWEST: Final = 20
MINUTE: Final = 60
UNITS: Final = (("d", 86_400, "h", 3600), ("h", 3600, "m", MINUTE), ("m", MINUTE, "s", 1))


def fitted(text: str, stream: TextIO) -> str:
    """Break lines between words at the edge of a terminal; a path or a URL stays whole.

    If `stream` is no terminal, lines stay whole, for `grep`, unless COLUMNS sets their width.
    """
    edge = edge_of(stream)
    return text if edge is None else "\n".join(broken(line, edge) for line in text.split("\n"))


def edge_of(stream: TextIO) -> int | None:
    """Return how many columns a stream has, None if it has no edge."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdecimal():
        return max(NARROWEST, int(columns))
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or WIDTH
    except (OSError, ValueError):
        return WIDTH


def broken(line: str, edge: int, margin: str = "  ") -> str:
    """Break a line between words; all pieces but the first are indented by `margin`."""
    if len(line) <= edge:
        return line
    return fill(line, edge, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)


def age(seconds: float) -> str:
    """Return a time span in its two largest units."""
    if seconds < MINUTE:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{max(0.0, seconds):.1f} s"  # noqa: PLR2004  two digits are enough
    large, unit, small, part = next(each for each in UNITS if seconds >= each[1])
    whole, rest = divmod(int(seconds), unit)
    return f"{whole} {large} {rest // part} {small}"
