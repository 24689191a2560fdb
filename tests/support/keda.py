"""A client that behaves as KEDA does: two calls for a poll, and a stream that is opened again and again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from greenscale_worker.queues import Flow, QueueOptions, RedisOptions
from greenscale_worker.queues.redis.lookout import Lookout
from greenscale_worker.scaler import contract
from greenscale_worker.scaler.metrics import ScalerMetrics
from greenscale_worker.scaler.server import TLSFiles, serving
from greenscale_worker.scaler.service import STREAM_SECONDS, Service
from greenscale_worker.scaler.trigger import Own
from greenscale_worker.scaler.watcher import Looks, Watcher
from greenscale_worker.tasks import end

FIRST_WAIT: Final = 2.0  # until a stream is opened again, doubled after each one that did not end well
LONGEST_WAIT: Final = 60.0
OWN: Final = Own(16)


@dataclass
class Keda:
    """One ScaledObject. `heard` are the messages of its stream, `ends` how each stream ended, `waits` the pauses.

    A second of its waits lasts `second`.
    """

    channel: grpc.aio.Channel
    metadata: dict[str, str]
    second: float = 1.0
    heard: list[bool] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    @property
    def ref(self) -> Any:
        said = {"scalerAddress": "greenscale-scaler:6000", **self.metadata}  # KEDA passes all on
        return contract.ScaledObjectRef(name="so", namespace="ns", scalerMetadata=said)

    async def poll(self) -> tuple[float, bool]:
        """Ask for the work, then whether there is any, as at each poll and each question of the HPA."""
        request = contract.GetMetricsRequest(scaledObjectRef=self.ref, metricName="greenscale-work")
        (metric,) = (await self._call("GetMetrics", request, contract.GetMetricsResponse)).metricValues
        active = await self._call("IsActive", self.ref, contract.IsActiveResponse)
        assert metric.metricValueFloat == metric.metricValue
        return metric.metricValueFloat, active.result

    async def refusal(self) -> tuple[str, str]:
        """Poll, and return code and text of the error."""
        try:
            return "OK", str(await self.poll())
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""

    async def target(self) -> tuple[str, float]:
        (spec,) = (await self._call("GetMetricSpec", self.ref, contract.GetMetricSpecResponse)).metricSpecs
        assert spec.targetSize == int(spec.targetSizeFloat)
        return spec.metricName, spec.targetSizeFloat

    async def targets(self) -> list[float]:
        """What the stream of specifications says until it ends."""
        stream = self._stream("StreamMetricSpec", contract.GetMetricSpecResponse)
        return [message.metricSpecs[0].targetSizeFloat async for message in stream]

    async def listen(self) -> None:
        """Hold the stream for ever."""
        wait = FIRST_WAIT
        while True:
            try:
                async for message in self._stream("StreamIsActive", contract.IsActiveResponse):
                    self.heard.append(message.result)
            except grpc.aio.AioRpcError as error:
                self.ends.append(error.code().name)
            else:
                self.ends.append("EOF")
                wait = FIRST_WAIT
            self.waits.append(wait)
            await asyncio.sleep(wait * self.second)
            wait = min(2 * wait, LONGEST_WAIT)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.listen())
        try:
            yield
        finally:
            await end(task)

    def _stream(self, method: str, answer: Any) -> Any:
        call = self.channel.unary_stream(
            f"/{contract.SERVICE}/{method}", request_serializer=_bytes, response_deserializer=answer.FromString
        )
        return call(self.ref)

    async def _call(self, method: str, request: Any, answer: Any) -> Any:
        call = self.channel.unary_unary(
            f"/{contract.SERVICE}/{method}", request_serializer=_bytes, response_deserializer=answer.FromString
        )
        return await call(request)


def _bytes(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded


@asynccontextmanager
async def keda_of(port: int, second: float = 1.0, /, ca: bytes | None = None, **metadata: str) -> AsyncIterator[Keda]:
    """One ScaledObject with a connection of its own; with `ca` (PEM) by TLS, with a client's certificate from there."""
    options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.initial_reconnect_backoff_ms", 100)]
    if ca is None:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
    else:
        channel = grpc.aio.secure_channel(
            f"127.0.0.1:{port}", grpc.ssl_channel_credentials(ca, ca, ca), options=options
        )
    async with channel:
        yield Keda(channel, metadata, second)


@dataclass
class Scaler:
    """A scaler in this process."""

    port: int
    watcher: Watcher
    metrics: ScalerMetrics
    service: Service

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"greenscale_scaler_{name}", labels) or 0.0


@asynccontextmanager
async def a_scaler(
    looks: Looks, own: Own = OWN, *, lasts: tuple[float, float] = STREAM_SECONDS, tls: TLSFiles | None = None
) -> AsyncIterator[Scaler]:
    metrics = ScalerMetrics()
    watcher = Watcher(looks, metrics)
    try:
        service = Service(watcher, metrics, own, lasts=lasts)
        async with serving(service, "127.0.0.1:0", tls) as port:
            yield Scaler(port, watcher, metrics, service)
    finally:
        await watcher.aclose()


@asynccontextmanager
async def a_lookout(url: str) -> AsyncIterator[Lookout]:
    lookout = Lookout(RedisOptions(url=url), QueueOptions())
    try:
        yield lookout
    finally:
        await lookout.aclose()


class Told:
    """Queues that are as a test says: the queue `name` has `flows[name]`."""

    def __init__(self, **flows: Flow) -> None:
        self.flows = flows

    def client(self, _kind: str, name: str) -> "ToldQueue":
        return ToldQueue(self, name)

    async def arrivals(self, queues: Any) -> list[bool]:
        return [self.flows[name].waiting > 0 for _, name in queues]


class ToldQueue:
    def __init__(self, told: Told, name: str) -> None:
        self._told = told
        self._name = name

    async def flow(self) -> Flow:
        return self._told.flows[self._name]
