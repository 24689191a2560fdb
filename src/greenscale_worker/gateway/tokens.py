"""The text of running jobs: few blocking reads serve all who follow one, and nobody is read for who does not listen."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from greenscale_worker.errors import GreenScaleError
from greenscale_worker.queues import QueueClient, TokenPiece
from greenscale_worker.tasks import end
from greenscale_worker.telemetry import log

WAIT_SECONDS: Final = 0.25  # of one read: those who come meanwhile are read for by another one
MOST_READS: Final = 16  # at a time
PAUSE_SECONDS: Final = 0.005  # in which those who listen again gather
AWAY_SECONDS: Final = 0.5


class Feed:
    """The pieces of one job, for one reader. `news` is set when there are some; `take` clears it."""

    def __init__(self, reader: "TokenReader", job_id: str, position: str, news: asyncio.Event) -> None:
        self.job_id = job_id
        self.position = position
        self.news = news
        self._reader = reader
        self._pieces: list[TokenPiece] = []

    def put(self, piece: TokenPiece) -> None:
        """Add a piece, unless it came before: at a job's end, its last pieces may be read twice at the same time."""
        if _order(piece.position) <= _order(self.position):
            return
        self._pieces.append(piece)
        self.position = piece.position
        self.news.set()

    def take(self) -> list[TokenPiece]:
        """Return the pieces that have come, and listen for more."""
        pieces, self._pieces = self._pieces, []
        if pieces:
            self._reader.listen(self)
        return pieces


def _order(position: str) -> tuple[int, ...]:
    """Return what positions are ordered by; the start is before all of them."""
    return tuple(int(number) for number in position.split("-")) if position else ()


class TokenReader:
    """Reads for all feeds of a gateway."""

    def __init__(self, queue: QueueClient) -> None:
        self._queue = queue
        self._feeds = set[Feed]()
        self._listening: dict[Feed, None] = {}  # in order
        self._reads = set[asyncio.Task[None]]()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def follow(self, job_id: str, news: asyncio.Event, *, after: str = "") -> Iterator[Feed]:
        """Feed a job's pieces from `after` on, while the block lasts."""
        feed = Feed(self, job_id, after, news)
        self._feeds.add(feed)
        self.listen(feed)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            yield feed
        finally:
            self._feeds.discard(feed)
            self._listening.pop(feed, None)
            self._wake.set()

    def listen(self, feed: Feed) -> None:
        """Read for a feed again."""
        if feed in self._feeds:
            self._listening[feed] = None
            self._wake.set()

    async def aclose(self) -> None:
        """Stop reading."""
        for task in (self._task, *self._reads):
            await end(task)

    async def _run(self) -> None:
        while self._feeds:
            self._wake.clear()
            if self._listening and len(self._reads) < MOST_READS:
                read = asyncio.create_task(self._read(self._next()))
                self._reads.add(read)
                read.add_done_callback(self._done)
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                await self._wake.wait()

    def _next(self) -> dict[str, Feed]:
        """Take those that listen, one for each job: of a job, one position can be read for at a time."""
        some: dict[str, Feed] = {}
        for feed in self._listening:
            some.setdefault(feed.job_id, feed)
        for feed in some.values():
            del self._listening[feed]
        return some

    async def _read(self, feeds: dict[str, Feed]) -> None:
        heard = set[str]()
        try:
            positions = {job_id: feed.position for job_id, feed in feeds.items()}
            for piece in await self._queue.read_tokens(positions, wait=WAIT_SECONDS):
                heard.add(piece.job_id)
                feeds[piece.job_id].put(piece)
        except Exception as error:  # noqa: BLE001  the queue is away, or a plug-in's may raise anything: without texts, ends are told
            if not isinstance(error, GreenScaleError):
                log.error("gateway_error", route="tokens", error=type(error).__name__, where=type(self._queue).__name__)
            await asyncio.sleep(AWAY_SECONDS)
        finally:
            for job_id, feed in feeds.items():
                if job_id not in heard:
                    self.listen(feed)

    def _done(self, read: asyncio.Task[None]) -> None:
        self._reads.discard(read)
        with suppress(asyncio.CancelledError):
            read.exception()
        self._wake.set()
