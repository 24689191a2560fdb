"""Now: what waits and runs, why nothing moves, who works, and how fast."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

import streamlit as st

from greenscale_dashboard import gateway, show
from greenscale_dashboard.errors import GatewayError
from greenscale_dashboard.records import History, Stats, Step, Worker

Answer = TypeVar("Answer")
EVERY_SECONDS: Final = 2.0
HISTORY_SECONDS: Final = 15.0
MOST_WORKERS: Final = 24  # as cards; what there is beyond is counted
MOST_RUNS: Final = 5  # per worker
SHOWN: Final = ("waiting", "running", "delayed", "held", "scheduled", "dead")
CLASSES: Final = ("interactive", "standard", "background")
MEANS: Final = {
    "waiting": "No worker has taken it yet.",
    "running": "A worker is on it.",
    "delayed": "A call failed; it is tried again later.",
    "held": "Calls fail for many; it waits until another job succeeds.",
    "scheduled": "Not due yet.",
    "dead": "Given up, with the reason kept. Replay it on the page Jobs.",
}


def page() -> None:
    """Draw the page."""
    st.set_page_config(layout="wide")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.title("Now", width="stretch")
        live = st.toggle("Live", value=True, key="now_live", help="Off: the numbers stay as they are.")
    st.fragment(_present, run_every=EVERY_SECONDS if live else None)(live=live)
    st.fragment(_past, run_every=HISTORY_SECONDS if live else None)(live=live)


def _kept(name: str, ask: Callable[[], Answer], *, live: bool) -> Answer:
    """Ask, or, while the page is paused, return what was last answered: a pause is meant."""
    if live or name not in st.session_state:
        st.session_state[name] = ask(), datetime.now(UTC)
    answer: Answer = st.session_state[name][0]
    return answer


def _present(*, live: bool) -> None:
    try:
        stats = _kept("now_stats", gateway.from_environment().stats, live=live)
    except GatewayError as error:
        show.trouble(error)
        return
    if not live:
        st.info(f"Paused. These are the numbers of {show.clock(st.session_state['now_stats'][1])}.")
    _reasons(stats)
    _depth(stats)
    _workers(stats.workers)


def _reasons(stats: Stats) -> None:
    for reason in stats.reasons:
        st.warning(show.plain(reason), icon=":material/pause_circle:")
    if stats.paused and not stats.reasons:
        st.warning("The queue is paused: `greenscale-worker resume` lets it go on.", icon=":material/pause_circle:")


def _depth(stats: Stats) -> None:
    with st.grid(min_column_width=140):
        for name in SHOWN:
            number = stats.depth.get(name)
            shown = show.UNKNOWN if number is None else f"{number:,}"
            st.metric(name.capitalize(), shown, border=True, help=MEANS[name])
        st.metric("Oldest", show.age(stats.oldest_seconds), border=True, help="How long it has waited.")
    told = [f"Queue {show.literal(stats.queue)}"]
    if waiting := [f"{stats.depth[name]:,} {name}" for name in CLASSES if stats.depth.get(name)]:
        told.append("waiting: " + ", ".join(waiting))
    if stats.rate_per_second:
        told.append(pace(stats.rate_per_second))
    if stats.remaining_seconds is not None:
        told.append(f"all done in about {show.age(stats.remaining_seconds)}")
    st.caption(" · ".join(told))


def pace(per_second: float) -> str:
    """Write how many jobs end per second, or per minute where that is less than one."""
    return f"{per_second:,.1f} jobs/s" if per_second >= 1 else f"{per_second * show.MINUTE:,.1f} jobs/min"


def _workers(workers: Sequence[Worker]) -> None:
    st.subheader(f"Workers: {len(workers):,}")
    if not workers:
        st.caption("None. They come with the first job where KEDA scales them; else start one: `greenscale-worker`.")
    with st.grid(min_column_width=320):
        for worker in sorted(workers, key=lambda each: each.name)[:MOST_WORKERS]:
            _card(worker)
    if len(workers) > MOST_WORKERS:
        st.caption(f"And {len(workers) - MOST_WORKERS:,} more.")


def _card(worker: Worker) -> None:
    lanes = "" if worker.lanes is None else f" of {worker.lanes} {'lane' if worker.lanes == 1 else 'lanes'}"
    lines = [
        f"**{show.literal(worker.name)}**",
        f":small[runs {len(worker.running)}{lanes} · heartbeat {show.age(worker.beat_seconds)} ago]",
    ]
    for run in worker.running[:MOST_RUNS]:
        again = f" (run {run.attempts})" if (run.attempts or 0) > 1 else ""
        lines.append(f":small[{show.literal(run.id)} for {show.age(run.since_seconds)}{again}]")
    if len(worker.running) > MOST_RUNS:
        lines.append(f":small[and {len(worker.running) - MOST_RUNS} more]")
    with st.container(border=True):
        st.markdown("  \n".join(lines))
        if worker.why:
            st.markdown(f":small[:orange[{show.plain(worker.why)}]]")


def _past(*, live: bool) -> None:
    try:
        history = _kept("now_history", lambda: gateway.from_environment().history("1h", 60), live=live)
    except GatewayError as error:
        if error.kind not in {"away", "queue", "key"}:  # those are told above
            show.trouble(error)
        return
    st.subheader("The last hour, by minute")
    if not history.series:
        st.caption("Nothing has run yet.")
        return
    _charts(history)


def _charts(history: History) -> None:
    steps = history.series
    ended, failed = sum(step.ended for step in steps), sum(step.failed for step in steps)
    calls = sum(step.call_seconds for step in steps)
    with st.grid(4, min_column_width=160):
        _chart("Ended", f"{ended:,.0f}", [step.ended for step in steps], f"{failed:,.0f} failed")
        mean = f"{calls / ended:,.1f} s" if ended else show.UNKNOWN
        _chart("Mean call", mean, [_mean(step) for step in steps], "in calls, per job")
        written = sum(step.completion_tokens for step in steps)
        read = sum(step.prompt_tokens for step in steps)
        _chart("Tokens out", f"{written:,.0f}", [step.completion_tokens for step in steps], f"{read:,.0f} in")
        peak = max(step.replicas_peak for step in steps)
        _chart("Most replicas", f"{peak:,.0f}", [step.replicas_peak for step in steps], "at once")


def _mean(step: Step) -> float:
    return step.call_seconds / step.ended if step.ended else 0.0


def _chart(label: str, value: str, series: Sequence[float], note: str) -> None:
    st.metric(label, value, note, delta_color="primary", delta_arrow="off", border=True,
              chart_data=list(series), chart_type="area")  # fmt: skip
