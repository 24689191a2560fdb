"""Dead letters: jobs that will not run again unless they are replayed, by code, one or all of them."""

from typing import Final

import streamlit as st

from greenscale_dashboard import gateway, lists, show
from greenscale_dashboard.errors import GatewayError
from greenscale_dashboard.lists import LETTER, Line, Pages
from greenscale_dashboard.records import DeadLetter

LONGEST_REASON: Final = 160  # characters in the list; a letter that is open has all of it


def view() -> None:
    """Draw the list, and the letter that is open."""
    asked, pages = gateway.from_environment(), Pages("dead")
    try:
        code = _choose(asked.dead_codes(), pages)
        if opened := st.query_params.get(LETTER):
            _letter(opened)
        found = asked.dead(code=code, after=pages.after)
    except GatewayError as error:
        pages.lost(error)
        return
    if not found.rows:
        st.caption("There are no dead letters.")
    lists.draw(LETTER, [_line(letter) for letter in found.rows])
    pages.turn(found.after)


def offer_replay(letter_id: str) -> None:
    """Offer to replay a letter, by its id or its job's, with a question first."""
    question = "**Replay it?** Its job runs again with a clean record, and is paid for again."
    lists.confirm("Replay", question, "Yes, replay it", lambda: _replay(letter_id))


def _choose(codes: dict[str, int], pages: Pages) -> str | None:
    """Let the reader choose a code, and replay all that have it."""
    wanted = st.session_state.get("dead_code")
    if wanted not in codes:
        st.session_state["dead_code"] = wanted = None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox(
            "Code",
            list(codes),
            key="dead_code",
            placeholder=f"all ({sum(codes.values()):,})",
            format_func=lambda code: f"{code} ({codes[code]:,})",
            on_change=pages.begin_anew,
            width=330,
        )
        if wanted is not None:
            question = f"**Replay all {codes[wanted]:,} dead letters** with the code {show.literal(wanted)}, however"
            question += " old? Their jobs run again, and are paid for again."
            lists.confirm("Replay all of these", question, "Yes, replay them", lambda: _replay_code(wanted, pages))
        st.button("Refresh", icon=":material/refresh:")
    return wanted


def _line(letter: DeadLetter) -> Line:
    message = letter.message or ""
    reason = show.plain(message[:LONGEST_REASON] + ("…" if len(message) > LONGEST_REASON else ""))
    return Line(
        which=letter.id,
        label=letter.job_id or letter.id,
        badge=f":red-badge[{show.plain(letter.code)}]",
        told=f"{show.clock(letter.died_at)} · {reason}",
    )


def _letter(letter_id: str) -> None:
    with st.container(border=True):
        lists.heading(LETTER, letter_id)
        with show.troubles():
            letter = gateway.from_environment().dead_letter(letter_id)
            job, runs = show.literal(letter.job_id or ""), lists.number(letter.attempts)
            lists.facts((("Job", job), ("Died", show.clock(letter.died_at)), ("Runs", runs)))
            st.error(show.plain(f"{letter.code}: {letter.message or ''}"))
            if letter.payload is not None:
                with st.expander("Payload"):
                    st.code(letter.payload[: show.LONGEST_SHOWN], language=None, wrap_lines=True)
            offer_replay(letter_id)


def _replay(letter_id: str) -> str:
    gateway.from_environment().replay(letter_id)
    lists.close(LETTER)
    st.session_state["record_ended"] = None  # if it is the job that is open, it is followed again
    return f"{show.literal(letter_id)} is replayed: its job waits for a worker."


def _replay_code(code: str, pages: Pages) -> str:
    replayed = gateway.from_environment().replay_code(code)
    pages.begin_anew()
    return f"{'All' if replayed is None else f'{replayed:,}'} with the code {show.literal(code)} are replayed."
