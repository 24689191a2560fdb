"""How the page shows what comes from outside: text as text, whatever it holds, and times and numbers for people."""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from greenscale_dashboard.errors import GatewayError

UNKNOWN: Final = "-"
LONGEST_SHOWN: Final = 20_000  # characters of a text; a browser gets slow with more, and all of it can be downloaded
LONGEST_NAME: Final = 140  # an id has 128 at most
PUNCTUATION: Final = re.compile(r"([!-/:-@\[-`{-~])")  # what Markdown takes a backslash before
WORD_JOINER: Final = "\u2060"  # no width: keeps `:smile:` and `https:` from being taken for more than text
COLOURS: Final = {
    "running": "blue",
    "succeeded": "green",
    "failed": "red",
    "held": "orange",
    "delayed": "orange",
    "cancelled": "gray",
    "cancelling": "gray",
    "validating": "blue",
    "in_progress": "blue",
    "finalizing": "blue",
    "completed": "green",
    "expired": "orange",
}
MINUTE, HOUR, DAY = 60, 3_600, 86_400


def literal(text: str) -> str:
    """Write an id or a name in Markdown as code, whatever it holds."""
    shown = _printable(text)
    if len(shown) > LONGEST_NAME:
        shown = f"{shown[:LONGEST_NAME]}…"
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    pad = " " if not shown.strip() or "`" in (shown[0], shown[-1]) else ""
    return f"{fence}{pad}{shown}{pad}{fence}" if shown else UNKNOWN


def plain(text: str) -> str:
    """Write a sentence in Markdown so that it reads as it is, without markup, links, formulas and pictures."""
    return PUNCTUATION.sub(r"\\\1", _printable(text)).replace(":", ":" + WORD_JOINER)


def _printable(text: str) -> str:
    return "".join("�" if unicodedata.category(char) in {"Cc", "Cf", "Cs"} else char for char in " ".join(text.split()))


def answer(text: str, key: str) -> None:
    """Show an answer as text; as Markdown only where the reader chooses so."""
    shown = text[:LONGEST_SHOWN]
    if st.toggle("As Markdown", key=f"{key}-markdown", help="Loads pictures that the answer names, if any."):
        st.container(border=True).markdown(shown)
    else:
        st.code(shown, language=None, wrap_lines=True)
    if len(text) > LONGEST_SHOWN:
        st.caption(f"The first {LONGEST_SHOWN:,} of {len(text):,} characters.")
        st.download_button("Download all of it", text, "answer.txt", "text/plain", on_click="ignore", key=f"{key}-all")


def trouble(error: GatewayError) -> None:
    """Show an error: what is wrong, what the other side says, what to do."""
    said = f"  \n{plain(error.detail)}" if error.detail else ""
    st.error(f"**{plain(error.problem)}**{said}  \n{error.remedy}", icon=":material/error:")


@contextmanager
def troubles() -> Iterator[None]:
    """Show what the gateway cannot do, instead of the rest of the block."""
    try:
        yield
    except GatewayError as error:
        trouble(error)


def badge(state: str) -> str:
    """Write a state in Markdown, coloured."""
    return f":{COLOURS.get(state, 'gray')}-badge[{plain(state)}]"


def age(seconds: float | None) -> str:
    """Write a duration with its two largest units; one that is negative, as clocks differ, as none."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, round(seconds))
    for unit, name, below, of_below in ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "min"), (MINUTE, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit:,} {name}" + (f" {rest} {of_below}" if rest else "")
    return f"{whole} s"


def between(begin: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds from one time to another."""
    return None if begin is None or end is None else (end - begin).total_seconds()


def clock(when: datetime | None) -> str:
    """Write a time in the reader's zone, with the date unless it is today."""
    if when is None:
        return UNKNOWN
    with suppress(OverflowError):  # the first and the last day of all
        local = when.astimezone(_zone())
        return f"{local:%H:%M:%S}" if local.date() == datetime.now(_zone()).date() else f"{local:%Y-%m-%d %H:%M:%S}"
    return when.isoformat()


def _zone() -> tzinfo:
    with suppress(ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo(st.context.timezone or "UTC")
    return UTC
