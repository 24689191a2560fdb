"""Decides which output is coloured."""

import os
from typing import TextIO


def coloured(stream: TextIO | None) -> bool:
    """Return whether to colour a stream: it is a terminal, and NO_COLOR (https://no-color.org) is not set."""
    seen = stream is not None and stream.isatty()
    return seen and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
