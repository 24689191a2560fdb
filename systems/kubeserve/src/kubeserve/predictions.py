"""A prediction is a job of its deployment's queue: waited for, or asked for later."""

import math
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import orjson
from greenscale_worker import (
    BadInputError,
    Client,
    ConfigError,
    JobCancelled,
    JobFailed,
    JobGone,
    QueueFullError,
    QueueUnavailableError,
    RedisOptions,
)

from kubeserve.errors import (
    Fault,
    KubeServeError,
    LimitedError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UnprocessableError,
)
from kubeserve.queueing import ANSWERS_FULL, LARGEST_BACKLOG, LARGEST_BODY, away, backlog, place_of, queue_options

FULL: Final = "the queue takes no more: Redis has no memory left; send it again later"
MOST_CLIENTS: Final = 100
LAST_LOOK_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 1.0
BACKLOG_SECONDS: Final = 5.0
FULL_SECONDS: Final = 60.0
BACKLOG: Final = f"predictions of {LARGEST_BACKLOG:,} bytes wait for this deployment already; send it again later"
ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})
GONE: Final = "there is no such prediction, or its answer has expired"
ROWS: Final = '{"instances": [row, …]}, a list of rows, or {"instance": row} is expected'
BAD_ROWS: Final = frozenset({"bad_instance", "not_finite", "bad_prediction", "too_large", "model_error"})


@dataclass(frozen=True, slots=True)
class Answer:
    """The state of a prediction: `answer` once it succeeded, `error` once it failed (code and message).

    `id` is None where a door answered by HTTP: nothing is kept of that.
    """

    id: str | None
    state: str
    answer: dict[str, Any] | None = None
    error: tuple[str, str] | None = None


def rows_of(body: bytes) -> list[Any]:
    """Return the rows of a request. Raises KubeServeError."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise KubeServeError(f"the body is not JSON: {error}; {ROWS}", code="bad_json") from error
    if isinstance(value, dict):
        value = [value["instance"]] if "instance" in value else value.get("instances")
    if not isinstance(value, list) or not value:
        raise UnprocessableError(ROWS, code="bad_instance", faults=[Fault("instances", "rows are expected")])
    return value


def deployment_of(prediction_id: str) -> str:
    """Return the deployment that a prediction's id names. Raises NotFoundError for what is no such id."""
    deployment_id, dot, _ = prediction_id.partition(".")
    if not dot or not re.fullmatch(r"[0-9a-f-]{36}\.[0-9a-f-]{36}", prediction_id):
        raise NotFoundError(GONE)
    return deployment_id


class Predictions:
    """Submits predictions and tells how they stand. The deployments that were asked last have a connection each.

    Every call raises UnavailableError while the queue does not answer.
    """

    def __init__(self, redis: RedisOptions) -> None:
        self._redis = redis
        self._clients: dict[str, _Used] = {}
        self._backlogs: dict[str, tuple[float, int]] = {}  # when it was looked at, and bytes

    async def submit(self, deployment_id: str, rows: list[Any]) -> str:
        """Put a prediction into the queue. Return its id: from now on it will end, whoever dies.

        Raises TooLargeError, UnprocessableError, and LimitedError while too much waits for the deployment.
        """
        prediction_id = f"{deployment_id}.{uuid.uuid4()}"
        await self._check_backlog(deployment_id)
        async with self._client(deployment_id) as client:
            try:
                return await client.submit(job_id=prediction_id, instances=rows)
            except QueueFullError as error:
                raise UnavailableError(FULL) from error
            except BadInputError as error:
                if error.code == "too_large":
                    raise TooLargeError(
                        f"the rows have more than {LARGEST_BODY:,} bytes; send them in parts"
                    ) from error
                raise UnprocessableError(str(error), code=error.code) from error

    async def wait(self, prediction_id: str, seconds: float) -> Answer:
        """Return how a prediction ended, or how it stands after `seconds`. Raises NotFoundError."""
        async with self._client(deployment_of(prediction_id)) as client:
            try:
                answer = await client.wait(prediction_id, timeout=seconds)
            except TimeoutError:
                return await self._stands(client, prediction_id)
            except JobFailed as error:
                return Answer(prediction_id, "failed", error=(error.code, error.message))
            except JobCancelled:
                return Answer(prediction_id, "cancelled")
            except JobGone as error:
                raise NotFoundError(GONE) from error
        return Answer(prediction_id, "succeeded", answer=orjson.loads(answer))

    async def look(self, prediction_id: str) -> Answer:
        """Return how a prediction stands. Raises NotFoundError."""
        async with self._client(deployment_of(prediction_id)) as client:
            now = await self._stands(client, prediction_id)
        return await self.wait(prediction_id, LAST_LOOK_SECONDS) if now.state in ENDED else now

    async def cancel(self, prediction_id: str) -> None:
        """Cancel a prediction that has not ended. Raises NotFoundError."""
        async with self._client(deployment_of(prediction_id)) as client:
            await self._stands(client, prediction_id)
            await client.cancel(prediction_id)

    async def forget(self, deployment_id: str) -> None:
        """Close the connection of a deployment that is gone; who waits is told that the queue does not answer."""
        used = self._clients.pop(deployment_id, None)
        if used is not None:
            await used.client.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        for deployment_id in list(self._clients):
            await self.forget(deployment_id)

    async def _check_backlog(self, deployment_id: str) -> None:
        """Look once in a second: a flood may come as far as it gets in that time."""
        looked_at, size = self._backlogs.pop(deployment_id, (-math.inf, 0))
        if monotonic() - looked_at > LOOK_SECONDS:
            looked_at, size = monotonic(), await backlog(self._redis, deployment_id)
        self._backlogs[deployment_id] = looked_at, size  # the last
        if len(self._backlogs) > MOST_CLIENTS:
            del self._backlogs[next(iter(self._backlogs))]
        if size > LARGEST_BACKLOG:
            raise LimitedError(BACKLOG, code="backlog", retry_after=BACKLOG_SECONDS)

    async def _stands(self, client: Client, prediction_id: str) -> Answer:
        try:
            record = await client.record(prediction_id)
        except BadInputError as error:
            raise NotFoundError(GONE) from error
        if record is None:
            raise NotFoundError(GONE)
        return Answer(prediction_id, record.state)

    @asynccontextmanager
    async def _client(self, deployment_id: str) -> AsyncIterator[Client]:
        used = self._clients.pop(deployment_id, None) or _Used(
            Client(redis=self._redis, options=queue_options(deployment_id), check=False, max_bytes=LARGEST_BODY)
        )
        self._clients[deployment_id] = used  # the last
        used.calls += 1
        try:
            yield used.client
        except (QueueUnavailableError, ConfigError) as error:
            raise away(error) from error
        finally:
            used.calls -= 1
            if len(self._clients) > MOST_CLIENTS:
                await self._close_one()

    async def _close_one(self) -> None:
        idle = next((name for name, used in self._clients.items() if not used.calls), None)
        if idle is not None:
            await self.forget(idle)


@dataclass(slots=True)
class _Used:
    """A connection, and how many calls use it just now."""

    client: Client
    calls: int = 0


def problem(answer: Answer) -> KubeServeError:
    """Return the error by which a failed prediction is told: 422 where it is about the rows, 502-like 503 else."""
    code, message = answer.error or ("model_error", "the prediction failed")
    if code == ANSWERS_FULL:
        return LimitedError(message, code=code, retry_after=FULL_SECONDS)
    place, message = place_of(message)
    faults = [] if place is None else [Fault(place, message)]
    kind = UnprocessableError if code in BAD_ROWS else KubeServeError
    error = kind(message, code=code, faults=faults)
    if kind is KubeServeError:
        error.status = 502
    return error
