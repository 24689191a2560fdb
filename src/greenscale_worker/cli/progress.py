"""tqdm's bar, or a silent stand-in if tqdm, which a worker does not need, is not installed."""

from contextlib import nullcontext
from typing import Any, Self


class NoBar:
    """Has the methods of tqdm's bar that are used here, and shows nothing."""

    disable = True

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take what tqdm takes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""

    @staticmethod
    def external_write_mode() -> nullcontext[None]:
        """Do nothing: there is no bar to write above."""
        return nullcontext()

    def set_postfix(self, *_: Any, **__: Any) -> None:
        """Show nothing."""

    update = clear = close = set_postfix


Bar: Any = NoBar
try:
    from tqdm import tqdm
except ImportError:
    pass
else:
    Bar = tqdm
