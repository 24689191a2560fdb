"""OpenAI's response objects, made of the request, the job's record and the endpoint's answer.

Their ids are made of the response's: whoever builds an object, at whatever time, builds the same one.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from aiohttp import web

from greenscale_worker.backends.request import text_of as content_text
from greenscale_worker.client.ends import Record
from greenscale_worker.gateway.failures import failure_of
from greenscale_worker.gateway.response_requests import Asked
from greenscale_worker.queues import JobClass
from greenscale_worker.queues.told import seconds

PREFIX: Final = "resp_"
TIER_OF: Final[Mapping[JobClass, str]] = {"interactive": "priority", "standard": "default", "background": "flex"}
ECHOED: Final = (
    *("instructions", "max_output_tokens", "reasoning", "safety_identifier", "temperature", "text", "top_p"),
    *("prompt_cache_key", "user"),
)
TOO_LONG: Final = ("length", "max_tokens")
Object = dict[str, Any]


def begun(response_id: str, asked: Asked, *, created_at: int, model: str) -> Object:
    """Return the object of a response that is not answered yet: `queued`."""
    request = asked.request
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "queued",
        "background": asked.background,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        **{name: request.get(name) for name in ECHOED},
        "text": request.get("text") or {"format": {"type": "text"}},
        "metadata": request.get("metadata") or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": request.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "service_tier": TIER_OF[asked.job_class],
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": request.get("tools") or [],
        "truncation": "disabled",
        "usage": None,
    }


def standing(base: Object, record: Record) -> Object:
    """Return the object of a job that has not ended. What nobody has claimed is cancelled as soon as that is asked."""
    status = {"running": "in_progress", "cancelling": "cancelled"}.get(record.get("state", ""), "queued")
    return {**base, "status": status}


def cancelled(base: Object) -> Object:
    """Return the object of a response that was cancelled."""
    return {**base, "status": "cancelled"}


def failed(base: Object, record: Record) -> Object:
    """Return the object of a job that has failed, or was cancelled; `error.type` is the job's own code."""
    if record.get("state") == "cancelled":
        return cancelled(base)
    if record.get("error_code") == "content_filter":
        return {**base, "status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
    problem = failure_of(record)
    return broken(base, _code_of(problem.status), problem.detail, problem.code)


def broken(base: Object, code: str, message: str, kind: str) -> Object:
    """Return the object of a response that has failed."""
    return {**base, "status": "failed", "error": {"code": code, "message": message, "type": kind}}


def answered(base: Object, record: Record, answer: Mapping[str, Any]) -> Object:
    """Return the object of a job that has succeeded; `answer` is a chat completion."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    reason = choice.get("finish_reason")
    status, details = "completed", None
    if reason in TOO_LONG or reason == "content_filter":
        status = "incomplete"
        details = {"reason": "content_filter" if reason == "content_filter" else "max_output_tokens"}
    model = answer.get("model")
    return {
        **base,
        "status": status,
        "completed_at": int(seconds(record, "finished_ms") or 0) or None if status == "completed" else None,
        "incomplete_details": details,
        "model": model if isinstance(model, str) and model else base["model"],
        "output": list(_output(base["id"].removeprefix(PREFIX), choice.get("message") or {}, status)),
        "usage": _usage(answer.get("usage")),
    }


def text_of(response: Object) -> str:
    """Return the text of a response."""
    parts = (part for item in response["output"] if item["type"] == "message" for part in item["content"])
    return "".join(part["text"] for part in parts)


def message_item(item_id: str, text: str | None, status: str) -> Object:
    """Return the item that holds the text; None: that is still to come."""
    content = [] if text is None else [text_part(text)]
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str) -> Object:
    """Return the part of a message that is its text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _output(name: str, message: Mapping[str, Any], status: str) -> Iterator[Object]:
    """Yield the items of a message. The text is the first, as it is in a stream, which begins with it."""
    text = content_text(message.get("content"))
    calls = [call for call in message.get("tool_calls") or [] if isinstance(call, dict)]
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if text or not calls:
        yield message_item(f"msg_{name}", text, status)
    if isinstance(reasoning, str):
        content = [{"type": "reasoning_text", "text": reasoning}]
        yield {"id": f"rs_{name}", "type": "reasoning", "summary": [], "content": content, "status": status}
    for at, call in enumerate(calls):
        function = call.get("function") or {}
        yield {
            "id": f"fc_{name}_{at}",
            "type": "function_call",
            "status": status,
            "call_id": call.get("id") or f"call_{name}_{at}",
            "name": function.get("name") or "",
            "arguments": function.get("arguments") or "",
        }


def _usage(told: object) -> Object | None:
    """Return the tokens, None where the endpoint did not count them."""
    usage = told if isinstance(told, dict) else {}
    prompt, completion, total = (_count(usage, f"{name}_tokens") for name in ("prompt", "completion", "total"))
    if prompt is None and completion is None:
        return None
    cached = _count(usage.get("prompt_tokens_details"), "cached_tokens")
    reasoning = _count(usage.get("completion_tokens_details"), "reasoning_tokens")
    return {
        "input_tokens": prompt or 0,
        "input_tokens_details": {"cached_tokens": cached or 0, "cache_write_tokens": 0},
        "output_tokens": completion or 0,
        "output_tokens_details": {"reasoning_tokens": reasoning or 0},
        "total_tokens": total if total is not None else (prompt or 0) + (completion or 0),
    }


def _count(told: object, name: str) -> int | None:
    value = told.get(name) if isinstance(told, dict) else None
    return value if type(value) is int else None


def _code_of(status: int) -> str:
    """Return OpenAI's code of a failure with this status."""
    if status == web.HTTPTooManyRequests.status_code:
        return "rate_limit_exceeded"
    return "invalid_prompt" if status < web.HTTPInternalServerError.status_code else "server_error"
