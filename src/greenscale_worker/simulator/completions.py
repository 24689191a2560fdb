"""The protocol of chat completions and completions: reads requests, and writes good answers."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import orjson

from greenscale_worker.job import CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH
from greenscale_worker.simulator.embeddings import DIMENSIONS, Embeddings, inputs_of

MODEL: Final = "meta-llama/Llama-3.3-70B-Instruct"
TOKEN: Final = re.compile(r"\s*\w{1,8}|\s*[^\w\s]|\s+")
CALCULATION: Final = re.compile(
    r"\s*(?:what is|what's|calculate)?\s*(-?\d{1,12})\s*([-+*/x\u00d7\u00f7])\s*(-?\d{1,12})\s*[?=.]*\s*",
    re.IGNORECASE,
)


def fingerprint(asked: Any) -> str:
    """Hash a request's messages, prompt or input: 16 hexadecimal digits, the name of a job without a `user`."""
    return blake2b(orjson.dumps(asked), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks for. `job` is its `user` field, else the fingerprint of its messages, prompt or input.

    `embeddings` is the answer if it asks for those.
    """

    job: str
    fingerprint: str
    text: str
    model: str
    prompt_tokens: int
    max_tokens: int | None
    stream: bool
    stream_usage: bool
    chat: bool = True
    ignore_eos: bool = False
    embeddings: Embeddings | None = None


def read(body: bytes, path: str = CHAT_PATH) -> Question:
    """Parse the body of a request. Raises ValueError that says what is wrong with it."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError("the body is not JSON") from None
    data = data if isinstance(data, dict) else {}
    limit = data.get("max_completion_tokens", data.get("max_tokens"))
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError("max_tokens: a whole number of at least 1 is expected")
    asked, texts = _READERS[path](data)
    try:
        name = fingerprint(asked)
    except orjson.JSONEncodeError:
        raise ValueError("messages: nested too deeply") from None
    options, model = data.get("stream_options"), str(data.get("model") or MODEL)
    embeddings = None
    if path == EMBEDDINGS_PATH:
        is_base64 = data.get("encoding_format") == "base64"
        embeddings = Embeddings(model, asked, data.get("dimensions", DIMENSIONS), is_base64)
    return Question(
        job=str(data.get("user") or name),
        fingerprint=name,
        text=texts[-1],
        model=model,
        prompt_tokens=3 + sum(4 + len(text) // 4 for text in texts),
        max_tokens=limit,
        stream=data.get("stream") is True and embeddings is None,
        stream_usage=isinstance(options, dict) and options.get("include_usage") is True,
        chat=path == CHAT_PATH,
        ignore_eos=data.get("ignore_eos") is True and limit is not None,
        embeddings=embeddings,
    )


def _messages(data: dict[str, Any]) -> tuple[Any, list[str]]:
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise ValueError("messages: a list of at least one object is expected")
    return messages, [_text_of(message) for message in messages]


def _prompt(data: dict[str, Any]) -> tuple[Any, list[str]]:
    prompt = data.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt, [prompt]
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        return prompt, [" ".join(map(str, prompt))]
    raise ValueError("prompt: a string or a list of tokens is expected")


def _inputs(data: dict[str, Any]) -> tuple[Any, list[str]]:
    inputs = inputs_of(data)
    return inputs, [str(each) for each in inputs]


_READERS: Final[dict[str, Callable[[dict[str, Any]], tuple[Any, list[str]]]]] = {
    CHAT_PATH: _messages,
    COMPLETIONS_PATH: _prompt,
    EMBEDDINGS_PATH: _inputs,
}


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
    chat: bool = True

    def body(self, *, choices: bool = True) -> bytes:
        """Write it whole."""
        text = "".join(self.tokens)
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": self.finish_reason}
        name = "chat.completion" if self.chat else "text_completion"
        kind = {"object": name, "choices": [choice] if choices else [], "usage": self.usage}
        return orjson.dumps(self.head | kind)

    def events(self, *, usage: bool, choices: bool = True) -> list[bytes]:
        """Write it as server-sent events, one for each token."""
        head = self.head | {"object": "chat.completion.chunk" if self.chat else "text_completion"}
        pieces: list[dict[str, Any]] = [{"text": token} for token in [*self.tokens, ""]]
        if self.chat:
            deltas = [{"role": "assistant", "content": ""}, *({"content": token} for token in self.tokens), {}]
            pieces = [{"delta": delta} for delta in deltas]
        steps = [{"index": 0, **piece, "finish_reason": None} for piece in pieces]
        steps[-1]["finish_reason"] = self.finish_reason
        chunks = [head | {"choices": [step] if choices else []} for step in steps]
        if usage:
            chunks.append(head | {"choices": [], "usage": self.usage})
        return [*(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks), b"data: [DONE]\n\n"]


def reply(question: Question, text: str, seen: int) -> Reply:
    """Answer the `seen`-th request of a question with `text`, cut off at the question's `max_tokens`.

    With `ignore_eos`, which vLLM knows, the text is repeated up to there.
    """
    whole = TOKEN.findall(text)
    if question.ignore_eos and question.max_tokens is not None:
        whole *= 1 + question.max_tokens // len(whole)
    tokens = whole[: question.max_tokens]
    return Reply(
        head={
            "id": f"{'chatcmpl' if question.chat else 'cmpl'}-{question.fingerprint}{seen:06x}",
            "created": int(time.time()),
            "model": question.model,
        },
        chat=question.chat,
        tokens=tokens,
        finish_reason="stop" if len(tokens) == len(whole) else "length",
        usage={
            "prompt_tokens": question.prompt_tokens,
            "completion_tokens": len(tokens),
            "total_tokens": question.prompt_tokens + len(tokens),
        },
    )
