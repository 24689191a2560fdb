"""Runs LLM jobs from a queue against an OpenAI-compatible endpoint, and loses none.

The names below are public (docs/plugins.md). Each is imported on first use, so that a program, and each of our own
commands, pays only for what it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from greenscale_worker.backends import Backend, ChatOptions, open_backend
    from greenscale_worker.backends.batched import batched
    from greenscale_worker.backends.handlers import HandlerBackend
    from greenscale_worker.client import Client, Completed, SyncClient
    from greenscale_worker.errors import (
        BadInputError,
        ConfigError,
        GreenScaleError,
        JobCancelled,
        JobFailed,
        JobGone,
        PermanentError,
        QueueFullError,
        QueueUnavailableError,
        Snooze,
        TransientError,
    )
    from greenscale_worker.execution import Policy
    from greenscale_worker.gate import Gate
    from greenscale_worker.grouping import Grouper
    from greenscale_worker.job import Failed, Failure, Job, Outcome, Output, Rates, Released, Succeeded, Usage, decode
    from greenscale_worker.queues import (
        Binding,
        Cancellation,
        DeadFilter,
        DeadLetter,
        Depth,
        Flow,
        JobFilter,
        JobInfo,
        Lease,
        LedgerMinute,
        LiveWorker,
        Loss,
        Notice,
        Observed,
        Queue,
        QueueClient,
        QueueOptions,
        RedisOptions,
        Replay,
        State,
        TokenPiece,
        Verdict,
    )
    from greenscale_worker.queues.memory import MemoryQueue
    from greenscale_worker.queues.redis.opened import redis_client
    from greenscale_worker.queues.registry import QueueKind, open_client, open_queue
    from greenscale_worker.telemetry import Metrics
    from greenscale_worker.worker import Worker

_MODULES: Final = {
    "backends": "Backend ChatOptions open_backend",
    "backends.batched": "batched",
    "backends.handlers": "HandlerBackend",
    "client": "Client Completed SyncClient",
    "errors": "BadInputError ConfigError GreenScaleError JobCancelled JobFailed JobGone PermanentError QueueFullError "
    "QueueUnavailableError Snooze TransientError",
    "execution": "Policy",
    "gate": "Gate",
    "grouping": "Grouper",
    "job": "Failed Failure Job Outcome Output Rates Released Succeeded Usage decode",
    "queues": "Binding Cancellation DeadFilter DeadLetter Depth Flow JobFilter JobInfo Lease LedgerMinute LiveWorker "
    "Loss Notice Observed Queue QueueClient QueueOptions RedisOptions Replay State TokenPiece Verdict",
    "queues.memory": "MemoryQueue",
    "queues.redis.opened": "redis_client",
    "queues.registry": "QueueKind open_client open_queue",
    "telemetry": "Metrics",
    "worker": "Worker",
}
# Former names, kept for one more release, and what they are called now.
_FORMER: Final = {"QueueAdmin": "QueueClient", "open_admin": "open_client"}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [  # written out for type checkers, which do not run code
    "Backend",
    "BadInputError",
    "Binding",
    "Cancellation",
    "ChatOptions",
    "Client",
    "Completed",
    "ConfigError",
    "DeadFilter",
    "DeadLetter",
    "Depth",
    "Failed",
    "Failure",
    "Flow",
    "Gate",
    "GreenScaleError",
    "Grouper",
    "HandlerBackend",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobFilter",
    "JobGone",
    "JobInfo",
    "Lease",
    "LedgerMinute",
    "LiveWorker",
    "Loss",
    "MemoryQueue",
    "Metrics",
    "Notice",
    "Observed",
    "Outcome",
    "Output",
    "PermanentError",
    "Policy",
    "Queue",
    "QueueClient",
    "QueueFullError",
    "QueueKind",
    "QueueOptions",
    "QueueUnavailableError",
    "Rates",
    "RedisOptions",
    "Released",
    "Replay",
    "Snooze",
    "State",
    "Succeeded",
    "SyncClient",
    "TokenPiece",
    "TransientError",
    "Usage",
    "Verdict",
    "Worker",
    "batched",
    "decode",
    "open_backend",
    "open_client",
    "open_queue",
    "redis_client",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562), and keep it."""
    name = _FORMER.get(name, name)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
