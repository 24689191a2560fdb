"""Output for people and scripts: aligned columns, ages, times, JSON lines; colour only on a terminal."""

import argparse
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time
from typing import Any, Final, TextIO

from greenscale_worker.colour import coloured
from greenscale_worker.for_people import WIDTH, age, broken, edge_of, fitted

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
SPANS_ACCEPTED: Final = "45s, 30m, 12h, 7d or 2w are accepted"
WIDEST: Final = 36  # of a cell that is followed by others: a UUID
LEAST_OF_WORD: Final = 12
LEAST_OF_TEXT: Final = 40
INDENT: Final = "    "
CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
ALL_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def say(text: str, file: TextIO | None = None) -> None:
    """Write a line, or several. Characters that the stream cannot encode are replaced."""
    stream = file or sys.stdout
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")


def hint(text: str) -> None:
    """Write a line to stderr, for the user and not for a script that reads the output; see `fitted`."""
    sys.stdout.flush()
    with suppress(OSError):  # a hint that cannot be written is no reason to stop
        say(fitted(text, sys.stderr), sys.stderr)


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Align names and texts in two columns; a text too long for the terminal goes on in its own column."""
    edge, lines = edge_of(sys.stdout), columns(rows).split("\n")
    margin = " " * (max(len(one_line(name)) for name, _ in rows) + len("  "))
    return "\n".join(lines if edge is None else [broken(line, edge, margin) for line in lines])


def say_json(value: Any) -> None:
    """Write a value as one line of JSON."""
    import orjson

    say(orjson.dumps(value, default=str).decode())


def harmless(text: str) -> str:
    """Remove what could move a terminal's cursor or change its title, from a text of unknown origin."""
    return CONTROLS.sub("�", text)


def one_line(text: str) -> str:
    """Make a text fit for a cell of a table: harmless, and on one line."""
    return ALL_CONTROLS.sub(" ", text).rstrip()


def own_name() -> str:
    """Return how to call this program in another terminal of this folder."""
    name = "greenscale-worker"
    typed = Path(sys.argv[0])
    if typed.name != name:
        return f"{sys.executable} -m greenscale_worker"
    on_path = shutil.which(name)
    return name if on_path and Path(on_path).samefile(typed) else str(typed)


def bold(text: str) -> str:
    """Make a text bold on a terminal."""
    return f"\x1b[1m{text}\x1b[0m" if coloured(sys.stdout) else text


def columns(rows: Iterable[Sequence[str]], *, head: Sequence[str] = (), cut: bool = False) -> str:
    """Align rows, under bold headings if there are any.

    `cut`: on a terminal no line goes beyond the edge. The first cell, an id, is never cut: if too wide, it gets a
    line of its own. So does the last cell if little of it would be left, unless it is a single word, which loses its
    beginning.
    """
    cells = [list(head)] * bool(head) + [[one_line(cell) for cell in row] for row in rows]
    lines = _fitted(cells, edge_of(sys.stdout) or WIDTH) if cut and sys.stdout.isatty() else _aligned(cells)
    if head:
        lines[0] = bold(lines[0])
    return "\n".join(lines)


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def _fitted(cells: Iterable[Sequence[str]], edge: int) -> list[str]:
    """Align rows within `edge` columns; the first row, a head, in one line, less its last cell if that does not fit."""
    table = [[row[0], *(_cut(cell, WIDEST) for cell in row[1:-1]), row[-1]] for row in cells]
    first, *others = zip(*table, strict=True)
    widths = [max(len(cell) for cell in first if len(cell) <= WIDEST), *(max(map(len, column)) for column in others)]
    lines: list[str] = []
    for name, *middle, last in table:
        start = name
        if len(name) > WIDEST:
            lines.append(name)
            start = ""
        line = "".join(f"{cell:<{width}}  " for cell, width in zip([start, *middle], widths, strict=False))
        fits = len(line) + len(last) <= edge
        lines += _ended(line, last, edge) if lines or fits else [line.rstrip()]
    return lines


def _ended(line: str, last: str, edge: int) -> list[str]:
    """Put the last cell at the end of its line, or below."""
    if len(line) + len(last) <= edge:
        return [(line + last).rstrip()]
    room = edge - len(line)
    if " " not in last and room >= LEAST_OF_WORD:
        return [f"{line}…{last[1 - room :]}"]
    if room >= LEAST_OF_TEXT:
        return [line + _cut(last, room)]
    return [line.rstrip(), INDENT + _cut(last, edge - len(INDENT))]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def moment(since_epoch: float) -> str:
    """Return a time as RFC 3339, and how long ago, or how far in the future, it is by this machine's clock."""
    try:
        stamp = datetime.fromtimestamp(since_epoch, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{since_epoch:g} s since 1970"
    passed = time() - since_epoch
    return f"{stamp}  ({age(passed)} ago)" if passed >= 0 else f"{stamp}  (in {age(-passed)})"


def seconds_of(text: str) -> float:
    """Parse a time span such as 45s, 30m, 12h, 7d or 2w, or 0; for argparse. A bare 7 is refused: it may mean days."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time span; {SPANS_ACCEPTED}")
    number, unit = float(found[1]), found[2]
    if number and not unit:
        raise argparse.ArgumentTypeError(f"{text!r}: a unit is missing; {SPANS_ACCEPTED}")
    return number * UNITS[unit or "s"]


def patience_of(text: str) -> float:
    """Parse how long to wait: a time span, or seconds without a unit, as other programs take them; for argparse."""
    return seconds_of(text if text[-1:].isalpha() else f"{text}s")


def whole_number(text: str) -> int:
    """Parse a whole number, 0 or more; for argparse."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted; a whole number, 0 or more, is expected")
    return int(text)


def text_of(text: str) -> str:
    """Parse a text that is not empty; for argparse."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; a text is expected")
    return text


def within(least: float, most: float, of: type[float] = float) -> Callable[[str], float]:
    """Make a parser of numbers from `least` to `most`; `of` int: whole ones; for argparse."""

    def read(text: str) -> float:
        number = math.nan
        with suppress(ValueError):
            number = of(text)
        if not least <= number <= most:
            kind = "a whole number" if of is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not accepted; {kind} from {least} to {most} is expected")
        return number

    return read


def since_of(text: str) -> tuple[float | None, float | None]:
    """Parse since when: a time (RFC 3339, or HH:MM[:SS] in the last 24 hours), or an age such as 2h; for argparse.

    Times without an offset are UTC, as in all output. Return seconds since the epoch, or else the age in seconds.
    """
    word = text.strip()
    if re.fullmatch(r"\d+(?:\.\d+)?\s*[smhdw]?", word):
        return None, seconds_of(word)
    now = datetime.now(UTC)
    try:
        if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", word):
            clock = datetime.strptime(word, "%H:%M:%S" if word.count(":") > 1 else "%H:%M").time()  # noqa: DTZ007  a time
            today = datetime.combine(now, clock, UTC)
            return (today if today <= now else today - timedelta(days=1)).timestamp(), None
        when = datetime.fromisoformat(word)
    except ValueError:
        accepted = "2030-01-02T03:04:05Z, 03:04:05 (UTC) or an age such as 30m, 12h or 7d"
        raise argparse.ArgumentTypeError(f"{text!r} is no time; {accepted} is expected") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp(), None
