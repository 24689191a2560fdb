"""What a report says of a ledger: every minute in one step, savings never dressed up, and each of its forms."""

import re
import struct
import subprocess
import sys
import time
from dataclasses import astuple, fields
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenscale_worker.cli.report import HEAD
from greenscale_worker.errors import BadInputError, ConfigError
from greenscale_worker.queues import LedgerMinute
from greenscale_worker.report import MOST_STEPS, SUMS, Step, Window, history, savings, total, window
from greenscale_worker.report.plot import draw
from tests.support.shell import Shell

MINUTE: Final = 60.0
HOUR: Final = 3600.0
NOW: Final = 1_800_000_000.0  # at a full minute, 8:00
LEDGER: Final = "{jobs}:ledger"

counts = st.integers(0, 10**6)
seconds = st.integers(0, 10**6).map(float)


@st.composite
def ledgers(draw: Any) -> list[LedgerMinute]:
    """Minutes of up to three hours before NOW and one after it, in order."""
    numbers = draw(st.lists(st.integers(-180, 60), unique=True, max_size=40))
    made = []
    for number in sorted(numbers):
        sums = [draw(counts) for _ in range(6)] + [draw(seconds) for _ in range(3)]
        made.append(LedgerMinute(NOW + 60 * number, *sums, draw(st.integers(0, 50))))
    return made


windows = st.builds(
    lambda begin, length: Window(NOW - 60 * begin, NOW - 60 * begin + length), st.integers(0, 200), st.floats(1, 20_000)
)
steps = st.integers(1, 300).map(lambda minutes: 60.0 * minutes)


@given(ledgers(), windows, steps)
def test_each_minute_of_the_window_is_in_one_step(minutes: list[LedgerMinute], within: Window, step: float) -> None:
    found, whole = history(minutes, within, step), total(minutes, within)
    for name in SUMS:
        assert sum(getattr(each, name) for each in found) == getattr(whole, name)
    assert max(each.replicas_peak for each in found) == whole.replicas_peak
    inside = [minute for minute in minutes if within.since <= minute.at < within.until]
    assert whole.ended == sum(minute.ended for minute in inside)
    for each in found:
        mine = [minute for minute in inside if each.at <= minute.at < each.at + each.seconds]
        assert each.call_seconds == sum(minute.call_seconds for minute in mine)


@given(windows, steps)
def test_steps_cover_the_window_without_a_gap_and_begin_at_round_times(within: Window, step: float) -> None:
    found = history([], within, step)
    assert found[0].at == within.since
    assert found[-1].at + found[-1].seconds == pytest.approx(within.until)
    assert all(0 < each.seconds <= step for each in found)
    for before, after in pairwise(found):
        assert before.at + before.seconds == pytest.approx(after.at)
        assert after.at % step == 0


@given(ledgers(), windows, st.none() | st.integers(1, 1000), st.none() | st.floats(0, 1e6))
def test_savings_are_the_difference_and_nothing_else(
    minutes: list[LedgerMinute], within: Window, replicas: int | None, price: float | None
) -> None:
    found = savings(minutes, within, replicas=replicas, price=price)
    inside = [minute for minute in minutes if within.has(minute)]
    most = max((minute.replicas_peak for minute in inside), default=0)
    assert found.replicas_always_on == (most if replicas is None else replicas)
    assert found.window_seconds == within.seconds
    assert found.measured_replica_seconds == sum(minute.replica_seconds for minute in inside)
    assert found.always_on_replica_seconds == found.replicas_always_on * within.seconds
    assert found.saved_replica_seconds == found.always_on_replica_seconds - found.measured_replica_seconds
    assert found.price_per_replica_hour == price
    if price is None:
        assert found.saved is None
    else:
        assert found.saved == pytest.approx(found.saved_replica_seconds / 3600 * price)


def test_more_than_always_on_is_a_negative_saving() -> None:
    minutes = [LedgerMinute(NOW, replica_seconds=180, replicas_peak=3)]
    found = savings(minutes, Window(NOW, NOW + 60), replicas=1, price=3600)
    assert (found.saved_replica_seconds, found.saved) == (-120, -120)


@pytest.mark.parametrize(
    ("since", "until", "first", "expected"),
    [
        (NOW - 3600, None, NOW - 9000, (NOW - 3600, NOW + 30)),
        (NOW - 3590, None, NOW - 9000, (NOW - 3600, NOW + 30)),
        (NOW - 3600, NOW - 1770, NOW - 9000, (NOW - 3600, NOW - 1800)),
        (NOW - 3600, NOW + 999, NOW - 9000, (NOW - 3600, NOW + 30)),
        (NOW - 3600, None, NOW - 600, (NOW - 600, NOW + 30)),
        (NOW - 3600, NOW - 1800, NOW - 600, None),
        (NOW - 3600, NOW - 3600, NOW - 9000, None),
        (NOW + 3600, None, NOW - 9000, None),
        (NOW - 3600, None, None, None),
    ],
)
def test_a_window_has_whole_minutes_and_begins_no_earlier_than_the_ledger(
    since: float, until: float | None, first: float | None, expected: tuple[float, float] | None
) -> None:
    found = window(since, until, now=NOW + 30, first=first)
    assert (found and astuple(found)) == expected


@pytest.mark.parametrize("step", [0, -60, 30, 90, 60.5])
def test_a_step_of_no_whole_minutes_is_refused(step: float) -> None:
    with pytest.raises(BadInputError, match=f"whole minutes are expected, not {step:g} s"):
        history([], Window(NOW, NOW + 600), step)


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(BadInputError, match="too short for this window"):
        history([], Window(NOW, NOW + 60 * (MOST_STEPS + 1)), 60)
    assert len(history([], Window(NOW, NOW + 60 * MOST_STEPS), 60)) == MOST_STEPS


def test_averages_of_a_step() -> None:
    step = Step(NOW, 2, 1, 0, 1, call_seconds=6, replica_seconds=90, busy_lane_seconds=30, seconds=60)
    assert (step.seconds_per_call, step.replicas, step.busy_lanes) == (1.5, 1.5, 0.5)
    assert (Step(NOW).seconds_per_call, Step(NOW).replicas, Step(NOW).busy_lanes) == (None, 0, 0)


# --- the command ---


def fill(shell: Shell, *, begin: int, tenant: str = "", **sums: float) -> None:
    """Write a minute of so many minutes ago."""
    names = [field.name for field in fields(LedgerMinute)][1:]
    values = [sums.get(name, 0) * (1000 if name.endswith("_seconds") else 1) for name in names]
    minute = int(time.time()) // 60 - begin
    shell.client.hset(LEDGER, f"{minute}|{tenant}" if tenant else str(minute), struct.pack(">11d", *values, 0))


@pytest.fixture
def day(shell: Shell) -> Shell:
    """A day with one busy hour of four workers, and a tenant in it."""
    fill(shell, begin=3000, replica_seconds=60, replicas_peak=9)
    for begin in range(601, 661):
        fill(
            shell,
            begin=begin,
            ended=20_000,
            failed=1,
            cancelled=2,
            retried=3,
            prompt_tokens=1_000_000,
            completion_tokens=99_950,
            call_seconds=30_006,
            replica_seconds=240,
            busy_lane_seconds=2400,
            replicas_peak=4,
        )
    fill(shell, begin=601, tenant="a", ended=7, failed=1, prompt_tokens=12_345, completion_tokens=67)
    return shell


def test_it_fits_80_columns_and_says_all(day: Shell) -> None:
    code, out, err = day("report")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "queue jobs"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d to \d{4}-\d\d-\d\d \d\d:\d\d UTC, 1 d 0 h", lines[1])
    assert "1,200,000 ended, 60 failed, 120 cancelled" in out
    assert "1,200,240, of which 180 failed and were made again; 1.50 s each" in out
    assert "60,000,000 in, 5,997,000 out" in out
    assert "4 h 0 m in all, 4 at once at most" in out
    assert lines[8].split() == [word for name in HEAD for word in name.split()]
    assert sum(bool(re.match(r"\d\d-\d\d \d\d:\d\d", line)) for line in lines) in {24, 25}
    assert re.search(
        r"saved: 92\.\d worker-hours \(96%\)\n4 always on would be 96\.\d worker-hours; measured were 4\.0", out
    )


def test_a_comparison_is_chosen_and_a_loss_is_said(day: Shell) -> None:
    _, out, _ = day("report", "--since", "11h", "--until", "10h", "--replicas", "1", "--price", "2")
    assert "spent more: 3.0 worker-hours (300%), 6.00 at 2 an hour" in out
    assert "1 always on would be 1.0 worker-hours" in out
    _, out, _ = day("report", "--since", "2h")
    assert "No worker was seen in this window" in out


def test_no_saving_is_claimed_for_the_time_before_the_ledger_begins(day: Shell) -> None:
    told = day.json("report", "--since", "7d")
    assert told["savings"]["window_seconds"] == pytest.approx(3000 * 60, abs=60)
    assert told["savings"]["replicas_always_on"] == 9
    _, out, _ = day("report", "--since", "7d")
    assert ": the ledger begins there" in out
    second = out.splitlines()[1]
    assert len(re.sub(r" UTC, [^:]+", " UTC, 59 m 59 s", second)) <= 80


def test_json_has_every_number(day: Shell) -> None:
    told = day.json("report", "--since", "12h", "--step", "30m", "--price", "1.5")
    assert told["queue"] == "jobs"
    assert told["step_seconds"] == 1800
    assert told["totals"]["ended"] == sum(step["ended"] for step in told["series"]) == 1_200_000
    assert told["totals"]["busy_lane_seconds"] == 60 * 2400
    assert {*told["series"][0]} == {"at", "seconds", "replicas_peak", *SUMS}
    assert told["savings"]["saved"] == pytest.approx(told["savings"]["saved_replica_seconds"] / 3600 * 1.5, abs=0.01)
    assert len(told["series"]) in {24, 25}


def test_of_a_tenant_its_jobs_and_tokens_are_shown(day: Shell) -> None:
    told = day.json("report", "--tenant", "a")
    assert (told["tenant"], told["savings"], told["totals"]["ended"], told["totals"]["prompt_tokens"]) == (
        "a",
        None,
        7,
        12_345,
    )
    _, out, _ = day("report", "--tenant", "a")
    assert "7 ended, 1 failed\n" in out
    assert "12.3k" in out
    assert "always on" not in out
    assert day.json("report", "--tenant", "b")["totals"]["ended"] == 0


def test_markdown_is_a_table(day: Shell) -> None:
    code, out, _ = day("report", "--markdown", "--since", "3h")
    assert code == 0
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert table[0] == f"| {' | '.join(HEAD)} |"
    assert out.startswith("## queue jobs · ")


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_it_is_drawn(kind: str, day: Shell) -> None:
    code, out, err = day("report", "--plot", f"a picture.{kind}")
    assert (code, err) == (0, f"a picture.{kind} is drawn\n")
    assert "4 always on" in out
    data = Path(f"a picture.{kind}").read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    if kind == "svg":
        assert b"worker-hours saved" in data


def test_a_picture_without_matplotlib_is_a_clear_error(tmp_path: Path) -> None:
    script = f"""
import sys
sys.modules["matplotlib"] = None
from itertools import pairwise
from pathlib import Path
from greenscale_worker.report import Step
from greenscale_worker.report.plot import draw
draw(Path({str(tmp_path / "a.png")!r}), "jobs", [Step(0.0, seconds=60.0)], None)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603  our own
    wanted = "ConfigError: --plot needs matplotlib; expected: pip install 'greenscale-worker[plot]'"
    assert wanted in done.stderr
    assert not (tmp_path / "a.png").exists()


def test_a_picture_of_another_kind_is_refused(tmp_path: Path, day: Shell) -> None:
    with pytest.raises(ConfigError, match=r"ends with \.png, \.svg or \.pdf is expected"):
        draw(tmp_path / "a.jpg", "jobs", [Step(0.0, seconds=60.0)], None)
    code, _, err = day("report", "--plot", "a.jpg")
    assert code == 2
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--step 90s", "whole minutes such as 5m, 1h or 1d are expected"),
        ("--step 0", "whole minutes such as 5m, 1h or 1d are expected"),
        ("--since yesterday", "is no time"),
        ("--replicas 0", "a whole number from 1 to"),
        ("--price -1", "a number from 0 to"),
        ("--json --markdown", "not allowed with"),
        ("--since 1h --until 2h", "--until is before --since"),
        ("--tenant ", "a text is expected"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: str, says: str, day: Shell) -> None:
    code, out, err = day("report", *arguments.split(" "))
    assert (code, out) == (2, "")
    assert says in " ".join(err.split())


def test_a_time_of_day_that_has_not_come_yet_is_that_of_today(day: Shell) -> None:
    now = datetime.now(UTC)
    since, until = (f"{now + timedelta(minutes=minutes):%H:%M}" for minutes in (-30, 30))
    code, out, err = day("report", "--since", since, "--until", until, "--json")
    assert (code, err) == (0, "")
    assert timedelta(0) <= datetime.fromisoformat(orjson.loads(out)["until"]) - now < timedelta(minutes=1)


def test_of_a_time_that_the_ledger_does_not_know_it_says_so(shell: Shell) -> None:
    code, out, err = shell("report")
    assert (code, out) == (0, "")
    assert "knows nothing of that time" in err
    shell.set(GREENSCALE_LEDGER_DAYS="0")
    assert "no ledger is kept: GREENSCALE_LEDGER_DAYS is 0" in shell("report")[2]
