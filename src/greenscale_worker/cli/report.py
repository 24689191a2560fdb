"""`report`: what jobs and workers did in a window of time, what it cost, and what scaling saved."""

import argparse
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final

from greenscale_worker.cli.context import with_client
from greenscale_worker.cli.terminal import bold, columns, hint, say, say_json, seconds_of, since_of, text_of, within
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import ConfigError
from greenscale_worker.for_people import MINUTE, WIDTH, age, broken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greenscale_worker.config import Settings
    from greenscale_worker.queues import QueueClient
    from greenscale_worker.report import Savings, Step, Window

DAY: Final = 86_400.0
HOUR: Final = 3600.0
MOST_REPLICAS: Final = 100_000
MOST_PRICE: Final = 1e9
UNKNOWN: Final = "the ledger knows nothing of that time: no worker of this version has run yet, or it is too long ago"
NOT_KEPT: Final = "no ledger is kept: GREENSCALE_LEDGER_DAYS is 0"
HEAD: Final = ("UTC", "ended", "failed", "again", "tok in", "tok out", "s/call", "workers", "most")
OF_A_TENANT: Final = 6  # of these columns are known of a tenant

REPORT: Final = """\
Show what happened in a window of time, by hours or other steps, and in all.

  ended      jobs that have a result
  failed     jobs that failed for good
  again      calls that failed and are made again
  tok in     tokens of the prompts, and tok out: of the answers
  s/call     how long a call took, on average
  workers    worker processes, on average; most: at once

Below: what this took of workers, against as many that are always on. That may
be negative. Tokens are not in it: they cost the same either way.

The numbers are kept by the minute for GREENSCALE_LEDGER_DAYS (8). Calls that
a crash or a drain cut off are in no sum."""

EXAMPLES: Final = """\
greenscale-worker report
greenscale-worker report --since 7d --step 1d --replicas 4 --price 2.50
greenscale-worker report --since 09:00 --until 17:00 --plot today.png
greenscale-worker report --json | jq .savings.saved_replica_seconds"""
CODES: Final = """\
0  shown
1  Redis does not answer
2  a wrong setting or option, or --plot without matplotlib"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    text = "what was done in a day or a week, and what scaling saved"
    parser = add_command(subparsers, "report", text, REPORT, examples=EXAMPLES, codes=CODES)
    parser.add_argument(
        "--since", type=since_of, default="24h", metavar="TIME", help="a time, or an age such as 7d (default: 24h)"
    )
    parser.add_argument("--until", type=_until_of, metavar="TIME", help="the same (default: now)")
    parser.add_argument(
        "--step", type=_step, default=HOUR, metavar="SPAN", help="whole minutes, such as 5m, 1h or 1d (default: 1h)"
    )
    parser.add_argument("--tenant", type=text_of, metavar="NAME", help="only its jobs and tokens")
    parser.add_argument(
        "--replicas",
        type=within(1, MOST_REPLICAS, int),
        metavar="N",
        help="compare with N workers always on (default: the most seen)",
    )
    parser.add_argument(
        "--price", type=within(0, MOST_PRICE), metavar="P", help="of one worker for an hour, in any currency"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one line of JSON")
    form.add_argument("--markdown", action="store_true", help="tables for a page or a pull request")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it, too: .png, .svg or .pdf (the extra `plot`)")
    parser.set_defaults(run=lambda args: with_client(partial(_report, args)))


def _step(text: str) -> float:
    seconds = seconds_of(text)
    if seconds < MINUTE or seconds % MINUTE:
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted; whole minutes such as 5m, 1h or 1d are expected")
    return seconds


@dataclass(frozen=True, slots=True)
class Report:
    """What is shown, in each form.

    `is_cut`: the ledger begins later than was asked for. `savings` is None for a tenant: workers are shared.
    """

    queue: str
    tenant: str | None
    window: "Window"
    is_cut: bool
    step: float
    total: "Step"
    series: "Sequence[Step]"
    savings: "Savings | None"

    def facts(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {
            "queue": self.queue,
            "tenant": self.tenant,
            "since": _stamp(self.window.since),
            "until": _stamp(self.window.until),
            "step_seconds": self.step,
            "totals": _facts_of(self.total),
            "series": [{"at": _stamp(step.at), **_facts_of(step)} for step in self.series],
            "savings": self.savings and {name: _exact(value) for name, value in asdict(self.savings).items()},
        }

    def view(self) -> str:
        """Return everything, for people, on a screen of 80 columns."""
        lines = [*self._title(), "", *self._totals(), "", self._table(), *self._saved()]
        return "\n".join(lines)

    def _title(self) -> list[str]:
        whose = f", tenant {bold(self.tenant)}" if self.tenant else ""
        since, until = _minute(self.window.since), _minute(self.window.until)
        cut = ": the ledger begins there" if self.is_cut else ""
        return [f"queue {bold(self.queue)}{whose}", f"{since} to {until} UTC, {age(self.window.seconds)}{cut}"]

    def _totals(self) -> list[str]:
        total = self.total
        jobs = f"{total.ended:,} ended, {total.failed:,} failed"
        tokens = f"{total.prompt_tokens:,} in, {total.completion_tokens:,} out"
        if self.tenant:
            return columns([("jobs", jobs), ("tokens", tokens)]).split("\n")
        jobs += f", {total.cancelled:,} cancelled"
        calls = f"{total.ended + total.failed + total.retried:,}, of which {total.retried:,} failed and were made again"
        if total.seconds_per_call is not None:
            calls += f"; {total.seconds_per_call:.2f} s each"
        workers = f"{age(total.replica_seconds)} in all, {total.replicas_peak:,} at once at most"
        rows = [("jobs", jobs), ("calls", calls), ("tokens", tokens), ("workers", workers)]
        return [broken(line, WIDTH, " " * 9) for line in columns(rows).split("\n")]

    def _cells(self, step: "Step") -> tuple[str, ...]:
        per_call = step.seconds_per_call
        cells = (
            _minute(step.at)[len("2030-") :],
            *(_count(number) for number in (step.ended, step.failed, step.retried)),
            *(_rounded(number) for number in (step.prompt_tokens, step.completion_tokens)),
            "-" if per_call is None else f"{per_call:.2f}",
            f"{step.replicas:.2f}" if step.replicas else "-",
            _count(step.replicas_peak),
        )
        return cells[:OF_A_TENANT] if self.tenant else cells

    def _rows(self) -> list[tuple[str, ...]]:
        head = HEAD[:OF_A_TENANT] if self.tenant else HEAD
        return [head, *map(self._cells, self.series)]

    def _table(self) -> str:
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        cells = [tuple(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return columns(cells[1:], head=cells[0])

    def _saved(self) -> list[str]:
        text = self._sentence()
        return ["", *(broken(line, WIDTH) for line in text)] if text else []

    def _sentence(self) -> list[str]:
        """Say what was saved, in two lines."""
        if self.savings is None:
            return []
        told = self.savings
        if not told.replicas_always_on:
            return ["No worker was seen in this window, so there is nothing to compare with; --replicas N names it."]
        saved, always_on = told.saved_replica_seconds, told.always_on_replica_seconds
        what = "saved" if saved >= 0 else "spent more"
        share = f" ({abs(saved) / always_on:.0%})" if always_on else ""
        money = "" if told.saved is None else f", {abs(told.saved):,.2f} at {told.price_per_replica_hour:g} an hour"
        instead = f"{told.replicas_always_on:,} always on would be {_hours(always_on)}"
        measured = _hours(told.measured_replica_seconds)
        return [f"{what}: {_hours(abs(saved))}{share}{money}", f"{instead}; measured were {measured}"]

    def markdown(self) -> str:
        """Return everything as Markdown."""
        head, *rows = self._rows()
        lines = [f"## {' · '.join(self._title())}".replace("\x1b[1m", "").replace("\x1b[0m", ""), ""]
        lines += [f"- {line}" for line in self._totals()]
        lines += ["", _markdown_row(head), _markdown_row(["---", *["---:"] * (len(head) - 1)])]
        lines += map(_markdown_row, rows)
        return "\n".join([*lines, *self._saved()])


async def _report(args: argparse.Namespace, client: "QueueClient", settings: "Settings") -> int:
    from greenscale_worker.config import queue_name
    from greenscale_worker.report import history, savings, total, window

    now = time()
    known = await client.ledger(0)  # all: where it begins, no saving may be claimed for the time before
    since, until = _moment(args.since, now), None
    if args.until is not None:
        *parsed, is_clock = args.until
        until = _moment(parsed, now)
        until += DAY if is_clock and until <= since else 0  # 17:00, where it is not yet that late
    if until is not None and until <= since:
        raise ConfigError("report: --until is before --since; expected: a later time, or a shorter age")
    found = window(since, until, now=now, first=known[0].at if known else None)
    if found is None:
        hint(UNKNOWN if settings.ledger_days else NOT_KEPT)
        return 0
    minutes = await client.ledger(found.since, found.until, tenant=args.tenant) if args.tenant else known
    saved = None if args.tenant else savings(minutes, found, replicas=args.replicas, price=args.price)
    sums = (total(minutes, found), history(minutes, found, args.step))
    is_cut = found.since > since
    report = Report(queue_name(settings), args.tenant, found, is_cut, args.step, *sums, saved)
    if args.plot is not None:
        _plot(report, args.plot)
    if args.json:
        say_json(report.facts())
    elif args.markdown:
        say(report.markdown())
    else:
        say(report.view())
    return 0


def _plot(report: Report, file: Path) -> None:
    from greenscale_worker.report.plot import draw

    draw(file, report.queue, report.series, report.savings)
    hint(f"{file} is drawn")


def _facts_of(step: "Step") -> dict[str, Any]:
    return {name: _exact(value) for name, value in asdict(step).items() if name != "at"}


def _exact(value: float | None) -> float | None:
    """Return a number to the millisecond, as the ledger counts."""
    return round(value, 3) if isinstance(value, float) else value


def _until_of(text: str) -> tuple[float | None, float | None, bool]:
    """Parse until when; and whether that is a time of any day."""
    return *since_of(text), re.fullmatch(r"[\d:]+", text.strip()) is not None and ":" in text


def _moment(since: "Sequence[float | None]", now: float) -> float:
    time_, age_ = since
    return time_ if time_ is not None else now - (age_ or 0.0)


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _minute(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"


def _rounded(number: int) -> str:
    """Return a number in at most six characters."""
    if number < 10_000:  # noqa: PLR2004  it is short enough
        return _count(number)
    size, unit = next(each for each in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= each[0])
    return f"{number / size:.3g}{unit}" if number / size < 999.5 else f"{number / size:.0f}{unit}"  # noqa: PLR2004  digits


def _hours(seconds: float) -> str:
    return f"{seconds / HOUR:,.1f} worker-hours"


def _markdown_row(cells: "Sequence[str]") -> str:
    return f"| {' | '.join(cells)} |"
