"""tqdm's bar, or none where tqdm is not installed: it is no part of what a worker needs."""

from contextlib import nullcontext
from typing import Any, Self


class NoBar:
    """Stands in for tqdm's, as far as that is used here, and shows nothing."""

    disable = True

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take what tqdm takes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""

    @staticmethod
    def external_write_mode() -> nullcontext[None]:
        """Make no room for a line: nothing is in its way."""
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
