"""Types commands, into this very process or into one of its own."""

import asyncio
import io
import os
import subprocess
import sys
from typing import Any

import orjson
import pytest
import redis

from greenscale_worker.cli import main
from greenscale_worker.job import Failure, Outcome, Output, Succeeded, Usage, decode
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.redis.list import open_queue
from greenscale_worker.telemetry import Metrics

ANSWER = Succeeded(Output("4\n", model="llama", finish_reason="stop", usage=Usage(3, 1, 4)))
Said = tuple[int, str, str]


class Shell:
    """Types commands into this very process, where Redis is and no other setting."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = url
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.client = redis.Redis.from_url(url)

    def __call__(self, *arguments: str) -> Said:
        self._capsys.readouterr()
        code = main(arguments)
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with --json, which says one line."""
        found, out, _ = self(*arguments, "--json")
        assert (found, out.count("\n")) == (code, 1)
        return orjson.loads(out)

    def type(self, text: bytes) -> None:
        """What the next command reads from stdin."""
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))

    def set(self, **environment: str) -> None:
        for name, value in environment.items():
            self._monkeypatch.setenv(name, value)

    def waiting(self) -> list[Any]:
        """The payloads in the list, the oldest first."""
        payloads: Any = self.client.lrange("jobs", 0, -1)
        return [orjson.loads(payload) for payload in reversed(payloads)]

    def run(self, *outcomes: Outcome | Failure | None) -> None:
        """Be the worker for the next jobs: bind each, then settle or retry it; None leaves it running."""

        async def work() -> None:
            queue = await open_queue(RedisOptions(url=self.url), QueueOptions(backend="echo"), Metrics())
            for outcome in outcomes:
                lease = await queue.lease()
                await queue.bind(lease, decode(lease.payload, max_bytes=1_000_000))
                if isinstance(outcome, Failure):
                    await queue.retry(lease, outcome)
                elif outcome is not None:
                    await queue.settle(lease, outcome)
            await queue.aclose()

        asyncio.run(work())


def process(*arguments: str, environment: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-m", "greenscale_worker", *arguments]
    return subprocess.Popen(command, env={**inherited, **(environment or {})}, **pipes)  # noqa: S603  our own command
