"""What lists of jobs, dead letters and batches have in common: rows, pages, questions before something is done."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import streamlit as st

from greenscale_dashboard import show
from greenscale_dashboard.errors import GatewayError

BADGE: Final = 95  # pixels, so that ids stand below each other
JOB, LETTER, BATCH = "job", "letter", "batch"  # in the address: which one is open


@contextmanager
def outcome() -> Iterator[None]:
    """Say what became of the last thing that was done, above what the block draws; once, unless it is drawn anew."""
    if done := st.session_state.get("done"):
        st.success(done, icon=":material/check:")
    if error := st.session_state.get("not_done"):
        show.trouble(error)
    yield
    for name in ("done", "not_done"):
        st.session_state.pop(name, None)


def confirm(label: str, question: str, answer: str, work: Callable[[], str]) -> None:
    """Offer something that is not taken back lightly: with a question first. `work` returns what it did."""
    with st.popover(label):
        st.markdown(question)
        st.button(answer, type="primary", on_click=_act, args=(work,), key=f"yes-{label}")


def _act(work: Callable[[], str]) -> None:
    try:
        st.session_state["done"] = work()
    except GatewayError as error:
        st.session_state["not_done"] = error


class Pages:
    """Which page of a list is shown. The gateway knows pages by the last id of the one before."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._cursors: list[str] = st.session_state.setdefault(f"{name}_pages", [])

    @property
    def after(self) -> str | None:
        """Behind which id the page begins; None: the first."""
        return self._cursors[-1] if self._cursors else None

    def begin_anew(self) -> None:
        """Show the first page next."""
        self._cursors.clear()

    def turn(self, after: str | None) -> None:
        """Draw what leads to the page before and to the one that begins after this id."""
        if not self._cursors and after is None:
            return
        with st.container(horizontal=True, horizontal_alignment="center", vertical_alignment="center"):
            back, more = f"{self._name}-back", f"{self._name}-more"
            st.button("Back", icon=":material/chevron_left:", disabled=not self._cursors, on_click=self._back, key=back)
            st.caption(f"Page {len(self._cursors) + 1}", width="content")
            st.button("More", disabled=after is None, on_click=self._forth, args=(after,), key=more)

    def lost(self, error: GatewayError) -> None:
        """Say that this page cannot be shown; what it began after may be gone meanwhile."""
        show.trouble(error)
        if self._cursors:
            st.button("First page", on_click=self.begin_anew, key=f"{self._name}-first")

    def _back(self) -> None:
        self._cursors.pop()

    def _forth(self, after: str) -> None:
        self._cursors.append(after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row of a list. `badge` and `told` are Markdown; `which` is what opens, `label` the id to show."""

    which: str
    label: str
    badge: str
    told: str


def draw(name: str, lines: Sequence[Line]) -> None:
    """Draw rows; a click on an id opens it, in the address as `name`."""
    rows = st.container(gap="xxsmall")
    for number, line in enumerate(lines):
        with rows.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(line.badge, width=BADGE)
            if line.which:
                st.button(
                    show.literal(line.label),
                    type="tertiary",
                    key=f"{name}-{number}",
                    on_click=open_one,
                    args=(name, line.which),
                )
            else:
                st.caption("no id", width="content")
            st.caption(line.told, width="content")


def open_one(name: str, which: str) -> None:
    """Open the job, letter or batch with this id."""
    st.query_params[name] = which


def close(name: str) -> None:
    """Close what is open."""
    st.query_params.pop(name, None)


def heading(name: str, which: str) -> None:
    """Draw the head of what is open: its id, to be copied, and what closes it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.code(which, language=None, wrap_lines=True)
        st.button("Close", on_click=close, args=(name,), key=f"close-{name}", type="tertiary", icon=":material/close:")


def facts(named: Sequence[tuple[str, str]]) -> None:
    """Draw names and values, the latter in Markdown; those that are unknown are left out."""
    with st.grid(min_column_width=150, gap="small"):
        for name, value in named:
            if value not in {"", show.UNKNOWN}:
                st.markdown(f":small[:gray[{name}]]  \n{value}")


def number(value: int | None) -> str:
    """Write a count that may be unknown."""
    return "" if value is None else f"{value:,}"
