"""`kubeserve predict`."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from greenscale_worker import ConfigError
from greenscale_worker.cli.terminal import harmless, patience_of

from kubeserve.cli import session
from kubeserve.cli.command import add_json, describe, show
from kubeserve.cli.names import ID, deployment_of
from kubeserve.client import KubeServe
from kubeserve.client.client import TIMEOUT
from kubeserve.errors import ForbiddenError

ROWS: Final = 'rows are [1, 2.5], {"name": value} or 1,2.5'


def arguments(parser: argparse.ArgumentParser) -> None:
    """It takes rows."""
    describe(
        parser,
        "Ask a model, and wait while it wakes. Each row gets one prediction, on a line\nof its own.",
        "kubeserve predict iris 5.1,3.5,1.4,0.2 6.2,2.9,4.3,1.3\n"
        'kubeserve predict iris \'{"sepal length": 5.1, "sepal width": 3.5}\'\n'
        "kubeserve predict iris --file rows.csv\n"
        "kubeserve predict iris --json < rows.jsonl",
        "A row is numbers with commas, a JSON array, or an object by feature names.\n"
        "A file is JSON (one array of rows), JSON Lines, or CSV with a line of names.",
    )
    parser.add_argument("name", metavar="DEPLOYMENT")
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--file", type=Path, metavar="FILE", help="read rows from a file; without rows: from stdin")
    parser.add_argument("--timeout", type=patience_of, default=TIMEOUT, metavar="TIME", help="how long to wait")
    add_json(parser)


def run(given: argparse.Namespace) -> int:
    """Ask, and write the predictions."""
    if given.rows and given.file is not None:
        raise ConfigError("rows are given twice: as words or by --file, one of the two is accepted")
    rows = [_row(text, f"row {number}") for number, text in enumerate(given.rows, 1)]
    if not rows:
        rows = _read(given.file)
    with session.connect(patient=True) as api:
        answer = api.predict(_deployment(api, given.name), rows, timeout=given.timeout)
    lines = [each if isinstance(each, str) else json.dumps(each) for each in answer["predictions"]]
    show(given, answer, "\n".join(harmless(line) for line in lines))
    return 0


def _deployment(api: KubeServe, text: str) -> str:
    """Return the id of a deployment. A key of one deployment finds no names, so an id is taken as it is."""
    if ID.fullmatch(text):
        return text
    try:
        return str(deployment_of(api, text)["id"])
    except ForbiddenError as error:
        raise ForbiddenError("with a key of one deployment, give its id: kubeserve predict ID …") from error


def _read(path: Path | None) -> list[Any]:
    name = "stdin" if path is None else str(path)
    if path is None and sys.stdin.isatty():
        raise ConfigError(f"rows are expected, as words, by --file or on stdin; {ROWS}")
    try:
        text = sys.stdin.read() if path is None else path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: it is not UTF-8 text") from None
    rows = list(_csv(text)) if name.endswith(".csv") else _rows(text, name)
    if not rows:
        raise ConfigError(f"{name}: it has no rows")
    return rows


def _rows(text: str, name: str) -> list[Any]:
    """Read JSON, or a row on each line."""
    with suppress(ValueError):
        whole = json.loads(text)
        if isinstance(whole, dict):
            whole = whole.get("instances", [whole.get("instance", whole)])
        if isinstance(whole, list):
            return whole if whole and isinstance(whole[0], list | dict) else [whole] if whole else []
    lines = enumerate(text.splitlines(), 1)
    return [_row(line, f"{name}, line {number}") for number, line in lines if line.strip()]


def _row(text: str, where: str) -> Any:
    with suppress(ValueError):
        row = json.loads(text)
        return row if isinstance(row, list | dict) else [row]
    if text.strip()[:1] in {"[", "{"}:
        raise ConfigError(f"{where}: {text[:60]!r} is not JSON; {ROWS}")
    return [_value(cell) for cell in next(csv.reader([text]))]


def _csv(text: str) -> Iterator[dict[str, Any]]:
    names: Sequence[str] = ()
    for cells in csv.reader(io.StringIO(text)):
        if not names:
            names = cells
        elif cells:
            yield dict(zip(names, map(_value, cells), strict=False))


def _value(cell: str) -> Any:
    """Return a number where it is one, None where it is empty, else the text."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(cell)
    return cell.strip() or None
