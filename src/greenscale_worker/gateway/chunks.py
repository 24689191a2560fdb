"""Answers as OpenAI's clients read them: whole ones, and the chunks of a stream made of text and the kept answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any, Final

from greenscale_worker.client.ends import Record
from greenscale_worker.job import CHAT_PATH, COMPLETIONS_PATH, Path
from greenscale_worker.queues.told import of_record
from greenscale_worker.wire_json import write

DONE: Final = b"data: [DONE]\n\n"
OBJECTS: Final[Mapping[str, str]] = {CHAT_PATH: "chat.completion.chunk", COMPLETIONS_PATH: "text_completion"}
NOT_OF_A_DELTA: Final = ("role", "content", "tool_calls")


@dataclass(slots=True)
class Chunks:
    """The chunks of one answer. `usage`: the client asked for it, so each chunk has the field."""

    path: Path
    id: str
    model: str
    usage: bool
    created: int = field(default_factory=lambda: int(time()))

    def begin(self) -> bytes:
        """Return what a stream begins with."""
        return self._choice({"role": "assistant", "content": ""}) if self.path == CHAT_PATH else b""

    def text(self, text: str) -> bytes:
        """Return a piece of the text."""
        return self._choice({"content": text} if self.path == CHAT_PATH else text)

    def rest(self, answer: Mapping[str, Any], sent: str) -> Iterator[bytes] | None:
        """Return what was not sent yet of an answer, and the end; None if what was sent is not how it begins."""
        choices = [each for each in answer.get("choices") or [] if isinstance(each, dict)]
        choice: dict[str, Any] = choices[0] if choices else {}
        whole = _text_of(choice, self.path)
        if not whole.startswith(sent):
            return None
        return self._end(answer, choice, whole[len(sent) :])

    def error(self, error: Mapping[str, Any]) -> bytes:
        """Return what makes OpenAI's clients raise an APIError."""
        return _event({"error": error})

    def _end(self, answer: Mapping[str, Any], choice: dict[str, Any], left: str) -> Iterator[bytes]:
        reason = choice.get("finish_reason") or "stop"
        if left:
            yield self.text(left)
        if self.path == CHAT_PATH:
            delta = _delta_of(choice.get("message") or {})
            if delta or choice.get("logprobs"):
                yield self._choice(delta, logprobs=choice.get("logprobs"))
            yield self._choice({}, reason)
        else:
            yield self._choice("", reason, logprobs=choice.get("logprobs"))
        if self.usage:
            yield _event({**self._head(), "choices": [], "usage": answer.get("usage")})
        yield DONE

    def _choice(self, said: Any, reason: str | None = None, *, logprobs: Any = None) -> bytes:
        told = {"delta": said} if self.path == CHAT_PATH else {"text": said}
        choice = {"index": 0, **told, "logprobs": logprobs, "finish_reason": reason}
        return _event({**self._head(), "choices": [choice], **({"usage": None} if self.usage else {})})

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": OBJECTS[self.path], "created": self.created, "model": self.model}


def made_of(record: Record, text: str, path: Path, answer_id: str) -> dict[str, Any]:
    """Make an answer of text and record, for a backend that gives no whole one."""
    job = of_record("", record)
    counts = {name: getattr(job, name, None) or 0 for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    said = {"message": {"role": "assistant", "content": text}} if path == CHAT_PATH else {"text": text}
    reason = getattr(job, "finish_reason", None) or "stop"
    return {
        "id": answer_id,
        "object": "chat.completion" if path == CHAT_PATH else "text_completion",
        "created": int(time()),
        "model": getattr(job, "model", None) or "",
        "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": reason}],
        "usage": counts,
    }


def _text_of(choice: Mapping[str, Any], path: Path) -> str:
    said = (choice.get("message") or {}).get("content") if path == CHAT_PATH else choice.get("text")
    return said if isinstance(said, str) else ""


def _delta_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a message has beside its text."""
    delta = {name: value for name, value in message.items() if name not in NOT_OF_A_DELTA and value is not None}
    if calls := message.get("tool_calls"):
        delta["tool_calls"] = [{**call, "index": index} for index, call in enumerate(calls)]
    return delta


def _event(data: Any) -> bytes:
    return b"data: %b\n\n" % write(data)
