"""Ctrl-C while a command starts: it ends at once, without a message.

A KeyboardInterrupt during an import may be swallowed, or crash the extension that is just being loaded.
"""

import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

INTERRUPTED: Final = 130

Result = TypeVar("Result")


@contextmanager
def ends_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process with 130, until `run` or the end of the block, unless another handler is set."""
    try:
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, _end)
    except ValueError:  # not the main thread, which alone may set handlers
        ours = False
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's coroutine; from now on Ctrl-C is handled by asyncio.run, as a KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    import asyncio  # takes 30 ms, in which Ctrl-C must still end the process

    return asyncio.run(work)


def _end(*_: object) -> None:
    os._exit(INTERRUPTED)
