"""Fields of a job's record that only the worker knows (docs/wire-contract.md, "The record")."""

from typing import Any

from greenscale_worker.job import Job, Succeeded, Usage
from greenscale_worker.queues import Lease
from greenscale_worker.queues.putting import echoed


def of_run(job: Job) -> list[Any]:
    """Return the fields for a job that begins to run, besides those that the script knows."""
    return [word for field in echoed(job).items() for word in field]


def encoded(text: str) -> bytes:
    """Return text as bytes for Redis; a lone surrogate, which UTF-8 cannot encode, becomes a question mark."""
    return text.encode("utf-8", "replace")


def of_success(outcome: Succeeded) -> list[Any]:
    """Return the fields for an answer, besides those that the script knows."""
    output = outcome.output
    fields = _of_usage(output.usage)
    if output.model is not None:
        fields += ["model", encoded(output.model)]
    if output.finish_reason is not None:
        fields += ["finish_reason", encoded(output.finish_reason)]
    return fields


def of_failure(lease: Lease, code: bytes, message: bytes, usage: Usage) -> list[Any]:
    """Return the fields for a dead letter."""
    fields: list[Any] = ["attempts", lease.attempts, "crashes", lease.crashes]
    return [*fields, "error_code", code, "error_message", message, *_of_usage(usage)]


def _of_usage(usage: Usage) -> list[Any]:
    fields: list[Any] = []
    if usage.prompt_tokens is not None:
        fields += ["prompt_tokens", usage.prompt_tokens]
    if usage.completion_tokens is not None:
        fields += ["completion_tokens", usage.completion_tokens]
    if usage.total_tokens is not None:
        fields += ["total_tokens", usage.total_tokens]
    return fields
