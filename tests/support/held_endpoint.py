"""An endpoint on 127.0.0.1 that counts the calls of each job, and holds its answers back until it is told."""

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.support.endpoint import PATH, completion

Fault = tuple[int, Mapping[str, str]]


class HeldEndpoint:
    """Answers `<prompt> #<n>`, n counting the calls of that prompt. Use with `async with`.

    `arrived` are the prompts in the order in which they came, `waiting` those whose answer is held back, `hung_up`
    those whose client did not stay for it. The next calls get the `faults` (status and headers), as long as there are
    any; those for a prompt in `refused` get its status. An answer takes `latency` seconds.
    """

    def __init__(self, *, latency: float = 0.0) -> None:
        self.arrived: list[str] = []
        self.waiting: Counter[str] = Counter()
        self.hung_up: Counter[str] = Counter()
        self.faults: deque[Fault] = deque()
        self.refused: dict[str, int] = {}
        self.latency = latency
        self.port = 0
        self._held: asyncio.Event | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    @property
    def calls(self) -> Counter[str]:
        return Counter(self.arrived)

    @property
    def connected(self) -> int:
        """How many connections there are; none: every call that was sent has arrived."""
        return len(self._runner.server.connections) if self._runner.server is not None else 0

    def hold(self) -> asyncio.Event:
        """Keep those who call from now on waiting, until the event is set or `let_go` is called."""
        self._held = asyncio.Event()
        return self._held

    def let_go(self) -> None:
        """Answer those who call from now on, and those who have called since the last `hold`."""
        if self._held is not None:
            self._held.set()
        self._held = None

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def listen(self) -> None:
        """Take calls, on the same port as before where there was one."""
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post(PATH, self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=1024).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Hang up on everybody, and listen no more."""
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        prompt = (await request.json())["messages"][-1]["content"]
        self.arrived.append(prompt)
        number, held = self.calls[prompt], self._held
        if self.faults:
            status, headers = self.faults.popleft()
            return web.json_response({"error": {"message": "a fault"}}, status=status, headers=headers)
        if prompt in self.refused:
            return web.json_response({"error": {"message": "refused"}}, status=self.refused[prompt])
        self.waiting[prompt] += 1
        try:
            if held is not None:
                await held.wait()
            await asyncio.sleep(self.latency)
        except asyncio.CancelledError:
            self.hung_up[prompt] += 1
            raise
        finally:
            self.waiting -= Counter([prompt])
        return web.json_response(completion(f"{prompt} #{number}"))
