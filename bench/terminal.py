"""Draws docs/terminal.svg for the README: `python -m bench.terminal` runs the commands shown in real terminals.

Port 6379 must be free: the picture shows the default, as most users see it.
"""

import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Final

from harness.checkout import check_out, with_everybody
from harness.environments import ROOT
from harness.eventually import PATIENCE

PICTURE: Final = ROOT / "docs" / "terminal.svg"
TYPED: Final = (
    '.venv/bin/greenscale-worker submit "What is 2+2?" --wait',
    ".venv/bin/greenscale-worker jobs",
)
COLUMNS: Final = 80
SIZE, LINE, MARGIN, GAP = 13, 18, 14, 10  # pixels
CHARACTER: Final = 7.83  # width of one, of that size
FONT: Final = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
PAPER, EDGE, INK = "#161b22", "#444c56", "#e6edf3"  # a background of its own, legible on dark and on light pages
STYLES: Final = {
    "1": "font-weight:bold",
    "2": "fill:#9198a1",
    "31": "fill:#ff7b72",
    "32": "fill:#7ee787",
    "33": "fill:#e3b341",
    "34": "fill:#79c0ff",
    "35": "fill:#d2a8ff",
    "36": "fill:#76e3ea",
}

Cell = tuple[str, str]  # a character and its style


class Terminal:
    """A terminal in which a command runs, and the output of that so far."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str]) -> None:
        self.written = ""
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(ours,))
        self._reader.start()

    def _read(self, ours: int) -> None:
        with suppress(OSError):  # the end: the other side is closed
            while data := os.read(ours, 65536):
                self.written += data.decode(errors="replace")
        os.close(ours)

    def wait_for(self, pattern: str) -> None:
        """Wait until the output matches a pattern."""
        ends = time.monotonic() + PATIENCE
        while not re.search(pattern, self.written):
            if time.monotonic() > ends or self.process.poll() is not None:
                raise RuntimeError(f"{pattern!r} is missing in:\n{self.written}")
            time.sleep(0.02)

    def end(self) -> str:
        """Wait for the end of the command and return its output."""
        self.process.wait(PATIENCE)
        self._reader.join()
        return self.written


def record() -> list[str]:
    """Run `up` in one terminal and the other commands in a second one; return the output of each."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = check_out(Path(folder) / "clone", {"TERM": "xterm-256color"})
        up = Terminal("make up", checkout.path, checkout.environment)
        try:
            up.wait_for(r"Ctrl-C stops")
            up.wait_for(r"ready")
            second = ""
            for command in TYPED:
                second += f"$ {command}\n{Terminal(command, checkout.path, checkout.environment).end()}"
            up.wait_for(r"succeeded")
            first = f"$ make up\n{up.written}"
        finally:
            with_everybody(up.process, signal.SIGINT)
            up.end()
    return [first, second]


def screen(written: str) -> list[list[Cell]]:
    """Return what a terminal shows of this output: lines of cells, none longer than its width."""
    lines: list[list[Cell]] = []
    style = ""
    for line in written.replace("\r\n", "\n").rstrip("\n").split("\n"):
        cells: list[Cell] = []
        for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|.", line.rpartition("\r")[2]):
            if part.startswith("\x1b"):
                style = restyled(style, part)
            else:
                cells.append((part, style))
        lines += [cells[start : start + COLUMNS] for start in range(0, len(cells) or 1, COLUMNS)]
    return lines


def restyled(style: str, sequence: str) -> str:
    """Apply a sequence that sets colours; others only move the cursor, which is not drawn."""
    if not sequence.endswith("m"):
        return style
    for code in (sequence[2:-1] or "0").split(";"):
        style = "" if code in {"", "0"} else ";".join(word for word in (style, STYLES.get(code, "")) if word)
    return style


def draw(screens: Sequence[list[list[Cell]]]) -> str:
    """Return an SVG, one window under the other."""
    width, top, windows = round(COLUMNS * CHARACTER + 2 * MARGIN), 0, ""
    for lines in screens:
        height = len(lines) * LINE + 2 * MARGIN
        windows += f'<rect x=".5" y="{top + 0.5}" width="{width - 1}" height="{height - 1}" rx="8"/>\n'
        for number, cells in enumerate(lines):
            if cells:
                y = top + MARGIN + number * LINE + SIZE
                windows += f'<text x="{MARGIN}" y="{y}">{"".join(spans(cells))}</text>\n'
        top += height + GAP
    height = top - GAP
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size} xml:space="preserve">
<style>
rect {{ fill: {PAPER}; stroke: {EDGE} }}
text {{ font: {SIZE}px {FONT}; fill: {INK}; white-space: pre }}
</style>
{windows}</svg>
"""


def spans(cells: list[Cell]) -> Iterator[str]:
    """Yield a span for characters of one style."""
    for style, same in groupby(cells, key=lambda cell: cell[1]):
        text = escape("".join(character for character, _ in same), quote=False)
        yield f'<tspan style="{style}">{text}</tspan>' if style else text


if __name__ == "__main__":
    PICTURE.write_text(draw([screen(written) for written in record()]))
    print(f"{PICTURE.relative_to(ROOT)} shows what was just run", file=sys.stderr)
