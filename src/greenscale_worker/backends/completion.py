"""A chat completion, as endpoints send it, and the answer in it."""

from dataclasses import replace
from typing import Any, Final, Protocol

import orjson

from greenscale_worker.backends.error_body import ErrorBody, error_in, is_html
from greenscale_worker.backends.request import text_of
from greenscale_worker.backends.status_codes import DOWN, NO_COMPLETION, Judgement
from greenscale_worker.errors import PermanentError, TransientError
from greenscale_worker.job import Output, Usage
from greenscale_worker.wire_json import read, read_leniently, write

LONGEST_NAME: Final = 40
# Finish reasons of an answer that was cut off: OpenRouter; vLLM and SGLang when they stop; DeepSeek.
UNFINISHED: Final = ("error", "abort", "insufficient_system_resource")
TOO_SHORT: Final = ("length", "max_tokens")
CALLS: Final = ("tool_calls", "function_call")


class Judge(Protocol):
    """Makes an exception of an error inside a response with a status of success."""

    def __call__(
        self, error: ErrorBody, *, code: str = ..., otherwise: Judgement = ...
    ) -> TransientError | PermanentError:
        """`code` and `otherwise` are for an error that names no status."""
        ...


def read_completion(body: bytes, judge: Judge) -> Output:
    """Read the answer from the body of a success; `Output.body` is strict JSON, even where this body is not quite.

    Raises what `judge` makes of an error inside (`unfinished` for an answer that was cut off); TransientError
    `not_a_completion` for anything else, `no_content` for one without an end and a text; PermanentError `refusal`,
    `content_filter`, or `no_content` where the limit of tokens left no room for a text. No message quotes the answer.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            answer = read_leniently(body)
        except ValueError:
            raise _no_completion(_kind(body)) from None
        body = write(answer)
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        content, finish_reason = message.get("content"), _text(choice.get("finish_reason"))
    except (LookupError, TypeError, AttributeError):
        raise _no_answer(answer, judge) from None
    usage = _usage(answer.get("usage"))
    if finish_reason is not None and finish_reason.startswith("content_filter"):
        raise PermanentError("content_filter", "the endpoint's content filter stopped the answer", usage=usage)
    if finish_reason in UNFINISHED or choice.get("error"):
        raise judge(_broken_off(choice, finish_reason), code="unfinished", otherwise=DOWN)
    if message.get("refusal"):
        raise PermanentError("refusal", "the model refused to answer", usage=usage)
    if message.get("tool_calls") or message.get("function_call"):  # the second is the older form of the first
        text = write(read(body)["choices"][0]["message"]).decode()
    else:
        text = text_of(content) or _empty(content, finish_reason, usage)
    return Output(text, _text(answer.get("model")), finish_reason, usage, body)


def _no_answer(answer: Any, judge: Judge) -> TransientError | PermanentError:
    """Return the error for JSON without a message: the error inside it, or else that it is no completion."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not choices:
        error = error_in(answer)
        return judge(error) if error.message or error.status is not None else _no_completion("JSON without choices")
    if not isinstance(choice, dict):
        return _no_completion("JSON whose first choice is no object")
    if choice.get("error"):
        return judge(_broken_off(choice, None), code="unfinished", otherwise=DOWN)
    if isinstance(choice.get("delta"), dict):
        return _no_completion("a piece of a stream, which was not asked for")
    if isinstance(choice.get("text"), str):
        return _no_completion("a plain completion; a URL that ends in /chat/completions is expected")
    return _no_completion("JSON whose first choice has no message")


def _broken_off(choice: dict[str, Any], finish_reason: str | None) -> ErrorBody:
    error = error_in(choice.get("error"))
    return replace(error, message=error.message or f"the answer broke off (finish reason {finish_reason})")


def _empty(content: object, finish_reason: str | None, usage: Usage) -> str:
    """Return an empty text where that is the answer. If the token limit ended it, a retry would end the same way."""
    if finish_reason in TOO_SHORT:
        reason = "the completion has no content: what was said within the limit of tokens is no text (reasoning, say)"
        raise PermanentError("no_content", f"{reason}; raise max_tokens", usage=usage)
    if finish_reason is None or finish_reason in CALLS or not isinstance(content, str | list | None):
        ended = (finish_reason or "not given")[:LONGEST_NAME]
        raise TransientError("no_content", f"the completion has no content (finish reason {ended})")
    return ""


def _no_completion(kind: str) -> TransientError:
    reason = f"the endpoint answered with something that is no chat completion: {kind}"
    return TransientError(NO_COMPLETION, reason, fingerprint=f"{NO_COMPLETION} {kind}")


def _kind(body: bytes) -> str:
    start = body.lstrip()[:16]
    if not start:
        return "nothing"
    if is_html(body):
        return "a page of HTML"
    if start.startswith((b"data:", b"event:", b": ", b"id:", b"retry:")):
        return "a stream of events, which was not asked for"
    return "half JSON" if start.startswith((b"{", b"[")) else "text that is not JSON"


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
