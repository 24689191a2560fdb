"""One line for each event, whatever is in it and wherever it goes; and metrics that can be told apart."""

import os
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import greenscale_worker
from greenscale_worker.job import Usage
from greenscale_worker.telemetry import Event, Metrics, configure_logging, flush_log, log
from harness.terminal import read_terminal

SOURCES = Path(greenscale_worker.__file__).parent
LOGS_FOUR_LINES = """
from greenscale_worker.telemetry import configure_logging, log
configure_logging(json=True)
for _ in range(4):
    log.info("job")
"""


@pytest.fixture(autouse=True)
def _configured_by_this_test_only() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines(captured: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in captured.splitlines()]


def log_four_lines(stdout: int) -> tuple[int, bytes]:
    command = [sys.executable, "-I", "-c", LOGS_FOUR_LINES]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False)  # noqa: S603  ours
    return done.returncode, done.stderr


def test_for_machines_an_event_is_one_line_of_json_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=True)
    log.info("job", job_id="1", code="", seconds=0.25, tokens=None)
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    (line,) = lines(out)
    age = datetime.now(UTC) - datetime.fromisoformat(line.pop("timestamp"))
    assert timedelta() <= age < timedelta(minutes=1)
    assert line == {"level": "info", "event": "job", "job_id": "1", "code": "", "seconds": 0.25, "tokens": None}
    assert err == ""


def said_to_people(capsys: pytest.CaptureFixture[str]) -> str:
    """What was logged for people, without the time of day."""
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    return "\n".join(line[9:] for line in lines)


def test_for_people_it_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=False)
    log.warning("queue_unavailable", error="refused\nnow\x1b[2J")
    log.error("handler_stuck", job_id="a", seconds=10)
    log.info("ready", concurrency=16)
    log.info("stopped", hint="")
    log.error("job_buried", job_id="a", code="crashed")
    log.warning("job_taken_over", job_id="a", crashes=1, run=2)
    log.warning("job_taken_over", job_id="a", crashes=2, run=5)
    assert said_to_people(capsys).splitlines() == [
        "WARNING queue unavailable: refused\\nnow\\x1b[2J",
        "ERROR handler stuck: job a, 10 s",
        "ready: 16 lanes",
        "stopped",
        "ERROR job a is a dead letter: crashed",
        "WARNING job a taken over after a crash (run 2)",
        "WARNING job a taken over after 2 crashes (run 5)",
    ]


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (
            {"outcome": "succeeded", "job_id": "test-001", "attempt": 1, "run_seconds": 0.0021, "tokens": 11},
            "job test-001 succeeded in 2 ms, 11 tokens",
        ),
        (
            {"outcome": "succeeded", "job_id": "a", "attempt": 2, "run_seconds": 1.25, "tokens": None},
            "job a succeeded in 1.2 s, attempt 2",
        ),
        (
            {"outcome": "failed", "code": "http_400", "job_id": "a", "attempt": 1, "run_seconds": 0.5},
            "job a is a dead letter: http_400 Bad Request",
        ),
        (
            {"outcome": "failed", "code": "not_json", "job_id": None, "attempt": 0, "run_seconds": 0.0},
            "job without an id is a dead letter: not_json",
        ),
        (
            {"outcome": "released", "code": "http_429", "job_id": "a", "attempt": 3, "run_seconds": 1, "delay": 2.5},
            "job a delayed for 2.5 s: http_429 Too Many Requests, attempt 3",
        ),
        ({"outcome": "released", "code": "drain", "job_id": "a", "attempt": 1, "delay": 0.0}, "job a released: drain"),
        ({"outcome": "held", "code": "timeout", "job_id": "a", "attempt": 1, "delay": 0.0}, "job a held: timeout"),
        ({"outcome": "not_ours", "job_id": "a", "attempt": 1, "traceparent": "00-1-2-01"}, "job a not ours"),
        (
            {"outcome": "asked", "job_id": "a", "payload": {"prompt": "b\n"}, "answer": "c\n"},
            "job a asked, payload {'prompt': 'b\\n'}, answer c\\n",
        ),
    ],
)
def test_people_read_what_came_of_a_job(capsys: pytest.CaptureFixture[str], facts: dict[str, Any], line: str) -> None:
    configure_logging(json=False)
    log.info("job", **{"code": "", "record_seconds": 0.001, **facts})
    assert said_to_people(capsys) == line


def test_ordinary_lines_fit_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=False)
    facts = {"queue": "jobs", "kind": "list", "redis": "redis://127.0.0.1:6379/0", "backend": "chat"}
    log.info("worker_started", **facts, concurrency=16)
    log.info("job", outcome="succeeded", code="", job_id=32 * "a", attempt=1, run_seconds=59.9, tokens=123_456)
    log.warning("probe_failed", code="http_401", seconds=2.0)
    log.info("draining", running=3, seconds=25.0)
    log.info("draining", seconds=25.0)
    lines = said_to_people(capsys).splitlines()
    assert lines == [
        "worker started: list jobs at redis://127.0.0.1:6379/0, chat, 16 lanes",
        f"job {32 * 'a'} succeeded in 59.9 s, 123456 tokens",
        "WARNING probe failed: http_401, the next one in 2.0 s",
        "draining: 3 running, for at most 25.0 s",
        "draining: for at most 25.0 s",
    ]
    assert max(map(len, lines)) + len("14:55:08 ") <= 80


def test_a_dead_letter_is_told_within_120_columns(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=False)
    facts = {"outcome": "failed", "code": "http_422", "attempt": 5, "run_seconds": 59.9}
    log.warning("job", job_id=32 * "a", **facts)
    line = said_to_people(capsys)
    assert line.startswith(f"WARNING job {32 * 'a'} is a dead letter: http_422 Unprocessable ")
    assert line.endswith(", attempt 5")
    assert len(line) + len("14:55:08 ") <= 120


def test_a_traceback_stands_below_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=False)
    log.error("backend_exception", job_id="a", exception="Traceback:\n  line 1\nOops\x1b[2J")
    line, *below = capsys.readouterr().err.splitlines()
    assert line[9:] == "ERROR backend exception: job a"
    assert below == ["Traceback:", "  line 1", "Oops\\x1b[2J"]


@pytest.mark.parametrize(("environment", "red"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_only_a_terminal_shows_colour_and_only_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], *, red: bool
) -> None:
    for name, value in {"NO_COLOR": "", "TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        configure_logging(json=False)
        log.error("stopped", hint="why")
        flush_log()
        monkeypatch.undo()
        configure_logging(json=False)  # lets go of the terminal
    seen = read_terminal(ours)
    assert seen[9:] == ("\x1b[31mERROR\x1b[0m" if red else "ERROR") + " stopped: why\r\n"


@pytest.mark.parametrize("columns", [40, 70, 200])
def test_a_terminal_gets_whole_words(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Also one that was made narrower; what goes on below is indented, and the colour is no width."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        termios.tcsetwinsize(ours, (24, 100))
        configure_logging(json=False)
        log.warning("waiting_for_backend", why=f"{30 * 'word '}end")
        termios.tcsetwinsize(ours, (24, columns))
        log.warning("waiting_for_backend", why=f"{30 * 'word '}end")
        flush_log()
        monkeypatch.undo()
        configure_logging(json=False)  # lets go of the terminal
    seen = read_terminal(ours).replace("\x1b[33m", "").replace("\x1b[0m", "")
    lines = seen.splitlines()
    second = [number for number, line in enumerate(lines) if "waiting" in line][1]
    assert max(map(len, lines[:second])) <= 100
    assert max(map(len, lines[second:])) <= columns
    assert all(line.startswith("  ") for line in lines[second + 1 :])
    words = " ".join(" ".join(lines[second:]).split())[len("14:55:08 ") :]
    said = f"WARNING waiting for backend: {30 * 'word '}end; jobs wait meanwhile, and it goes on by itself"
    assert words == said


@pytest.mark.parametrize(("level", "seen"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
@pytest.mark.parametrize("json", [True, False])
def test_what_is_below_the_level_is_not_logged(
    capsys: pytest.CaptureFixture[str], level: str, seen: int, *, json: bool
) -> None:
    configure_logging(json=json, level=level)
    for tell in (log.debug, log.info, log.warning, log.error):
        tell("ready")
    assert len("".join(capsys.readouterr()).splitlines()) == seen


@example(facts={"error": "a\ud800"}, json=True)
@example(facts={"error": "a\ud800"}, json=False)
@example(facts={"code": 2**64}, json=True)
@given(
    facts=st.dictionaries(
        st.sampled_from(["error", "job_id", "code"]),
        st.text(st.characters(exclude_categories=[]), max_size=5)
        | st.integers()
        | st.floats()
        | st.binary()
        | st.none(),
    ),
    json=st.booleans(),
)
def test_whatever_the_facts_are_it_stays_one_line(facts: dict[str, Any], *, json: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        read, write = os.pipe()
        with os.fdopen(read, "rb") as reader, os.fdopen(write, "w", encoding="utf-8") as stream:
            patch.setattr(sys, "stdout" if json else "stderr", stream)
            configure_logging(json=json)
            log.info("job", **facts)
            flush_log()
            patch.undo()
            configure_logging(json=json)  # lets go of the pipe
            stream.close()
            written = reader.read()
    assert written.count(b"\n") == 1
    assert written.endswith(b"\n")
    if json:
        line = orjson.loads(written)
        assert line["event"] == "job"
        assert facts.keys() <= line.keys()


@pytest.mark.parametrize("json", [True, False])
@pytest.mark.parametrize("credentials", ["anna:secret", ":secret", "anna:secret%2F"])
def test_the_password_of_a_url_is_hidden(capsys: pytest.CaptureFixture[str], credentials: str, *, json: bool) -> None:
    configure_logging(json=json)
    log.error("queue_unavailable", error=f"cannot connect to rediss://{credentials}@redis.example:6379/0", at="a@b")
    text = "".join(capsys.readouterr())
    assert "secret" not in text
    assert "rediss://***@redis.example:6379/0" in text
    assert "a@b" in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_ends_nothing() -> None:
    with Path("/dev/full").open("wb") as full:
        assert log_four_lines(full.fileno()) == (0, b"")


def test_a_reader_that_has_gone_ends_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    assert log_four_lines(write) == (0, b"")
    os.close(write)


def test_without_a_stdout_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    configure_logging(json=True)
    log.info("job")


def test_every_event_has_somebody_who_logs_it() -> None:
    text = "".join(path.read_text() for path in SOURCES.rglob("*.py"))
    logged = set(re.findall(r'\b(?:log\.\w+|say)\(\s*"(\w+)"', text))
    assert logged == set(get_args(Event))


def samples(metrics: Metrics) -> dict[str, float]:
    """What a scrape shows of ours, by name and labels, without what says nothing or belongs to the whole process."""
    return {
        f"{sample.name}{sorted(sample.labels.values()) or ''}": sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith("greenscale_")
        and not sample.name.endswith(("_created", "_bucket", "_lines_dropped_total"))
        and sample.value
    }


def test_everything_counted_is_shown() -> None:
    metrics = Metrics()
    assert samples(metrics) == {}
    metrics.finished("succeeded")
    metrics.finished("failed", "http_400")
    metrics.finished("failed", "http_400")
    metrics.started(0.002)
    metrics.called(1.5)
    metrics.tokens(Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10))
    metrics.tokens(Usage())
    metrics.retried("http_429")
    metrics.busy(lambda: 4)
    metrics.gate(shut=True, breaker=True)
    metrics.depth(waiting=5, running=4, delayed=3, held=6, dead=2)
    metrics.reaped(2)
    metrics.notices_dropped(7)
    metrics.lost("taken")
    assert samples(metrics) == {
        "greenscale_jobs_total['', 'succeeded']": 1,
        "greenscale_jobs_total['failed', 'http_400']": 2,
        "greenscale_claim_to_start_seconds_count": 1,
        "greenscale_claim_to_start_seconds_sum": 0.002,
        "greenscale_call_seconds_count": 1,
        "greenscale_call_seconds_sum": 1.5,
        "greenscale_tokens_total['prompt']": 7,
        "greenscale_tokens_total['completion']": 3,
        "greenscale_retries_total['http_429']": 1,
        "greenscale_lanes_busy": 4,
        "greenscale_gate_shut": 1,
        "greenscale_breaker_open": 1,
        "greenscale_queue_jobs['waiting']": 5,
        "greenscale_queue_jobs['running']": 4,
        "greenscale_queue_jobs['delayed']": 3,
        "greenscale_queue_jobs['held']": 6,
        "greenscale_queue_jobs['dead']": 2,
        "greenscale_leases_reaped_total": 2,
        "greenscale_notices_dropped_total": 7,
        "greenscale_leases_lost_total['taken']": 1,
    }
    metrics.busy(lambda: 0)
    metrics.gate(shut=False, breaker=False)
    assert not samples(metrics).keys() & {"greenscale_lanes_busy", "greenscale_gate_shut", "greenscale_breaker_open"}


def test_a_queue_that_nobody_has_counted_is_not_said_to_be_empty() -> None:
    assert b"greenscale_queue_jobs{" not in Metrics().render()


def test_calls_are_told_apart_from_10_ms_to_5_minutes() -> None:
    metrics = Metrics()
    for seconds in (0.01, 0.5, 30, 300, 301):
        metrics.called(seconds)
    counts = {
        sample.labels["le"]: sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name == "greenscale_call_seconds_bucket"
    }
    assert [counts[bound] for bound in ("0.01", "0.5", "30.0", "300.0", "+Inf")] == [1, 2, 3, 4, 5]


def test_two_workers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.finished("succeeded")
    assert samples(other) == {}
