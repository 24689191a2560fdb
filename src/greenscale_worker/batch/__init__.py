"""Runs a file of prompts through a worker and a queue of one process.

Lanes, retries and gate are those of the worker with Redis. The queue is in memory, and the output file takes the
place of results and records: a prompt with an answer in that file is not sent again.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Final

from greenscale_worker.backends import Backend
from greenscale_worker.batch.answers import Answers
from greenscale_worker.batch.output import body_of
from greenscale_worker.batch.requests import IN_VAIN, Request, count_lines, read_requests
from greenscale_worker.blame import Call
from greenscale_worker.errors import ConfigError, TransientError
from greenscale_worker.execution import Policy
from greenscale_worker.gate import Gate
from greenscale_worker.job import Failed, Outcome, Released, Succeeded
from greenscale_worker.queues import Lease, QueueOptions
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.telemetry import Metrics
from greenscale_worker.worker import Worker

MAX_BYTES: Final = 1024 * 1024
MOST_GROWTH: Final = 8  # of a payload over its line: it gets an id, and 9e15 becomes 9000000000000000.0
LINES_AHEAD: Final = 4  # for each lane: lines read and not finished
PROOF: Final = 3  # lines that fail alike before any is answered: the key is wrong, not the lines
LINES_AT_ONCE: Final = 100  # lines that need no call, before other tasks get a turn


@dataclass(slots=True)
class Tally:
    """How far a batch has come. `total` is None if it cannot be known.

    `earlier` counts lines done in an earlier run, `refused` those of them that cannot succeed. Tokens are of this run.
    `codes` counts failures by code, and `messages` has the first message of each code.
    """

    total: int | None = None
    answered: int = 0
    failed: int = 0
    earlier: int = 0
    refused: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    began: float = field(default_factory=monotonic)
    ended: float | None = None

    @property
    def done(self) -> int:
        """Lines that are answered or failed, in this run or an earlier one."""
        return self.earlier + self.answered + self.failed

    @property
    def seconds(self) -> float:
        """Seconds that this run has taken so far."""
        return (self.ended or monotonic()) - self.began

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def tokens(self) -> int:
        """Tokens of questions and answers."""
        return self.prompt_tokens + self.completion_tokens

    def count(self, outcome: Succeeded | Failed) -> None:
        """Add a line that has just finished."""
        if isinstance(outcome, Failed):
            self.failed += 1
            self.codes[outcome.code] += 1
            self.messages.setdefault(outcome.code, outcome.message)
            return
        self.answered += 1
        self.prompt_tokens += outcome.output.usage.prompt_tokens or 0
        self.completion_tokens += outcome.output.usage.completion_tokens or 0


class Batch:
    """Runs the lines of `source` and appends their outcomes to `target`, as they finish.

    Lines that `target` has an answer for, or refuses for their content, are left out; others that failed are sent
    again. `on_finished` is called with each line's request and outcome. Raises ConfigError if `target` is not the
    output of a batch, and OSError if one of the two cannot be opened.
    """

    def __init__(  # noqa: PLR0913  the two files, the worker's parts, and the callback
        self,
        source: Path,
        target: Path,
        backend: Backend,
        *,
        concurrency: int = 16,
        drain: float = 5.0,
        max_bytes: int = MAX_BYTES,
        policy: Policy | None = None,
        on_finished: Callable[[Request, Succeeded | Failed], None] | None = None,
    ) -> None:
        self.tally = Tally(count_lines(source))
        self.fault: Exception | None = None
        with ExitStack() as files:
            self._requests = read_requests(files.enter_context(source.open("rb")), max_bytes=max_bytes)
            self._answers = files.enter_context(closing(Answers(target)))
            self._files = files.pop_all()
        self._on_finished = on_finished
        self._open: dict[bytes, Request] = {}
        self._most_open = LINES_AHEAD * concurrency
        self._room = asyncio.Semaphore(self._most_open)
        self._feeding: asyncio.Task[None] | None = None
        self._is_read = False
        self._queue = MemoryQueue(QueueOptions(result_ttl=0), on_settled=self._settled)
        metrics = _CountedRetries(self.tally)
        self._worker = Worker(
            self._queue,
            backend,
            drain=drain,
            max_bytes=MOST_GROWTH * max_bytes,
            gate=_WatchedGate(concurrency, metrics, self._to_be_mended),
            policy=policy,
            metrics=metrics,
        )

    async def run(self) -> Tally:
        """Run to the end, or until `stop`. Then `fault` is the error of a file or the endpoint that ended it early."""
        with self._files:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._worker.run())
                self._feeding = tasks.create_task(self._feed())
        self.tally.ended = monotonic()
        return self.tally

    def stop(self) -> None:
        """Take no further line; running lines have the drain time. A second call ends that time at once."""
        if self._feeding is not None:
            self._feeding.cancel()
        self._worker.stop()

    async def _feed(self) -> None:
        try:
            for number, request in enumerate(self._requests):
                if number % LINES_AT_ONCE == 0:
                    await asyncio.sleep(0)
                await self._start(request)
            self._is_read = True
            for _ in range(self._most_open):
                await self._room.acquire()
        except OSError as error:
            self.fault = error
        self._worker.stop()

    async def _start(self, request: Request | None) -> None:
        if request is None:
            self._skip_blank()
        elif request.key in self._answers.answered:
            self.tally.earlier += 1
        elif request.key in self._answers.refused:
            self.tally.earlier += 1
            self.tally.refused += 1
        elif request.fault is not None:
            self._finish(request, Failed(request.fault.code, str(request.fault)))
        else:
            await self._room.acquire()
            self._open[request.payload] = request
            await self._queue.put([(request.job_id, request.payload)])
            await self._queue.purge(older_than=0)  # failures are in the output

    def _skip_blank(self) -> None:
        if self.tally.total is not None:
            self.tally.total -= 1

    def _settled(self, lease: Lease, outcome: Outcome) -> None:
        if not isinstance(outcome, Released):
            request = self._open.pop(lease.payload)
            if isinstance(outcome, Failed) and outcome.code in IN_VAIN:
                outcome = replace(outcome, message=f"line {request.job_id}: {outcome.message}")
            self._finish(request, outcome)
            self._room.release()

    def _finish(self, request: Request, outcome: Succeeded | Failed) -> None:
        """Write a line, then count it. After a fault nothing is written: the last line may be incomplete."""
        if self.fault is not None:
            return
        try:
            outcome = self._write(request, outcome)
        except OSError as error:
            self._give_up(error)
            return
        self.tally.count(outcome)
        if self._on_finished is not None:
            self._on_finished(request, outcome)

    def _write(self, request: Request, outcome: Succeeded | Failed) -> Succeeded | Failed:
        """Write a line, and return the outcome that it tells. Raises OSError."""
        if isinstance(outcome, Succeeded):
            body = body_of(outcome.output, request.path, request.key)
            if body is not None:
                self._answers.succeeded(request, body)
                return outcome
            outcome = Failed("no_answer", "the backend makes no embeddings")
        self._answers.failed(request, outcome.code, outcome.message)
        return outcome

    def _to_be_mended(self, fault: TransientError, jobs: int) -> None:
        """Stop if the very first lines show that none will succeed; later, the worker waits until that is fixed."""
        enough = min(PROOF, len(self._open)) if self._is_read else PROOF
        if self.tally.answered == 0 and jobs >= enough:
            self._give_up(ConfigError(str(fault)))

    def _give_up(self, fault: Exception) -> None:
        self.fault = fault
        self.stop()
        self.stop()


class _WatchedGate(Gate):
    """A gate that reports faults which the user has to fix, such as a wrong key, and how many jobs had the same."""

    def __init__(self, lanes: int, metrics: Metrics, on_fault: Callable[[TransientError, int], None]) -> None:
        super().__init__(lanes, metrics=metrics)
        self._on_fault = on_fault
        self._jobs: defaultdict[str, set[str]] = defaultdict(set)

    def failed(self, call: Call, fault: TransientError) -> tuple[float, float]:
        if fault.advice is not None and fault.prior != "job":
            jobs = self._jobs[fault.fingerprint]
            jobs.add(call.job_id)
            self._on_fault(fault, len(jobs))
        return super().failed(call, fault)


class _CountedRetries(Metrics):
    """Metrics that also count retries in the tally of a batch."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def retried(self, reason: str) -> None:
        super().retried(reason)
        self._tally.retries += 1
