"""Runs a command that works until a signal and logs what it does: `worker`, `serve`, `scaler`."""

from typing import TYPE_CHECKING

from greenscale_worker.cli import interrupt
from greenscale_worker.cli.context import logs_json, settings_in_force

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine
    from typing import Any

    from greenscale_worker.config import Settings


def run_logged(work: "Callable[[Settings], Coroutine[Any, Any, int]]", *, left_out: "Collection[str]" = ()) -> int:
    """Run `work` with the settings in force, and return its exit code. Events in `left_out` are not logged.

    Likely typing errors in the settings are logged first. Raises ConfigError for wrong settings, and what `work`
    raises.
    """
    from greenscale_worker.telemetry import configure_logging, flush_log, log

    settings = settings_in_force()
    configure_logging(json=logs_json(settings), level=settings.log_level, left_out=left_out)
    for notice in settings.notices:
        log.warning("unknown_setting", name=notice.name, hint=notice.hint)
    try:
        return interrupt.run(work(settings))
    finally:
        flush_log()  # the error that ends it goes to stderr, after the log
