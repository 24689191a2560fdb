"""Functions as backends, and backends of plug-ins: found by entry point or by `package.module:name`."""

import asyncio
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

from greenscale_worker.backends import Backend
from greenscale_worker.backends.threads import Threads
from greenscale_worker.errors import ConfigError, TransientError
from greenscale_worker.job import Job, Output
from greenscale_worker.telemetry import log
from greenscale_worker.wire_json import write

GROUP: Final = "greenscale.backends"
Handler = Callable[[Job], Any]
EXPECTED: Final = "a function that takes a job, or infer, ready and aclose"


class HandlerBackend:
    """A function that takes a job and returns the answer: a string, an Output, or any JSON value.

    An `async def` runs in the event loop; a plain function in a thread, one for each concurrent call. A plain function
    that is cancelled, by its time limit or otherwise, goes on to its end, and its result is dropped.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._threads = None if _is_async(handler) else Threads()

    async def infer(self, job: Job) -> Output:
        """Call the handler. A result that is neither text nor Output becomes compact JSON."""
        answer = await (self._handler(job) if self._threads is None else self._in_thread(self._threads, job))
        if isinstance(answer, Output):
            return answer
        return Output(answer if isinstance(answer, str) else _written(answer))

    async def ready(self) -> bool:
        """Return True: a function is always ready."""
        return True

    async def aclose(self) -> None:
        """End the threads, without waiting for those left behind."""
        if self._threads is not None:
            self._threads.close()

    async def _in_thread(self, threads: Threads, job: Job) -> Any:
        try:
            answer = await threads.call(self._handler, job)
        except asyncio.CancelledError:
            if threads.left_behind:
                log.warning("thread_left_behind", job_id=job.job_id, threads=threads.left_behind)
            raise
        return await answer if inspect.isawaitable(answer) else answer


def _written(answer: Any) -> str:
    try:
        return write(answer).decode()
    except (TypeError, ValueError):
        kind = type(answer).__name__
        what = f"the handler returned what is not JSON, of type {kind}; text, an Output or JSON is expected"
        raise TransientError("backend_error", what) from None


def as_backend(given: Any) -> Backend:
    """Make a backend of a function; return a backend unchanged. Raises TypeError for anything else."""
    if hasattr(given, "infer") and not inspect.isclass(given):
        backend: Backend = given
        return backend
    if callable(given) and not inspect.isclass(given):
        return HandlerBackend(given)
    raise TypeError(f"backend: {EXPECTED} are expected, not {given!r}")


def load(name: str, *, built_in: Iterable[str]) -> Backend:
    """Find the backend called `name` and make it; `built_in` are the names to list if there is none.

    The name may stand for a function that takes a job, a Backend, or a class or function that returns one of them when
    called without arguments. Raises ConfigError.
    """
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    try:
        if name in found:
            return _backend(found[name].load())
        module, colon, attribute = name.partition(":")
        if module and colon and attribute:
            return _backend(_import(module, attribute))
    except Exception as error:
        raise ConfigError(f"backend {name}: {type(error).__name__}: {error}") from error
    names = ", ".join(sorted({*built_in, *found}))
    raise ConfigError(f"backend {name}: there is no such one; {names} or package.module:handler are accepted")


def _import(module: str, attribute: str) -> object:
    here = os.getcwd()  # noqa: PTH109  sys.path holds strings
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # a console script leaves it out, and handlers are mostly there
    found: object = import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _backend(found: Any, *, made: bool = False) -> Backend:
    if not inspect.isclass(found):
        if all(inspect.iscoroutinefunction(getattr(found, name, None)) for name in ("infer", "ready", "aclose")):
            backend: Backend = found
            return backend
        if _takes_a_job(found):
            return HandlerBackend(found)
    if callable(found) and not made:
        return _backend(found(), made=True)
    raise TypeError(f"{EXPECTED} are expected, not {type(found).__name__}")


def _is_async(found: Any) -> bool:
    return inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(getattr(found, "__call__", None))  # noqa: B004  asks whether the method is async, not whether it exists


def _takes_a_job(found: Any) -> bool:
    """Return whether this is a handler: an `async def`, or a function with one required argument."""
    return _is_async(found) or (_may_be_called(found, "a job") and not _may_be_called(found))


def _may_be_called(found: Any, *arguments: str) -> bool:
    try:
        inspect.signature(found).bind(*arguments)
    except (TypeError, ValueError):
        return False
    return True
