"""The protocol of chat completions: reads requests, and writes good answers."""

import re
import time
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import orjson

MODEL: Final = "meta-llama/Llama-3.3-70B-Instruct"
TOKEN: Final = re.compile(r"\s*\w{1,8}|\s*[^\w\s]|\s+")
CALCULATION: Final = re.compile(
    r"\s*(?:what is|what's|calculate)?\s*(-?\d{1,12})\s*([-+*/x\u00d7\u00f7])\s*(-?\d{1,12})\s*[?=.]*\s*",
    re.IGNORECASE,
)


def fingerprint(messages: list[Any]) -> str:
    """Hash a request's messages: 16 hexadecimal digits, the name of a job without a `user`."""
    return blake2b(orjson.dumps(messages), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks for. `job` is its `user` field, else the fingerprint of its messages."""

    job: str
    fingerprint: str
    text: str
    model: str
    prompt_tokens: int
    max_tokens: int | None
    stream: bool
    stream_usage: bool


def read(body: bytes) -> Question:
    """Parse the body of a request. Raises ValueError that says what is wrong with it."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError("the body is not JSON") from None
    messages = data.get("messages") if isinstance(data, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise ValueError("messages: a list of at least one object is expected")
    limit = data.get("max_completion_tokens", data.get("max_tokens"))
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError("max_tokens: a whole number of at least 1 is expected")
    try:
        name = fingerprint(messages)
    except orjson.JSONEncodeError:
        raise ValueError("messages: nested too deeply") from None
    texts = [_text_of(message) for message in messages]
    options = data.get("stream_options")
    return Question(
        job=str(data.get("user") or name),
        fingerprint=name,
        text=texts[-1],
        model=str(data.get("model") or MODEL),
        prompt_tokens=3 + sum(4 + len(text) // 4 for text in texts),
        max_tokens=limit,
        stream=data.get("stream") is True,
        stream_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def calculate(text: str) -> str | None:
    """Answer a question such as "What is 2+2?". Return None if it is not one of two whole numbers."""
    match = CALCULATION.fullmatch(text)
    if match is None:
        return None
    left, operator, right = int(match[1]), match[2], int(match[3])
    if operator == "+":
        return str(left + right)
    if operator == "-":
        return str(left - right)
    if operator not in "/÷":
        return str(left * right)
    if right == 0:
        return "Division by zero is undefined."
    return f"{left / right:.6g}" if left % right else str(left // right)


@dataclass(frozen=True, slots=True)
class Reply:
    """A good answer, written whole or as a stream."""

    head: dict[str, Any]
    tokens: list[str]
    finish_reason: str
    usage: dict[str, int]

    def body(self, *, choices: bool = True) -> bytes:
        """Write it whole."""
        message = {"role": "assistant", "content": "".join(self.tokens)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        kind = {"object": "chat.completion", "choices": [choice] if choices else [], "usage": self.usage}
        return orjson.dumps(self.head | kind)

    def events(self, *, usage: bool, choices: bool = True) -> list[bytes]:
        """Write it as server-sent events, one for each token."""
        head = self.head | {"object": "chat.completion.chunk"}
        deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": token} for token in self.tokens]
        steps: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        steps.append({"index": 0, "delta": {}, "finish_reason": self.finish_reason})
        chunks = [head | {"choices": [step] if choices else []} for step in steps]
        if usage:
            chunks.append(head | {"choices": [], "usage": self.usage})
        return [*(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks), b"data: [DONE]\n\n"]


def reply(question: Question, text: str, seen: int) -> Reply:
    """Answer the `seen`-th request of a question with `text`, cut off at the question's `max_tokens`."""
    whole = TOKEN.findall(text)
    tokens = whole[: question.max_tokens]
    return Reply(
        head={
            "id": f"chatcmpl-{question.fingerprint}{seen:06x}",
            "created": int(time.time()),
            "model": question.model,
        },
        tokens=tokens,
        finish_reason="stop" if len(tokens) == len(whole) else "length",
        usage={
            "prompt_tokens": question.prompt_tokens,
            "completion_tokens": len(tokens),
            "total_tokens": question.prompt_tokens + len(tokens),
        },
    )
