"""What a terminal shows."""

import os
from contextlib import suppress


def read_terminal(terminal: int) -> str:
    """Return all that is written until nobody has the other side of the terminal open any more, and close it."""
    seen = b""
    with suppress(OSError):  # the other side is closed
        while part := os.read(terminal, 65536):  # a part only: a terminal hands on what it is given bit by bit
            seen += part
    os.close(terminal)
    return seen.decode()
