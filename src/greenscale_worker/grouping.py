"""Combines the calls of many callers into one round trip."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Grouper(Generic[Item, Answer]):
    """Sends the items that came in while the last group was on its way; never waits for more.

    `send` takes a list and returns as many answers in the same order. A group holds at most `most` items and, after
    its first, at most `most_bytes` as `size` counts them. A caller that is cancelled leaves its item in the group.
    """

    def __init__(
        self,
        send: Callable[[list[Item]], Awaitable[list[Answer]]],
        *,
        most: int,
        most_bytes: int,
        size: Callable[[Item], int] = lambda _: 0,
    ) -> None:
        self._send = send
        self._most = most
        self._most_bytes = most_bytes
        self._size = size
        self._queue: deque[tuple[Item, int, asyncio.Future[Answer]]] = deque()
        self._flushing: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        """Return the item's answer, or raise what `send` raised for its group."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((item, self._size(item), future))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return await future

    async def aclose(self) -> None:
        """Wait until every item has its answer."""
        if self._flushing is not None:
            await self._flushing

    async def _flush(self) -> None:
        try:
            while self._queue:
                items, futures = self._next_group()
                try:
                    answers = await self._send(items)
                    for future, answer in zip(futures, answers, strict=True):
                        if not future.done():
                            future.set_result(answer)
                except Exception as error:  # noqa: BLE001  raised in every caller
                    for future in futures:
                        if not future.done():
                            future.set_exception(error)
        finally:
            self._flushing = None

    def _next_group(self) -> tuple[list[Item], list[asyncio.Future[Answer]]]:
        item, space, future = self._queue.popleft()
        items, futures, space = [item], [future], self._most_bytes - space
        while self._queue and len(items) < self._most:
            space -= self._queue[0][1]
            if space < 0:
                break
            item, _, future = self._queue.popleft()
            items.append(item)
            futures.append(future)
        return items, futures
