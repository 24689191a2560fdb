"""A chat completion, as endpoints send it, and the answer in it."""

from typing import Any

import orjson

from greenscale_worker.backends.request import text_of
from greenscale_worker.errors import PermanentError, TransientError
from greenscale_worker.job import Output, Usage


def read_completion(body: bytes) -> Output:
    """Take the answer out of a 200's body.

    Raises TransientError `not_a_completion` (HTML, half JSON, no choices) or `no_content`, both counted, and
    PermanentError `content_filter` or `refusal`. No message quotes the body.
    """
    try:
        answer = orjson.loads(body)
        choice = answer["choices"][0]
        message = choice["message"]
        content, calls, refusal = message.get("content"), message.get("tool_calls"), message.get("refusal")
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        reason = "the endpoint answered 200 with something that is not a chat completion"
        raise TransientError("not_a_completion", reason, counted=True) from None
    finish_reason = _text(choice.get("finish_reason"))
    if finish_reason == "content_filter":
        raise PermanentError("content_filter", "the endpoint's content filter stopped the answer")
    if refusal:
        raise PermanentError("refusal", "the model refused to answer")
    text = orjson.dumps(message).decode() if calls else text_of(content)
    if not text:
        reason = f"the completion has no content (finish reason {finish_reason or 'not given'})"
        raise TransientError("no_content", reason[:200], counted=True)
    return Output(text, _text(answer.get("model")), finish_reason, _usage(answer.get("usage")), body)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    return Usage(
        _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), _count(usage.get("total_tokens"))
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
