"""An inference engine as vLLM is one: slots, a queue inside, and steps that slow down as more sequences share them."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from greenscale_worker.simulator.completions import MODEL
from greenscale_worker.simulator.faults import Seconds
from greenscale_worker.tasks import end

BUSY: Final = (
    "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
)


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class EngineOptions:
    """How the engine behaves; times are seconds.

    At most `slots` sequences run, the others wait inside. A step gives each running sequence a token; it takes `step`,
    `per_sequence` for each of them, and `per_prompt_token` for each token of the prompts that begin with it. Of
    `kv_tokens` is how many tokens of running sequences fill the cache.

    Raises pydantic's ValidationError (a ValueError) if a value is out of bounds.
    """

    slots: Annotated[int, Field(ge=1)] = 256
    step: Seconds = 0.012
    per_sequence: Seconds = 0.00012
    per_prompt_token: Seconds = 0.00002
    queue_limit: Annotated[int, Field(ge=0)] | None = None
    queue_full: Literal[503, 429] = 503
    kv_tokens: Annotated[int, Field(ge=1)] = 500_000


class QueueFullError(Exception):
    """As many requests wait as the engine lets wait."""


class Sequence:
    """A request in the engine: `tokens` are still to come after `made`."""

    def __init__(self, prompt_tokens: int, tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.tokens = max(1, tokens)
        self.made = 0
        self._wanted = 0
        self._reached: asyncio.Future[None] | None = None

    @property
    def in_cache(self) -> int:
        """Tokens that it keeps in the cache while it runs."""
        return self.prompt_tokens + self.made

    async def reach(self, tokens: int) -> None:
        """Wait until so many tokens, or all, have been made."""
        self._wanted = min(tokens, self.tokens)
        if self.made < self._wanted:
            self._reached = asyncio.get_running_loop().create_future()
            await self._reached

    def grow(self) -> None:
        """Make a token."""
        self.made += 1
        if self._reached is not None and self.made >= self._wanted and not self._reached.done():
            self._reached.set_result(None)


class Engine:
    """Runs sequences, first come, first served. `options` may be replaced at any time."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.refused = self.preempted = self.most_waiting = 0
        self._running: dict[Sequence, None] = {}
        self._waiting: deque[Sequence] = deque()
        self._stepping: asyncio.Task[None] | None = None
        self._registry = registry = CollectorRegistry()
        labels = ["model_name", "engine"]

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"vllm:{name}", text, labels, registry=registry).labels(MODEL, "0")

        def counter(name: str, text: str) -> Counter:
            return Counter(f"vllm:{name}", text, labels, registry=registry).labels(MODEL, "0")

        self._gauges = (
            gauge("num_requests_running", "Number of requests in model execution batches."),
            gauge("num_requests_waiting", "Number of requests waiting to be processed."),
            gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."),
        )
        self._prompted = counter("prompt_tokens", "Number of prefill tokens processed.")
        self._generated = counter("generation_tokens", "Number of generation tokens processed.")
        self.tokens = 0

    @contextmanager
    def sequence(self, prompt_tokens: int, tokens: int) -> Iterator[Sequence]:
        """Have a sequence worked on until the block is left. Raises QueueFullError."""
        limit, free = self.options.queue_limit, max(0, self.options.slots - len(self._running))
        if limit is not None and len(self._waiting) >= free + limit:
            self.refused += 1
            raise QueueFullError
        sequence = Sequence(prompt_tokens, tokens)
        self._waiting.append(sequence)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step())
        try:
            yield sequence
        finally:
            self._running.pop(sequence, None)
            if sequence in self._waiting:
                self._waiting.remove(sequence)

    async def aclose(self) -> None:
        """Stop."""
        if self._stepping is not None:
            await end(self._stepping)

    def metrics(self) -> bytes:
        """Return the page that Prometheus scrapes, as it was after the last step, as vLLM does."""
        return generate_latest(self._registry)

    def stats(self) -> dict[str, int]:
        """Return what is inside now, and counts since the start."""
        return {
            "slots": self.options.slots,
            "running": len(self._running),
            "waiting": len(self._waiting),
            "most_waiting": self.most_waiting,
            "tokens": self.tokens,
            "refused": self.refused,
            "preempted": self.preempted,
        }

    async def _step(self) -> None:
        """Step until nothing is left. A step that ends late shortens the next ones: the engine keeps its speed."""
        clock = asyncio.get_running_loop().time
        ends = clock()
        while self._running or self._waiting:
            prompts = self._admit()
            self._show()
            options = self.options
            ends += options.step + options.per_sequence * len(self._running) + options.per_prompt_token * prompts
            await asyncio.sleep(max(0.0, ends - clock()))
            self._make()
        self._show()

    def _admit(self) -> int:
        """Fill the slots; sequences beyond them go back to wait. Return the tokens of the prompts that begin."""
        prompts, slots = 0, self.options.slots
        while len(self._running) > slots:
            self._waiting.appendleft(self._running.popitem()[0])
            self.preempted += 1
        while self._waiting and len(self._running) < slots:
            sequence = self._waiting.popleft()
            self._running[sequence] = None
            prompts += sequence.in_cache
        self._prompted.inc(prompts)
        self.most_waiting = max(self.most_waiting, len(self._waiting))
        return prompts

    def _make(self) -> None:
        """Make a token for each running sequence."""
        made = list(self._running)
        for sequence in made:
            sequence.grow()
            if sequence.made >= sequence.tokens:
                del self._running[sequence]
        self.tokens += len(made)
        self._generated.inc(len(made))

    def _show(self) -> None:
        used = sum(sequence.in_cache for sequence in self._running) / self.options.kv_tokens
        for gauge, value in zip(self._gauges, (len(self._running), len(self._waiting), min(1.0, used)), strict=True):
            gauge.set(value)
