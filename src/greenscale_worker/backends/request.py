"""The request that a payload asks for, one kind for each path (docs/wire-contract.md)."""

from collections.abc import Mapping
from typing import Any, Final

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import COMPLETIONS_PATH, EMBEDDINGS_PATH, Job

NO_DEFAULTS: Final[Mapping[str, Any]] = {}
LIMITS: Final = frozenset({"max_tokens", "max_completion_tokens"})  # the older name, and that of reasoning models


def request_of(job: Job, defaults: Mapping[str, Any] = NO_DEFAULTS) -> dict[str, Any]:
    """Return the request for the job's path; fields of the payload that are not checked are passed on as they are.

    `defaults` fill in what the payload leaves out. A parameter that it sets to null is not sent at all, except the
    model. A token limit in the job, by its older or its newer name, replaces the default one.
    Raises BadInputError `bad_request`, which names the field.
    """
    if job.path == COMPLETIONS_PATH:
        return _completion_request(job.payload, defaults)
    if job.path == EMBEDDINGS_PATH:
        return _embedding_request(job.payload, defaults)
    return chat_request(job.payload, defaults)


def chat_request(payload: Mapping[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS) -> dict[str, Any]:
    """Turn `prompt` or `messages` into a request for chat completions, as `request_of` says."""
    request = _filled(payload, defaults)
    request["messages"] = _messages(request.pop("prompt", None), request.get("messages"))
    _check(request)
    return request


def _completion_request(payload: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    request = _filled(payload, defaults)
    prompt = request.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and type(prompt[0]) is not int:
        prompt = prompt[0]
    is_text = isinstance(prompt, str) and prompt.strip()
    if not is_text and not (isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt)):
        raise _bad("prompt: a string that is not blank or a list of tokens is expected, one prompt for a job")
    _check(request)
    return request


def _embedding_request(payload: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    request = _filled(payload, defaults)
    given = request.get("input")
    if not (isinstance(given, str | list) and given):
        raise _bad("input: a string or a list that is not empty is expected")
    _check(request)
    return request


def inputs_of(request: Mapping[str, Any]) -> int:
    """Return how many embeddings a request asks for: a list holds several inputs, unless it is one of tokens."""
    given = request["input"]
    return len(given) if isinstance(given, list) and type(given[0]) is not int else 1


def _filled(payload: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    request = {**defaults, **payload}
    if None in request.values():
        request = {name: value for name, value in request.items() if value is not None}
    if "model" not in request and defaults.get("model") is not None:
        request["model"] = defaults["model"]
    if payload.get("max_tokens") is not None or payload.get("max_completion_tokens") is not None:
        for name in LIMITS - payload.keys():
            request.pop(name, None)
    return request


def _check(request: Mapping[str, Any]) -> None:
    model = request.get("model")
    if model is not None and not (isinstance(model, str) and model.strip()):
        raise _bad("model: a string that is not blank is expected")
    if request.get("stream", False) is not False:
        raise _bad("stream: only false is accepted, answers are stored whole; the field tokens shows them as they come")
    n = request.get("n", 1)
    if type(n) is not int or n != 1:
        raise _bad("n: only 1 is accepted, a job has one answer")


def question(messages: list[dict[str, Any]]) -> str:
    """Return the text of the last user message, or of the last message if there is none."""
    said = [message for message in messages if message["role"] == "user"] or messages
    return text_of(said[-1].get("content"))


def text_of(content: object) -> str:
    """Return the text of a message's content, which is a string or a list of parts; empty if it has none."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _messages(prompt: object, messages: object) -> list[dict[str, Any]]:
    if prompt is None and messages is None:
        raise _bad("prompt: is missing; a prompt or messages are expected")
    if prompt is not None and messages is not None:
        raise _bad("prompt: not beside messages, one of the two is expected")
    if messages is None:
        if not isinstance(prompt, str) or not prompt.strip():
            raise _bad("prompt: a string that is not blank is expected")
        return [{"role": "user", "content": prompt}]
    if not isinstance(messages, list) or not messages:
        raise _bad("messages: a list with at least one message is expected")
    for at, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or not role:
            raise _bad(f"messages.{at}: an object with a role is expected")
    return messages


def _bad(message: str) -> BadInputError:
    return BadInputError("bad_request", message)
