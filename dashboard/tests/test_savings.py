"""Savings: the gateway's numbers, N shown and chosen, a price only where one is given, and no loss hidden."""

from typing import Any

from streamlit.testing.v1 import AppTest

from conftest import Fake
from pages import open_page, words

SAVINGS = {
    "replicas_always_on": 6, "window_seconds": 86400, "always_on_replica_seconds": 518400,
    "measured_replica_seconds": 129600, "saved_replica_seconds": 388800, "price_per_replica_hour": None, "saved": None,
}  # fmt: skip


def history(**savings: Any) -> dict[str, Any]:
    steps = [{"at": f"2030-01-02T03:{minute:02}:00Z", "replica_seconds": 1800} for minute in (0, 15)]
    window = {"since": "2030-01-01T03:04:05Z", "until": "2030-01-02T03:04:05Z"}
    return {**window, "step_seconds": 900, "series": steps, "savings": SAVINGS | savings}


def shown(page: AppTest) -> dict[str, tuple[str, str]]:
    return {each.label: (each.value, each.delta) for each in page.metric}


def test_what_ran_is_set_against_what_is_always_on(fake: Fake) -> None:
    fake.set(history=history())
    page = open_page("savings")
    assert shown(page) == {
        "Always on": ("144.0 h", "6, the most seen"),
        "Measured": ("36.0 h", "by heartbeats"),
        "Saved": ("108.0 h", "75% of always on"),
    }
    assert "Window: 1 d, 2030-01-01 03:04:05 to 2030-01-02 03:04:05" in words(page)
    assert fake.requests("GET")[-1]["query"] == {"since": "24h", "step": "900"}


def test_the_number_and_the_price_are_chosen(fake: Fake) -> None:
    fake.set(history=history(price_per_replica_hour=2.5, saved=270.0))
    page = open_page("savings")
    page.number_input(key="savings_replicas").set_value(4)
    page.number_input(key="savings_price").set_value(2.5)
    page.session_state["savings_window"] = "7 days"
    page.run()
    assert fake.requests("GET")[-1]["query"] == {"since": "7d", "step": "7200", "replicas": "4", "price": "2.5"}
    assert shown(page)["Saved, in money"] == ("270.00", "at 2.50 a replica-hour")
    assert shown(page)["Always on"][1] == "6, as chosen"


def test_a_loss_is_shown_as_one(fake: Fake) -> None:
    fake.set(history=history(saved_replica_seconds=-7200, always_on_replica_seconds=3600, saved=-5.0))
    page = open_page("savings")
    assert shown(page)["Saved"] == ("-2.0 h", "-200% of always on")
    assert shown(page)["Saved, in money"][0] == "-5.00"
    assert "nothing was saved" in page.warning[0].value


def test_a_window_that_is_known_in_part_says_so(fake: Fake) -> None:
    fake.set(history=history(window_seconds=600))
    assert "of which 10 min are known" in words(open_page("savings"))


def test_the_first_minutes_are_more_than_zeros_and_an_empty_chart(fake: Fake) -> None:
    told = history(always_on_replica_seconds=282, measured_replica_seconds=102, saved_replica_seconds=180)
    fake.set(history=told | {"series": told["series"][:1]})
    page = open_page("savings")
    assert [value for value, _ in shown(page).values()] == ["4.7 min", "1.7 min", "3.0 min"]
    assert "as soon as there are two steps, of 15 min each" in words(page)


def test_nothing_known_is_shown_as_such(fake: Fake) -> None:
    fake.set(history={})
    page = open_page("savings")
    assert not page.exception
    assert shown(page)["Saved"] == ("-", "no comparison")
    assert "nothing is known" in words(page)
