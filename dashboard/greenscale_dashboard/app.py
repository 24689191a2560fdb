"""The page: its parts, and what each of them is called."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import streamlit as st

from greenscale_dashboard import ask, batches, jobs, now, savings

ICON: Final = Path(__file__).with_name("icon.png")  # a file of ours: one of Streamlit's would come from a font server
PAGES: Final[tuple[tuple[Callable[[], None], str, str], ...]] = (
    (ask.page, "Ask", ":material/chat:"),
    (now.page, "Now", ":material/monitoring:"),
    (jobs.page, "Jobs", ":material/list:"),
    (batches.page, "Batches", ":material/stacks:"),
    (savings.page, "Savings", ":material/eco:"),
)


def main() -> None:
    """Draw the part that the reader chose."""
    st.set_page_config("GreenScale", ICON, initial_sidebar_state="collapsed")
    pages = [
        st.Page(page, title=title, icon=icon, url_path=title.lower(), default=title == "Ask")
        for page, title, icon in PAGES
    ]
    st.navigation(pages, position="top").run()


if __name__ == "__main__":
    main()
