"""Runs the worker's command with one breakpoint, at which the process dies as by `kill -9`.

    python -m harness.breakpoints "settle sent 2"

`2`: the second time it gets there. The product has no code for this: its functions are wrapped before its command runs.
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NoReturn

from redis.asyncio.connection import AbstractConnection

from greenscale_worker.backends.chat import ChatBackend
from greenscale_worker.cli import main
from greenscale_worker.queues.redis.factory import WORKER_SCRIPTS
from greenscale_worker.queues.redis.script_loader import Script, read_script

MOMENTS: Final = ("before", "sent", "answered")


def break_at(point: str) -> None:
    """Set the breakpoint: a script of the queues in Redis or `infer`, the moment, and at which call of it to die."""
    what, moment, passes = point.split()
    if moment not in MOMENTS or (what != "infer" and what not in WORKER_SCRIPTS):
        raise ValueError(point)
    left = int(passes)

    async def reach(call: Callable[[], Awaitable[Any]], send: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal left
        left -= 1
        if left > 0:
            return await call()
        if moment == "sent":
            await send()
            raise AssertionError(f"{point}: what was sent was not seen")
        if moment == "answered":
            await call()
        _die()

    if what == "infer":
        _wrap_backend(reach)
    else:
        _wrap_script(what, reach)


def _wrap_backend(reach: Callable[..., Awaitable[Any]]) -> None:
    original = ChatBackend.infer

    async def infer(self: ChatBackend, job: Any) -> Any:
        return await reach(lambda: original(self, job), _nothing)

    ChatBackend.infer = infer  # type: ignore[method-assign]  # the purpose of this module


def _wrap_script(name: str, reach: Callable[..., Awaitable[Any]]) -> None:
    original = Script.__call__
    body = read_script(name)

    async def run(self: Script, client: Any, keys: list[str], args: list[Any]) -> Any:
        async def send() -> None:
            _die_after_sending(self.source)
            await client.execute_command("EVAL", self.source, len(keys), *keys, *args)

        if not self.source.endswith(body):
            return await original(self, client, keys, args)
        return await reach(lambda: original(self, client, keys, args), send)

    Script.__call__ = run  # type: ignore[method-assign]  # as above


def _die_after_sending(source: bytes) -> None:
    original = AbstractConnection.send_packed_command

    async def send_packed_command(self: AbstractConnection, command: Iterable[bytes], **options: Any) -> None:
        chunks = list(command)
        await original(self, chunks, **options)
        if source in b"".join(chunks):
            _die()

    AbstractConnection.send_packed_command = send_packed_command  # type: ignore[method-assign]  # as above


async def _nothing() -> None:
    raise ValueError("an HTTP call has no moment `sent`: the endpoint knows better when it has arrived")


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


if __name__ == "__main__":
    break_at(sys.argv[1])
    sys.exit(main([]))
