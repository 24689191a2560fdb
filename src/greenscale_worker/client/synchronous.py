"""`Client` for programs without an event loop."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from greenscale_worker.client.arguments import check_many
from greenscale_worker.client.asynchronous import Client, Completed
from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.queues import JobInfo, State, TokenPiece
from greenscale_worker.tasks import end

P = ParamSpec("P")
T = TypeVar("T")


def _twin(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["SyncClient", P], T]:
    """Make a blocking method of one of Client's."""

    @wraps(method)
    def call(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(method(self._client, *args, **kwargs))

    return call


class SyncClient:
    """Client with blocking calls, for any thread, also beside a running event loop, as in a notebook.

    Takes what Client takes, or a Client that no event loop has used yet. Its own thread runs until `close`.
    """

    def __init__(self, *args: Any, client: Client | None = None, **kwargs: Any) -> None:
        self._client = client or Client(*args, **kwargs)
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._loop.run_forever, name="greenscale-client", daemon=True)
        self._thread.start()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, env_file: str | Path = ".env") -> Self:
        """See Client.from_env."""
        return cls(client=Client.from_env(environ, env_file=env_file))

    submit = _twin(Client.submit)
    submit_many = _twin(Client.submit_many)
    wait = _twin(Client.wait)
    ask = _twin(Client.ask)
    result = _twin(Client.result)
    body = _twin(Client.body)
    record = _twin(Client.record)
    cancel = _twin(Client.cancel)
    uncancel = _twin(Client.uncancel)
    depth = _twin(Client.depth)
    workers = _twin(Client.workers)

    def jobs(
        self,
        *,
        state: State | Collection[State] | None = None,
        code: str | None = None,
        worker: str | None = None,
        limit: int | None = None,
    ) -> list[JobInfo]:
        """List jobs; see Client.jobs."""
        found = self._client.jobs(state=state, code=code, worker=worker, limit=limit)

        async def all_of_them() -> list[JobInfo]:
            return [job async for job in found]

        return self._run(all_of_them())

    def as_completed(self, job_ids: Iterable[str]) -> Iterator[Completed]:
        """Yield each of these jobs when it has ended; see Client.as_completed."""
        check_many("job_ids", job_ids, "a list of ids")
        return self._iterated(self._client.as_completed(list(job_ids)))

    def tokens(self, job_id: str) -> Iterator[TokenPiece]:
        """Yield the text of a job as it comes; see Client.tokens."""
        return self._iterated(self._client.tokens(job_id))

    def _iterated(self, found: AsyncGenerator[T, None]) -> Iterator[T]:
        async def following() -> T | None:
            return await anext(found, None)

        try:
            while (each := self._run(following())) is not None:
                yield each
        finally:  # a caller that breaks out of the loop waits no longer
            with suppress(QueueUnavailableError):
                self._run(found.aclose())

    def close(self) -> None:
        """Close every connection, and end the thread. Calls of other threads raise QueueUnavailableError."""
        with self._lock:
            was_closed, self._closed = self._closed, True
        if was_closed or os.getpid() != self._process:
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        await self._client.aclose()
        for call in asyncio.all_tasks() - {asyncio.current_task()}:
            await end(call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._closed or os.getpid() != self._process:
                work.close()
                why = (
                    "the client was closed" if self._closed else "the client is another process's; expected: a new one"
                )
                raise QueueUnavailableError(why)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise QueueUnavailableError("the client was closed") from None
        except BaseException:
            if future.cancel():  # Ctrl-C: its caller no longer waits
                with suppress(CancelledError):
                    future.result()
            raise
