"""Answers KEDA over gRPC, from memory: no answer waits for Redis, but the first of a queue, for a second at most."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeVar

import grpc

from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.scaler import contract
from greenscale_worker.scaler.metrics import ScalerMetrics
from greenscale_worker.scaler.trigger import Own, Trigger, read
from greenscale_worker.scaler.watched import Watched
from greenscale_worker.scaler.watcher import TooManyQueuesError, Watcher

Answer = TypeVar("Answer")
Context = grpc.aio.ServicerContext[Any, Any]

METRIC: Final = "greenscale-work"
FIRST_SECONDS: Final = 1.0
# KEDA comes back 2 s after a stream has ended well, and gets the present state first; only that resets its back-off.
STREAM_SECONDS: Final = (180.0, 300.0)


class Service:
    """KEDA's service. Once `stop` was called, streams end well, and no stream lasts longer than some minutes."""

    def __init__(
        self, watcher: Watcher, metrics: ScalerMetrics, own: Own, *, lasts: tuple[float, float] = STREAM_SECONDS
    ) -> None:
        self.stopping = False
        self._watcher = watcher
        self._metrics = metrics
        self._own = own
        self._lasts = lasts
        self._clock = asyncio.get_running_loop().time

    def stop(self) -> None:
        """End all streams."""
        self.stopping = True
        for queue in self._watcher.queues.values():
            queue.ring()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return what gRPC calls."""
        once: Mapping[str, tuple[Callable[[Any, Context], Awaitable[Any]], Any]] = {
            "IsActive": (self.is_active, contract.ScaledObjectRef),
            "GetMetricSpec": (self.get_metric_spec, contract.ScaledObjectRef),
            "GetMetrics": (self.get_metrics, contract.GetMetricsRequest),
        }
        found: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._counted(name, call), request_deserializer=request.FromString, response_serializer=_bytes
            )
            for name, (call, request) in once.items()
        }
        for name, call in (("StreamIsActive", self.stream_is_active), ("StreamMetricSpec", self.stream_metric_spec)):
            found[name] = grpc.unary_stream_rpc_method_handler(
                self._counted_stream(name, call),
                request_deserializer=contract.ScaledObjectRef.FromString,
                response_serializer=_bytes,
            )
        return grpc.method_handlers_generic_handler(contract.SERVICE, found)

    async def is_active(self, ref: Any, context: Context) -> Any:
        """Say whether pods are to be started, or kept where some are."""
        _, active = await self._answer(ref, context)
        return contract.IsActiveResponse(result=active)

    async def get_metrics(self, request: Any, context: Context) -> Any:
        """Say how many jobs are worth a lane."""
        work, _ = await self._answer(request.scaledObjectRef, context)
        value = {"metricName": request.metricName or METRIC, "metricValue": work, "metricValueFloat": work}
        return contract.GetMetricsResponse(metricValues=[value])

    async def get_metric_spec(self, ref: Any, context: Context) -> Any:
        """Say how many jobs one pod runs at the same time."""
        return _spec(await self._trigger(ref, context))

    async def stream_is_active(self, ref: Any, context: Context) -> AsyncGenerator[Any, None]:
        """Say `true` when a pod is to be started, until one lives; nothing else, as KEDA ignores `false`."""
        queue = await self._watched(ref, context)
        ends = self._clock() + self._lifetime()
        queue.streams += 1
        try:
            heard = queue.announced - queue.wants_pod(self._clock())  # what is so now, first
            while not self.stopping:
                if heard != queue.announced:  # however often it was rung while KEDA did not read, once
                    heard = queue.announced
                    yield contract.IsActiveResponse(result=True)
                elif not await _before(ends, queue.rung()):
                    return
        finally:
            queue.streams -= 1

    async def stream_metric_spec(self, ref: Any, context: Context) -> AsyncGenerator[Any, None]:
        """Say once how many jobs one pod runs: the trigger says it, so it never changes."""
        queue = await self._watched(ref, context)
        ends = self._clock() + self._lifetime()
        yield _spec(queue.trigger)
        while not self.stopping and await _before(ends, queue.rung()):
            continue

    async def _answer(self, ref: Any, context: Context) -> tuple[int, bool]:
        queue = await self._watched(ref, context)
        try:
            return queue.answer(self._clock())
        except QueueUnavailableError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"Redis does not answer: {error}")
        except ConfigError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        raise AssertionError  # `abort` raises

    async def _watched(self, ref: Any, context: Context) -> Watched:
        trigger = await self._trigger(ref, context)
        try:
            queue = self._watcher.watch(trigger)
        except TooManyQueuesError:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many queues for one scaler")
            raise
        await queue.first_look(FIRST_SECONDS)
        return queue

    async def _trigger(self, ref: Any, context: Context) -> Trigger:
        try:
            return read(ref.scalerMetadata, self._own)
        except ConfigError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{ref.namespace}/{ref.name}: {error}")
            raise

    def _lifetime(self) -> float:
        return random.uniform(*self._lasts)  # noqa: S311  lest all streams end at once

    def _counted(
        self, name: str, call: Callable[[Any, Context], Awaitable[Answer]]
    ) -> Callable[[Any, Context], Awaitable[Answer]]:
        async def counted(request: Any, context: Context) -> Answer:
            async with self._counting(name, context):
                return await call(request, context)

        return counted

    def _counted_stream(
        self, name: str, call: Callable[[Any, Context], AsyncGenerator[Any, None]]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def counted(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._counting(name, context), aclosing(call(request, context)) as answers:
                async for answer in answers:
                    yield answer

        return counted

    @asynccontextmanager
    async def _counting(self, name: str, context: Context) -> AsyncIterator[None]:
        code = "CANCELLED"
        try:
            yield
            code = "OK"
        except grpc.aio.AbortError:
            code = context.code().name
            raise
        finally:
            self._metrics.calls.labels(name, code).inc()


def _bytes(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded


def _spec(trigger: Trigger) -> Any:
    spec = {"metricName": METRIC, "targetSize": int(trigger.target), "targetSizeFloat": trigger.target}
    return contract.GetMetricSpecResponse(metricSpecs=[spec])


async def _before(ends: float, happens: Awaitable[object]) -> bool:
    """Return whether something happens before that time of the loop's clock."""
    try:
        async with asyncio.timeout_at(ends):
            await happens
    except TimeoutError:
        return False
    return True
