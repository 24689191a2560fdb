"""The models of a deployment: asked by jobs, as a backend of GreenScale, and by HTTP. A call has one row or many."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import orjson
from greenscale_worker import Job, Output, PermanentError, TransientError

from kubeserve.door.metrics import AGAIN, Metrics
from kubeserve.door.pool import Pool
from kubeserve.door.replica import DiedError, RefusedError, Rows, StartError
from kubeserve.places.workload import Replicable
from kubeserve.queueing import ANSWERS_FULL, told_at

FULL: Final = "your answers of the last hour take all the room that you have; ask for fewer or smaller ones, or later"
BAD_INPUT: Final = "instances: a list of at least one row is expected"


class ModelBackend:
    """Answers with whatever revision `current` returns: its pool, and what it runs.

    `may_keep` is asked before an answer of so many bytes is put into Redis, where those of jobs lie.

    The answer is JSON: `{"predictions": [...], "revision": n, "version": tag}`.
    """

    def __init__(
        self,
        deployment_id: str,
        current: Callable[[], "Current | None"],
        metrics: Metrics,
        may_keep: Callable[[int], bool],
    ) -> None:
        self.why_not_ready = "no revision of it runs yet"
        self._deployment_id = deployment_id
        self._current = current
        self._metrics = metrics
        self._may_keep = may_keep

    @property
    def current(self) -> "Current | None":
        """The revision that answers."""
        return self._current()

    async def infer(self, job: Job) -> Output:
        """Answer. A model's own refusal is final; a replica that does not come up leaves the job in the queue."""
        rows: Any = job.payload.get("instances")
        with self._counted(len(rows) if isinstance(rows, list) else 0):
            if not isinstance(rows, list) or not rows:
                raise PermanentError("bad_instance", BAD_INPUT)
            text, tag = await self._answer(Rows.of(rows))
            if not self._may_keep(len(text)):
                raise PermanentError(ANSWERS_FULL, FULL)
            return Output(text.decode(), model=tag)

    async def answer(self, rows: Rows) -> bytes:
        """Answer a call by HTTP, of which nothing is kept. Raises as `infer` does."""
        with self._counted(rows.count):
            text, _ = await self._answer(rows)
            return text

    @contextmanager
    def _counted(self, rows: int) -> Iterator[None]:
        began, outcome = perf_counter(), "error"
        try:
            yield
            outcome = "success"
        except (TransientError, asyncio.CancelledError):
            outcome = AGAIN
            raise
        finally:
            self._metrics.count(self._deployment_id, outcome, perf_counter() - began, rows)

    async def _answer(self, rows: Rows) -> tuple[bytes, str]:
        current = self._current()
        if current is None:
            raise TransientError("not_ready", self.why_not_ready, prior="endpoint")
        try:
            predictions = await current.pool.predict(rows)
        except StartError as error:
            raise TransientError("replica_failed", str(error), prior="endpoint") from error
        except RefusedError as error:
            raise PermanentError(error.code, told_at(error.index, error.field, str(error))) from error
        except DiedError as error:
            raise PermanentError(error.code, f"{error}; asked again alone, the same happened") from error
        answer = {"predictions": predictions, "revision": current.what.revision, "version": current.what.tag}
        return orjson.dumps(answer), current.what.tag

    async def ready(self) -> bool:
        """Return whether a revision has come up, so that jobs can be answered."""
        return self._current() is not None

    async def aclose(self) -> None:
        """Close nothing: the pools belong to the deployment."""


@dataclass(frozen=True, slots=True)
class Current:
    """The revision that answers."""

    pool: Pool
    what: Replicable
