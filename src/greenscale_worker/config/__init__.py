"""Settings: `settings` declares each of them once, `load` reads them, `options` makes options of the parts."""

from greenscale_worker.config.options import (
    chat_options,
    engine_pages,
    has_endpoint,
    most_in_flight,
    own_pod,
    own_queue_options,
    policy,
    queue_name,
    queue_options,
    redis_options,
)
from greenscale_worker.config.reading import load
from greenscale_worker.config.settings import Settings

__all__ = [
    "Settings",
    "chat_options",
    "engine_pages",
    "has_endpoint",
    "load",
    "most_in_flight",
    "own_pod",
    "own_queue_options",
    "policy",
    "queue_name",
    "queue_options",
    "redis_options",
]
