"""What a model, or a request to it, may be refused with."""

from __future__ import annotations

from typing import Any

_LONGEST = 500


class RefusedError(Exception):
    """`code` is a word for programs, the message one line for people; index and field say where in a request."""

    def __init__(self, code: str, message: str, *, index: int | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.index, self.field = code, message, index, field

    def said(self) -> dict[str, Any]:
        """As it goes into an answer."""
        where = {"index": self.index, "field": self.field}
        return {"code": self.code, "message": self.message, **{key: v for key, v in where.items() if v is not None}}


def one_line(error: BaseException) -> str:
    """Type and message of what a model raised, bounded; the model may have written both."""
    name = str(type.__getattribute__(type(error), "__name__"))[:80]
    try:
        message = " ".join(str(error).split())
    except BaseException:  # noqa: BLE001 - the message is the model's own code
        message = ""
    if len(message) > _LONGEST:
        message = message[:_LONGEST] + "…"
    return f"{name}: {message}" if message else name
