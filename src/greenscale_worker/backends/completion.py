"""Answers as endpoints send them, and the text in them: a chat completion, a completion, embeddings."""

from dataclasses import replace
from typing import Any, Final, Protocol

import orjson

from greenscale_worker.backends.error_body import ErrorBody, error_in, is_html
from greenscale_worker.backends.request import text_of
from greenscale_worker.backends.status_codes import DOWN, NO_COMPLETION, Judgement
from greenscale_worker.errors import PermanentError, TransientError
from greenscale_worker.job import CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH, Output, Path, Usage
from greenscale_worker.wire_json import read, read_leniently, write

LONGEST_NAME: Final = 40
# Finish reasons of an answer that was cut off: OpenRouter; vLLM and SGLang when they stop; DeepSeek.
UNFINISHED: Final = ("error", "abort", "insufficient_system_resource")
TOO_SHORT: Final = ("length", "max_tokens")
KINDS: Final[dict[Path, str]] = {
    CHAT_PATH: "chat completion",
    COMPLETIONS_PATH: "completion",
    EMBEDDINGS_PATH: "list of embeddings",
}
CALLS: Final = ("tool_calls", "function_call")


class Judge(Protocol):
    """Makes an exception of an error inside a response with a status of success."""

    def __call__(
        self, error: ErrorBody, *, code: str = ..., otherwise: Judgement = ...
    ) -> TransientError | PermanentError:
        """`code` and `otherwise` are for an error that names no status."""
        ...


def read_completion(body: bytes, judge: Judge, path: Path = CHAT_PATH) -> Output:
    """Read the answer from the body of a success; `Output.body` is strict JSON, even where this body is not quite.

    `path` says whether it is a completion or one of a chat. Raises what `judge` makes of an error inside (`unfinished`
    for an answer that was cut off); TransientError `not_a_completion` for anything else, `no_content` for one without
    an end and a text; PermanentError `refusal`, `content_filter`, or `no_content` where the limit of tokens left no
    room for a text. No message quotes the answer.
    """
    answer, body = _parsed(body, path)
    try:
        choice = answer["choices"][0]
        message = choice["message"] if path == CHAT_PATH else {"content": choice["text"] + ""}
        content, finish_reason = message.get("content"), _text(choice.get("finish_reason"))
    except (LookupError, TypeError, AttributeError):
        raise _no_answer(answer, judge, path) from None
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


def read_embeddings(body: bytes, judge: Judge, *, inputs: int) -> Output:
    """Read embeddings; the text is the whole answer. Raises as `read_completion`, also if there are not `inputs`."""
    answer, body = _parsed(body, EMBEDDINGS_PATH)
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not data:
        error = error_in(answer)
        known = error.message or error.status is not None
        raise judge(error) if known else no_completion("JSON without data", EMBEDDINGS_PATH)
    if len(data) != inputs or not all(isinstance(each, dict) and _is_vector(each.get("embedding")) for each in data):
        raise no_completion("JSON that has not one embedding for each input", EMBEDDINGS_PATH)
    return Output(body.decode(), _text(answer.get("model")), None, _usage(answer.get("usage")), body)


def _is_vector(embedding: object) -> bool:
    """Return whether this may be a vector: numbers, or their bytes in base64. Not every number is looked at."""
    if isinstance(embedding, list):
        return bool(embedding) and type(embedding[0]) in (int, float) and None not in embedding
    return isinstance(embedding, str) and embedding != ""


def _parsed(body: bytes, path: Path) -> tuple[Any, bytes]:
    """Return an answer and its strict JSON."""
    try:
        return orjson.loads(body), body
    except orjson.JSONDecodeError:
        try:
            answer = read_leniently(body)
        except ValueError:
            raise no_completion(_kind(body), path) from None
        return answer, write(answer)


def _no_answer(answer: Any, judge: Judge, path: Path) -> TransientError | PermanentError:
    """Return the error for JSON without a text: the error inside it, or else that it is no completion."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not choices:
        error = error_in(answer)
        known = error.message or error.status is not None
        return judge(error) if known else no_completion("JSON without choices", path)
    if not isinstance(choice, dict):
        return no_completion("JSON whose first choice is no object", path)
    if choice.get("error"):
        return judge(_broken_off(choice, None), code="unfinished", otherwise=DOWN)
    if isinstance(choice.get("delta"), dict):
        return no_completion("a piece of a stream, which was not asked for", path)
    if path == CHAT_PATH and isinstance(choice.get("text"), str):
        return no_completion("a plain completion; a URL that ends in /chat/completions is expected", path)
    part = "message" if path == CHAT_PATH else "text"
    return no_completion(f"JSON whose first choice has no {part}", path)


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


def no_completion(kind: str, path: Path) -> TransientError:
    """Return the error for what is no answer of this path; `kind` says what it is, without quoting it."""
    reason = f"the endpoint answered with something that is no {KINDS[path]}: {kind}"
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
