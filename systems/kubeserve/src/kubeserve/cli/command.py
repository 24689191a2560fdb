"""What the commands share: how one is described, and how its output looks."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from textwrap import indent
from typing import Any, Final

from greenscale_worker.cli.terminal import columns, one_line, say, say_json, whole_number
from greenscale_worker.for_people import age

UNITS: Final = ("B", "kB", "MB", "GB", "TB")
THOUSAND: Final = 1000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """One of several commands of a module."""

    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def describe(parser: argparse.ArgumentParser, description: str, examples: str, notes: str = "") -> None:
    """Set the texts of a help."""
    parser.description = description
    parser.epilog = "\n\n".join(filter(None, (notes, f"examples:\n{indent(examples, '  ')}")))


def number_or_none(text: str) -> int | None:
    """Read a limit: a whole number, or none. Raises argparse.ArgumentTypeError."""
    return None if text == "none" else whole_number(text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json: what the API answered, as one line."""
    parser.add_argument("--json", action="store_true", help="for programs: the API's answer, on one line")


def show(given: argparse.Namespace, answer: Any, text: str) -> None:
    """Write what was answered: as JSON if that was asked for, else the text; nothing if that is empty."""
    if given.json:
        say_json(answer)
    elif text:
        say(text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], nothing: str) -> str:
    """Return rows below their head, cut to the terminal, or a line if there are none."""
    found = list(rows)
    return columns(found, head=head, cut=True) if found else nothing


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and values, aligned. A value is never broken, so that it can be copied."""
    return "\n".join(f"{name:<12}  {one_line(value)}" for name, value in rows if value)


def ago(moment: str) -> str:
    """Return how long ago a time of the API was."""
    return f"{age((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())} ago"


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in UNITS:
        if count < THOUSAND or unit == UNITS[-1]:
            break
        count /= THOUSAND
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
