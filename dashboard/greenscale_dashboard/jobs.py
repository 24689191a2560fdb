"""Jobs: which there are, the record of one, and what can be done about it: cancel, replay."""

from typing import Final

import streamlit as st

from greenscale_dashboard import dead, gateway, lists, show
from greenscale_dashboard.errors import GatewayError
from greenscale_dashboard.lists import JOB, Line, Pages
from greenscale_dashboard.records import STATES, Job

EVERY_SECONDS: Final = 2.0
LIVE, DEAD = "Jobs", "Dead letters"


def page() -> None:
    """Draw the page."""
    st.title("Jobs")
    views = (LIVE, DEAD)
    view = st.segmented_control("Show", views, default=LIVE, required=True, key="view", label_visibility="collapsed")
    with lists.outcome():
        (dead.view if view == DEAD else _view)()


def _view() -> None:
    pages = Pages("jobs")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        state = st.selectbox(
            "State", STATES, None, placeholder="all", key="jobs_state", width=150, on_change=pages.begin_anew
        )
        code = st.text_input("Code", placeholder="all", key="jobs_code", width=150, on_change=pages.begin_anew).strip()
        st.text_input("Find by id", key="jobs_find", width=250, on_change=_find)
        st.button("Refresh", icon=":material/refresh:")
    if opened := st.query_params.get(JOB):
        _record(opened)
    try:
        found = gateway.from_environment().jobs(state=state, code=code or None, after=pages.after)
    except GatewayError as error:
        pages.lost(error)
        return
    if not found.rows:
        st.caption("There are no such jobs. Ended ones are listed until their records expire.")
    lists.draw(JOB, [_line(job) for job in found.rows])
    pages.turn(found.after)


def _find() -> None:
    if wanted := st.session_state["jobs_find"].strip():
        lists.open_one(JOB, wanted)


def _line(job: Job) -> Line:
    ran = show.between(job.claimed_at, job.finished_at)
    told = [show.clock(job.finished_at or job.claimed_at or job.submitted_at)]
    told += [f"ran {show.age(ran)}"] if ran is not None else []
    told += [f"run {job.attempts}"] if (job.attempts or 0) > 1 else []
    told += [show.literal(job.code)] if job.code else []
    return Line(which=job.id, label=job.id, badge=show.badge(job.state), told=" · ".join(told))


def _record(job_id: str) -> None:
    """Show a job, again and again until it has ended."""
    ended = st.session_state.get("record_ended") == job_id
    with st.container(border=True):
        st.fragment(_follow, run_every=None if ended else EVERY_SECONDS)(job_id, ended=ended)


def _follow(job_id: str, *, ended: bool) -> None:
    lists.heading(JOB, job_id)
    with show.troubles():
        job = gateway.from_environment().job(job_id)
        _draw(job_id, job)
        if job.ended != ended:
            st.session_state["record_ended"] = job_id if job.ended else None
            st.rerun()


def _draw(job_id: str, job: Job) -> None:
    st.markdown(show.badge(job.state))
    lists.facts(_facts(job))
    if job.code or job.message:
        reason = show.plain(f"{job.code or 'no code'}: {job.message or ''}")
        (st.error if job.state == "failed" else st.warning)(reason)
    if job.metadata:
        with st.expander("Metadata"):
            st.json(dict(job.metadata))
    if job.result is not None:
        with st.expander("Answer", expanded=True):
            show.answer(job.result, "record")
    if not job.ended:
        question = "**Cancel this job?** A call that is under way ends, and what it cost is paid."
        lists.confirm("Cancel", question, "Yes, cancel it", lambda: _cancel(job_id))
    if job.state == "failed":
        dead.offer_replay(job_id)


def _facts(job: Job) -> list[tuple[str, str]]:
    counts = ((job.prompt_tokens, "in"), (job.completion_tokens, "out"))
    return [
        ("Submitted", show.clock(job.submitted_at)),
        ("Last claimed", show.clock(job.claimed_at)),
        ("Due", show.clock(job.due_at)),
        ("Ended", show.clock(job.finished_at)),
        ("Ran for", show.age(show.between(job.claimed_at, job.finished_at))),
        ("In all", show.age(show.between(job.submitted_at, job.finished_at))),
        ("Runs", lists.number(job.attempts)),
        ("Crashes", lists.number(job.crashes or None)),
        ("Tokens", ", ".join(f"{count:,} {way}" for count, way in counts if count is not None)),
        ("Finish reason", show.plain(job.finish_reason or "")),
        ("Class", show.plain(job.job_class or "")),
        ("Tenant", show.plain(job.tenant or "")),
        ("Model", show.literal(job.model or "")),
        ("Worker", show.literal(job.worker or "")),
    ]


def _cancel(job_id: str) -> str:
    job = gateway.from_environment().cancel(job_id)
    if job.state == "cancelled":
        return f"Job {show.literal(job_id)} is cancelled."
    if job.ended:
        return f"Job {show.literal(job_id)} had ended before: {show.badge(job.state)}"
    return f"Job {show.literal(job_id)} will be cancelled when a worker comes to it."
