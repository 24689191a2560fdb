"""What only the worker knows of a job: fields of its record (docs/wire-contract.md), and what the ledger counts."""

from time import monotonic
from typing import Any

from greenscale_worker.job import Job, Succeeded, Usage
from greenscale_worker.queues import Lease
from greenscale_worker.queues.putting import echoed
from greenscale_worker.queues.redis.flow_words import countable


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


def of_call(lease: Lease, usage: Usage) -> str:
    """Return what the ledger counts of a call, as settle.lua reads it: began, ms, tokens in and out, tenant."""
    ms = int(1000 * (lease.call_seconds or 0.0))
    tokens = f"{countable(usage.prompt_tokens)} {countable(usage.completion_tokens)}"
    return f"{_began_ms(lease)} {ms} {tokens} {lease.tenant or ''}"


def _began_ms(lease: Lease) -> int:
    """Return when the call of a job began, by the queue's clock, in ms; without a call: now.

    A time, not an age, as it may be sent again after an outage. It is early by the travel time of the claim's answer,
    which is the safe side: a call that began before a fault proves nothing about it.
    """
    began = monotonic() if lease.began is None else lease.began
    return int(1000 * (lease.claimed_at + began - lease.received))
