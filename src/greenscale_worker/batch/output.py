"""The lines of a batch's output and of its errors, in the format of OpenAI's Batch."""

import time
from collections.abc import Mapping
from typing import Any, Final

import orjson

from greenscale_worker.job import CHAT_PATH, EMBEDDINGS_PATH, Output, Path
from greenscale_worker.wire_json import read, write

ID: Final = "batch_req_"
OK: Final = 200


def line_id(key: int) -> str:
    """Return the `id` of a line of output, which names the line of input by 64 bits."""
    return f"{ID}{key:016x}"


def key_of(name: object) -> int | None:
    """Return the key in the `id` of a line of output; None if this is none."""
    if not isinstance(name, str) or not name.startswith(ID):
        return None
    try:
        return int(name.removeprefix(ID), 16)
    except ValueError:
        return None


def answer_line(name: str, custom_id: str, body: bytes | Mapping[str, Any]) -> bytes:
    """Return the line of an answer: `name` is its id, `body` the endpoint's whole body, as it came or read.

    The `request_id` is the body's `id`. Raises ValueError if the body is not JSON.
    """
    answer: Mapping[str, Any] = read(body) if isinstance(body, bytes) else body
    response = {"status_code": OK, "request_id": str(answer.get("id") or ""), "body": answer}
    return _written(name, custom_id, response, None)


def error_line(name: str, custom_id: str, code: str, message: str) -> bytes:
    """Return the line of a request that has no answer: `code` says why, for machines."""
    return _written(name, custom_id, None, {"code": code, "message": message})


def read_output_line(raw: bytes) -> dict[str, Any] | None:
    """Return a line of output; None if this is none."""
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) and {"id", "custom_id", "response", "error"} <= line.keys() else None


def body_of(output: Output, path: Path, key: int) -> dict[str, Any] | None:
    """Return the endpoint's body; if the backend has none, one in the format of an endpoint, made of its text.

    None: embeddings were asked for, and a text is none.
    """
    if output.body:
        body: dict[str, Any] = read(output.body)
        return body
    if path == EMBEDDINGS_PATH:
        return None
    is_chat = path == CHAT_PATH
    text, usage = output.text.encode("utf-8", "replace").decode(), output.usage
    said = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{key:016x}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": output.model,
        "choices": [{"index": 0, **said, "finish_reason": output.finish_reason or "stop"}],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
    }


def _written(name: str, custom_id: str, response: object, error: object) -> bytes:
    return write({"id": name, "custom_id": custom_id, "response": response, "error": error}) + b"\n"
