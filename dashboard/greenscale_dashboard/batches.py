"""Batches: hand in a file of requests, see how far each batch is, cancel it, get its answers, ask again what failed."""

import uuid
from typing import Final, Literal

import streamlit as st

from greenscale_dashboard import gateway, lists, show
from greenscale_dashboard.errors import GatewayError
from greenscale_dashboard.lists import BATCH, Line, Pages
from greenscale_dashboard.records import Batch, Fault

EVERY_SECONDS: Final = 2.0
ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
WINDOWS: Final = ("1h", "24h", "7d")
MOST_MB: Final = 200
PARTS: Final[tuple[tuple[Literal["output", "errors"], str], ...]] = (("output", "answers"), ("errors", "errors"))
MOST_FAULTS: Final = 50


def page() -> None:
    """Draw the page."""
    st.title("Batches")
    with lists.outcome():
        _view()


def _view() -> None:
    pages = Pages("batches")
    _form()
    if opened := st.query_params.get(BATCH):
        _open(opened)
    try:
        found = gateway.from_environment().batches(after=pages.after)
    except GatewayError as error:
        pages.lost(error)
        return
    with st.container(horizontal=True, horizontal_alignment="right"):
        st.button("Refresh", icon=":material/refresh:")
    if not found.rows:
        st.caption("There are no batches.")
    lists.draw(BATCH, [_line(batch) for batch in found.rows])
    pages.turn(found.after)


def _form() -> None:
    st.session_state.setdefault("batch_key", str(uuid.uuid4()))
    with st.expander("Hand in a file", icon=":material/upload_file:"), st.form("batch", border=False):
        said = "One request a line, as in OpenAI's Batch: custom_id, method, url, body."
        st.file_uploader("File of requests", "jsonl", key="batch_file", max_upload_size=MOST_MB, help=said)
        left, right = st.columns(2)
        left.selectbox("Endpoint", ENDPOINTS, key="batch_endpoint")
        right.selectbox("To be done within", WINDOWS, 1, key="batch_window")
        st.form_submit_button("Begin", type="primary", on_click=_begin, icon=":material/send:")


def _begin() -> None:
    """Begin a batch. On failure the form keeps its key: pressed again, it begins no second one."""
    said = st.session_state
    if (file := said["batch_file"]) is None:
        said["not_done"] = GatewayError("refused", "There is no file.", "Choose one, then begin.")
        return
    try:
        batch = gateway.from_environment().create_batch(
            file.getvalue(),
            file.name,
            endpoint=said["batch_endpoint"],
            window=said["batch_window"],
            key=said["batch_key"],
        )
    except GatewayError as error:
        said["not_done"] = error
        return
    said["batch_key"] = str(uuid.uuid4())
    said["done"] = f"{show.literal(file.name)} is the batch {show.literal(batch.id)}."
    lists.open_one(BATCH, batch.id)


def _line(batch: Batch) -> Line:
    told = [show.clock(batch.created_at)]
    if batch.total:
        done = batch.completed if batch.ended else batch.completed + batch.failed
        told.append(f"{done:,} of {batch.total:,}" + " answered" * batch.ended)
    told += [f"{batch.failed:,} failed"] if batch.failed else []
    return Line(which=batch.id, label=batch.id, badge=show.badge(batch.status), told=" · ".join(told))


def _open(batch_id: str) -> None:
    """Show a batch, again and again until it has ended."""
    ended = st.session_state.get("batch_ended") == batch_id
    with st.container(border=True):
        st.fragment(_follow, run_every=None if ended else EVERY_SECONDS)(batch_id, ended=ended)


def _follow(batch_id: str, *, ended: bool) -> None:
    lists.heading(BATCH, batch_id)
    with show.troubles():
        batch = gateway.from_environment().batch(batch_id)
        _draw(batch_id, batch)
        if batch.ended != ended:
            st.session_state["batch_ended"] = batch_id if batch.ended else None
            st.rerun()


def _draw(batch_id: str, batch: Batch) -> None:
    st.markdown(show.badge(batch.status))
    done = f"{batch.completed:,} answered, {batch.failed:,} failed, of {batch.total:,}"
    if not batch.ended:
        st.progress(batch.share, done if batch.total else "Its lines are not counted yet.")
    elif batch.total:
        st.markdown(done)
    lists.facts(_facts(batch))
    if batch.faults:
        st.error("  \n".join(map(_told, batch.faults[:MOST_FAULTS])))
    with st.container(horizontal=True):
        for part, name in PARTS:
            if batch.completed if part == "output" else batch.failed:
                _offer(batch_id, part, name, so_far=not batch.ended)
        if not batch.ended and batch.status != "cancelling":
            question = "**Cancel this batch?** Lines that have not ended are not answered. Answers so far are kept."
            lists.confirm("Cancel", question, "Yes, cancel it", lambda: _cancel(batch_id))
        if batch.ended and batch.error_file_id:
            question = "**Ask the lines again that failed?** They are a batch of their own, and are paid for again."
            lists.confirm("Ask again what failed", question, "Yes, ask again", lambda: _resubmit(batch_id))


def _told(fault: Fault) -> str:
    where = "" if fault.line is None else f"line {fault.line:,}: "
    return show.plain(f"{where}{fault.code}: {fault.message}")


def _facts(batch: Batch) -> list[tuple[str, str]]:
    return [
        ("Begun", show.clock(batch.created_at)),
        ("Ends at the latest", show.clock(None if batch.ended else batch.expires_at)),
        ("Ended", show.clock(batch.ended_at)),
        ("In all", show.age(show.between(batch.created_at, batch.ended_at))),
        ("Endpoint", show.literal(batch.endpoint or "")),
        ("Model", show.literal(batch.model or "")),
    ]


def _offer(batch_id: str, part: Literal["output", "errors"], name: str, *, so_far: bool) -> None:
    """Offer the lines of a part: fetched when somebody asks for them, as they may be many."""
    ready = f"batch_{part}"
    label = f"Get the {name} so far" if so_far else f"Get the {name}"
    if st.button(label, key=f"get-{part}", icon=":material/download:"):
        st.session_state[ready] = (batch_id, gateway.from_environment().lines(batch_id, part))
    of, content = st.session_state.get(ready, (None, b""))
    if of == batch_id:
        size = f"{content.count(bytes([10])):,} lines"
        file = f"{batch_id}-{part}.jsonl"
        st.download_button(f"Save {size}", content, file, "application/jsonl", on_click="ignore", key=f"save-{part}")


def _cancel(batch_id: str) -> str:
    batch = gateway.from_environment().cancel_batch(batch_id)
    if batch.ended and batch.status != "cancelled":
        return f"Batch {show.literal(batch_id)} had ended before: {show.badge(batch.status)}"
    return f"Batch {show.literal(batch_id)} is being cancelled. Answers so far are kept."


def _resubmit(batch_id: str) -> str:
    batch = gateway.from_environment().resubmit(batch_id)
    lists.open_one(BATCH, batch.id)
    return f"What failed is the batch {show.literal(batch.id)}."
