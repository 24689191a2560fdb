"""Savings: what the replicas that ran cost, beside a number of them always on. All of it as the gateway says."""

from typing import Any, Final

import streamlit as st

from greenscale_dashboard import gateway, show
from greenscale_dashboard.records import History, Savings

GREEN: Final = "#2f9e63"  # reads on white and on black
# Of an axis of time, in the language of Vega: the date at midnight, otherwise 24 hours, in the reader's zone.
CLOCK: Final = "timeFormat(datum.value, hours(datum.value) + minutes(datum.value) ? '%H:%M' : '%a %d')"
WINDOWS: Final = {"1 hour": ("1h", 60), "24 hours": ("24h", 900), "7 days": ("7d", 7_200)}  # and seconds of a step


def page() -> None:
    """Draw the page."""
    st.title("Savings")
    label = st.segmented_control("Window", tuple(WINDOWS), default="24 hours", required=True, key="savings_window")
    with st.grid(2, min_column_width=160):
        replicas = st.number_input(
            "Replicas always on", 0, None, None, 1, key="savings_replicas", placeholder="the most seen",
            help="What you would run without scaling. Empty: the most that ran at the same time in the window.",
        )  # fmt: skip
        price = st.number_input(
            "Price of a replica-hour", 0.0, None, None, 0.1, key="savings_price", placeholder="none",
            help="In any currency. Empty: hours only.",
        )  # fmt: skip
    with show.troubles():
        since, step = WINDOWS[label]
        history = gateway.from_environment().history(since, step, replicas=replicas, price=price)
        _compare(history, chosen=replicas is not None)
        _draw(history)


def _compare(history: History, *, chosen: bool) -> None:
    savings = history.savings
    with st.grid(min_column_width=160):
        always = show.UNKNOWN if savings.replicas_always_on is None else f"{savings.replicas_always_on:,.0f}"
        why = "as chosen" if chosen else "the most seen"
        _figure("Always on", _hours(savings.always_on_replica_seconds), f"{always}, {why}")
        _figure("Measured", _hours(savings.measured_replica_seconds), "by heartbeats")
        _figure("Saved", _hours(savings.saved_replica_seconds), _share(savings))
        if savings.saved is not None:
            note = f"at {savings.price_per_replica_hour or 0:,.2f} a replica-hour"
            _figure("Saved, in money", f"{savings.saved:,.2f}", note)
    if (savings.saved_replica_seconds or 0) < 0:
        st.warning("More ran than the number that is always on in this comparison: nothing was saved in this window.")
    asked, known = show.between(history.since, history.until), savings.window_seconds
    part = f", of which {show.age(known)} are known" if (known or 0) + show.MINUTE < (asked or 0) else ""
    st.caption(
        f"Window: {show.age(asked)}, {show.clock(history.since)} to {show.clock(history.until)}{part}. "
        "Saved is always on less measured, in time of replicas. Tokens cost the same either way."
    )


def _figure(label: str, value: str, note: str) -> None:
    st.metric(label, value, note, delta_color="off", delta_arrow="off", border=True)


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return show.UNKNOWN
    return f"{seconds / show.HOUR:,.1f} h" if abs(seconds) >= show.HOUR else f"{seconds / show.MINUTE:,.1f} min"


def _share(savings: Savings) -> str:
    saved, always = savings.saved_replica_seconds, savings.always_on_replica_seconds
    return f"{saved / always:.0%} of always on" if saved is not None and always else "no comparison"


def _draw(history: History) -> None:
    steps = [step for step in history.series if step.at is not None]
    if not steps:
        st.caption("No replica has run in this window, or nothing is known of it.")
        return
    st.subheader("Replicas over time")
    if len(steps) == 1:  # of which no area can be drawn
        st.caption(f"It is drawn as soon as there are two steps, of {show.age(history.step_seconds)} each.")
        return
    values = [
        {"time": step.at.isoformat(), "replicas": step.replica_seconds / history.step_seconds}
        for step in steps
        if step.at is not None
    ]
    st.vega_lite_chart(_chart(values), height=240)


def _chart(values: list[dict[str, Any]]) -> dict[str, Any]:
    time = {"field": "time", "type": "temporal", "title": None}
    replicas = {"field": "replicas", "type": "quantitative", "title": None}
    return {
        "data": {"values": values},
        "mark": {"type": "area", "color": GREEN},
        "encoding": {
            "x": {**time, "axis": {"labelExpr": CLOCK, "grid": False, "ticks": False}},
            "y": replicas,
            "tooltip": [{**time, "format": "%Y-%m-%d %H:%M"}, {**replicas, "format": ".2~f"}],
        },
    }
