"""An answer that comes as a stream: its text as it comes, and at its end the answer as it would have come whole."""

from collections.abc import AsyncIterator, Callable
from io import StringIO
from typing import Any, Final

import orjson

from greenscale_worker.backends.completion import Judge, no_completion, read_completion
from greenscale_worker.backends.error_body import error_in
from greenscale_worker.backends.event_stream import EventReader
from greenscale_worker.backends.request import text_of
from greenscale_worker.backends.status_codes import DOWN
from greenscale_worker.errors import TransientError
from greenscale_worker.job import CHAT_PATH, Output, Path
from greenscale_worker.wire_json import read_leniently, write

DONE: Final = b"[DONE]"
WHOLE: Final = (b"{", b"[", b"<", b"")  # how JSON, a page and nothing begin, but no stream of events
BLANK: Final = b" \t\r\n\xef\xbb\xbf"
NOT_OF_THE_HEAD: Final = ("choices", "object", "error")
NOT_OF_THE_CHOICE: Final = ("index", "delta", "message", "text", "finish_reason")
COME_WHOLE: Final = frozenset({"role", "id", "type", "name"})  # other strings come in pieces
ITEM_BYTES: Final = 64


async def read_stream(
    chunks: AsyncIterator[bytes], path: Path, judge: Judge, *, emit: Callable[[str], None], most: int
) -> Output:
    """Read an answer that was asked for as a stream, and `emit` its text as it comes.

    It is judged like one that comes whole (`read_completion`), which a server may send all the same. Raises as that
    does, and TransientError `connection_cut` for a stream without an end, `response_too_large` for more than `most`
    bytes of content.
    """
    head = b""
    async for chunk in chunks:
        head += chunk
        if head.strip(BLANK):
            break
    if head.lstrip(BLANK)[:1] in WHOLE:
        body = await _read_whole(head, chunks, most)
        output = read_completion(body, judge, path)
        choice = orjson.loads(output.body)["choices"][0]
        emit(text_of(choice["message"].get("content") if path == CHAT_PATH else choice["text"]))
        return output
    answer = StreamedAnswer(path, judge)
    done = await _follow(head, chunks, answer, emit, most)
    if not done and not answer.ended:
        raise TransientError("connection_cut", "the stream ended before the answer did")
    return read_completion(answer.body(), judge, path)


async def _follow(
    chunk: bytes, chunks: AsyncIterator[bytes], answer: "StreamedAnswer", emit: Callable[[str], None], most: int
) -> bool:
    """Read events into an answer. Return whether their end was told; else the connection was closed."""
    events = EventReader()
    while chunk:
        for event in events.feed(chunk):
            if event.strip() == DONE:
                return True
            emit(answer.add(event))
            _check(answer.size, most)
        _check(events.pending, most)
        chunk = await anext(chunks, b"")
    for event in events.close():
        if event.strip() == DONE:
            return True
        emit(answer.add(event, last=True))
    return False


async def _read_whole(head: bytes, chunks: AsyncIterator[bytes], most: int) -> bytes:
    parts, size, chunk = [], 0, head
    while chunk:
        parts.append(chunk)
        size += len(chunk)
        _check(size, most)
        chunk = await anext(chunks, b"")
    return b"".join(parts)


def _check(size: int, most: int) -> None:
    if size > most:
        raise TransientError("response_too_large", f"the answer is longer than {most} bytes")


class StreamedAnswer:
    """Puts chunks together to the answer that they are pieces of. `size` is about that of its content, in bytes.

    `ended` says whether the answer is complete: its finish reason has come.
    """

    def __init__(self, path: Path, judge: Judge) -> None:
        self.size = 0
        self.ended = False
        self._path = path
        self._judge = judge
        self._head: dict[str, Any] = {}
        self._choice: dict[str, Any] | None = None
        self._said: dict[str, Any] = {}  # the message, or the text of a completion

    def add(self, event: bytes, *, last: bool = False) -> str:
        """Take the data of one event in. Return the text that it adds. Raises what `judge` makes of an error in it.

        `last`: the stream has ended with it, so that it may be half an event, which counts as none.
        """
        try:
            chunk = read_leniently(event)
        except ValueError:
            if last:
                return ""
            raise no_completion("a stream of events that are not JSON", self._path) from None
        return self._add(chunk)

    def body(self) -> bytes:
        """Write the answer as it would have come whole."""
        answer = {**self._head, "object": "text_completion", "choices": []}
        if self._path == CHAT_PATH:
            answer["object"] = "chat.completion"
        if self._choice is not None:
            answer["choices"] = [{"index": 0, **self._whole_said(), "finish_reason": None, **_whole(self._choice)}]
        return write(answer)

    def _whole_said(self) -> dict[str, Any]:
        said = _whole(self._said)
        if self._path != CHAT_PATH:
            return {"text": "", **said}
        message = {"role": "assistant", "content": None, **said}
        if calls := message.get("tool_calls"):
            message |= {"content": message["content"] or None, "tool_calls": [_without_index(call) for call in calls]}
        return {"message": message}

    def _add(self, chunk: Any) -> str:
        if not isinstance(chunk, dict):
            raise no_completion("a stream of events that are no objects", self._path)
        choices = chunk.get("choices")
        if chunk.get("error") or not (choices or isinstance(chunk.get("usage"), dict)):
            error = error_in(chunk)
            if error.message or error.status is not None:
                broke_off = self._choice is not None
                raise self._judge(error, code="unfinished", otherwise=DOWN) if broke_off else self._judge(error)
        for name, value in chunk.items():
            if name not in NOT_OF_THE_HEAD and value is not None and (name == "usage" or name not in self._head):
                self._head[name] = value
        first = [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []
        return "".join(self._take(choice) for choice in first if choice.get("index", 0) == 0)

    def _take(self, choice: dict[str, Any]) -> str:
        """Take a piece of the first choice in. Return its text."""
        if self._choice is None:
            self._choice = {}
        if self._path == CHAT_PATH:
            delta = choice.get("delta") or choice.get("message")  # the second: all at once, in the only event
            said = dict(delta) if isinstance(delta, dict) else {}
            text = text_of(said.get("content"))
            if isinstance(said.get("content"), list):
                said["content"] = text
        else:
            text = text_of(choice.get("text"))
            said = {"text": text}
        self._merge(self._said, said)
        self._merge(self._choice, {name: value for name, value in choice.items() if name not in NOT_OF_THE_CHOICE})
        if reason := choice.get("finish_reason"):
            self._choice["finish_reason"] = reason
            self.ended = True
        return text

    def _merge(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        """Add what is new: strings are continued, lists too, and null changes nothing."""
        for name, value in new.items():
            known = old.get(name)
            if value is None:
                old.setdefault(name, None)
            elif isinstance(value, str) and name not in COME_WHOLE:
                self.size += len(value)
                if not isinstance(known, StringIO):
                    known = old[name] = StringIO()
                known.write(value)
            elif isinstance(value, dict):
                if not isinstance(known, dict):
                    known = old[name] = {}
                self._merge(known, value)
            elif isinstance(value, list):
                if not isinstance(known, list):
                    known = old[name] = []
                self._extend(known, value)
            elif not (known and isinstance(value, str)):
                old[name] = value

    def _extend(self, old: list[Any], new: list[Any]) -> None:
        """Add items to a list. Those with an index, and calls of tools with an id, are continued."""
        for item in new:
            self.size += ITEM_BYTES
            if not isinstance(item, dict) or not item.keys() & {"index", "function"}:
                old.append(item)
                continue
            name = "index" if "index" in item else "id"
            same = [each for each in old if isinstance(each, dict) and each.get(name) == item.get(name)]
            if name == "id" and not item.get("id"):
                same = old[-1:]  # a piece of the last one
            if not same:
                old.append({})
                same = old[-1:]
            self._merge(same[-1], item)


def _whole(value: Any) -> Any:
    if isinstance(value, StringIO):
        return value.getvalue()
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    return [_whole(each) for each in value] if isinstance(value, list) else value


def _without_index(call: Any) -> Any:
    return {name: value for name, value in call.items() if name != "index"} if isinstance(call, dict) else call
