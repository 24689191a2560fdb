"""Backends that others write: found by entry point or by `package.module:name`."""

import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

from greenscale_worker.backends import Backend
from greenscale_worker.errors import ConfigError
from greenscale_worker.job import Job, Output
from greenscale_worker.wire_json import write

GROUP: Final = "greenscale.backends"
Handler = Callable[[Job], Awaitable[Any]]


class HandlerBackend:
    """An `async def handler(job)` that returns the answer: a string, an Output, or whatever JSON can say."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def infer(self, job: Job) -> Output:
        """Ask the handler; what is neither text nor Output is answered as compact JSON."""
        answer = await self._handler(job)
        if isinstance(answer, Output):
            return answer
        return Output(answer if isinstance(answer, str) else write(answer).decode())

    async def ready(self) -> bool:
        """Be ready, always: a function has nobody to ask."""
        return True

    async def aclose(self) -> None:
        """Nothing is open."""


def load(name: str, *, built_in: Iterable[str]) -> Backend:
    """Find the backend called `name` and make it; `built_in` are the names to tell of where there is none.

    What is found is an `async def handler(job)`, a Backend, or something that gives one when called without
    arguments (a class, a function). Raises ConfigError.
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
        sys.path.insert(0, here)  # a console script leaves it out, and there the handler's file mostly lies
    found: object = import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _backend(found: Any, *, made: bool = False) -> Backend:
    if not inspect.isclass(found):
        if all(inspect.iscoroutinefunction(getattr(found, name, None)) for name in ("infer", "ready", "aclose")):
            backend: Backend = found
            return backend
        if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(getattr(found, "__call__", None)):  # noqa: B004  the method itself is asked, not whether there is one
            return HandlerBackend(found)
    if callable(found) and not made:
        return _backend(found(), made=True)
    kind = type(found).__name__
    raise TypeError(f"an async def handler(job), or infer, ready and aclose are expected, not {kind}")
