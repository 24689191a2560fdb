"""Now: every number is one of the gateway's, why nothing moves is told, and a pause is meant."""

from typing import Any

from conftest import Fake
from greenscale_dashboard.now import pace
from pages import open_page, words

STATS: dict[str, Any] = {
    "object": "stats",
    "queue": "jobs",
    "at": "2030-01-02T03:04:05.000Z",
    "depth": {
        "waiting": 1204, "interactive": 3, "standard": 1200, "background": 1, "scheduled": 5, "running": 2,
        "delayed": 7, "held": 8, "dead": 9, "oldest_seconds": 3725.0, "paused": False,
    },
    "rate_per_second": 2.5,
    "remaining_seconds": 482.0,
    "reasons": [],
    "workers": [
        {"name": "pod-b:1", "beat_seconds": 1.2, "why": None, "running": []},
        {"name": "pod-a:1", "beat_seconds": 0.4, "why": None, "lanes": 8,
         "running": [{"id": "job-1", "attempts": 2, "since_seconds": 61.0}, {"id": "job-2", "attempts": 1}]},
    ],
}  # fmt: skip
STEP = {
    "at": "2030-01-02T03:04:00Z", "ended": 10, "failed": 1, "retried": 2, "prompt_tokens": 100,
    "completion_tokens": 50, "call_seconds": 15.0, "replica_seconds": 60.0, "busy_lane_seconds": 15.0,
    "replicas_peak": 2,
}  # fmt: skip
HISTORY = {"object": "stats.history", "step_seconds": 60, "series": [STEP, STEP | {"ended": 0, "call_seconds": 0}]}


def test_all_numbers_of_the_stats_are_shown(fake: Fake) -> None:
    fake.set(stats=STATS, history=HISTORY)
    page = open_page("now")
    shown = {each.label: each.value for each in page.metric}
    assert shown == {
        "Waiting": "1,204", "Running": "2", "Delayed": "7", "Held": "8", "Scheduled": "5", "Dead": "9",
        "Oldest": "1 h 2 min", "Ended": "10", "Mean call": "1.5 s", "Tokens out": "100", "Most replicas": "2",
    }  # fmt: skip
    said = words(page)
    for part in ("2.5 jobs/s", "about 8 min 2 s", "3 interactive", "Workers: 2", "2 failed"):
        assert part in said + "".join(each.value for each in page.subheader), part


def test_every_worker_says_what_it_runs(fake: Fake) -> None:
    fake.set(stats=STATS)
    cards = [each.value for each in open_page("now").markdown if "heartbeat" in each.value]
    assert [card.partition("\n")[0].strip() for card in cards] == ["**`pod-a:1`**", "**`pod-b:1`**"]
    assert "runs 2 of 8 lanes" in cards[0]
    assert "`job-1` for 1 min 1 s (run 2)" in cards[0]
    assert "`job-2` for -" in cards[0]
    assert "runs 0 · heartbeat 1 s ago" in cards[1]


def test_many_workers_and_runs_are_counted_not_drawn(fake: Fake) -> None:
    runs = [{"id": f"j{number}"} for number in range(40)]
    workers = [{"name": f"w{number:03}", "running": runs} for number in range(300)]
    fake.set(stats=STATS | {"workers": workers})
    said = words(open_page("now"))
    assert "And 276 more" in said
    assert "and 35 more" in said


def test_why_nothing_moves_is_told_first(fake: Fake) -> None:
    reasons = ["the endpoint answers 503 (pod-a: gate shut for 12 s)", "the queue is paused"]
    worker = STATS["workers"][0] | {"why": "no call before 12:00:05: http_503"}
    fake.set(stats=STATS | {"reasons": reasons, "workers": [worker]})
    page = open_page("now")
    assert len(page.warning) == 2
    assert "gate shut" in page.warning[0].value
    assert "no call before" in words(page)


def test_a_pause_is_meant_until_it_is_over(fake: Fake) -> None:
    fake.set(stats=STATS)
    page = open_page("now")
    page.toggle(key="now_live").set_value(False).run()
    fake.set(stats=STATS | {"depth": {"waiting": 1}})
    page.run()
    assert page.metric[0].value == "1,204"
    assert "Paused" in words(page)
    assert not fake.requests("GET")
    page.toggle(key="now_live").set_value(True).run()
    assert page.metric[0].value == "1"


def test_an_empty_queue_reads_as_such(fake: Fake) -> None:
    fake.set(stats=STATS | {"workers": [], "rate_per_second": 0.0, "remaining_seconds": None})
    said = words(open_page("now"))
    assert "Start" in said or "start one" in said
    assert "Nothing has run yet" in said


def test_a_pace_below_one_a_second_is_told_by_the_minute() -> None:
    assert pace(0.05) == "3.0 jobs/min"
    assert pace(1234.5) == "1,234.5 jobs/s"
