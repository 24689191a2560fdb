"""The events of a response's stream, numbered so that every reader, at whatever time, is told the same ones.

A number is made of the pieces in which the text was shown, and of nothing else. Where a job runs again after it had
shown text, the numbers of the next run begin a step higher: so `starting_after` says which run a reader has seen, and
nothing is glued together from two.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from greenscale_worker.gateway.response_objects import (
    PREFIX,
    Object,
    broken,
    message_item,
    text_of,
    text_part,
)
from greenscale_worker.queues import TokenPiece
from greenscale_worker.wire_json import write

STEP: Final = 1_000_000  # more events than a run can have
RESTARTED: Final = "the job runs again after a part of its answer was sent; what was sent does not count"


@dataclass(slots=True)
class Shown:
    """The text that a job has shown in its last run: `run` counts those that have shown any, from 0."""

    run: int = 0
    pieces: list[str] = field(default_factory=list)
    attempt: int | None = None

    @classmethod
    def of(cls, pieces: Iterable[TokenPiece], whole: str | None = None) -> "Shown":
        """Gather what was shown. What is not how the `whole` text begins is of another run than that."""
        shown = cls()
        for piece in pieces:
            shown.add(piece.attempt, piece.text)
        return shown if whole is None or whole.startswith(shown.text) else cls(shown.run + 1)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.pieces)

    def add(self, attempt: int, text: str) -> None:
        """Add a piece; that of another run takes the place of all before it."""
        if text and self.attempt not in (None, attempt):
            self.run += 1
            self.pieces = []
        if text:
            self.attempt = attempt
            self.pieces.append(text)


class Events:
    """Makes the events of one response, as bytes; those up to number `after` are counted, and left out.

    In order: `begin`, `run`, `text` for each piece, then `finish` or `restarted`.
    """

    def __init__(self, base: Object, *, after: int = -1) -> None:
        self._base = base
        self._after = after
        self._next = 0
        self._began = self._ran = self._texted = False
        self._name = base["id"].removeprefix(PREFIX)

    @property
    def last(self) -> int:
        """The number of the last event, as far as the reader knows."""
        return max(self._next - 1, self._after, 0)

    def begin(self) -> bytes:
        """Return what every stream begins with."""
        if self._began:
            return b""
        self._began = True
        if not self._base["background"]:
            return self._event("response.created", response={**self._base, "status": "in_progress"})
        queued = {**self._base, "status": "queued"}
        return self._event("response.created", response=queued) + self._event("response.queued", response=queued)

    def run(self) -> bytes:
        """Return that the job runs."""
        if self._ran:
            return b""
        self._ran = True
        return self.begin() + self._event("response.in_progress", response={**self._base, "status": "in_progress"})

    def fits(self, run: int) -> bool:
        """Return whether a reader who has seen the events up to `after` may be told the text of this run."""
        has_seen_text = self._after >= (3 if self._base["background"] else 2)
        return not has_seen_text or self._after // STEP == run

    def text(self, text: str, run: int) -> bytes:
        """Return a piece of the text of a run."""
        first = self.run()
        if not self._texted:
            self._texted = True
            first += self._message(run)
        return first + self._event("response.output_text.delta", **self._at, delta=text, logprobs=[])

    def finish(self, response: Object, shown: Shown) -> bytes:
        """Return what was not sent yet, and the end. Its text begins with what was shown."""
        told = self.run()
        status = response["status"]
        if status in ("failed", "cancelled") or not response["output"]:
            self._next = max(self._next, self._after + 1)  # it may have been told more of the text than is kept
            kind = "incomplete" if status == "incomplete" else "failed"
            return told + self._event(f"response.{kind}", response=response)
        for index, item in enumerate(response["output"]):
            told += self._item(index, item, shown)
        told += self._event(f"response.{status}", response=response)
        return told if self._after < self._next else self.restarted()

    def restarted(self) -> bytes:
        """Return the end of a stream that cannot go on, as the job runs again, or has."""
        told = self.run()
        self._next = max(self._next, self._after + 1)
        return told + self._event(
            "response.failed", response=broken(self._base, "server_error", RESTARTED, "restarted")
        )

    def error(self, code: str, message: str) -> bytes:
        """Return that the stream ends, and the response does not. It has the number of the event before it."""
        return _written("error", {"code": code, "message": message, "param": None, "sequence_number": self.last})

    @property
    def _at(self) -> dict[str, Any]:
        return {"item_id": f"msg_{self._name}", "output_index": 0, "content_index": 0}

    def _message(self, run: int) -> bytes:
        """Return that a message begins."""
        self._next = max(self._next, run * STEP)
        item = message_item(f"msg_{self._name}", None, "in_progress")
        added = self._event("response.output_item.added", output_index=0, item=item)
        return added + self._event("response.content_part.added", **self._at, part=text_part(""))

    def _item(self, index: int, item: Object, shown: Shown) -> bytes:
        match item["type"]:
            case "message":
                told = self._rest(text_of({"output": [item]}), shown)
            case "reasoning":
                told = self._reasoning(index, item)
            case _:
                told = self._call(index, item)
        return told + self._event("response.output_item.done", output_index=index, item=item)

    def _rest(self, whole: str, shown: Shown) -> bytes:
        left = whole[len(shown.text) :]
        told = b"" if self._texted else self._message(shown.run)
        self._texted = True
        if left:
            told += self._event("response.output_text.delta", **self._at, delta=left, logprobs=[])
        told += self._event("response.output_text.done", **self._at, text=whole, logprobs=[])
        return told + self._event("response.content_part.done", **self._at, part=text_part(whole))

    def _reasoning(self, index: int, item: Object) -> bytes:
        at = {"item_id": item["id"], "output_index": index, "content_index": 0}
        text = item["content"][0]["text"]
        begun = {**item, "content": [], "status": "in_progress"}
        return (
            self._event("response.output_item.added", output_index=index, item=begun)
            + self._event("response.reasoning_text.delta", **at, delta=text)
            + self._event("response.reasoning_text.done", **at, text=text)
        )

    def _call(self, index: int, item: Object) -> bytes:
        at = {"item_id": item["id"], "output_index": index}
        arguments, name = item["arguments"], item["name"]  # clients of 2025 want the name here, newer ones pass over it
        begun = {**item, "arguments": "", "status": "in_progress"}
        return (
            self._event("response.output_item.added", output_index=index, item=begun)
            + self._event("response.function_call_arguments.delta", **at, delta=arguments)
            + self._event("response.function_call_arguments.done", **at, arguments=arguments, name=name)
        )

    def _event(self, kind: str, **fields: Any) -> bytes:
        number = self._next
        self._next += 1
        return _written(kind, {"sequence_number": number, **fields}) if number > self._after else b""


def replayed(events: Events, response: Object, shown: Shown) -> bytes:
    """Return all events of a response that has ended."""
    if not events.fits(shown.run) and response["output"]:
        return events.restarted()
    told = b"".join(events.text(piece, shown.run) for piece in shown.pieces)
    return told + events.finish(response, shown)


def _written(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), write({"type": kind, **fields}))
