"""Ask: type a prompt and watch the answer come, or be told where to find it later."""

import time
import uuid
from typing import Any, Final

import streamlit as st

from greenscale_dashboard import gateway, show
from greenscale_dashboard.errors import GatewayError
from greenscale_dashboard.reading import text
from greenscale_dashboard.records import Job

WAIT_SECONDS: Final = 60.0  # after which the page says where to find the answer later
POLL_SECONDS: Final = 0.7
SLOW_POLL_SECONDS: Final = 5.0
LISTEN_SECONDS: Final = 0.25  # for pieces of the answer, within each poll
ASKED: Final = "job"  # in the address, so that the page finds its job again after a reload
SAYS: Final = {
    "waiting": "Waits for a worker",
    "scheduled": "Is not due yet",
    "running": "A worker is on it",
    "delayed": "A call failed; it is tried again",
    "held": "Calls fail; it waits until another job succeeds",
    "cancelling": "Will be cancelled",
}


def page() -> None:
    """Draw the page."""
    st.title("Ask")
    _form()
    if error := st.session_state.get("ask_error"):
        show.trouble(error)
        if error.kind in {"away", "queue"}:
            st.caption("Press Ask again then: under the id in this form the job is not run twice.")
    if asked := st.query_params.get(ASKED):
        _watch(asked)


def _form() -> None:
    st.session_state.setdefault("ask_id", str(uuid.uuid4()))
    with st.form("ask", border=False):
        st.text_area("Prompt", key="ask_prompt", height=140, placeholder="What shall the model answer?")
        with st.expander("Id, model and limits"):
            st.text_input("Job id", key="ask_id", help="The same id again is the same job, and is not run twice.")
            st.text_input("Model", key="ask_model", placeholder="the worker's")
            left, right = st.columns(2)
            left.number_input("Temperature", 0.0, 2.0, None, 0.1, key="ask_temperature", placeholder="the endpoint's")
            right.number_input("Most tokens", 1, None, None, 1, key="ask_max_tokens", placeholder="the worker's")
            st.checkbox("Show the answer as it is written", value=True, key="ask_tokens")
        st.form_submit_button("Ask", type="primary", on_click=_submit, icon=":material/send:")


def _submit() -> None:
    """Hand the job in. On success the form gets a new id; on failure it keeps the old one, to be sent again safely."""
    st.session_state.pop("ask_error", None)
    body = _body()
    if not body["prompt"].strip():
        st.session_state["ask_error"] = GatewayError("refused", "There is no prompt.", "Type one, then ask.")
        return
    try:
        job = gateway.from_environment().submit(body)
    except GatewayError as error:
        st.session_state["ask_error"] = error
        return
    st.query_params[ASKED] = job.id or body["job_id"]
    st.session_state["ask_id"] = str(uuid.uuid4())


def _body() -> dict[str, Any]:
    said = st.session_state
    body = {
        "job_id": said["ask_id"].strip() or str(uuid.uuid4()),
        "prompt": said["ask_prompt"],
        "model": said["ask_model"].strip() or None,
        "temperature": said["ask_temperature"],
        "max_tokens": said["ask_max_tokens"],
        "tokens": said["ask_tokens"] or None,
    }
    return {name: value for name, value in body.items() if value is not None}


class Watch:
    """What this page knows of the job it watches: since when, and the pieces of its answer so far."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.began = time.monotonic()
        self.written = ""
        self.ended = False
        self._last_event = ""

    @property
    def patient(self) -> bool:
        """Whether the answer is still expected while one waits for it."""
        return time.monotonic() - self.began < WAIT_SECONDS

    def listen(self, asked: gateway.Gateway) -> None:
        """Take in what was written since. A gateway that tells no events costs nothing but the pieces."""
        try:
            events = asked.events(self.job_id, self._last_event, LISTEN_SECONDS)
        except GatewayError:
            return
        for event in events:
            if event.kind == "restart":  # its id is that of the piece behind it, which may come with the next call
                self.written = ""
            elif event.kind == "token" and (piece := text(event.data.get("text"))):
                self.written += piece
                self._last_event = event.id or self._last_event


def _watch(job_id: str) -> None:
    watch = st.session_state.get("watch")
    if watch is None or watch.job_id != job_id:
        watch = st.session_state["watch"] = Watch(job_id)
    every = None if watch.ended else POLL_SECONDS if watch.patient else SLOW_POLL_SECONDS
    st.fragment(_follow, run_every=every)(watch)


def _follow(watch: Watch) -> None:
    """Show the job as it stands. The browser calls this again and again, until the job has ended."""
    asked = gateway.from_environment()
    was_patient, had_ended = watch.patient, watch.ended
    try:
        job = asked.job(watch.job_id)
    except GatewayError as error:
        show.trouble(error)
        st.caption(f"Job {show.literal(watch.job_id)} is not lost by this. This page looks again by itself.")
        return
    watch.ended = job.ended
    if job.ended:
        _end(job)
    else:
        watch.listen(asked)
        _wait(job, watch)
    if watch.ended != had_ended or watch.patient != was_patient:
        st.rerun()  # the clock of the browser is set anew


def _wait(job: Job, watch: Watch) -> None:
    says = SAYS.get(job.state, show.plain(job.state))
    waited = show.age(time.monotonic() - watch.began)
    status = st.status(f"{says} ({waited})", state="running", expanded=True)
    with status.container():  # leaving the status itself would end its spinner
        st.caption(f"Job {show.literal(watch.job_id)}" + (f", {_whereabouts(job)}" if job.worker else ""))
        if job.code or job.message:
            st.warning(show.plain(f"{job.code}: {job.message or ''}"), icon=":material/history:")
        if watch.written:
            st.code(watch.written[-show.LONGEST_SHOWN :], language=None, wrap_lines=True)
    if not watch.patient:
        st.info(
            "This takes longer. You may leave: the job goes on, and its answer is kept. Find it later with",
            icon=":material/schedule:",
        )
        st.code(f"greenscale-worker status {watch.job_id}", language="bash", wrap_lines=True)
        st.caption("or by its id on the page Jobs. The address of this page leads back here, too.")


def _whereabouts(job: Job) -> str:
    again = f", run {job.attempts}" if (job.attempts or 0) > 1 else ""
    crashes = f", taken over after {job.crashes} crash{'es' if job.crashes > 1 else ''}" if job.crashes else ""
    return f"worker {show.literal(job.worker or '')}{again}{crashes}"


def _end(job: Job) -> None:
    took = show.age(show.between(job.submitted_at, job.finished_at))
    if job.state == "succeeded":
        with st.status(f"Answered after {took}", state="complete", expanded=True):
            st.caption(_account(job))
            if job.result is None:
                st.warning("The gateway has the record of this job, but not its answer.")
            else:
                show.answer(job.result, "ask")
        return
    with st.status(f"{job.state.capitalize()} after {took}", state="error", expanded=True):
        st.caption(_account(job))
        if job.state == "cancelled":
            st.info("Somebody cancelled this job.")
            return
        st.error(
            show.plain(f"{job.code or 'no code'}: {job.message or 'no reason was given'}"), icon=":material/error:"
        )
        st.caption("It is kept as a dead letter: once the cause is mended, it can be replayed on the page Jobs.")


def _account(job: Job) -> str:
    tokens = f"{job.prompt_tokens:,} tokens in" if job.prompt_tokens is not None else ""
    out = f"{job.completion_tokens:,} out" if job.completion_tokens is not None else ""
    model = show.literal(job.model) if job.model else ""
    cut = "cut off at the limit of tokens" if job.finish_reason == "length" else ""
    return " · ".join(filter(None, (f"Job {show.literal(job.id)}", model, tokens, out, cut)))
